"""A window that shows images, for render_mode="human"."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from videoseek_env.errors import MissingExtraError


class Window:
    """One pygame window. It opens with its first image and takes the image's size.

    Closing it by its button is the same as `close()`: later images open it again.

    Raises:
        MissingExtraError: If pygame is not installed.
    """

    def __init__(self, title: str = "videoseek-env") -> None:
        self._pygame = _import_pygame()
        self._title = title
        self._surface: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is a window now."""
        return self._surface is not None

    def show(self, image: npt.NDArray[np.uint8]) -> None:
        """Show an image, RGB [H, W, 3], and answer the window system's events."""
        pygame = self._pygame
        size = (image.shape[1], image.shape[0])
        if self._surface is None or self._surface.get_size() != size:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._surface = pygame.display.set_mode(size)
        # pygame's first axis is x.
        pygame.surfarray.blit_array(self._surface, np.ascontiguousarray(image.swapaxes(0, 1)))
        pygame.display.flip()
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            self.close()

    def close(self) -> None:
        """Close the window. Closing it twice is allowed."""
        if self._surface is not None:
            self._surface = None
            self._pygame.display.quit()


def _import_pygame() -> Any:
    try:
        import pygame
    except ImportError as error:
        raise MissingExtraError("pygame", "render", 'render_mode="human"') from error
    return pygame
