"""Is this machine ready? Versions, codecs, decoders, extras."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from videoseek_env.errors import VideoSeekError
from videoseek_env.video import Backend, open_video

_CORE = ("videoseek-env", "gymnasium", "numpy", "av", "platformdirs")
_CODECS = ("h264", "hevc", "vp9", "av1")
EXTRAS = {
    "cli": ("tyro", "rich", "jinja2"),
    "render": ("pygame",),
    "testing": ("hypothesis",),
    "judge": ("tenacity",),
    "plots": ("matplotlib",),
    "agents": ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "pillow"),
    "lora": ("peft",),
    "openai": ("openai", "pillow"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "sb3": ("stable-baselines3",),
    "tianshou": ("tianshou",),
    "pettingzoo": ("pettingzoo",),
    "trl": ("trl",),
    "openenv": ("openenv-core",),
    "verl": ("verl",),
    "verifiers": ("verifiers",),
}
"""The packages of each extra, by which it is known to be installed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    is_ok: bool
    is_required: bool
    detail: str
    """The version, or what is wrong and the command that mends it."""


def run_doctor() -> int:
    """Print every check.

    Returns:
        0 if all that the core needs is there, else 1.
    """
    checks = [*check_core(), *check_codecs(), *check_backends(), *check_extras()]
    table = Table(title=f"Python {platform.python_version()} on {platform.platform()}")
    for column in ("", "what", "detail"):
        table.add_column(column, overflow="fold")
    for check in checks:
        sign = "[green]ok[/]" if check.is_ok else "[red]no[/]" if check.is_required else "[dim]-[/]"
        table.add_row(sign, check.name, escape(check.detail))
    console = Console()
    console.print(table)
    if not all(check.is_ok for check in checks if check.is_required):
        console.print("Not ready: see the lines above.")
        return 1
    has_agents = any(check.is_ok for check in checks if check.name == "extra agents")
    console.print(f"Ready: try `videoseek {'demo' if has_agents else 'play'}`.")
    return 0


def check_core() -> Iterator[Check]:
    """The packages that every part needs."""
    for package in _CORE:
        version = _version(package)
        yield Check(package, version is not None, True, version or f"pip install {package}")


def check_codecs() -> Iterator[Check]:
    """Which codecs the installed PyAV decodes. Only H.264 is required."""
    for codec in _CODECS:
        is_there = codec in av.codecs_available
        mend = "pip install --force-reinstall av"
        yield Check(f"{codec} decoder", is_there, codec == "h264", "built in" if is_there else mend)


def check_backends() -> Iterator[Check]:
    """Write a small H.264 file and read it back with each decoder. Only PyAV is required."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grey.mp4"
        backends: tuple[Backend, ...] = ("pyav", "decord")
        try:
            _write_grey(path)
        except (av.FFmpegError, ValueError) as error:
            yield Check("writing H.264", False, True, f"{error}")
            return
        for backend in backends:
            try:
                frames = open_video(path, backend).read([0, 3])
                is_ok = frames.shape == (2, 64, 64, 3) and abs(int(frames.mean()) - 128) < 8
                detail = "reads H.264" if is_ok else "reads wrong pixels: reinstall it"
            except VideoSeekError as error:
                is_ok, detail = False, str(error)
            yield Check(f"backend {backend}", is_ok, backend == "pyav", detail)


def check_extras() -> Iterator[Check]:
    """What the optional parts need."""
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        is_ok = None not in versions.values()
        found = ", ".join(f"{package} {version}" for package, version in versions.items())
        command = f"pip install 'videoseek-env[{extra}]'"
        yield Check(f"extra {extra}", is_ok, False, found if is_ok else command)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write_grey(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(4):
            grey = np.full((64, 64, 3), 128, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
