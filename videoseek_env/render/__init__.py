"""What an episode looks like: as terminal text, as an image, and in a window."""

from videoseek_env.render.ansi import render_ansi
from videoseek_env.render.image import render_rgb
from videoseek_env.render.text import clock, printable, shorten
from videoseek_env.render.window import Window

__all__ = ["Window", "clock", "printable", "render_ansi", "render_rgb", "shorten"]
