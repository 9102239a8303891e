"""What is left of us in the queue is taken away: every lease ended, every pin cleared, without a daemon.

Declared jobs and jobs of unfinished moves only; a user's own hold, begin time and node list stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..cluster import Job, JobId, JobState
from ..deciding.eligibility import is_declared
from ..slurm.client import SlurmClient, SlurmError
from ..standing import Standing
from .leases import on_our_lease
from .move import Move


@dataclass(frozen=True, slots=True)
class Released:
    """What `release_all` did, by job; ``left``: why a job could not be released."""

    leases_ended: tuple[JobId, ...] = ()
    pins_cleared: tuple[JobId, ...] = ()
    holds_ended: tuple[JobId, ...] = ()
    left: Mapping[JobId, str] = field(default_factory=dict)

    def then(self, later: Released) -> Released:
        """What this pass and a later one did; left is what the later one left."""
        return Released(
            tuple(sorted({*self.leases_ended, *later.leases_ended})),
            tuple(sorted({*self.pins_cleared, *later.pins_cleared})),
            tuple(sorted({*self.holds_ended, *later.holds_ended})),
            later.left,
        )


def release_all(
    client: SlurmClient,
    moves: Iterable[Move] = (),
    standings: Mapping[JobId, Standing] | None = None,
    lease_s: float = 600.0,
    *,
    wait_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Released:
    """End every lease and clear every pin of ours now; declared jobs and jobs of ``moves`` only.

    ``wait_s``: try again for so long what cannot be done at once, above all jobs whose last run is still ending.
    Raises `SlurmUnavailable` when the queue cannot be read.
    """
    flights = {move.job_id: move for move in moves}
    standings = standings or {}
    until_s = client.now_s() + wait_s
    done = _one_pass(client, flights, standings, lease_s)
    while done.left and client.now_s() < until_s:
        sleep(1.0)
        done = done.then(_one_pass(client, flights, standings, lease_s))
    return done


def _one_pass(
    client: SlurmClient, flights: Mapping[JobId, Move], standings: Mapping[JobId, Standing], lease_s: float
) -> Released:
    snapshot = client.snapshot()
    leases: list[JobId] = []
    pins: list[JobId] = []
    holds: list[JobId] = []
    left: dict[JobId, str] = {}
    for job in snapshot.jobs:
        standing, move = standings.get(job.id), flights.get(job.id)
        if move is None and not is_declared(job):
            continue
        # 22.05 calls a requeued job running, and completing, until its old run is gone.
        if job.completing and job.state in (JobState.PENDING, JobState.RUNNING):
            left[job.id] = "its last run is still completing; Slurm starts it by itself within its requeue delay"
            continue
        if job.state is not JobState.PENDING:
            continue
        try:
            if job.hold == "launch-failure":
                client.end_launch_failure_hold(job.id)
                holds.append(job.id)
            if _pinned_by_us(job, standing, move):
                client.clear_pins(job.id)
                pins.append(job.id)
            if job.hold in ("", "launch-failure") and (job.hold or on_our_lease(job, snapshot, standing, lease_s)):
                client.end_lease(job.id)
                leases.append(job.id)
        except SlurmError as error:
            left[job.id] = str(error)
    return Released(tuple(leases), tuple(pins), tuple(holds), left)


def _pinned_by_us(job: Job, standing: Standing | None, move: Move | None) -> bool:
    required = set(job.request.required_nodes)
    if not required:
        return False
    if standing is not None and standing.submitted is not None:
        return bool(required - set(standing.submitted.required_nodes))
    return move is not None and move.edit is not None and set(move.edit.required_nodes or ()) == required
