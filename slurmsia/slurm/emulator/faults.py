"""Faults of the emulated controller, injected call by call: it fails, its answer is lost, it refuses, it lies.

A fault is armed for a call by name (``"requeue"``, ``"reshape"``, ``"jobs"``, ... or ``"*"``), optionally for one job,
and fires a given number of times. Which faults fired is kept, so that a test can tell that its fault really happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from ...cluster import JobId


class FaultKind(str, Enum):
    """What goes wrong with a call."""

    FAILS = "fails"
    """`SlurmUnavailable`, and the call had no effect."""
    ANSWER_LOST = "answer-lost"
    """The call took effect, the client hears nothing: `SlurmUnavailable`."""
    REJECTED = "rejected"
    """`SlurmRejected` (``code``, ``why``, ``retryable``): a site's job_submit hook, a limit, a busy database index."""
    IGNORED = "ignored"
    """Slurm says yes and changes nothing: the read-back raises `EditIgnored`. Only writes of jobs."""
    BEFORE = "before"
    """``action`` (given the call's job) happens just before the call: a user is faster than we are."""
    AFTER = "after"
    """``action`` happens just after the call."""


@dataclass(slots=True)
class Fault:
    """One armed fault. ``skip`` calls pass first, then it fires ``times`` times."""

    kind: FaultKind
    call: str = "*"
    job_id: JobId | None = None
    times: int = 1
    skip: int = 0
    code: int = 2103
    why: str = "DB index is being set, try again"
    retryable: bool = False
    action: Callable[[JobId | None], None] | None = None
    fired: int = 0

    def matches(self, call: str, job_id: JobId | None) -> bool:
        return self.fired < self.times and self.call in ("*", call) and self.job_id in (None, job_id)


@dataclass(slots=True)
class Faults:
    """All armed faults of one emulator."""

    armed: list[Fault] = field(default_factory=list)

    def inject(
        self,
        kind: FaultKind | str,
        call: str = "*",
        job_id: JobId | None = None,
        *,
        times: int = 1,
        skip: int = 0,
        code: int = 2103,
        why: str = "DB index is being set, try again",
        retryable: bool = False,
        action: Callable[[JobId | None], None] | None = None,
    ) -> Fault:
        """Arm a fault; returns it so that its ``fired`` can be read later."""
        fault = Fault(FaultKind(kind), call, job_id, times, skip, code, why, retryable, action)
        self.armed.append(fault)
        return fault

    def take(self, call: str, job_id: JobId | None) -> Fault | None:
        """The fault that fires on this call, if any."""
        for fault in self.armed:
            if fault.matches(call, job_id):
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.fired += 1
                return fault
        return None

    def clear(self) -> None:
        self.armed.clear()
