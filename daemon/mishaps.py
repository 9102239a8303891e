"""Mistakes of slurmsia's own, anywhere in the loop: said in one sentence, logged with their traceback, counted.

They cost a round or a step, never the daemon: the guard returns and the loop goes on. What was under way is left as it
is, for Slurm finishes every move by itself. A newer leader (`Fenced`) is no mistake and passes through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slurmsia.moves.log import Fenced

from .metrics import Metrics

_log = logging.getLogger("slurmsia.mishap")

#: The traceback of a mistake that repeats is logged at most this often.
_SAY_EVERY_S = 600.0
#: A mistake is shown among the warnings for this long after it was last made.
_SHOWN_S = 300.0
_MOST = 50


class Mishaps:
    """Keeps what went wrong lately. Used by the loop's thread alone."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._logged: dict[tuple[str, str], float] = {}
        self._shown: dict[str, tuple[float, str]] = {}

    def note(self, where: str, error: Exception, about: str = "") -> str:
        """Count and log one mistake; returns the sentence for the operator. ``where``: observe, learn, tick, ...

        ``about``: the one thing that it concerns ("the move of job 5").
        """
        self._metrics.mishaps.labels(where).inc()
        what = f"{type(error).__name__}: {error}"[:200]
        sentence = f"a mistake of slurmsia's own in {where}{f', over {about}' if about else ''} ({what})"
        now = self._clock()
        last = self._logged.get((where, what))
        if last is None or now - last >= _SAY_EVERY_S:
            if len(self._logged) >= _MOST:
                self._logged.clear()
            self._logged[where, what] = now
            _log.error("%s; nothing more was done there. Please report it with this traceback.", sentence,
                       exc_info=error)  # fmt: skip
        self._shown[where] = (now, sentence)
        return sentence

    @contextmanager
    def survived(self, where: str) -> Iterator[None]:
        """Whatever the block raises is noted and ends here; `Fenced` passes."""
        try:
            yield
        except Fenced:
            raise
        except Exception as error:  # a mistake must not end the daemon
            self.note(where, error)

    def said(self) -> tuple[str, ...]:
        """Sentences of mistakes made lately."""
        now = self._clock()
        self._shown = {where: entry for where, entry in self._shown.items() if now - entry[0] < _SHOWN_S}
        return tuple(f"There was {sentence}; the log has the traceback." for _, sentence in self._shown.values())
