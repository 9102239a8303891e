"""A job inside the emulator: what was submitted, its changing record, and what accounting keeps of its runs.

The record is the only mutable thing here; the emulator's controller alone changes it, and `view` turns it into the
frozen `Job` that clients see, rebuilt only after a change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...cluster import Allocation, GpuForm, Job, JobId, JobState, Request
from .physics import JobPhysics


@dataclass(frozen=True, slots=True)
class Submission:
    """What a user hands to sbatch. ``request.gpus``, ``cpus`` and ``memory_mb`` are totals over the job.

    ``kind`` is empty, or says why such a job is never managed ("het job", "interactive", ...), as a client would.
    """

    request: Request = field(default_factory=Request)
    user_id: int = 1000
    name: str = "job"
    account: str = "research"
    qos: str = "normal"
    partitions: tuple[str, ...] = ("main",)
    comment: str = ""
    time_limit_s: float | None = None
    begin_s: float | None = None
    held: bool = False
    requeue: bool = True
    nice: float = 0.0
    dependency: tuple[JobId, ...] = ()
    """Jobs that must have ended first (``afterany``)."""
    reservation: str = ""
    script_hash: str = ""
    work_dir: str = "/home/user"
    kind: str = ""


def gang(
    gpus: int,
    nodes: int = 1,
    *,
    gpu_type: str | None = None,
    cpus_per_gpu: int = 4,
    memory_mb_per_gpu: int | None = 4_000,
    form: GpuForm = GpuForm.PER_NODE_UNTYPED,
    features: str = "",
    exclusive: bool = False,
) -> Request:
    """The request of ``gpus`` GPUs in all on ``nodes`` nodes, one task per GPU node."""
    return Request(
        nodes=nodes,
        tasks=nodes,
        cpus=max(gpus * cpus_per_gpu, nodes),
        memory_mb=None if memory_mb_per_gpu is None else gpus * memory_mb_per_gpu,
        gpus=gpus,
        gpu_type=gpu_type,
        gpu_form=form if gpus else GpuForm.NONE,
        features=features,
        exclusive=exclusive,
        tasks_per_node=1,
    )


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a job as accounting keeps it (``sacct -D`` has one line per run of a requeued job)."""

    job_id: JobId
    restart: int
    user_id: int
    account: str
    qos: str
    partition: str
    name: str
    comment: str
    submit_s: float
    eligible_s: float
    start_s: float
    end_s: float
    state: str
    exit_code: int
    time_limit_s: float | None
    allocation: Allocation

    @property
    def elapsed_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(slots=True)
class JobRecord:
    """The controller's record of one job. ``grants``: (node, GPUs, CPUs, MB) it holds, while running or completing."""

    id: JobId
    order: int
    submission: Submission
    physics: JobPhysics
    request: Request
    submit_s: float
    first_submit_s: float
    state: JobState = JobState.PENDING
    comment: str = ""
    partitions: tuple[str, ...] = ()
    time_limit_s: float | None = None
    begin_s: float | None = None
    hold: str = ""
    completing: bool = False
    returns: bool = False
    """Requeued, with a run that is still dying: its submit time is set when that is gone."""
    reason: str = ""
    priority_boost: float = 0.0
    restarts: int = 0
    start_s: float | None = None
    end_s: float | None = None
    eligible_s: float | None = None
    ended_by: str = ""
    exit_code: int | None = None
    grants: tuple[tuple[str, int, int, int], ...] = ()
    allocation: Allocation | None = None
    epoch: int = 0
    """Grows with every start and stop, so that timers of an earlier run are recognised as stale."""
    left_nodes: tuple[str, ...] = ()
    left_s: float = float("-inf")
    """Nodes of the last run and when it had gone: same-node restarts soon after can fail to launch."""
    bad_constraints: bool = False
    edits: int = 0
    history: list[tuple[float, str]] = field(default_factory=list)
    """(time, what happened): for stories and failure messages, never read by clients."""
    _view: Job | None = None

    def note(self, now_s: float, what: str) -> None:
        self.history.append((now_s, what))
        self._view = None

    def touch(self) -> None:
        """The frozen view is stale."""
        self._view = None

    @property
    def seen(self) -> Job | None:
        """The job as clients see it, unless something has changed since it was last looked at."""
        return self._view

    def view(self, priority: float) -> Job:
        """The job as clients see it; the same object until something changes."""
        seen = self._view
        if seen is not None:
            return seen
        given = self.submission
        seen = Job(
            id=self.id,
            user_id=given.user_id,
            state=self.state,
            submit_s=self.submit_s,
            name=given.name,
            account=given.account,
            qos=given.qos,
            partitions=self.partitions,
            comment=self.comment,
            priority=priority,
            reason=self.reason,
            hold=self.hold,
            completing=self.completing,
            begin_s=self.begin_s,
            start_s=self.start_s,
            end_s=self.end_s,
            time_limit_s=self.time_limit_s,
            restarts=self.restarts,
            requeue=given.requeue,
            request=self.request,
            allocation=self.allocation,
            dependency=",".join(f"afterany:{other}" for other in given.dependency),
            reservation=given.reservation,
            script_hash=given.script_hash,
            work_dir=given.work_dir,
            exit_code=self.exit_code,
            end_state=self.ended_by,
            unmanageable=given.kind or ("" if given.requeue else "submitted with --no-requeue"),
        )
        self._view = seen
        return seen
