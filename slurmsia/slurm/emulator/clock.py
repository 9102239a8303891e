"""Clocks for the emulator: virtual (moved by whoever drives it) or real, optionally faster than life.

The emulator is the only one that calls `reach`. Nothing here sleeps.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the emulator's time comes from, in epoch seconds."""

    def now_s(self) -> float: ...

    def reach(self, t_s: float) -> None:
        """Time has come to ``t_s`` (never backwards)."""
        ...

    @property
    def is_virtual(self) -> bool: ...


class VirtualClock:
    """A clock that stands still until the emulator moves it."""

    is_virtual = True

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def reach(self, t_s: float) -> None:
        if t_s > self._now_s:
            self._now_s = t_s


class RealClock:
    """The wall clock, ``speed`` times as fast, starting at ``start_s`` (default: now).

    While the emulator catches up, `reach` sets the time that events see; `now_s` outside is the scaled wall clock.
    """

    is_virtual = False

    def __init__(self, speed: float = 1.0, start_s: float | None = None) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        self.speed = speed
        self._origin_s = time.monotonic()
        self._start_s = time.time() if start_s is None else start_s
        self._reached_s = self._start_s

    def wall_s(self) -> float:
        """The scaled wall clock."""
        return self._start_s + (time.monotonic() - self._origin_s) * self.speed

    def now_s(self) -> float:
        return self._reached_s

    def reach(self, t_s: float) -> None:
        if t_s > self._reached_s:
            self._reached_s = t_s
