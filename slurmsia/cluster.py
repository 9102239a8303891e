"""What the world is: frozen values for GPU types, nodes, jobs, allocations and the snapshot of one round.

Everything else in the package speaks in these terms. This module does no I/O, reads no clock, knows no policy,
and never imports anything of slurmsia. Times are UTC seconds since the epoch, memory is bytes unless the name says
otherwise, counts are whole GPUs. All values compare by content and are safe to hash, store and replay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

#: A Slurm job as the user addresses it: ``"123"``, or ``"123_4"`` for one array task.
JobId = str


@dataclass(frozen=True, slots=True)
class GpuType:
    """A kind of GPU as the site names it.

    ``name`` is the key used everywhere (``"a100"``). The site maps it to Slurm by typed GRES, node feature or
    partition; those mappings live in the policy file, not here. Unknown facts are ``None``.
    """

    name: str
    memory_bytes: float | None = None
    power_max_w: float | None = None
    power_idle_w: float | None = None


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a job can hold: ``gpus`` GPUs in all, of one type, on ``nodes`` nodes.

    Single-node shapes may use part of a node; multi-node shapes give every node the same number of GPUs
    (``gpus % nodes == 0``). This is the *configuration* of the Sia paper (section 3.3).
    """

    gpu_type: str
    nodes: int
    gpus: int

    @property
    def gpus_per_node(self) -> int:
        return self.gpus // self.nodes

    def __str__(self) -> str:
        where = "" if self.nodes == 1 else f" on {self.nodes} nodes"
        return f"{self.gpus} {self.gpu_type}{where}"


@dataclass(frozen=True, slots=True)
class Allocation:
    """GPUs that a job really holds: one entry per node, sorted by node name, GPUs per node >= 0."""

    gpu_type: str | None
    gpus_by_node: tuple[tuple[str, int], ...]
    gpus: int = field(init=False, compare=False, repr=False)
    """GPUs in all."""
    shape: Shape | None = field(init=False, compare=False, repr=False)
    """The shape, or ``None`` for an allocation without GPUs or with unknown or mixed types."""

    def __post_init__(self) -> None:
        gpus = sum(count for _, count in self.gpus_by_node)
        known = self.gpu_type is not None and gpus > 0
        object.__setattr__(self, "gpus", gpus)
        object.__setattr__(self, "shape", Shape(str(self.gpu_type), len(self.gpus_by_node), gpus) if known else None)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.gpus_by_node)


class NodeState(str, Enum):
    """What a node is good for this round; anything Slurm says that we do not know means ``UNUSABLE``."""

    UP = "up"
    DRAINED = "drained"
    """Running jobs may stay, nothing may start."""
    RESERVED = "reserved"
    """In a maintenance or foreign reservation."""
    PROMISED = "promised"
    """Backfill promised it to a waiting job. It takes work, but what it is promised to comes first."""
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Node:
    """One node. ``gpus`` counts what the node has, used or not; ``gpu_type`` is ``None`` without GPUs.

    A node with several GPU types is reported as unusable for management by the client (reason says so).
    """

    name: str
    gpu_type: str | None
    gpus: int
    cpus: int
    memory_mb: int
    state: NodeState = NodeState.UP
    reason: str = ""
    features: frozenset[str] = frozenset()
    partitions: frozenset[str] = frozenset()
    leaf_switch: str | None = None
    cpus_used_by_others: int = 0
    memory_mb_used_by_others: int = 0

    @property
    def takes_work(self) -> bool:
        """Whether something may start there."""
        return self.state in (NodeState.UP, NodeState.PROMISED)


