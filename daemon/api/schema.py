"""The shape of every answer, as pydantic models: the published OpenAPI is made from these. Version 1.

A field may be added within a version; none changes its meaning or goes away. Times are UTC epoch seconds.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1
JOB_ID = r"^[0-9]{1,18}(_[0-9]{1,9})?$"


class Part(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class Answer(Part):
    """An answer; ``schema`` is the version, ``now_s`` this host's clock, ``published_s`` when the state was made."""

    schema_version: Literal[1] = Field(1, alias="schema")
    now_s: float
    published_s: float


class ProblemDocument(BaseModel):
    """RFC 9457: ``detail`` is a sentence that says what to do."""

    type: str
    title: str
    status: int
    detail: str


class ShapePart(Part):
    gpu_type: str
    nodes: int
    gpus: int
    text: str


class GpuUsePart(Part):
    gpu_type: str
    total: int
    managed: int
    other: int
    down: int
    free: int


class JobPart(Part):
    job_id: str
    name: str
    user: str
    user_id: int
    account: str
    qos: str
    partitions: list[str]
    state: str
    reason: str
    managed: bool
    gpus: int
    gpu_type: str | None
    nodes: list[str]
    requested_gpus: int
    target: ShapePart | None
    kind: str
    verdict: str
    sentence: str
    goodput: float
    expected_goodput: float
    submit_s: float
    start_s: float | None
    priority: float
    moves: int
    moving: str


class Counts(Part):
    managed_running: int
    managed_waiting: int
    other_running: int
    other_waiting: int
    moving: int


class CallerPart(Part):
    user: str
    user_id: int
    operator: bool
    by: str


class StatusAnswer(Answer):
    """The cluster at a glance; the caller's own jobs."""

    cluster: str
    mode: str
    why_mode: str
    sentence: str
    policy: str
    version: str
    started_s: float
    next_round_s: float
    read_s: float | None
    round_id: int | None
    rounds: int
    gap: float | None
    stage: str
    gpus: list[GpuUsePart]
    jobs: Counts
    my_jobs: list[JobPart]
    warnings: list[str]
    times_s: dict[str, float]
    caller: CallerPart


class JobsAnswer(Answer):
    jobs: list[JobPart]
    total: int


class PointPart(Part):
    gpus: int
    nodes: int
    goodput: float
    low: float
    high: float


class CurvePart(Part):
    gpu_type: str
    source: str
    rel_error: float
    observations: float
    sentence: str
    points: list[PointPart]


class GainPart(Part):
    asked: str
    held: str
    goodput_asked: float
    goodput_held: float
    ratio: float


class RestartPart(Part):
    mean_s: float
    std_s: float
    source: str


class WorkPart(Part):
    done: float | None
    remaining: float | None
    remaining_std: float | None
    source: str


class MovePart(Part):
    job_id: str
    kind: str
    phase: str
    target: ShapePart | None
    planned_s: float
    ended_s: float | None
    round_id: int | None
    cause: str


class RunPart(Part):
    restart: int
    started_s: float
    ended_s: float | None
    how_ended: str
    gpu_type: str | None
    nodes: list[str]
    gpus: int
    energy_j: float


class AdvicePart(Part):
    sentence: str
    line: str


class JobAnswer(Answer):
    """One job: curve of goodput by type, moves and their cost, what it gained, advice."""

    job: JobPart
    comment: str
    curves: list[CurvePart]
    gained: GainPart | None
    restart: RestartPart | None
    work: WorkPart | None
    moves: list[MovePart]
    runs: list[RunPart]
    problems: list[str]
    advice: list[AdvicePart]
    pinned: str


class AlternativePart(Part):
    shape: ShapePart
    goodput: float
    why_not: str


class SpanPart(Part):
    code: str
    sentence: str
    first_s: float
    last_s: float
    first_round: int
    last_round: int
    rounds: int


class WhyAnswer(Answer):
    """Why a job is where it is."""

    job: JobPart
    code: str
    sentence: str
    term: str
    alternatives: list[AlternativePart]
    would_change: str
    look_again_s: float
    put_off: str
    problems: list[str]
    before: list[SpanPart]


class HolderPart(Part):
    job_id: str | None
    user: str | None
    gpus: int
    managed: bool


class NodePart(Part):
    name: str
    gpu_type: str
    gpus: int
    free: int
    state: str
    reason: str
    held: list[HolderPart]


