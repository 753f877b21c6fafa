"""Ctrl-C, SIGTERM and a closed terminal, put off until what is under way is done."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, Self

_logger = logging.getLogger(__name__)
_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):
    _SIGNALS.append(signal.SIGHUP)


class StopSignal:
    """Notes the first signal to stop, within a `with` block; a second one acts at once.

    On another thread than the main one, which alone can catch signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came, here or on another process that told us; None if none did."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note)
                for number in _SIGNALS
                if signal.getsignal(number) is not signal.SIG_IGN  # as nohup has it
            }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def heed(self) -> None:
        """Do what the signal asked for; nothing if none came.

        Raises:
            KeyboardInterrupt: If it was Ctrl-C.
            SystemExit: If it was another one.
        """
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(128 + self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self.number = number
            self.heed()
        self.number = number
        _logger.warning("stopping after this step; once more to stop at once")
