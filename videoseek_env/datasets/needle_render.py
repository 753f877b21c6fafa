"""Drawing a planned video and writing it as H.264, frame by frame, straight in YUV."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType

from videoseek_env.datasets import needle_sprites as sprites
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.datasets.needle_scene import Event, Scene
from videoseek_env.datasets.needle_timeline import TURN_FRAMES

_TEXTURE_PX: Final = 512
_PAN_PX: Final = 2
_MOTES: Final = 10
_SHADOW: Final = 0.35
_PALETTES: Final = (
    ((30, 38, 62), (70, 88, 112), (150, 158, 160)),
    ((34, 46, 44), (80, 102, 92), (164, 168, 146)),
    ((44, 34, 52), (96, 82, 104), (170, 152, 152)),
    ((48, 40, 34), (112, 98, 84), (176, 166, 148)),
    ((26, 34, 40), (62, 78, 86), (128, 142, 146)),
)
"""Dark, middle and light of the backgrounds, dull enough to leave the named colours alone."""

Planes = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Y [H, W], U and V [H / 2, W / 2]: BT.601, limited range."""


def write_video(path: Path, scene: Scene, config: NeedleConfig) -> None:
    """Render a scene into an MP4 file.

    The same scene gives the same bytes: one encoder thread, fixed settings, no creation time. The
    quantiser is constant and keyframes are set by hand, so that a frame's pixels follow from
    what is shown since the last keyframe, and from nothing before.

    Raises:
        OSError: If the file can't be written.
    """
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    tick = Fraction(1, scene.timeline.fps)
    with av.open(str(path), "w", format="mp4", container_options=options) as container:
        stream = container.add_stream("libx264", rate=scene.timeline.fps)
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        stream.thread_count = 1
        stream.options = {
            "preset": "ultrafast",
            "qp": str(config.quantiser),
            "forced-idr": "1",
            "x264-params": "keyint=infinite:scenecut=0",
        }
        painter, keyframes = Painter(scene, config), scene.keyframes
        for number in range(scene.timeline.frame_count):
            frame = av.VideoFrame.from_ndarray(painter.draw(number), format="yuv420p")
            if number in keyframes:
                frame.pict_type = PictureType.I
            frame.pts, frame.time_base = number, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


