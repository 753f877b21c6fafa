"""Ask about videos of your own: load annotations, check them against the files, play every task.

Run: python examples/04_own_videos.py [--videos FOLDER] [--annotations FILE]
Without a folder it makes a video of its own, with two good lines of annotations and two bad ones.
"""

import argparse
import json
import logging
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from agents.baselines import OraclePolicy
from agents.report import write_report
from agents.rollout import rollout
from videoseek_env import VideoDecodeError, VideoTask, load_tasks, open_video

LINES = (
    {"id": "card", "video": "walk.mp4", "question": "Which colour does the card have?",
     "options": ["green", "red", "blue"], "answer": "B", "clues": [[41.0, 44.0]]},
    {"id": "when", "video": "walk.mp4", "question": "When is the card shown?",
     "clues": [[41.0, 44.0]]},
    {"id": "lost", "video": "run.mp4", "question": "Who runs?", "answer": "Ann"},
)  # fmt: skip


def make_video(path: Path, *, seconds: int = 60, fps: int = 10) -> None:
    """Write an H.264 video of a grey scene in which a red card shows from 41 s to 44 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        if not isinstance(stream, VideoStream):
            raise TypeError("libx264 encodes no video")
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for index in range(seconds * fps):
            picture = np.full((180, 320, 3), 90 + index // fps, np.uint8)
            if 41 <= index / fps < 44:
                picture[60:120, 130:190] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def make_folder(folder: Path) -> None:
    """Write the video and its annotations: one object a line, the last one broken off."""
    folder.mkdir(parents=True, exist_ok=True)
    make_video(folder / "walk.mp4")
    lines = [*map(json.dumps, LINES), '{"video": "walk.mp4", "quest']
    (folder / "annotations.jsonl").write_text("\n".join(lines), encoding="utf-8")


def is_usable(task: VideoTask) -> bool:
    """Whether its video decodes up to the last frame and holds every clue; says why not."""
    try:
        reader = open_video(task.video, frame_fps=task.frame_fps)
        reader.read([reader.info.frame_count - 1])
        reader.close()
    except VideoDecodeError as error:
        print(f"{task.id}: left out: {error}")
        return False
    info = reader.info
    span = f"{info.start_seconds:.1f} to {info.end_seconds:.1f} s"
    late = [clue for clue in task.clues if clue.end_seconds > info.end_seconds + 1]
    if late:
        print(f"{task.id}: left out: the video lasts from {span}, and a clue is at {late[0]}")
        return False
    print(f"{task.id}: {task.kind}, {info.width}x{info.height} {info.codec}, {span}")
    return True


def main() -> None:
    """Load, check, play, and write a report that shows what each clue looks like."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--videos", type=Path, help="folder of videos")
    parser.add_argument("--annotations", type=Path, help="default: annotations.jsonl in there")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s")  # where skipped lines are reported
    folder = arguments.videos or Path("runs/own_videos")
    if arguments.videos is None:
        make_folder(folder)
    annotations = (arguments.annotations or folder / "annotations.jsonl").resolve()
    loaded = load_tasks("folder", root=folder, annotations=annotations, on_error="skip")
    tasks = [task for task in loaded if is_usable(task)]
    if not tasks:
        raise SystemExit("no task can be played")
    episodes = list(rollout(OraclePolicy, tasks))  # crops the clues, then gives the right answer
    for episode in episodes:
        for clip in episode.trajectory.clips:
            times = f"{clip.timestamps_seconds[0]:5.1f} to {clip.timestamps_seconds[-1]:5.1f} s"
            size = f"{len(clip.indices)} frames of {clip.width}x{clip.height}"
            print(f"{episode.trajectory.task.id:>6} {clip.strategy:>8}: {times}, {size}")
        print(f"{'':>6} reward {episode.reward.value:.2f}, {episode.trajectory.end_reason}")
    print("look whether the clues are right:", write_report("runs/own_videos.html", episodes))


if __name__ == "__main__":
    main()