class JobState(str, Enum):
    """Slurm's base job state reduced to what decides; COMPLETING is a flag on the job."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    ENDED = "ended"


class GpuForm(str, Enum):
    """How the job asked for GPUs. An edit must keep the form (SLURM.md)."""

    NONE = "none"
    PER_NODE_UNTYPED = "gres"
    """``--gres=gpu:N`` or ``--gpus-per-node=N``."""
    PER_NODE_TYPED = "gres-typed"
    """``--gres=gpu:a100:N``."""
    TOTAL = "gpus"
    """``--gpus=N`` (typed or not)."""
    PER_TASK = "gpus-per-task"


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks Slurm for right now (its last-written shape), as Slurm reports it.

    ``cpus`` and ``memory_mb`` are totals over the job; ``memory_mb = 0`` means whole-node memory (``--mem=0``).
    """

    nodes: int = 1
    tasks: int = 1
    cpus: int = 1
    memory_mb: int | None = None
    memory_per_cpu: bool = False
    gpus: int = 0
    gpu_type: str | None = None
    gpu_form: GpuForm = GpuForm.NONE
    features: str = ""
    required_nodes: tuple[str, ...] = ()
    excluded_nodes: tuple[str, ...] = ()
    exclusive: bool = False
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    licenses: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One Slurm job (or one array task) at the time of the snapshot. Ended jobs appear for one MinJobAge only.

    ``hold`` is ``"user"``, ``"admin"``, ``"launch-failure"`` or ``""``. ``begin_s`` is Slurm's begin (eligible)
    time, ``None`` when unset. ``unmanageable`` is empty, or says why this kind of job is never ours (het job,
    ``--no-requeue``, unsplit array, reservation, federated, cron, interactive).
    """

    id: JobId
    user_id: int
    state: JobState
    submit_s: float
    name: str = ""
    account: str = ""
    qos: str = ""
    partitions: tuple[str, ...] = ()
    comment: str = ""
    priority: float = 0.0
    reason: str = ""
    hold: str = ""
    completing: bool = False
    begin_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    time_limit_s: float | None = None
    restarts: int = 0
    requeue: bool = True
    request: Request = field(default_factory=Request)
    allocation: Allocation | None = None
    sluid: str = ""
    dependency: str = ""
    reservation: str = ""
    script_hash: str = ""
    work_dir: str = ""
    exit_code: int | None = None
    """Of the batch script, once it has ended; 128 + n where signal n ended it, as shells say it."""
    end_state: str = ""
    unmanageable: str = ""
    stdout_path: str = ""
    """Absolute path of the job's log, patterns filled in; empty when Slurm does not say."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition and who may use it. ``max_time_s`` ``None`` = unlimited; empty allow lists mean everybody."""

    name: str
    up: bool = True
    nodes: frozenset[str] = frozenset()
    max_time_s: float | None = None
    max_nodes: int | None = None
    priority_tier: int = 1
    allow_accounts: frozenset[str] = frozenset()
    deny_accounts: frozenset[str] = frozenset()
    allow_qos: frozenset[str] = frozenset()
    deny_qos: frozenset[str] = frozenset()
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation: its nodes are no capacity for jobs that would still run at ``start_s``."""

    name: str
    nodes: frozenset[str]
    start_s: float
    end_s: float
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GpuLimit:
    """One linear limit of an association, QOS or partition on GPUs held at a time.

    Applies to the jobs that match every non-``None`` scope field. ``per_job`` limits each job alone; otherwise
    the sum over the matching jobs is limited. ``gpu_type`` ``None`` counts all types.
    """

    what: str
    max_gpus: int
    per_job: bool = False
    account: str | None = None
    user_id: int | None = None
    qos: str | None = None
    partition: str | None = None
    gpu_type: str | None = None
    accounts: frozenset[str] | None = None
    """An account and everything below it, where the limit of a parent account covers its sub-accounts."""


@dataclass(frozen=True, slots=True)
class Site:
    """Facts of the site that change far less often than the queue."""

    cluster: str = "cluster"
    slurm_version: tuple[int, int, int] = (0, 0, 0)
    requeue_delay_s: float = 121.0
    kill_wait_s: float = 30.0
    job_shrink_allowed: bool = True
    private_data: frozenset[str] = frozenset()
    licenses: tuple[tuple[str, int, int], ...] = ()
    """(name, total, used)"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one round knows of the cluster, read in two bulk reads; sorted by name and id."""

    taken_s: float
    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    gpu_types: tuple[GpuType, ...]
    partitions: tuple[Partition, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    limits: tuple[GpuLimit, ...] = ()
    site: Site = field(default_factory=Site)

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def job(self, job_id: JobId) -> Job | None:
        return next((job for job in self.jobs if job.id == job_id), None)
