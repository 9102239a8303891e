"""What a round leaves behind for those who ask: one immutable value, handed to the API as a whole.

The API answers from this and from the store, never from Slurm. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slurmsia.cluster import JobId, JobState, Snapshot
from slurmsia.deciding.prospect import Prospect
from slurmsia.models.base import JobModel
from slurmsia.moves.move import Move
from slurmsia.plan import Plan
from slurmsia.standing import Standing


@dataclass(frozen=True, slots=True)
class GpuUse:
    """GPUs of one type: all, held by managed jobs, held by others, not usable."""

    gpu_type: str
    total: int
    managed: int
    other: int
    down: int

    @property
    def free(self) -> int:
        return max(0, self.total - self.managed - self.other - self.down)


@dataclass(frozen=True, slots=True)
class Published:
    """The state after a round (or before the first one, with ``snapshot`` None).

    ``mode``: observe, enforce, paused or standby; ``why_mode``: who paused it or why it stands by; ``problems``: by
    job, what is wrong with its reports; ``times_s``: seconds by phase of the last round; ``prospect``: what declaring
    the undeclared jobs would allow, in every mode but enforce; ``metrics``: Prometheus text, put in by `ApiBridge`.
    """

    mode: str
    sentence: str
    cluster: str = ""
    why_mode: str = ""
    published_s: float = 0.0
    started_s: float = 0.0
    round_id: int | None = None
    rounds: int = 0
    next_round_s: float = 0.0
    snapshot: Snapshot | None = None
    plan: Plan | None = None
    models: Mapping[JobId, JobModel] = field(default_factory=dict)
    standings: Mapping[JobId, Standing] = field(default_factory=dict)
    moves: tuple[Move, ...] = ()
    problems: Mapping[JobId, tuple[str, ...]] = field(default_factory=dict)
    put_off: Mapping[JobId, str] = field(default_factory=dict)
    times_s: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    policy: str = ""
    config_text: str = ""
    metrics: bytes = b""
    version: str = ""
    prospect: Prospect | None = None


def gpu_use(snapshot: Snapshot, managed: frozenset[JobId]) -> tuple[GpuUse, ...]:
    """GPUs by type and use, types sorted by name."""
    table: dict[str, dict[str, int]] = {}
    type_of: dict[str, str] = {}
    free_on: dict[str, int] = {}
    for node in snapshot.nodes:
        if node.gpu_type is None or not node.gpus:
            continue
        row = table.setdefault(node.gpu_type, {"total": 0, "managed": 0, "other": 0, "down": 0})
        row["total"] += node.gpus
        type_of[node.name] = node.gpu_type
        free_on[node.name] = node.gpus
    for job in snapshot.jobs:
        if job.allocation is None or (job.state is JobState.ENDED and not job.completing):
            continue
        use = "managed" if job.id in managed else "other"
        for name, gpus in job.allocation.gpus_by_node:
            if name in type_of:
                table[type_of[name]][use] += gpus
                free_on[name] -= gpus
    for node in snapshot.nodes:
        if node.name in type_of and not node.takes_work:
            table[type_of[node.name]]["down"] += max(0, free_on[node.name])
    return tuple(GpuUse(name, **table[name]) for name in sorted(table))
