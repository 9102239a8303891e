"""Paces writes to slurmctld: at most so many a second, spread evenly. One pace per client, safe between threads."""

from __future__ import annotations

import threading
import time

from .client import SlurmUnavailable


class Pace:
    """A token for each write, ``per_s`` tokens a second, a burst of one second's worth."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._tokens = max(1.0, per_s)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, deadline_s: float) -> None:
        """Wait for a token; raises `SlurmUnavailable` when the wait would exceed the deadline."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(max(1.0, self._per_s), self._tokens + (now - self._at) * self._per_s)
            self._at = now
            self._tokens -= 1.0
            delay = max(0.0, -self._tokens / self._per_s)
            if delay > deadline_s:
                self._tokens += 1.0
                raise SlurmUnavailable(
                    f"too many writes at once: the next may go in {delay:.1f} s (slurm.writes_per_s)"
                )
        time.sleep(delay)
