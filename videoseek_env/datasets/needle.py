"""Procedural long videos with questions: nothing to download, ground truth for everything.

Cards lie face down for a while, and show their digit only between two frames of the overview.
Banners and large shapes are readable in the overview. See `needle_scene` for what a video shows,
`needle_questions` for what is asked.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from videoseek_env.datasets import needle_store
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_progress import Progress, shown
from videoseek_env.datasets.needle_questions import Question, ask
from videoseek_env.datasets.needle_scene import Scene, plan_scene
from videoseek_env.datasets.needle_timeline import hiding_seconds
from videoseek_env.errors import DatasetError
from videoseek_env.task import TaskKind, VideoTask

MAX_WORKERS = 8
"""Threads that render, unless told otherwise; never more than the machine has cores."""

_TRIES = 20


def load_needle(
    config: NeedleConfig | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = True,
    verify: bool = False,
    **fields: Any,
) -> list[VideoTask]:
    """Load a set of procedural tasks, after making its videos where they are not there yet.

    A set is made once: the next call finds it. A call that was interrupted is resumed, a missing or
    cut file is made again. Threads and processes may load the same set at the same time.

    Args:
        config: What the set is like; or give its fields instead.
        root: Folder of this one set; None takes a folder of the user's cache.
        workers: Threads that render; None takes one per core, up to 8.
        progress: True shows a bar on a terminal, False is silent, a function gets
            (videos done, videos in all).
        verify: Compare every byte of videos that are there, instead of their length.
        **fields: Fields of `NeedleConfig`, in place of `config`. Without `duration_seconds` the
            videos are as long as the budget needs them.

    Returns:
        The tasks in order of video, the same for the same configuration.

    Raises:
        DatasetError: If the configuration is impossible, `root` holds another set, or the folder
            can't be written.
        BudgetError: If no preset has the budget's name.
    """
    config = _config(config, fields)
    folder = cache_folder(config) if root is None else Path(root).expanduser().resolve()
    tasks = needle_store.read_tasks(folder, config, verify=verify)
    if tasks is not None:
        return tasks
    planned = plan_tasks(config)
    with shown(progress, config.videos) as finished:
        needle_store.make_set(
            folder,
            config,
            lambda index: plan_scene(config, index),
            planned,
            workers=workers or min(MAX_WORKERS, os.cpu_count() or 1),
            finished=finished,
            verify=verify,
        )
    return [replace(task, video=str(folder / task.video)) for task in planned]


def plan_tasks(config: NeedleConfig | None = None, **fields: Any) -> list[VideoTask]:
    """The tasks that `load_needle` gives, without making a video: their paths are relative.

    Raises:
        DatasetError: If the configuration is impossible.
    """
    config = _config(config, fields)
    return [task for index in range(config.videos) for task in plan_video_tasks(config, index)]


def plan_video_tasks(config: NeedleConfig, index: int) -> list[VideoTask]:
    """The tasks about video number `index`; the same whatever other videos there are.

    Raises:
        DatasetError: If its scene gives no question of a kind that was asked for.
    """
    scene = plan_scene(config, index)
    rng = config.rng(index, "questions")
    asked: list[Question] = []
    tasks: list[VideoTask] = []
    for number in range(config.tasks_per_video):
        # Where there are fewer questions than kinds, the next video goes on with the next kind.
        turn = index * config.tasks_per_video + number
        kind = config.kinds[turn % len(config.kinds)]
        question = None
        for _ in range(_TRIES):
            question = ask(scene, kind, rng)
            if question is None or not _repeats(question, asked):
                break
        if question is None:
            raise DatasetError(
                f"video {index} gives no question of kind {kind.value!r}: it has "
                f"{len(scene.events)} events; give it more cards, banners or shapes, or leave out "
                "that kind"
            )
        asked.append(question)
        tasks.append(_task(config, scene, question, kind, number))
    return tasks


def _repeats(question: Question, asked: list[Question]) -> bool:
    """Whether the same thing was asked before, perhaps in other words."""
    return any(
        (question.template, question.clues) == (before.template, before.clues) for before in asked
    )


def cache_folder(config: NeedleConfig) -> Path:
    """Where a set lies unless `root` says otherwise."""
    return platformdirs.user_cache_path("videoseek-env") / "needle" / config.digest()


def _config(config: NeedleConfig | None, fields: dict[str, Any]) -> NeedleConfig:
    if config is not None and fields:
        raise DatasetError(f"give either config or its fields, got both: {', '.join(fields)}")
    known = NeedleConfig.__dataclass_fields__
    if unknown := [name for name in fields if name not in known]:
        raise DatasetError(
            f"the needle set has no field {', '.join(unknown)}; it has {', '.join(known)}"
        )
    if config is not None:
        return config
    config = NeedleConfig(**fields)
    return config if "duration_seconds" in fields else _long_enough(config)


def _long_enough(config: NeedleConfig) -> NeedleConfig:
    """The default lengths, or so much longer as the budget's overview is too dense for them."""
    shortest, longest = config.duration_seconds
    needed = hiding_seconds(shortest, config.fps, config.design_budget)
    if needed == shortest:
        return config
    return replace(config, duration_seconds=(needed, needed * longest / shortest))


def _task(
    config: NeedleConfig, scene: Scene, question: Question, kind: TaskKind, number: int
) -> VideoTask:
    fps = scene.timeline.fps
    return VideoTask(
        id=f"needle-{config.split}-{config.seed}-{scene.index:05d}-{number}",
        video=needle_store.video_name(scene.index),
        question=question.text,
        options=question.options,
        answer=question.answer,
        clues=tuple(event.span(fps) for event in question.clues),
        kind=kind,
        duration_seconds=scene.timeline.duration_seconds,
        metadata={
            "dataset": "needle",
            "split": config.split,
            "seed": config.seed,
            "video_index": scene.index,
            "template": question.template,
            "budget": config.design_budget.name,
            "fps": fps,
            "events": [scene.describe(event) for event in scene.events],
            "clue_events": [scene.events.index(event) for event in question.clues],
        },
    )
