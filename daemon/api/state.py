"""The last state that the loop handed over, with the indices that answers need. Read by many, replaced as a whole.

Nothing here decides or asks anybody: a state is what one round left behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from slurmsia.cluster import Job, JobId, JobState, Snapshot
from slurmsia.declaration import Declaration, DeclarationError, parse
from slurmsia.moves.move import Move
from slurmsia.plan import Target, TargetKind, Verdict

from ..published import GpuUse, Published, gpu_use
from .callers import Caller

_NOTHING = Published(mode="starting", sentence="The daemon has not told its state yet.")


@dataclass(frozen=True)
class View:
    """A published state and its indices. ``number`` grows with every state."""

    number: int
    state: Published
    jobs: Mapping[JobId, Job] = field(default_factory=dict)
    targets: Mapping[JobId, Target] = field(default_factory=dict)
    verdicts: Mapping[JobId, Verdict] = field(default_factory=dict)
    flights: Mapping[JobId, Move] = field(default_factory=dict)
    managed: frozenset[JobId] = frozenset()
    uses: tuple[GpuUse, ...] = ()
    by_user: Mapping[int, tuple[Job, ...]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, state: Published) -> View:
        snapshot, plan = state.snapshot, state.plan
        targets = {target.job_id: target for target in plan.targets} if plan is not None else {}
        managed = frozenset(target.job_id for target in targets.values() if target.kind is not TargetKind.LEAVE)
        return cls(
            number,
            state,
            {job.id: job for job in snapshot.jobs} if snapshot is not None else {},
            targets,
            {verdict.job_id: verdict for verdict in plan.verdicts} if plan is not None else {},
            {move.job_id: move for move in state.moves},
            managed,
            gpu_use(snapshot, managed) if snapshot is not None else (),
            _by_user(snapshot.jobs if snapshot is not None else ()),
            _counts(snapshot.jobs if snapshot is not None else (), managed),
        )

    @property
    def snapshot(self) -> Snapshot | None:
        return self.state.snapshot

    @property
    def jobs_are_private(self) -> bool:
        """Whether Slurm's PrivateData hides jobs of others; so until Slurm was read for the first time."""
        return self.snapshot is None or "jobs" in self.snapshot.site.private_data

    def sees(self, caller: Caller, user_id: int) -> bool:
        """Whether the caller may see jobs of that user."""
        return caller.operator or caller.user_id == user_id or not self.jobs_are_private

    def shown(self, caller: Caller) -> list[Job]:
        """Jobs with GPUs, or with our words, that are not over and that the caller may see."""
        return [job for job in self.jobs.values() if self._listed(job) and self.sees(caller, job.user_id)]

    def own(self, caller: Caller) -> list[Job]:
        """The caller's own of these."""
        return [job for job in self.by_user.get(caller.user_id, ()) if self._listed(job)]

    def _listed(self, job: Job) -> bool:
        return bool(job.request.gpus or job.id in self.targets or "sia:" in job.comment) and (
            job.state is not JobState.ENDED or job.completing
        )

    def declaration(self, job: Job) -> Declaration | None:
        """The job's words, ``None`` without or where they do not parse."""
        types = frozenset(kind.name for kind in self.snapshot.gpu_types) if self.snapshot is not None else None
        try:
            return parse(job.comment, known_types=types)
        except DeclarationError:
            return None


def _by_user(jobs: Iterable[Job]) -> dict[int, tuple[Job, ...]]:
    found: dict[int, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.user_id, []).append(job)
    return {user_id: tuple(theirs) for user_id, theirs in found.items()}


def _counts(jobs: Iterable[Job], managed: frozenset[JobId]) -> dict[str, int]:
    """Live jobs with GPUs, ours and others', running and waiting."""
    counts = {"managed_running": 0, "managed_waiting": 0, "other_running": 0, "other_waiting": 0}
    for job in jobs:
        if job.request.gpus and job.state is not JobState.ENDED:
            whose = "managed" if job.id in managed else "other"
            counts[f"{whose}_{'running' if job.allocation is not None else 'waiting'}"] += 1
    return counts


class Holder:
    """The present view; `put` by the receiving thread, `view` by everybody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view = View(0, _NOTHING)

    def put(self, state: Published) -> None:
        with self._lock:
            self._view = View.of(self._view.number + 1, state)

    def view(self) -> View:
        return self._view
