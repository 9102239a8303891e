"""What one round decides, as values: a target and a verdict per job, and one sentence for the round.

`round.decide` makes a `Plan`, the move machine carries it out, the store keeps it, the API shows it. Nothing here
does I/O. Solve times are kept beside the plan (`SolveStats`), never in its equality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .cluster import JobId, Shape


class TargetKind(str, Enum):
    """What a round wants of a job. Only START, MOVE and RESIZE lead to calls to Slurm (QUEUE renews leases)."""

    KEEP = "keep"
    START = "start"
    MOVE = "move"
    RESIZE = "resize"
    QUEUE = "queue"
    SUSPEND = "suspend"
    """A running job that is to give up its GPUs and wait on a lease."""
    LEAVE = "leave"
    """Not managed, or not to be touched this round."""


@dataclass(frozen=True, slots=True)
class BatchChoice:
    """Batch the job should use on its target: samples per GPU and micro-batch, extra micro-batches per step."""

    local_batch: int
    accumulation: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where a job should be. ``gpus_by_node`` is the placement, empty for QUEUE and LEAVE."""

    job_id: JobId
    kind: TargetKind
    shape: Shape | None = None
    gpus_by_node: tuple[tuple[str, int], ...] = ()
    batch: BatchChoice | None = None
    expected_goodput: float = 0.0
    current_goodput: float = 0.0
    urgency: float = 0.0
    """Order of moves within a round: higher first."""
    pin: bool = False
    """Write the node list into the edit: only where type or room cannot be had without it (pins outlive us)."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A configuration that was considered and not chosen, and the number that decided."""

    shape: Shape
    goodput: float
    why_not: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The one verdict a job gets in a round: code, one sentence with numbers, when it is looked at again.

    ``code`` is a stable lower-case word with dashes ("moves", "keeps", "waits-for-capacity", "not-declared", ...).
    """

    job_id: JobId
    code: str
    sentence: str
    term: str = ""
    """The policy term that decided ("restart-cost", "weight", "capacity", ...)."""
    alternatives: tuple[Alternative, ...] = ()
    would_change: str = ""
    look_again_s: float = 60.0


@dataclass(frozen=True, slots=True)
class SolveStats:
    """How the solve went; not part of a plan's equality."""

    times_s: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions of a round, sorted by job id. ``gap`` is proven (SIA.md 3).

    ``starts_only``: a round between two rounds, in which nothing that runs was moved.
    """

    targets: tuple[Target, ...]
    verdicts: tuple[Verdict, ...]
    policy: str
    objective: float
    bound: float
    gap: float
    stage: str
    sentence: str
    stats: SolveStats = field(default_factory=SolveStats, compare=False)
    starts_only: bool = False

    def target(self, job_id: JobId) -> Target | None:
        return next((target for target in self.targets if target.job_id == job_id), None)

    def verdict(self, job_id: JobId) -> Verdict | None:
        return next((verdict for verdict in self.verdicts if verdict.job_id == job_id), None)
