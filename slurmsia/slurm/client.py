"""The protocol every Slurm client speaks: emulator, Slurm's commands, pyslurm. And its few, named errors.

Nothing here holds or cancels a job: there is deliberately no call for it. Every call has a deadline. Every write is
read back; an edit that did not stick raises `EditIgnored`. SLURM.md ("The move") has the exact calls behind these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..cluster import Job, JobId, Node, Partition, Reservation, Site, Snapshot
from ..reshape import Reshape as Reshape


class SlurmError(Exception):
    """Base of every error a client raises; its text is a sentence an operator can act on."""


class SlurmUnavailable(SlurmError):
    """No answer within the deadline, or the controller is down. Nothing is known about the call's effect."""


class SlurmRejected(SlurmError):
    """Slurm refused the call."""

    def __init__(self, code: int, why: str, job_id: JobId | None = None, retryable: bool = False) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.job_id = job_id
        self.retryable = retryable


class NotPending(SlurmRejected):
    """The edit needs a pending job that is no longer completing."""


class NoSuchJob(SlurmRejected):
    """Slurm does not know the job (any more)."""


class EditIgnored(SlurmError):
    """Slurm accepted the edit and a field still has another value."""

    def __init__(self, job_id: JobId, fieldname: str, wanted: str, found: str) -> None:
        super().__init__(f"job {job_id}: {fieldname} should be {wanted!r} after our edit but Slurm has {found!r}")
        self.job_id = job_id
        self.fieldname = fieldname
        self.wanted = wanted
        self.found = found


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a client can do on this site."""

    name: str
    slurm_version: tuple[int, int, int]
    gpus_by_node: bool = True
    shrink: bool = True
    signal: bool = True
    notify: bool = True
    requeue_delay_option: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """How the controller feels: ``pressure`` 0 (idle) .. 1 (back off); ``rpc_count`` calls made by this client."""

    up: bool
    pressure: float = 0.0
    rpc_count: int = 0
    sentence: str = ""
    worker_restarts: int = 0
    """How often the client's worker process had to be started again; 0 for clients without one."""


@dataclass(frozen=True, slots=True)
class JobsRead:
    """One bulk read of the queue."""

    taken_s: float
    jobs: tuple[Job, ...] = field(default_factory=tuple)


class SlurmClient(Protocol):
    """Reads in bulk, writes one job at a time, never holds, never cancels.

    All methods raise `SlurmUnavailable` on time-out; writes raise `SlurmRejected` (or a subclass) or `EditIgnored`.
    All writes are idempotent from the caller's view: repeating one that already took effect succeeds or raises
    `NotPending`/`NoSuchJob`, and changes nothing more.
    """

    def capabilities(self) -> Capabilities: ...

    def now_s(self) -> float:
        """Slurm's clock as this client sees it (virtual in the emulator)."""
        ...

    def snapshot(self, deadline_s: float = 10.0) -> Snapshot:
        """Jobs and nodes by two bulk reads; partitions, reservations, limits and site facts cached for minutes."""
        ...

    def jobs(self, deadline_s: float = 10.0) -> JobsRead:
        """Only the queue (one bulk read): for the act tick while moves fly."""
        ...

    def nodes(self, deadline_s: float = 10.0) -> tuple[Node, ...]: ...

    def partitions(self, deadline_s: float = 10.0) -> tuple[Partition, ...]: ...

    def reservations(self, deadline_s: float = 10.0) -> tuple[Reservation, ...]: ...

    def site(self, deadline_s: float = 10.0) -> Site: ...

    def renew_leases(self, leases: dict[JobId, float], deadline_s: float = 10.0) -> dict[JobId, SlurmError]:
        """Set begin times (epoch s) of pending jobs in bulk; returns the failures by job. Never shortens a later
        begin time set by the user (the caller passes only jobs of ours)."""
        ...

    def requeue(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        """Plain requeue of a running job (never with hold)."""
        ...

    def reshape(self, job_id: JobId, edit: Reshape, deadline_s: float = 10.0) -> None:
        """One atomic edit of a pending job, then read back."""
        ...

    def end_lease(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        """Make a pending job eligible now, shape untouched."""
        ...

    def clear_pins(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        """Remove the required-node list that an edit of ours wrote (pending jobs only)."""
        ...

    def end_launch_failure_hold(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        """Release a job that Slurm itself held with "launch failed requeued held"; refuses any other hold."""
        ...

    def shrink(self, job_id: JobId, keep_nodes: tuple[str, ...], deadline_s: float = 10.0) -> None:
        """Give back whole nodes of a running job; ``keep_nodes`` includes the batch host."""
        ...

    def signal(self, job_id: JobId, name: str, deadline_s: float = 10.0) -> None:
        """Send a signal (``"USR1"``) to the batch shell and its steps."""
        ...

    def notify(self, job_id: JobId, message: str, deadline_s: float = 10.0) -> None:
        """Write one line to the job's standard error."""
        ...

    def would_start(self, job: Job, edit: Reshape, snapshot: Snapshot) -> str | None:
        """``None`` if Slurm would start the job in that shape now, else the sentence that says why not. No I/O."""
        ...

    def health(self, deadline_s: float = 5.0) -> Health: ...

    def close(self) -> None: ...


def not_cancelled(job: Job) -> None:
    """Refuse to requeue a job that was cancelled since it was last read: Slurm would put it back and run it again.

    While it is completing 22.05 and pyslurm do not say why it ends; that refusal is retryable.
    """
    if job.end_state == "CANCELLED":
        raise NoSuchJob(2021, f"job {job.id}: it was cancelled, and is not put back", job.id)
    if job.completing and not job.end_state:
        raise SlurmRejected(2057, f"job {job.id}: its run is ending, not yet said how", job.id, retryable=True)
