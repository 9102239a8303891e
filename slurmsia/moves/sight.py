"""What a fresh read of a job means for its move: the event that drives the table in `moves`.

Pure: it compares values and never decides what to do. A job that Slurm does not know any more is an event, too.
"""

from __future__ import annotations

from ..cluster import Job, JobState
from ..reshape import Reshape
from .move import Event, EventKind, Move, MoveKind


def request_is(job: Job, edit: Reshape) -> bool:
    """Whether the job's request is what the edit writes (fields that the edit leaves are not compared)."""
    request = job.request
    return (
        request.nodes == edit.shape.nodes
        and request.gpus == edit.shape.gpus
        and (edit.features is None or edit.features == request.features)
        and (edit.required_nodes is None or tuple(sorted(edit.required_nodes)) == tuple(sorted(request.required_nodes)))
        and (edit.partition is None or set(edit.partition.split(",")) == set(job.partitions))
    )


def derive(
    move: Move,
    job: Job | None,
    now_s: float,
    *,
    room: bool = True,
    checkpointed: bool = False,
    reported_samples: float | None = None,
) -> Event:
    """The event that a fresh read of the job means for its move. ``job`` ``None``: Slurm does not know it."""
    if job is None:
        return Event(EventKind.GONE, now_s)
    shape = None if job.allocation is None else job.allocation.shape
    as_planned = move.target is not None and shape == move.target
    if as_planned and move.pin and job.allocation is not None:
        as_planned = set(job.allocation.nodes) == {name for name, _ in move.gpus_by_node}
    if move.kind is MoveKind.SHRINK and job.allocation is not None:
        as_planned = job.allocation.gpus_by_node == move.gpus_by_node
    own_requeues = (0 if move.kind is MoveKind.START else 1) + move.mends
    former_pins = () if move.former is None else move.former.required_nodes or ()
    return Event(
        kind=_kind(move, job),
        now_s=now_s,
        reason=job.reason,
        begin_s=job.begin_s,
        as_planned=as_planned,
        as_former=move.former_shape is not None and shape == move.former_shape,
        edit_there=move.edit is not None and request_is(job, move.edit),
        former_there=move.former is not None and request_is(job, move.former),
        requeued_again=job.restarts > move.run + own_requeues,
        restarts=job.restarts,
        pinned=bool(set(job.request.required_nodes) - set(former_pins)),
        killed_by_signal=job.end_state == "FAILED" and (job.exit_code or 0) != 0,
        ended_s=job.end_s,
        ran_s=None if job.end_s is None or job.start_s is None else job.end_s - job.start_s,
        end_state=job.end_state,
        room=room,
        checkpointed=checkpointed,
        reported_samples=reported_samples,
    )


def _kind(move: Move, job: Job) -> EventKind:
    if job.state is JobState.ENDED:
        return EventKind.ENDED
    if job.state is JobState.SUSPENDED:
        return EventKind.PAUSED
    if job.state is JobState.RUNNING:
        if move.kind is not MoveKind.START and job.restarts == move.run:
            return EventKind.OLD_RUN
        # 22.05 counts the restart at once and says only COMPLETING while a requeued job still dies: no new run yet.
        return EventKind.COMPLETING if job.completing and job.restarts > move.run else EventKind.NEW_RUN
    if job.completing:
        return EventKind.COMPLETING
    if job.hold == "launch-failure":
        return EventKind.LAUNCH_HOLD
    return EventKind.HELD if job.hold else EventKind.QUEUED