class GpusAnswer(Answer):
    """GPUs by type and by node; jobs that the caller may not see have no id and no user."""

    types: list[GpuUsePart]
    nodes: list[NodePart]


class DecisionPart(Part):
    job_id: str
    kind: str
    target: ShapePart | None
    nodes: list[tuple[str, int]]
    current_goodput: float
    expected_goodput: float
    sentence: str


class FlightPart(Part):
    job_id: str
    kind: str
    phase: str
    target: ShapePart | None
    former: ShapePart | None
    planned_s: float
    phase_s: float
    cause: str


class PlanAnswer(Answer):
    """What the last round decided: in enforce mode it is carried out, else it is what would be done."""

    mode: str
    carried_out: bool
    sentence: str
    policy: str
    objective: float
    bound: float
    gap: float
    stage: str
    decisions: list[DecisionPart]
    in_flight: list[FlightPart]


class RoundPart(Part):
    round_id: int
    taken_s: float
    mode: str
    policy: str
    objective: float | None
    bound: float | None
    gap: float | None
    stage: str
    sentence: str
    jobs: int
    moves: int
    times_s: dict[str, float]
    replayable: bool


class RoundsAnswer(Answer):
    rounds: list[RoundPart]


class RoundAnswer(Answer):
    round: RoundPart
    decisions: list[DecisionPart]


class ActionPart(Part):
    t_s: float
    who: str
    what: str
    job_id: str | None
    reason: str


class HistoryAnswer(Answer):
    """Moves, and of one job its runs and verdicts; operators see what operators did."""

    job_id: str | None
    moves: list[MovePart]
    runs: list[RunPart]
    verdicts: list[SpanPart]
    operators: list[ActionPart]


class ModelPart(Part):
    job_id: str
    name: str
    user: str
    gpu_type: str
    source: str
    rel_error: float
    observations: float
    max_gpus_seen: int
    sentence: str


class ModelsAnswer(Answer):
    models: list[ModelPart]


class PolicyAnswer(Answer):
    """The policy file in force; sections on doors and databases are for operators."""

    policy: str
    config: dict[str, Any]


class RangePart(Part):
    """When a job would start and end on a shape, seconds from now; ``None``: not within what can be known."""

    shape: ShapePart
    goodput: float
    start_low_s: float
    start_high_s: float | None
    run_low_s: float | None
    run_high_s: float | None
    end_low_s: float | None
    end_high_s: float | None


class EstimateAnswer(Answer):
    job_id: str | None
    sentence: str
    work: WorkPart
    options: list[RangePart]


class EstimateRequest(Part):
    """A script not yet submitted: its ``sia:`` words, name, hash of its text, and the GPUs it asks for."""

    comment: str = Field("", max_length=2000)
    name: str = Field("", max_length=200)
    script_hash: str = Field("", max_length=128)
    gpus: int = Field(1, ge=1, le=1_000_000)


class WishRequest(Part):
    """Why an operator does what he does; shown to users."""

    reason: str = Field("", max_length=300)


class Accepted(Part):
    """The wish is on its way; it is carried out between two rounds and written to the audit table."""

    schema_version: Literal[1] = Field(1, alias="schema")
    sentence: str


class Health(Part):
    schema_version: Literal[1] = Field(1, alias="schema")
    ok: bool
    sentence: str


#: A report as it is posted: what the reporter library writes (docs/jobs.md).
REPORT_LINE: dict[str, Any] = {
    "type": "object",
    "required": ["v", "job", "restart", "seq", "t", "ev"],
    "additionalProperties": False,
    "properties": {
        "v": {"const": VERSION},
        "job": {"type": "integer", "minimum": 1, "maximum": 10**15},
        "restart": {"type": "integer", "minimum": 0, "maximum": 10**9},
        "seq": {"type": "integer", "minimum": 0, "maximum": 2**53},
        "t": {"type": "number", "minimum": 0, "maximum": 1e15},
        "ev": {"enum": ["start", "progress", "checkpointed", "end"]},
        "alloc": {"type": "object"},
        "steps": {"type": "array", "items": {"type": "object"}},
        "grad": {"type": "object"},
        "progress": {"type": "object"},
        "ckpt": {"type": "object"},
        "mem": {"type": "object"},
        "facts": {"type": "object"},
        "energy_j": {"type": "number", "minimum": 0, "maximum": 1e18},
        "net_bytes": {"type": "number", "minimum": 0, "maximum": 1e18},
        "handles": {"type": "string"},
        "src": {"type": "string"},
    },
}
