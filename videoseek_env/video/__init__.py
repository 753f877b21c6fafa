"""Decoded video: readers, clips and the cache of clips."""

from videoseek_env.video.cache import CacheStats, ClipCache, load_clip
from videoseek_env.video.clip import Clip, ClipRef
from videoseek_env.video.reader import Backend, VideoInfo, VideoReader, open_video

__all__ = [
    "Backend",
    "CacheStats",
    "Clip",
    "ClipCache",
    "ClipRef",
    "VideoInfo",
    "VideoReader",
    "load_clip",
    "open_video",
]
