"""A set of procedural videos on disk: made once, resumable, never half a file.

A folder holds the videos, `annotations.jsonl` (the tasks, in the format of the "folder" dataset)
and, written last, `manifest.json`. Until then `finished.jsonl` remembers which videos are whole.
Every file is written under a temporary name and then renamed; since a video's bytes follow from its
plan, processes that make the same set at the same time only repeat each other's work.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from videoseek_env.datasets.needle_config import NeedleConfig, canonical_json
from videoseek_env.datasets.needle_render import write_video
from videoseek_env.datasets.needle_scene import Scene
from videoseek_env.errors import DatasetError
from videoseek_env.task import VideoTask

MANIFEST: Final = "manifest.json"
ANNOTATIONS: Final = "annotations.jsonl"
JOURNAL: Final = "finished.jsonl"
STALE_SECONDS: Final = 600.0
"""A temporary file that was not written to for so long belongs to a process that died."""

_TEMPORARY: Final = ".needle-*.tmp"


def video_name(index: int) -> str:
    """The file name of a video."""
    return f"{index:05d}.mp4"


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A finished video, as manifest and journal hold it."""

    file: str
    key: str
    """What it was made from; another configuration gives another key."""
    size_bytes: int
    sha256: str

    def is_whole(self, root: Path, *, verify: bool) -> bool:
        """Whether the file is there in its length and, if asked, to the byte."""
        path = root / self.file
        try:
            if path.stat().st_size != self.size_bytes:
                return False
            return not verify or _sha256(path) == self.sha256
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class _Manifest:
    config: dict[str, Any]
    videos: tuple[VideoFile, ...]
    annotations_sha256: str


def read_tasks(root: Path, config: NeedleConfig, *, verify: bool) -> list[VideoTask] | None:
    """The tasks of a finished set; None if anything is missing or damaged.

    Raises:
        DatasetError: If the folder holds a set of another configuration.
    """
    manifest = _read_manifest(root)
    if manifest is None:
        return None
    _check_config(root, manifest.config, config)
    videos = manifest.videos[: config.videos]
    whole = all(video.is_whole(root, verify=verify) for video in videos)
    if len(videos) < config.videos or not whole:
        return None
    try:
        annotations = (root / ANNOTATIONS).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(annotations).hexdigest() != manifest.annotations_sha256:
        return None
    records = map(json.loads, annotations.decode().splitlines())
    return [
        VideoTask.from_dict(record | {"video": str(root / record["video"])})
        for record in records
        if record["metadata"]["video_index"] < config.videos
    ]


def make_set(
    root: Path,
    config: NeedleConfig,
    plan: Callable[[int], Scene],
    tasks: list[VideoTask],
    *,
    workers: int,
    finished: Callable[[int], None],
    verify: bool,
) -> None:
    """Render what is missing of a set, then write its annotations and manifest.

    Args:
        root: The folder; made if it is not there.
        config: What the set is like.
        plan: Gives the scene of a video.
        tasks: All tasks, their videos named relative to the folder.
        workers: Threads that render at the same time.
        finished: Called with the number of whole videos whenever it grows.
        verify: Whether to check the videos that are there to the byte.

    Raises:
        DatasetError: If the folder can't be written, such as on a full disk.
    """
    with _explained(root):
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        known = _known_files(root, verify)
        keys = [_key(config, index) for index in range(config.videos)]
        missing = [index for index, key in enumerate(keys) if key not in known]
        finished(config.videos - len(missing))
        for video in _render(root, config, plan, missing, workers):
            known[video.key] = video
            finished(sum(key in known for key in keys))
        annotations = "".join(canonical_json(task.to_dict()) + "\n" for task in tasks).encode()
        manifest = {
            "config": _stored(config),
            "videos": [asdict(known[key]) for key in keys],
            "annotations_sha256": hashlib.sha256(annotations).hexdigest(),
        }
        _write(root / ANNOTATIONS, annotations)
        _write(root / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n")
        (root / JOURNAL).unlink(missing_ok=True)


def _render(
    root: Path, config: NeedleConfig, plan: Callable[[int], Scene], missing: list[int], workers: int
) -> Iterator[VideoFile]:
    """Each missing video as it is finished. Threads do: the encoder lets go of the interpreter."""

    def render(index: int) -> VideoFile:
        name = video_name(index)
        with _temporary(root / name) as temporary:
            write_video(temporary, plan(index), config)
            size_bytes, digest = temporary.stat().st_size, _sha256(temporary)
        video = VideoFile(name, _key(config, index), size_bytes, digest)
        with (root / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(canonical_json(asdict(video)) + "\n")
        return video

    pool = ThreadPoolExecutor(workers, thread_name_prefix="needle")
    try:
        for future in as_completed([pool.submit(render, index) for index in missing]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` on success and vanishes on failure."""
    temporary = path.with_name(f".needle-{path.stem}-{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with _temporary(path) as temporary:
        temporary.write_bytes(content)


def _remove_stale(root: Path) -> None:
    for path in root.glob(_TEMPORARY):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn what the operating system says into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            remedy = "Free some space, ask for fewer or smaller videos, or choose another disk"
        else:
            remedy = "Choose a folder that can be written"
        raise DatasetError(
            f"{root}: can't write the videos ({error.strerror or error}). {remedy} with root=...; "
            "finished videos are kept"
        ) from error


def _known_files(root: Path, verify: bool) -> dict[str, VideoFile]:
    """Whole videos by key, from the manifest and from the journal of an unfinished run."""
    manifest = _read_manifest(root)
    files = list(manifest.videos) if manifest else []
    with contextlib.suppress(FileNotFoundError):
        for line in (root / JOURNAL).read_bytes().splitlines():
            # A killed process may have left half a line.
            with contextlib.suppress(ValueError, TypeError):
                files.append(VideoFile(**json.loads(line)))
    return {file.key: file for file in files if file.is_whole(root, verify=verify)}


def _read_manifest(root: Path) -> _Manifest | None:
    """The manifest, or None if there is none that can be read: then it is made again."""
    try:
        fields = json.loads((root / MANIFEST).read_bytes())
        videos = tuple(VideoFile(**video) for video in fields["videos"])
        return _Manifest(dict(fields["config"]), videos, fields["annotations_sha256"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_config(root: Path, found: dict[str, Any], config: NeedleConfig) -> None:
    wanted = _stored(config)
    names = sorted((found.keys() | wanted.keys()) - {"videos"})
    other = [name for name in names if found.get(name) != wanted.get(name)]
    if other:
        raise DatasetError(
            f"{root} holds a needle set of another configuration (it differs in "
            f"{', '.join(other)}); choose another folder with root=..., or delete that one"
        )


def _stored(config: NeedleConfig) -> dict[str, Any]:
    """The configuration as JSON gives it back."""
    stored: dict[str, Any] = json.loads(canonical_json(config.to_dict()))
    return stored


def _key(config: NeedleConfig, index: int) -> str:
    """What the pixels of one video follow from."""
    fields = config.to_dict()
    for name in ("videos", "tasks_per_video", "kinds"):
        del fields[name]
    return hashlib.sha256(canonical_json([fields, index]).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
