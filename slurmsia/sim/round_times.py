"""When a simulation holds its rounds: at the interval and, where asked for, in between as the daemon's loop does."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Seconds between two looks at the queue while moves fly (SLURM.md, manners).
TICK_S = 2.0


@dataclass
class RoundTimes:
    """When the next round is due, as the daemon's loop has it.

    Every ``interval_s``; with ``early_s`` > 0 also in between when a job was submitted or has ended, at the soonest so
    long after the last round of either kind: such a round only starts what waits.
    """

    interval_s: float
    early_s: float

    def __post_init__(self) -> None:
        self._round_s = self.interval_s
        self._poll_s = math.inf
        self._seen: tuple[int, ...] = ()

    @property
    def next_s(self) -> float:
        return min(self._round_s, self._poll_s)

    def idle_until(self, submit_s: float) -> None:
        """Nothing is there to decide on: pass over the times before the next submission."""
        self._round_s = behind(self._round_s, submit_s, self.interval_s)
        if self.early_s > 0 and submit_s < math.inf and self._poll_s < math.inf:
            self._poll_s = behind(self._poll_s, submit_s, self.early_s)

    def due(self, now_s: float, queue: tuple[int, ...]) -> str:
        """Which round to hold now: "full", "starts" or none (""); ``queue`` changes with a submission or an end."""
        if self.early_s > 0:
            self._poll_s = now_s + self.early_s
        if now_s >= self._round_s:
            self._seen = queue
            self._round_s += self.interval_s
            return "full"
        if queue == self._seen:
            return ""
        self._seen = queue
        return "starts"


def behind(time_s: float, until_s: float, every_s: float) -> float:
    """``time_s`` moved by whole steps to the last one that is not later than ``until_s``."""
    return time_s + math.floor((until_s - time_s) / every_s) * every_s if time_s < until_s < math.inf else time_s
