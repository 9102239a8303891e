"""A look at the queue that led to nothing, kept so that the next one costs little while the very same jobs are seen.

Where Slurm's answer, our moves and the jobs' news are the same objects as before, only time has passed; what that
changes the move table says. Pure; must never claim quiet where anything else changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..cluster import Job, JobId, Node
from ..slurm.client import JobsRead
from .channel import JobNews
from .move import Event, Limits, Move
from .table import step


@dataclass(frozen=True, slots=True)
class Quiet:
    """What was seen when nothing was due, and the event that it meant for each move.

    A client that builds jobs anew only when they change, as the emulated one does, makes most reads equal to the last.
    """

    jobs: Sequence[Job]
    nodes: Sequence[Node]
    limits: Limits
    flying: tuple[tuple[Move, JobNews | None], ...]
    events: tuple[tuple[Move, Event], ...]

    def lasts(
        self,
        read: JobsRead,
        nodes: Sequence[Node],
        limits: Limits,
        flights: Mapping[JobId, Move],
        news: Callable[[JobId], JobNews | None],
    ) -> bool:
        """Whether a read shows the very same jobs and time alone changes no move; raises what ``news`` does."""
        if read.jobs is not self.jobs or nodes is not self.nodes or limits is not self.limits:
            return False
        if len(self.flying) != len(flights):
            return False
        for move, heard in self.flying:
            if flights.get(move.job_id) is not move or news(move.job_id) is not heard:
                return False
        for move, event in self.events:
            after, actions = step(move, replace(event, now_s=read.taken_s), limits)
            if after is not move or actions:
                return False
        return True
