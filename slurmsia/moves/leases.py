"""Leases and limits of moves, as pure functions: which begin times to write, and what the policy file allows.

A waiting job of ours waits on its begin time, never on a hold: when nobody renews the lease, Slurm starts the job by
itself. A begin time or hold that its user set is never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..cluster import Job, JobId, JobState, Snapshot
from ..config import Config
from ..deciding.eligibility import user_begin_s
from ..standing import Standing
from .move import Deadlines, Limits, Move, MoveKind, Phase

#: So much later than planned the next round may come without a lease running out before it.
LATE_ROUND_S = 60.0


def limits_of(config: Config) -> Limits:
    """The limits of the move table as the policy file states them."""
    section = config.moves
    late = section.deadlines
    return Limits(
        lease_s=section.lease_s,
        renew_before_s=max(section.lease_s / 2, min(config.policy.round_s + LATE_ROUND_S, section.lease_s)),
        retry_s=section.retry_s,
        attempts=section.attempts,
        mends=section.launch_failures,
        room_wait_s=section.room_wait_s,
        plan_age_s=section.plan_age_s,
        first_report_s=section.first_report_s,
        same_node_wait_s=section.same_node_wait_s,
        grace_s=section.grace_s,
        deadlines=Deadlines(
            (
                ("BadConstraints", 0.0),
                ("ReqNodeNotAvail", late.unavailable_s),
                ("PartitionDown", late.unavailable_s),
                ("Reservation", late.unavailable_s),
                ("Assoc", late.limit_s),
                ("QOS", late.limit_s),
                ("Licenses", late.limit_s),
                ("Priority", late.priority_s),
                ("Resources", late.priority_s),
            ),
            late.other_s,
        ),
        moves_per_round=section.per_round,
        moves_in_flight=section.in_flight,
        moves_per_user_round=section.per_user_round,
        starts_per_round=section.starts_per_round,
        min_run_s=section.min_run_s,
        checkpoint_bytes_in_flight=(
            float("inf") if section.checkpoint_gb_in_flight is None else section.checkpoint_gb_in_flight * 1e9
        ),
        writes_per_tick=max(round(config.slurm.writes_per_s * section.retry_s), 1),
        shrink_running=section.shrink_running,
    )


def due_renewals(
    snapshot: Snapshot,
    waiting: Collection[JobId],
    standings: Mapping[JobId, Standing],
    limits: Limits,
) -> dict[JobId, float]:
    """New begin times (epoch seconds) of the waiting jobs whose lease is missing or ends within ``renew_before_s``."""
    now_s = snapshot.taken_s
    until_s = now_s + limits.lease_s
    due: dict[JobId, float] = {}
    for job in snapshot.jobs:
        if job.id not in waiting or job.state is not JobState.PENDING or job.completing or job.hold:
            continue
        own = user_begin_s(job, standings.get(job.id), snapshot, limits.lease_s)
        if own is not None and own > now_s:
            continue
        if job.begin_s is None or job.begin_s < now_s + limits.renew_before_s:
            due[job.id] = until_s
    return due


def on_our_lease(job: Job, snapshot: Snapshot, standing: Standing | None, lease_s: float) -> bool:
    """Whether a pending job waits on a begin time of ours (or of Slurm's requeue) rather than of its user."""
    if job.state is not JobState.PENDING or job.begin_s is None or job.begin_s <= snapshot.taken_s:
        return False
    own = user_begin_s(job, standing, snapshot, lease_s)
    return own is None or own <= snapshot.taken_s


def standing_after(standing: Standing, move: Move, now_s: float) -> Standing:
    """Our memory of the job once the move has reached its present phase: in flight, restoring, moved, pinned.

    Idempotent for moves in flight; apply it once to a finished one.
    """
    if not move.phase.final:
        if move.phase is Phase.RUNNING:
            return replace(standing, in_flight=None, in_flight_nodes=(), restoring=True)
        return replace(standing, in_flight=move.target or standing.in_flight, in_flight_nodes=move.gpus_by_node)
    settled = replace(standing, in_flight=None, in_flight_nodes=(), restoring=False)
    pinned = move.pinned_reason
    if move.missed_grace:
        settled = replace(settled, missed_graces=standing.missed_graces + 1)
        if settled.missed_graces >= 2:
            pinned = "missed two graces"
    if pinned:
        settled = replace(settled, pinned_reason=pinned)
    if move.phase is Phase.VERIFIED:
        moved = 1 if move.kind in (MoveKind.MOVE, MoveKind.SUSPEND) else 0
        settled = replace(settled, moves=standing.moves + moved, last_moved_s=now_s)
    return settled
