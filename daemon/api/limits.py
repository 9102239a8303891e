"""How much one caller may ask: a token bucket per caller, bounded in number so that nobody can fill the memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

_MOST_CALLERS = 10_000
#: A burst of this many seconds' worth of requests is served.
BURST_S = 10.0


class RateLimit:
    """``rate_per_s`` requests a second over time for each key, bursts of ten times that."""

    def __init__(self, rate_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate_per_s
        self._most = max(1.0, rate_per_s * BURST_S)
        self._clock = clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """0 when the request may go on, else the seconds after which the next one would."""
        now = self._clock()
        left, then = self._left.pop(key, (self._most, now))
        left = min(self._most, left + (now - then) * self._rate)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self._rate
        self._left[key] = (left - 1.0 if not wait else left, now)
        while len(self._left) > _MOST_CALLERS:
            self._left.popitem(last=False)
        return wait