class Painter:
    """Draws any frame of one scene."""

    def __init__(self, scene: Scene, config: NeedleConfig) -> None:
        rng = config.rng(scene.index, "look")
        self._scene = scene
        self._background = _Background(config, rng)
        self._motes = [_Mote(config, rng) for _ in range(round(_MOTES * config.clutter))]
        self._layers: dict[tuple[Event, str], tuple[_Layer, _Layer]] = {}
        width, height = config.width, config.height
        self._packed = np.empty((height * 3 // 2, width), np.uint8)
        y, u, v = np.split(self._packed.reshape(-1), [width * height, width * height * 5 // 4])
        half = (height // 2, width // 2)
        self._planes = y.reshape(height, width), u.reshape(half), v.reshape(half)

    def draw(self, frame: int) -> npt.NDArray[np.uint8]:
        """One frame as packed yuv420p, [H * 3 / 2, W]; the next call draws over it."""
        self._background.draw(self._planes, frame)
        for mote in self._motes:
            mote.draw(self._planes, frame)
        for event in self._scene.events:
            if event.start_frame <= frame < event.end_frame:
                shadow, layer = self._layers_of(event, _side(event, frame))
                away = 2 * (self._scene.sizes.height // 120)
                shadow.blend(self._planes, event.x_px + away, event.y_px + away)
                layer.blend(self._planes, event.x_px, event.y_px)
        return self._packed

    def _layers_of(self, event: Event, side: str) -> tuple[_Layer, _Layer]:
        """Shadow and picture."""
        key = event, side
        if key not in self._layers:
            sprite = _SPRITES[side](event, self._scene.sizes)
            dark = sprites.Sprite(np.zeros_like(sprite.rgb), sprite.alpha * _SHADOW)
            self._layers[key] = _Layer.of(dark), _Layer.of(sprite)
        return self._layers[key]


_SPRITES: Final = {
    "back": sprites.card_back,
    "edge": sprites.card_edge,
    "face": sprites.card_face,
    "banner": sprites.banner,
    "shape": sprites.shape,
}


def _side(event: Event, frame: int) -> str:
    """Which picture of an event a frame shows."""
    if event.reveal_frames is None:
        return event.kind
    first, end = event.reveal_frames
    if first <= frame < end:
        return "face"
    return "edge" if first - TURN_FRAMES <= frame < end + TURN_FRAMES else "back"


@dataclass(frozen=True, slots=True)
class _Layer:
    """A sprite in YUV, ready to be laid over a frame."""

    planes: tuple[npt.NDArray[np.uint16], ...]
    """Premultiplied by alpha, 0..255 * 256."""
    covers: tuple[npt.NDArray[np.uint16], ...]
    """256 minus alpha, at full and at half size twice."""

    @classmethod
    def of(cls, sprite: sprites.Sprite) -> _Layer:
        y, u, v = to_yuv(sprite.rgb)
        full = np.rint(sprite.alpha * 256).astype(np.uint16)
        half = np.rint(_halve(sprite.alpha) * 256).astype(np.uint16)
        planes = tuple(
            plane.astype(np.uint16) * alpha
            for plane, alpha in zip((y, u, v), (full, half, half), strict=True)
        )
        return cls(planes, tuple(np.uint16(256) - alpha for alpha in (full, half, half)))

    def blend(self, canvas: Planes, x: int, y: int) -> None:
        """Lay it over a frame with its corner at (x, y), both even; the rest is cut off."""
        for number, plane in enumerate(canvas):
            shift = 1 if number else 0
            left, top = x >> shift, y >> shift
            source, cover = self.planes[number], self.covers[number]
            skip_y, skip_x = max(0, -top), max(0, -left)
            target = plane[
                top + skip_y : top + source.shape[0], left + skip_x : left + source.shape[1]
            ]
            inside = np.s_[skip_y : skip_y + target.shape[0], skip_x : skip_x + target.shape[1]]
            target[:] = (target * cover[inside] + source[inside]) >> 8


class _Background:
    """A slow pan over a large, smooth texture that repeats without a seam."""

    def __init__(self, config: NeedleConfig, rng: np.random.Generator) -> None:
        steps = np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])
        self._step = steps[rng.integers(len(steps))] * _PAN_PX
        self._start = 2 * rng.integers(0, _TEXTURE_PX // 2, 2)
        rgb = _texture(rng, config.clutter)
        self._planes = [
            np.tile(
                plane, (-(-config.height // _TEXTURE_PX) + 1, -(-config.width // _TEXTURE_PX) + 1)
            )
            for plane in to_yuv(rgb)
        ]

    def draw(self, canvas: Planes, frame: int) -> None:
        x, y = ((self._start + self._step * frame) % _TEXTURE_PX).tolist()
        for number, (plane, texture) in enumerate(zip(canvas, self._planes, strict=True)):
            shift = 1 if number else 0
            top, left = y >> shift, x >> shift
            plane[:] = texture[top : top + plane.shape[0], left : left + plane.shape[1]]


def _texture(rng: np.random.Generator, contrast: float) -> npt.NDArray[np.uint8]:
    """A periodic surface that drifts between three dull colours, [512, 512, 3]."""
    height = 0.5 + contrast * (0.24 * _noise(rng, 1.8) + 0.05 * _noise(rng, 6.0))
    stops = np.array(_PALETTES[rng.integers(len(_PALETTES))], np.float64)
    rgb = np.stack([np.interp(height, (0.0, 0.5, 1.0), stop) for stop in stops.T], axis=-1)
    grain = contrast * 1.2 * _noise(rng, 40.0)
    return np.rint(rgb + grain[..., None]).clip(0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, cycles: float) -> npt.NDArray[np.float64]:
    """Smooth periodic noise of zero mean and unit deviation, of about that many bumps a side."""
    frequency = np.fft.fftfreq(_TEXTURE_PX, 1 / _TEXTURE_PX)
    radius = np.hypot(frequency, frequency[:, None]) / cycles
    spectrum = np.fft.fft2(rng.standard_normal((_TEXTURE_PX, _TEXTURE_PX)))
    smooth = np.fft.ifft2(spectrum * np.exp(-(radius**2) / 2)).real
    centred = smooth - smooth.mean()
    noise: npt.NDArray[np.float64] = centred / centred.std()
    return noise


class _Mote:
    """A small dull thing that drifts across and means nothing."""

    def __init__(self, config: NeedleConfig, rng: np.random.Generator) -> None:
        side = 2 * round(config.height * rng.uniform(0.04, 0.09) / 2)
        grey = int(rng.choice([52, 165, 190]))
        self._layer = _Layer.of(sprites.mote(int(rng.integers(3)), side, grey))
        self._size = np.array([config.width, config.height]) + side
        self._side = side
        self._start = rng.uniform(0, 1, 2) * self._size
        angle = rng.uniform(0, 2 * np.pi)
        speed = config.height * rng.uniform(0.02, 0.07) / config.fps
        self._step = speed * np.array([np.cos(angle), np.sin(angle)])

    def draw(self, canvas: Planes, frame: int) -> None:
        place = (self._start + self._step * frame) % self._size - self._side
        x, y = (2 * (place // 2).astype(int)).tolist()
        self._layer.blend(canvas, x, y)


def to_yuv(rgb: npt.NDArray[np.uint8]) -> Planes:
    """RGB [H, W, 3] with even sides as 4:2:0 planes, BT.601, limited range."""
    red, green, blue = (rgb[..., channel].astype(np.float64) for channel in range(3))
    y = 16 + 0.256788 * red + 0.504129 * green + 0.097906 * blue
    u = 128 - 0.148223 * red - 0.290993 * green + 0.439216 * blue
    v = 128 + 0.439216 * red - 0.367788 * green - 0.071427 * blue
    full = np.rint(y).astype(np.uint8)
    return full, np.rint(_halve(u)).astype(np.uint8), np.rint(_halve(v)).astype(np.uint8)


def _halve(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    height, width = plane.shape
    halved: npt.NDArray[np.float64] = plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return halved
