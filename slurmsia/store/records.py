"""What goes into the store and comes out of it, as values that no other module owns: rounds, moves, leases, answers.

Snapshots, plans, histories and standings are the package's own values and appear here by reference only. Nothing
here does I/O. Times are UTC seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..cluster import Job, JobId, Snapshot
from ..models.base import JobModel
from ..plan import Plan, Verdict
from ..standing import Standing


@dataclass(frozen=True, slots=True)
class ReportContext:
    """What the receiver of a report knows of its job: enough to file the report when no snapshot showed the job yet.

    ``submit_s`` and ``restarts`` are Slurm's now: the report may be of an earlier run, read after a requeue.
    ``throughput_only``: batch sizes are unknown.
    """

    user_id: int
    submit_s: float
    script_hash: str = ""
    name: str = ""
    sluid: str = ""
    throughput_only: bool = False
    restarts: int = 0

    @classmethod
    def of(cls, job: Job, throughput_only: bool = False) -> ReportContext:
        return cls(job.user_id, job.submit_s, job.script_hash, job.name, job.sluid, throughput_only, job.restarts)


@dataclass(frozen=True, slots=True)
class RejectedReport:
    """A report that was not stored, and the sentence that says why."""

    job_id: JobId
    restart: int
    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of a batch of reports; ``accepted`` + ``duplicates`` + len(``rejected``) is its length.

    Accepted reports are on disk when this value exists.
    """

    accepted: int
    duplicates: int
    rejected: tuple[RejectedReport, ...] = ()
    by_job: Mapping[JobId, int] = field(default_factory=dict)
    """Reports accepted, by job."""


@dataclass(frozen=True, slots=True)
class FitRecord:
    """A fitted model of one job on one GPU type.

    ``params``: the model's parameters by name; ``one_gpu_samples_per_s``: its throughput on one GPU at the job's
    smallest batch, for the ratios between types that later jobs start from.
    """

    job_id: JobId
    gpu_type: str
    params: Mapping[str, float]
    source: str
    rel_error: float
    observations: float
    fitted_s: float
    one_gpu_samples_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round as it is stored. ``config_text`` is the canonical JSON of the policy file that was in force.

    ``times_s``: seconds by stage (read, model, solve, place, ...); ``generation``: of the lease, ``None`` without one.
    """

    taken_s: float
    mode: str
    snapshot: Snapshot
    plan: Plan
    models: Mapping[JobId, JobModel]
    standing: Mapping[JobId, Standing]
    config_text: str
    times_s: Mapping[str, float] = field(default_factory=dict)
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class RoundHead:
    """What a list of rounds shows; the bodies are read with `Store.round`. ``None``: no finite number."""

    id: int
    taken_s: float
    mode: str
    policy: str
    policy_hash: str
    config_hash: str
    objective: float | None
    bound: float | None
    gap: float | None
    stage: str
    sentence: str
    jobs: int
    moves: int
    times_s: Mapping[str, float]
    bodies: bool
    """False once retention has dropped snapshot, models and plan: such a round cannot be replayed."""


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round with everything `decide` was given and what it answered. ``plan_json`` is the stored bytes."""

    head: RoundHead
    snapshot: Snapshot
    plan: Plan
    plan_json: bytes
    models: Mapping[JobId, JobModel]
    standing: Mapping[JobId, Standing]
    config_text: str


@dataclass(frozen=True, slots=True)
class VerdictSpan:
    """A verdict of one job and how long it stood: its code and term from ``first_round`` to ``last_round``."""

    verdict: Verdict
    first_round: int
    last_round: int
    first_s: float
    last_s: float
    rounds: int


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """A move, written before its first call to Slurm. ``move_id`` is unique for ever; ``cause`` is the stimulus id.

    ``target``: plain JSON (shape, nodes, batch, ...). ``ended_s`` is set once, by the event that ends the move.
    """

    move_id: str
    job_id: JobId
    state: str
    target: Mapping[str, Any]
    cause: str
    generation: int
    created_s: float
    round_id: int | None = None
    updated_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True, slots=True)
class MoveEvent:
    """One transition of a move; ``seq`` counts from 1 within the move and makes repeating it harmless.

    ``ends``: no event may follow. ``actions``: the calls the transition asks for, plain JSON.
    """

    move_id: str
    seq: int
    t_s: float
    event: str
    from_state: str
    to_state: str
    generation: int
    cause: str = ""
    detail: str = ""
    actions: tuple[Any, ...] = ()
    ends: bool = False


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """Who did what, when, through which door."""

    t_s: float
    who: str
    what: str
    user_id: int | None = None
    job_id: JobId | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Leadership. ``generation`` grows with every new holder and fences the writes of older ones."""

    name: str
    holder: str
    generation: int
    acquired_s: float
    renewed_s: float
    expires_s: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One start of a job: what it held, from when to when, how it ended (empty while it runs)."""

    job_id: JobId
    restart: int
    started_s: float
    ended_s: float | None
    how_ended: str
    gpu_type: str | None
    nodes: int
    gpus: int
    node_names: tuple[str, ...]
    energy_j: float = 0.0
    net_bytes: float = 0.0
    handles_signal: bool = False


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the store knows it, across requeues. ``ended_s`` is ``None`` while Slurm still shows it unfinished."""

    job_id: JobId
    first_submit_s: float
    user_id: int
    name: str
    account: str
    script_hash: str
    sluid: str
    comment: str
    state: str
    restarts: int
    ended_s: float | None
    end_state: str
    current: bool
    runs: tuple[RunRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class TableSize:
    """Rows (estimated on PostgreSQL) and bytes (indexes included) of one table."""

    table: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Keep:
    """How long and how much of one table is kept; ``None`` = no limit."""

    max_age_s: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning removed, or would remove, from one table."""

    table: str
    rows: int
    why: str
