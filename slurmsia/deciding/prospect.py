"""What there would be to gain if users declared their jobs: for observe mode on a site where nobody has yet.

Pure, over one snapshot, by the same rules of eligibility as a round. It promises nothing: speeds of undeclared jobs
are unknown, so the answer is a range with its assumptions beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..cluster import Job, JobState, Snapshot
from ..config import ScopeSection
from .eligibility import LeftAlone, judge

#: What an undeclared job is taken to say, to be judged by the rules of a round.
_AS_IF = "sia: gpus=1-16 level=restartable"

ASSUMPTIONS = (
    "low: each waiting job keeps the size that its user asked for and only its GPU type or node may change, as far as "
    "idle GPUs of one node go; every job gains nothing in speed",
    "high: every eligible job, running or waiting, can use any number of GPUs of any type, so no GPU in scope idles",
)


@dataclass(frozen=True, slots=True)
class Prospect:
    """Eligible jobs, why others are not (by code), and how many idle GPUs could be at work: from low to high."""

    running: int = 0
    waiting: int = 0
    not_eligible: Mapping[str, int] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    """One sentence for each code in ``not_eligible``, of the first job it applies to."""
    idle_gpus: int = 0
    gpus: int = 0
    low_gpus: int = 0
    high_gpus: int = 0
    low_starts: int = 0
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def sentence(self) -> str:
        others = ", ".join(f"{count} {code}" for code, count in sorted(self.not_eligible.items()))
        if not self.running + self.waiting:
            return "No job could be managed if it were declared" + (f" ({others})." if others else ": there is none.")
        text = (
            f"If their users declared them, {self.running} running and {self.waiting} waiting GPU jobs could be managed"
            + (f" (not: {others})" if others else "")
        )
        if not self.high_gpus:
            return f"{text}; no GPU in scope is idle, so the gain would be faster jobs on better-suited GPUs alone."
        return (
            f"{text}; of {self.gpus} GPUs {self.idle_gpus} are idle, and from {self.low_gpus} (sizes as asked, any "
            f"type) to {self.high_gpus} (any size) of them could be at work now."
        )


def prospect(snapshot: Snapshot, scope: ScopeSection, lease_s: float) -> Prospect:
    """What declaring the undeclared GPU jobs of this snapshot would allow. Never raises on odd jobs."""
    types = frozenset(kind.name for kind in snapshot.gpu_types)
    running: list[Job] = []
    waiting: list[Job] = []
    refused: Counter[str] = Counter()
    why: dict[str, str] = {}
    for job in snapshot.jobs:
        if job.state is JobState.ENDED or "sia:" in job.comment or job.request.gpus < 1:
            continue
        judged = judge(replace(job, comment=_AS_IF), None, snapshot, scope, lease_s, types)
        if isinstance(judged, LeftAlone):
            refused[judged.code] += 1
            why.setdefault(judged.code, f"job {job.id}: {judged.sentence}")
        else:
            (running if judged.running else waiting).append(job)
    free, total = _idle(snapshot, scope)
    idle = sum(free.values())
    starts, low = _as_asked(waiting, free)
    return Prospect(
        running=len(running),
        waiting=len(waiting),
        not_eligible=dict(sorted(refused.items())),
        why=why,
        idle_gpus=idle,
        gpus=total,
        low_gpus=low,
        high_gpus=idle if running or waiting else 0,
        low_starts=starts,
    )


def _idle(snapshot: Snapshot, scope: ScopeSection) -> tuple[dict[str, int], int]:
    """Idle GPUs of usable nodes in scope by node name, and all GPUs of those nodes."""
    nodes = [
        node
        for node in snapshot.nodes
        if node.gpus
        and node.gpu_type is not None
        and node.takes_work
        and (not scope.partitions or node.partitions & set(scope.partitions))
    ]
    free = {node.name: node.gpus for node in nodes}
    for job in snapshot.jobs:
        if job.allocation is not None and (job.state is not JobState.ENDED or job.completing):
            for name, gpus in job.allocation.gpus_by_node:
                if name in free:
                    free[name] = max(0, free[name] - gpus)
    return free, sum(node.gpus for node in nodes)


def _as_asked(waiting: list[Job], free: dict[str, int]) -> tuple[int, int]:
    """Jobs that would start now in their own size, on the fullest node that fits, and the GPUs they would use."""
    starts = used = 0
    left = dict(free)
    for job in sorted(waiting, key=lambda job: (-job.priority, job.id)):
        per_node = -(-job.request.gpus // max(job.request.nodes, 1))
        fits = sorted((gpus, name) for name, gpus in left.items() if gpus >= per_node)[: max(job.request.nodes, 1)]
        if len(fits) < max(job.request.nodes, 1):
            continue
        for _, name in fits:
            left[name] -= per_node
        starts += 1
        used += per_node * len(fits)
    return starts, used
