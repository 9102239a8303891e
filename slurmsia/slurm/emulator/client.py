"""The emulator behind the `SlurmClient` protocol: deadlines, lost answers, rate limits and read-back as on a real site.

Each call first brings a real clock up to date, then meets the armed faults, then acts. It can do nothing that a
real client cannot: no hold, no cancel, no look at the future.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ...cluster import Job, JobId, Node, Partition, Reservation, Site, Snapshot
from ...wouldstart import would_start
from ..client import (
    Capabilities,
    EditIgnored,
    Health,
    JobsRead,
    Reshape,
    SlurmError,
    SlurmRejected,
    SlurmUnavailable,
    not_cancelled,
)
from ..scontrol import checkpoint_signal
from .clock import RealClock
from .edit import Update, portable_edit
from .emulator import Emulator
from .faults import FaultKind

_T = TypeVar("_T")


class EmulatorClient:
    """A `SlurmClient` of one emulator. Safe to call from several threads."""

    def __init__(self, emulator: Emulator, name: str = "emulator", rate_limit_per_s: float | None = None) -> None:
        self._emulator = emulator
        self._lock = emulator.lock
        self._name = name
        self._rate_limit_per_s = rate_limit_per_s
        self._tokens = 0.0 if rate_limit_per_s is None else 2 * rate_limit_per_s
        self._tokens_s = emulator.now_s
        self._rpcs = 0
        self.writes: list[tuple[float, str, JobId]] = []
        """(time, call, job) of every write that reached the controller."""

    def _call(self, call: str, job_id: JobId | None, act: Callable[[], _T]) -> _T:
        emulator = self._emulator
        with self._lock:
            clock = emulator.clock
            if isinstance(clock, RealClock):
                emulator.run_until(clock.wall_s())
            self._rpcs += 1
            if emulator.paused:
                raise SlurmUnavailable(f"{call}: no answer from slurmctld within the deadline")
            self._spend_token(call, job_id)
            fault = emulator.faults.take(call, job_id)
            kind = None if fault is None else fault.kind
            if fault is not None and fault.action is not None and kind is FaultKind.BEFORE:
                fault.action(job_id)
                emulator.settle()
            if kind is FaultKind.FAILS:
                raise SlurmUnavailable(f"{call}: no answer from slurmctld within the deadline")
            if fault is not None and kind is FaultKind.REJECTED:
                raise SlurmRejected(fault.code, fault.why, job_id, fault.retryable)
            if kind is FaultKind.IGNORED and job_id is not None:
                raise EditIgnored(job_id, "the request", "ours", "as before")
            result = act()
            if job_id is not None:
                self.writes.append((emulator.now_s, call, job_id))
            if emulator.clock.is_virtual:
                emulator.settle()
            if fault is not None and fault.action is not None and kind is FaultKind.AFTER:
                fault.action(job_id)
            if kind is FaultKind.ANSWER_LOST:
                raise SlurmUnavailable(f"{call}: no answer from slurmctld within the deadline")
            return result

    def _spend_token(self, call: str, job_id: JobId | None) -> None:
        if self._rate_limit_per_s is None:
            return
        now_s = self._emulator.now_s
        burst = 2 * self._rate_limit_per_s
        self._tokens = min(burst, self._tokens + (now_s - self._tokens_s) * self._rate_limit_per_s)
        self._tokens_s = now_s
        if self._tokens < 1.0:
            if job_id is None:
                raise SlurmUnavailable(f"{call}: slurmctld limits our rate")
            raise SlurmRejected(5010, f"{call}: slurmctld limits our rate, try again", job_id, retryable=True)
        self._tokens -= 1.0

    def capabilities(self) -> Capabilities:
        site = self._emulator.site
        return Capabilities(self._name, site.slurm_version, shrink=site.job_shrink_allowed, requeue_delay_option=True)

    def now_s(self) -> float:
        clock = self._emulator.clock
        return clock.wall_s() if isinstance(clock, RealClock) else clock.now_s()

    def snapshot(self, deadline_s: float = 10.0) -> Snapshot:
        return self._call("snapshot", None, self._snapshot)

    def _snapshot(self) -> Snapshot:
        emulator = self._emulator
        return Snapshot(
            taken_s=emulator.now_s,
            nodes=emulator.node_views(),
            jobs=emulator.jobs(),
            gpu_types=emulator.cluster.gpu_types,
            partitions=tuple(emulator.partitions[name] for name in sorted(emulator.partitions)),
            reservations=tuple(emulator.reservations[name] for name in sorted(emulator.reservations)),
            limits=emulator.limits,
            site=emulator.site,
        )

    def jobs(self, deadline_s: float = 10.0) -> JobsRead:
        return self._call("jobs", None, lambda: JobsRead(self._emulator.now_s, self._emulator.jobs()))

    def nodes(self, deadline_s: float = 10.0) -> tuple[Node, ...]:
        return self._call("nodes", None, self._emulator.node_views)

    def partitions(self, deadline_s: float = 10.0) -> tuple[Partition, ...]:
        return self._call("partitions", None, lambda: tuple(self._emulator.partitions.values()))

    def reservations(self, deadline_s: float = 10.0) -> tuple[Reservation, ...]:
        return self._call("reservations", None, lambda: tuple(self._emulator.reservations.values()))

    def site(self, deadline_s: float = 10.0) -> Site:
        return self._call("site", None, lambda: self._emulator.site)

    def renew_leases(self, leases: dict[JobId, float], deadline_s: float = 10.0) -> dict[JobId, SlurmError]:
        failures: dict[JobId, SlurmError] = {}
        for job_id, begin_s in leases.items():
            try:
                self._update("renew_leases", job_id, Update(begin_s=begin_s), "lease renewed")
            except SlurmError as error:
                failures[job_id] = error
        return failures

    def _update(self, call: str, job_id: JobId, update: Update, why: str) -> None:
        self._call(call, job_id, lambda: self._emulator.update(job_id, update, why))

    def requeue(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        def act() -> None:
            not_cancelled(self._emulator.job(job_id))
            self._emulator.requeue(job_id, "requeued by slurmsia")

        self._call("requeue", job_id, act)

    def reshape(self, job_id: JobId, edit: Reshape, deadline_s: float = 10.0) -> None:
        def act() -> None:
            emulator = self._emulator
            request = emulator.job(job_id).request
            wanted = portable_edit(job_id, request, edit, emulator.now_s)
            emulator.update(job_id, wanted, "reshaped by slurmsia")
            self._read_back(emulator.job(job_id), wanted)

        self._call("reshape", job_id, act)

    def _read_back(self, job: Job, wanted: Update) -> None:
        found = job.request
        checks = (
            ("NumNodes", wanted.nodes, found.nodes),
            ("NumTasks", wanted.tasks, found.tasks),
            ("NumCPUs", wanted.cpus, found.cpus),
            ("Gres", wanted.gres and wanted.gres[1], found.gpus // max(found.nodes, 1)),
            ("Gpus", wanted.total_gpus, found.gpus),
            ("Features", wanted.features, found.features),
            ("ReqNodeList", wanted.required_nodes and tuple(sorted(wanted.required_nodes)), found.required_nodes),
        )
        for name, want, have in checks:
            if want is not None and want != have:
                raise EditIgnored(job.id, name, str(want), str(have))

    def end_lease(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        self._update("end_lease", job_id, Update(begin_s=self._emulator.now_s), "lease ended by slurmsia")

    def clear_pins(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        self._update("clear_pins", job_id, Update(required_nodes=()), "pins cleared by slurmsia")

    def end_launch_failure_hold(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        self._call("end_launch_failure_hold", job_id, lambda: self._emulator.end_launch_failure_hold(job_id))

    def shrink(self, job_id: JobId, keep_nodes: tuple[str, ...], deadline_s: float = 10.0) -> None:
        self._call("shrink", job_id, lambda: self._emulator.shrink(job_id, keep_nodes))

    def signal(self, job_id: JobId, name: str, deadline_s: float = 10.0) -> None:
        checkpoint_signal(job_id, name)
        self._call("signal", job_id, lambda: self._emulator.signal(job_id, name))

    def notify(self, job_id: JobId, message: str, deadline_s: float = 10.0) -> None:
        self._call("notify", job_id, lambda: None)

    def would_start(self, job: Job, edit: Reshape, snapshot: Snapshot) -> str | None:
        return would_start(job, edit, snapshot)

    def health(self, deadline_s: float = 5.0) -> Health:
        if self._emulator.paused:
            return Health(False, 1.0, self._rpcs, "slurmctld does not answer")
        return Health(True, 0.0, self._rpcs, "emulated controller is up")

    def close(self) -> None:
        """Nothing to close."""
