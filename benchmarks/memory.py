"""Whether memory grows with the number of videos opened and read.

    python benchmarks/memory.py              300 openings with each decoder
    python benchmarks/memory.py --quick      60

Needs Linux: it reads /proc/self/statm.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from typing import get_args

from long_video import long_video

from videoseek_env.video import Backend, open_video
from videoseek_env.video.index_cache import forget_indexes

MEBIBYTE = 1 << 20


def main() -> None:
    """Print resident memory while videos are opened and read."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--openings", type=int, default=300, help="with each decoder")
    parser.add_argument("--quick", action="store_true", help="60 openings")
    default_folder = Path(tempfile.gettempdir()) / "videoseek-benchmark"
    parser.add_argument("--folder", type=Path, default=default_folder, help="for the test video")
    arguments = parser.parse_args()
    path = long_video(arguments.folder, seconds=20, gop_frames=250)
    openings = 60 if arguments.quick else arguments.openings
    print("resident MiB after this many openings, and its growth over the last half")
    for backend in get_args(Backend):
        if backend != "auto":
            _measure(path, backend, openings)


def _measure(path: Path, backend: Backend, openings: int) -> None:
    resident = []
    for opening in range(1, openings + 1):
        _open_and_read(path, backend)
        if opening % (openings // 6) == 0:
            resident.append(_resident_bytes() / MEBIBYTE)
    growth = resident[-1] - resident[len(resident) // 2 - 1]
    line = " ".join(f"{value:7.1f}" for value in resident)
    print(f"{backend:7} {line}   {growth:+.1f} MiB over {openings // 2} openings", flush=True)


def _open_and_read(path: Path, backend: Backend) -> None:
    forget_indexes()
    reader = open_video(path, backend)
    reader.read(range(0, 600, 20), 128, 224)
    reader.close()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
