"""Round moments for a time axis, and frames that stand for many. All pictures share them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_STEPS_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200)


def tick_seconds(duration_seconds: float, *, max_ticks: int) -> list[float]:
    """Round moments for an axis, from zero, at most `max_ticks` of them.

    >>> tick_seconds(95.0, max_ticks=5)
    [0.0, 30.0, 60.0, 90.0]
    """
    shortest = duration_seconds / max(max_ticks - 1, 1)
    step = next((step for step in _STEPS_SECONDS if step >= shortest), None)
    if step is None:
        step = int(-(-shortest // 86400) * 86400)
    return [float(moment) for moment in range(0, int(duration_seconds) + 1, step)][:max_ticks]


def spread(count: int, *, max_count: int) -> npt.NDArray[np.int64]:
    """Positions of at most `max_count` of `count` frames, evenly spread, first and last included.

    >>> spread(9, max_count=3), spread(2, max_count=3)
    (array([0, 4, 8]), array([0, 1]))
    """
    return np.rint(np.linspace(0, count - 1, min(count, max_count))).astype(np.int64)
