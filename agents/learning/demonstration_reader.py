"""Saved trajectories as samples: rendered into tokens, their frames decoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from agents.learning.sample import Sample
from agents.llm.builder import ContextBuilder
from videoseek_env.errors import ConfigError, DatasetError, VideoDecodeError
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.trajectory import Trajectory
from videoseek_env.video import Backend, ClipCache, open_video


class DemonstrationReader(Sequence[Sample]):
    """Trajectories by their place; each is decoded when it is asked for."""

    def __init__(
        self,
        builder: ContextBuilder,
        trajectories: Sequence[Trajectory],
        *,
        prompts: Prompts = DEFAULT_PROMPTS,
        cache: ClipCache | None = None,
        backend: Backend = "auto",
    ) -> None:
        """Prepare to read.

        Args:
            builder: Of the model that learns.
            trajectories: Played or written by whoever demonstrates.
            prompts: Those that they were played with.
            cache: Decoded clips.
            backend: The video decoder.
        """
        self._builder, self._trajectories, self._prompts = builder, trajectories, prompts
        self._cache = ClipCache(2**29) if cache is None else cache
        self._backend = backend

    def __len__(self) -> int:
        """How many there are."""
        return len(self._trajectories)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        """Render a trajectory, and decode its clips.

        Raises:
            DatasetError: If its video can't be decoded, or is a shorter one than it was, if it has
                no reply, or if a clip does not fit the model's grid.
        """
        trajectory = self._trajectories[index]
        task = trajectory.task
        try:
            context = self._builder.render(trajectory, prompts=self._prompts)
            reader = open_video(task.video, self._backend, frame_fps=task.frame_fps)
            with closing(reader):
                clips = [self._cache.load(clip.ref, reader) for clip in context.clips]
            return Sample.of(context, clips)
        except (VideoDecodeError, ConfigError, IndexError, OSError) as error:
            raise DatasetError(
                f"trajectory {index}, task {task.id!r}, video {task.video}: {error}"
            ) from error
