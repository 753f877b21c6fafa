"""A Gymnasium environment library for agents that think with videos."""

import gymnasium

from videoseek_env.budget import Budget, get_budget
from videoseek_env.datasets import load_tasks
from videoseek_env.env import VideoSeekEnv
from videoseek_env.errors import VideoDecodeError, VideoSeekError
from videoseek_env.segment import Segment
from videoseek_env.session import Observation, SessionConfig, VideoSession
from videoseek_env.task import TaskKind, VideoTask
from videoseek_env.trajectory import EndReason, Trajectory, read_trajectories, write_trajectories
from videoseek_env.video import ClipCache, open_video

__all__ = [
    "Budget",
    "ClipCache",
    "EndReason",
    "Observation",
    "Segment",
    "SessionConfig",
    "TaskKind",
    "Trajectory",
    "VideoDecodeError",
    "VideoSeekEnv",
    "VideoSeekError",
    "VideoSession",
    "VideoTask",
    "get_budget",
    "load_tasks",
    "open_video",
    "read_trajectories",
    "write_trajectories",
]

gymnasium.register(
    id="VideoSeek-v0",
    entry_point="videoseek_env.entry:make_video_seek",
    vector_entry_point="videoseek_env.entry:make_video_seek_vector",
)
gymnasium.register(
    id="VideoSeekDiscrete-v0", entry_point="videoseek_env.entry:make_video_seek_discrete"
)
gymnasium.register(id="VideoSeekLive-v0", entry_point="videoseek_env.entry:make_video_seek_live")
