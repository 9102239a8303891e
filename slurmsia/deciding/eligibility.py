"""Which jobs of a snapshot slurmsia may decide about, and for every other job the reason why not, as code and sentence.

A job without our declaration is a neighbour: it is never touched, and what it holds is not capacity. A declared job
that cannot be decided about this round (held by its owner, later begin time, dependency, ...) is left alone and said
so. Pure; never raises on user text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..cluster import Allocation, Job, JobId, JobState, Request, Shape, Snapshot
from ..config import ScopeSection
from ..declaration import Declaration, DeclarationError, Level, parse
from ..standing import Standing

#: Pending reasons that mean "would start if there were room": such jobs are rigid demand.
WAITING_FOR_ROOM = frozenset({"Resources", "Priority"})

#: Code of running jobs that stay because the next round proper has not come.
BETWEEN_ROUNDS = "between-rounds"

_LEASE_SLACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Managed:
    """A job this round decides about. ``request`` is what its user submitted, before any edit of ours.

    ``stays``: why it may not be moved although it runs (empty when it may): a rigid or moldable job that has started,
    a pin, a restore going on, a move in flight; `BETWEEN_ROUNDS` as code where only waiting jobs are decided about.
    """

    job: Job
    declaration: Declaration
    standing: Standing
    request: Request
    stays: str = ""
    stays_code: str = ""

    @property
    def running(self) -> bool:
        return self.job.state is JobState.RUNNING and self.job.allocation is not None


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A job this round does not decide about. ``declared``: it has (or tried to have) words of ours."""

    job: Job
    code: str
    sentence: str
    declared: bool = True

    @property
    def waits_for_room(self) -> bool:
        return (
            self.job.state is JobState.PENDING
            and self.job.reason in WAITING_FOR_ROOM
            and not self.job.hold
            and self.job.request.gpus > 0
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """The live jobs of a snapshot, split; both parts in the snapshot's order."""

    managed: tuple[Managed, ...]
    left_alone: tuple[LeftAlone, ...]


def split_queue(
    snapshot: Snapshot,
    standing: Mapping[JobId, Standing],
    scope: ScopeSection,
    lease_s: float,
    known_types: Sequence[str] | None = None,
    min_run_s: float = 0.0,
    only_proven: bool = False,
    starts_only: bool = False,
) -> Queue:
    """Every live job of the snapshot as managed or left alone; ended jobs are in neither.

    ``lease_s``: how far ahead a begin time of ours may lie; ``known_types``: GPU types a declaration may name (default:
    those of the snapshot); ``min_run_s``: a run younger than that is not moved; ``only_proven``: nor is a job whose
    script was never rehearsed; ``starts_only``: nor is anything that runs.
    """
    types: frozenset[str] = frozenset(
        known_types if known_types is not None else (kind.name for kind in snapshot.gpu_types)
    )
    managed: list[Managed] = []
    left_alone: list[LeftAlone] = []
    for job in snapshot.jobs:
        if job.state is JobState.ENDED:
            continue
        judged = judge(job, standing.get(job.id), snapshot, scope, lease_s, types, min_run_s, only_proven)
        if starts_only and isinstance(judged, Managed) and judged.running and not judged.stays:
            judged = replace(judged, stays="only waiting jobs start between two rounds", stays_code=BETWEEN_ROUNDS)
        if isinstance(judged, Managed):
            managed.append(judged)
        else:
            left_alone.append(judged)
    return Queue(tuple(managed), tuple(left_alone))


def judge(
    job: Job,
    standing: Standing | None,
    snapshot: Snapshot,
    scope: ScopeSection,
    lease_s: float,
    known_types: Collection[str],
    min_run_s: float = 0.0,
    only_proven: bool = False,
) -> Managed | LeftAlone:
    """One live job: managed with its declaration, or left alone with the reason."""
    declaration = _parsed(job.comment, frozenset(known_types))
    if isinstance(declaration, str):
        return LeftAlone(job, "bad-declaration", declaration)
    if declaration is None:
        return LeftAlone(job, "not-declared", "not managed: no sia: declaration in its comment", declared=False)
    own = standing or Standing(job.id, first_submit_s=job.submit_s)
    request = own.submitted or job.request
    refused = _never_ours(job, request, scope) or _not_now(job, own, standing is not None, snapshot, lease_s)
    if refused is not None:
        return LeftAlone(job, *refused)
    stays_code, stays = _stays(job, declaration, own, snapshot.taken_s, min_run_s, only_proven)
    return Managed(job, declaration, own, request, stays, stays_code)


@lru_cache(maxsize=1 << 14)
def _parsed(comment: str, known_types: frozenset[str]) -> Declaration | str | None:
    """The declaration, the sentence on what is wrong with it, or ``None``; remembered, for comments rarely change."""
    try:
        return parse(comment, known_types=known_types)
    except DeclarationError as error:
        return f"left alone as a rigid job: its declaration is wrong at character {error.position}: {error.sentence}"


def submitted_shape(managed: Managed) -> Shape | None:
    """What the user asked for as a shape, or ``None`` without a GPU type to name (any type then)."""
    if managed.standing.requested is not None:
        return managed.standing.requested
    request = managed.request
    gpu_type = request.gpu_type or (managed.declaration.types[0] if len(managed.declaration.types) == 1 else None)
    if gpu_type is None or request.gpus < 1:
        return None
    return Shape(gpu_type, max(request.nodes, 1), request.gpus)


def uniform(allocation: Allocation | None) -> bool:
    """Whether an allocation is a legal configuration: one known type, the same number of GPUs on every node."""
    if allocation is None or allocation.shape is None:
        return False
    counts = {count for _, count in allocation.gpus_by_node}
    return len(counts) == 1


def _never_ours(job: Job, request: Request, scope: ScopeSection) -> tuple[str, str] | None:
    if job.unmanageable:
        return "unmanageable", f"not managed: {job.unmanageable}"
    if not job.requeue:
        return (
            "no-requeue",
            "not managed: submitted with --no-requeue, so it could never be moved; submit with --requeue",
        )
    if job.reservation:
        return "reservation", f"not managed: it runs in reservation {job.reservation}"
    if request.gpus < 1:
        return "no-gpus", "not managed: it asks for no GPUs; ask with --gres=gpu:N"
    if scope.partitions and not set(job.partitions) & set(scope.partitions):
        return "out-of-scope", f"not managed: partition {','.join(job.partitions)} is not in scope.partitions"
    if scope.accounts and job.account not in scope.accounts:
        return "out-of-scope", f"not managed: account {job.account or '(none)'} is not in scope.accounts"
    if scope.qos and job.qos not in scope.qos:
        return "out-of-scope", f"not managed: QOS {job.qos or '(none)'} is not in scope.qos"
    return None


def _not_now(job: Job, standing: Standing, known: bool, snapshot: Snapshot, lease_s: float) -> tuple[str, str] | None:
    if job.state is JobState.SUSPENDED:
        return "suspended", "left alone while it is suspended in Slurm"
    if job.hold in ("user", "admin"):
        who = "owner" if job.hold == "user" else "administrator"
        return "held", f"left alone: held by its {who}; release it with scontrol release {job.id}"
    if job.hold:
        return "launch-failure", "left alone this round: Slurm holds it after a failed launch, which slurmsia mends"
    if standing.in_flight is not None:
        return None
    if job.completing:
        return "completing", "left alone this round: its last run is still completing"
    if job.state is JobState.RUNNING:
        if not uniform(job.allocation):
            return "odd-allocation", "left alone: it holds no GPUs, several types, or different counts on its nodes"
        return None
    if job.reason == "Dependency":
        return "dependency", f"waits for its dependency {job.dependency}".rstrip()
    begin_s = user_begin_s(job, standing if known else None, snapshot, lease_s)
    if begin_s is not None and begin_s > snapshot.taken_s:
        return "begins-later", f"its owner asked for a begin time {(begin_s - snapshot.taken_s) / 60:.0f} min from now"
    return None


def user_begin_s(job: Job, standing: Standing | None, snapshot: Snapshot, lease_s: float) -> float | None:
    """The begin time the user asked for, or ``None`` when the job's begin time is a lease of ours or of Slurm.

    A lease lies at most ``lease_s`` ahead; a requeue by Slurm adds its own delay. On first sight (no standing) a begin
    time that is neither counts as the user's.
    """
    if standing is not None and standing.user_begin_s is not None:
        return standing.user_begin_s
    if job.begin_s is None or job.begin_s <= snapshot.taken_s:
        return None
    longest_s = max(lease_s, snapshot.site.requeue_delay_s) + _LEASE_SLACK_S
    if standing is not None:
        return job.begin_s if job.begin_s > snapshot.taken_s + longest_s else None
    ahead_s = job.begin_s - job.submit_s
    ours = abs(ahead_s - lease_s) <= _LEASE_SLACK_S
    slurms = job.restarts > 0 and ahead_s <= snapshot.site.requeue_delay_s + _LEASE_SLACK_S
    return None if ours or slurms else job.begin_s


def _stays(
    job: Job, declaration: Declaration, standing: Standing, now_s: float, min_run_s: float, only_proven: bool
) -> tuple[str, str]:
    if standing.in_flight is not None:
        return "moving", f"its move to {standing.in_flight} is still going on"
    if job.state is not JobState.RUNNING:
        return "", ""
    if standing.pinned_reason:
        return "pinned", f"pinned for this run: {standing.pinned_reason}"
    if standing.restoring:
        return "restoring", "restored from its checkpoint and not yet back at work"
    if declaration.level is Level.RIGID:
        return "rigid", "rigid jobs are never restarted"
    if declaration.level is Level.MOLDABLE:
        return "moldable", "moldable jobs keep the shape they started with"
    if only_proven and not standing.script_proven:
        return "unproven", "this site moves only jobs whose script was rehearsed; run slurmsia rehearse with it once"
    started_s = standing.run_started_s if standing.run_started_s is not None else job.start_s
    if started_s is not None and now_s - started_s < min_run_s:
        return "young", f"its run is {max(now_s - started_s, 0.0):.0f} s old and is not moved before {min_run_s:.0f} s"
    return "", ""


def is_declared(job: Job) -> bool:
    """Whether its owner gave the job to slurmsia, even in words that cannot be read."""
    try:
        return parse(job.comment) is not None
    except DeclarationError:
        return True
