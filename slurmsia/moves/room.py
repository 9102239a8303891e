"""Where GPUs are free for moves in flight: now, and once the jobs that are about to leave have left.

A waiting job is started, and a requeued one edited, only when Slurm could start it at once, so that none of ours
blocks the queue for jobs we do not manage. Pure bookkeeping over one read of the queue; it never reserves anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..cluster import Job, JobId, JobState, Node
from .move import Move, MoveKind, Phase

_HOLDING = (JobState.RUNNING, JobState.SUSPENDED)


def leaves_soon(move: Move, job: Job, checkpointed: bool) -> bool:
    """Whether a move's job gives up its present GPUs without waiting for anybody but us."""
    if move.kind not in (MoveKind.MOVE, MoveKind.SUSPEND) or job.state is not JobState.RUNNING:
        return False
    if job.restarts != move.run:
        return False
    if move.phase is Phase.PLANNED:
        return not move.warns
    return move.phase is Phase.REQUEUED or (move.phase is Phase.WARNED and checkpointed)


class Room:
    """Free GPUs by node, from the nodes of the last snapshot and a fresh read of the queue."""

    def __init__(self, nodes: Sequence[Node], jobs: Iterable[Job], leaving: Iterable[JobId]) -> None:
        leavers = frozenset(leaving)
        self._type = {node.name: node.gpu_type for node in nodes}
        self._now = {node.name: node.gpus for node in nodes if node.takes_work}
        self._soon = dict(self._now)
        for job in jobs:
            if job.allocation is None or not (job.state in _HOLDING or job.completing):
                continue
            for name, gpus in job.allocation.gpus_by_node:
                if name in self._now:
                    self._now[name] -= gpus
                    if not (job.completing or job.id in leavers):
                        self._soon[name] -= gpus

    def ask(self, move: Move) -> bool:
        """Whether the move's target fits: now for an edit, soon for a requeue. Then that room is spoken for."""
        if move.target is None:
            return True
        edits = move.kind is MoveKind.START or move.phase in (Phase.REQUEUED, Phase.EDITED, Phase.RETURNING)
        free = self._now if edits else self._soon
        wanted = move.gpus_by_node or ()
        fits = bool(wanted) and all(free.get(name, 0) >= gpus for name, gpus in wanted)
        if not fits and not move.pin:
            shape = move.target
            each, gpu_type = shape.gpus_per_node, shape.gpu_type
            others = [(gpus, name) for name, gpus in free.items() if gpus >= each and self._type[name] == gpu_type]
            if len(others) >= shape.nodes:
                wanted = tuple((name, each) for _, name in sorted(others)[: shape.nodes])
                fits = True
        for name, gpus in wanted:
            for table in (self._now, self._soon):
                if name in table:
                    table[name] -= gpus
        return fits

    def free_now(self) -> Mapping[str, int]:
        """GPUs free by node at this moment, after what was spoken for."""
        return self._now
