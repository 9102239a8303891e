"""The move of one job as a pure transition table: (move, event) -> (move, actions). No I/O, no clock, no store.

`planned -> warned -> requeued -> edited -> running -> verified`, or `aborted` / `restored`; starts, suspends and
shrinks are shorter walks through the same table. Every step is derived again from a fresh read of the job (`derive`),
so it may be repeated after a crash, a lost answer or a change of leader. No action holds or cancels a job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .move import Action, ActionKind, Event, EventKind, Limits, Move, MoveKind, Phase, Return
from .sight import derive

__all__ = ["derive", "step"]

Step = tuple[Move, tuple[Action, ...]]


def step(move: Move, event: Event, limits: Limits) -> Step:
    """The next move and the calls to make, in order. A finished move never changes; unknown pairs change nothing."""
    if move.phase.final:
        return move, ()
    if event.now_s < move.phase_s:
        # The clock was set back: no wait of ours may last longer for it.
        planned_s, tried_s = min(move.planned_s, event.now_s), min(move.tried_s, event.now_s)
        move = replace(move, phase_s=event.now_s, planned_s=planned_s, tried_s=tried_s)
    handler = _TABLE.get((move.phase, event.kind))
    if handler is None:
        return move, ()
    after, actions = handler(move, event, limits)
    if move.warns and move.phase in _ASKED and after.phase not in _ASKED:
        # The directive on the spool must not outlive the run it was meant for.
        actions = (Action(ActionKind.CARRY_ON, move.job_id, move.cause, why=after.outcome), *actions)
    return after, actions


#: Phases in which the job has been asked to checkpoint and to wait.
_ASKED = (Phase.WARNED, Phase.REQUEUED)


# Building blocks


def _enter(move: Move, phase: Phase, event: Event, **changes: object) -> Move:
    return replace(move, phase=phase, phase_s=event.now_s, attempts=0, tried_s=float("-inf"), **changes)  # type: ignore[arg-type]


def _finish(move: Move, phase: Phase, event: Event, outcome: str, **changes: object) -> Step:
    return _enter(move, phase, event, outcome=outcome, **changes), ()


def _try(move: Move, event: Event, action: Action) -> Step:
    return replace(move, attempts=move.attempts + 1, tried_s=event.now_s), (action,)


def _may_try(move: Move, event: Event, limits: Limits) -> bool:
    return event.now_s >= move.tried_s + limits.retry_s


def _requeue(move: Move, event: Event) -> Step:
    return _try(move, event, Action(ActionKind.REQUEUE, move.job_id, move.cause))


def _edit_now(move: Move, event: Event, limits: Limits) -> Step:
    """The one edit; a few seconds later where the job may land on the nodes it just left."""
    assert move.edit is not None
    begin_s = None
    may_clash = move.kind is MoveKind.MOVE and (
        bool(set(move.from_nodes) & {name for name, _ in move.gpus_by_node})
        or not move.gpus_by_node
        or (not move.pin and move.former_shape is not None and move.former_shape.gpu_type == move.edit.shape.gpu_type)
    )
    # A waiting job that ran before may have ended a moment ago (its user requeued it), on nodes that we do not know;
    # one whose launch failed left the very nodes that it is to start on.
    may_clash = may_clash or (move.kind is MoveKind.START and move.run > 0) or move.mends > 0
    if may_clash and limits.same_node_wait_s > 0:
        begin_s = event.now_s + limits.same_node_wait_s
    edit = replace(move.edit, begin_s=begin_s)
    return _try(move, event, Action(ActionKind.RESHAPE, move.job_id, move.cause, edit=edit))


def _lease(move: Move, event: Event, limits: Limits) -> Step:
    begin_s = event.now_s + limits.lease_s
    return _try(move, event, Action(ActionKind.LEASE, move.job_id, move.cause, begin_s=begin_s))


def _return(move: Move, event: Event, limits: Limits, how: Return, outcome: str, **changes: object) -> Step:
    """Enter RETURNING and do its first step at once where the job can be edited."""
    back = _enter(move, Phase.RETURNING, event, returning=how, outcome=outcome, **changes)
    handler = _TABLE.get((Phase.RETURNING, event.kind))
    return (back, ()) if handler is None else handler(back, event, limits)


def _let_go(move: Move, event: Event, limits: Limits, why: str, phase: Phase = Phase.ABORTED) -> Step:
    """Somebody else changed the job: leave it in the whole shape it has, without our node list."""
    if event.pinned and event.kind in (EventKind.QUEUED, EventKind.HELD, EventKind.COMPLETING):
        return _return(move, event, limits, Return.CLEAR_PINS, why)
    return _finish(move, phase, event, why)


def _mend(move: Move, event: Event, limits: Limits) -> Step:
    """End a hold that Slurm set after a failed launch of ours, a bounded number of times.

    Not at first sight: a node that ended the failed launch within the same second would kill the next one (22.05).
    """
    if event.requeued_again:
        if move.mends >= limits.mends:
            why = f"Slurm holds the job after {move.mends + 1} failed launches"
            return _finish(move, Phase.ABORTED, event, f"{why}; look at its nodes, then scontrol release it")
        phase = Phase.EDITED if move.phase is Phase.RUNNING else move.phase
        mends, now_s = move.mends + 1, event.now_s
        return replace(move, phase=phase, phase_s=now_s, mends=mends, landed=False, attempts=0, tried_s=now_s), ()
    if not _may_try(move, event, limits):
        return move, ()
    if move.attempts >= limits.attempts:
        why = f"Slurm holds the job after a failed launch and {move.outcome or 'its hold does not end'}"
        return _finish(move, Phase.ABORTED, event, f"{why}; look at its nodes, then scontrol release it")
    return _try(move, event, Action(ActionKind.END_LAUNCH_HOLD, move.job_id, move.cause))


# Handlers by phase


def _planned_running(move: Move, event: Event, limits: Limits) -> Step:
    if event.now_s - move.planned_s > limits.plan_age_s:
        return _finish(move, Phase.ABORTED, event, "its target did not become free in time; nothing was done")
    if move.kind is MoveKind.SHRINK:
        return _shrink(_enter(move, Phase.EDITED, event), event)
    if move.warns:
        warned = _enter(move, Phase.WARNED, event)
        until_s = event.now_s + move.grace_s
        ask = Action(ActionKind.ASK_CHECKPOINT, move.job_id, move.cause, deadline_s=until_s)
        if not move.signal:
            return replace(warned, attempts=1, tried_s=event.now_s), (ask,)
        signal = Action(ActionKind.SIGNAL, move.job_id, move.cause, signal=move.signal, deadline_s=until_s)
        return replace(warned, attempts=1, tried_s=event.now_s), (ask, signal)
    if not event.room:
        return move, ()
    return _requeue(_enter(move, Phase.REQUEUED, event), event)


def _shrink(move: Move, event: Event) -> Step:
    keep = tuple(name for name, _ in move.gpus_by_node)
    return _try(move, event, Action(ActionKind.SHRINK, move.job_id, move.cause, keep_nodes=keep))


def _planned_queued(move: Move, event: Event, limits: Limits) -> Step:
    if move.kind is not MoveKind.START:
        return _finish(move, Phase.ABORTED, event, "it was requeued by its user or by Slurm before we did")
    if event.requeued_again:
        return _finish(move, Phase.ABORTED, event, "it ran and was requeued before our edit")
    if event.room:
        return _edit_now(_enter(move, Phase.EDITED, event), event, limits)
    if event.now_s - move.planned_s > limits.plan_age_s:
        return _finish(move, Phase.ABORTED, event, "its target did not become free in time; it waits on its lease")
    return move, ()


def _planned_new_run(move: Move, event: Event, limits: Limits) -> Step:
    return _finish(move, Phase.ABORTED, event, "Slurm started it before our edit; it is adopted as it runs")


def _planned_completing(move: Move, event: Event, limits: Limits) -> Step:
    if move.kind is MoveKind.START:
        return move, ()
    return _finish(move, Phase.ABORTED, event, "it was requeued by its user or by Slurm before we did")


def _warned_running(move: Move, event: Event, limits: Limits) -> Step:
    since_s = event.now_s - move.phase_s
    if event.checkpointed:
        if event.room:
            return _requeue(_enter(move, Phase.REQUEUED, event), event)
        if since_s > move.grace_s + limits.room_wait_s:
            return _finish(move, Phase.ABORTED, event, "its target did not become free; it runs on after a checkpoint")
        return move, ()
    if since_s <= move.grace_s + limits.grace_margin_s:
        return move, ()
    if move.unsure:
        return _finish(move, Phase.ABORTED, event, "no checkpoint came, and our signal may never have arrived")
    return _finish(
        move,
        Phase.ABORTED,
        event,
        f"it reported no checkpoint within the grace of {move.grace_s:.0f} s; it runs on",
        missed_grace=True,
    )


def _warned_ended(move: Move, event: Event, limits: Limits) -> Step:
    died_s = event.now_s if event.ended_s is None else event.ended_s
    within = died_s - move.phase_s <= move.grace_s + limits.grace_margin_s
    if event.killed_by_signal and within:
        why = f"it died within the grace of our {move.signal}; it was put back into the queue and is left alone"
        return _return(move, event, limits, Return.REQUEUE, why, pinned_reason=f"{move.signal} killed it")
    return _ended(move, event, limits)


def _somebody_requeued(move: Move, event: Event, limits: Limits) -> Step:
    return _let_go(move, event, limits, "it was requeued by its user or by Slurm before we did")


def _requeued_old_run(move: Move, event: Event, limits: Limits) -> Step:
    if not _may_try(move, event, limits):
        return move, ()
    if move.attempts >= limits.attempts:
        return _finish(move, Phase.ABORTED, event, f"{move.outcome or 'requeues had no effect'}; it runs on")
    return _requeue(move, event)


def _requeued_queued(move: Move, event: Event, limits: Limits) -> Step:
    if event.requeued_again:
        return _let_go(move, event, limits, "it was requeued once more, not by us")
    if move.kind is MoveKind.SUSPEND:
        return _lease(_enter(move, Phase.EDITED, event), event, limits)
    if event.room:
        return _edit_now(_enter(move, Phase.EDITED, event), event, limits)
    if event.now_s - move.phase_s > limits.room_wait_s:
        return _return(
            move, event, limits, Return.RELEASE, "its target did not become free; it goes back to its former shape"
        )
    return move, ()


def _started_as_before(move: Move, event: Event, limits: Limits) -> Step:
    return _finish(move, Phase.RESTORED, event, "Slurm started it again in its former shape")


def _edited_queued(move: Move, event: Event, limits: Limits) -> Step:
    if event.requeued_again:
        return _let_go(move, event, limits, "it was requeued once more, not by us")
    if move.kind is MoveKind.SUSPEND:
        return _edited_suspend(move, event, limits)
    eligible = event.begin_s is None or event.begin_s <= event.now_s + limits.same_node_wait_s + limits.retry_s
    if event.edit_there and eligible:
        return _wait_for_start(replace(move, landed=True), event, limits)
    if move.landed:
        return _let_go(move, event, limits, "somebody else changed it after our edit; it is left as it is")
    if not _may_try(move, event, limits):
        return move, ()
    if move.attempts < limits.attempts:
        return _edit_now(move, event, limits)
    return _give_up_edit(move, event, limits, move.outcome or f"{move.attempts} edits had no effect")


def _wait_for_start(move: Move, event: Event, limits: Limits) -> Step:
    waited_s = event.now_s - move.phase_s
    allowed_s = limits.deadlines.for_reason(event.reason) + (
        0.0 if move.kind is MoveKind.START and not move.run else limits.same_node_wait_s
    )
    if waited_s <= allowed_s:
        return move, ()
    return _give_up_edit(move, event, limits, f"Slurm did not start it for {waited_s:.0f} s (reason {event.reason})")


def _give_up_edit(move: Move, event: Event, limits: Limits, why: str) -> Step:
    if event.former_there and not event.edit_there:
        if move.kind is MoveKind.START:
            return _finish(move, Phase.ABORTED, event, f"{why}; it waits on its lease")
        return _return(move, event, limits, Return.RELEASE, f"{why}; it goes back to its former shape")
    if move.former is None:
        return _let_go(move, event, limits, f"{why}; it waits in the shape we wrote")
    return _return(move, event, limits, Return.FORMER_SHAPE, f"{why}; it goes back to its former shape")


def _edited_suspend(move: Move, event: Event, limits: Limits) -> Step:
    if event.begin_s is not None and event.begin_s > event.now_s + limits.lease_s / 2:
        return _finish(move, Phase.VERIFIED, event, "it gave up its GPUs and waits on a lease")
    if not _may_try(move, event, limits):
        return move, ()
    if move.attempts < limits.attempts:
        return _lease(move, event, limits)
    return _finish(move, Phase.RESTORED, event, f"{move.attempts} lease edits had no effect; Slurm starts it again")


def _edited_old_run(move: Move, event: Event, limits: Limits) -> Step:
    if move.kind is not MoveKind.SHRINK:
        return move, ()
    if event.as_planned:
        return _finish(move, Phase.VERIFIED, event, f"it gave back nodes and runs on {len(move.gpus_by_node)}")
    if not _may_try(move, event, limits):
        return move, ()
    if move.attempts < limits.attempts:
        return _shrink(move, event)
    return _finish(move, Phase.ABORTED, event, "its nodes could not be given back; it runs on")


def _edited_new_run(move: Move, event: Event, limits: Limits) -> Step:
    if event.as_planned:
        return _running(_enter(move, Phase.RUNNING, event, landed=True), event, limits)
    if event.as_former:
        return _finish(move, Phase.RESTORED, event, "Slurm started it in its former shape")
    return _finish(
        move, Phase.ABORTED, event, "Slurm started it in another shape than planned; it is adopted as it runs"
    )


def _running(move: Move, event: Event, limits: Limits) -> Step:
    if event.requeued_again:
        return _finish(move, Phase.VERIFIED, event, "it reached its target and was restarted later, not by us")
    if move.checkpoint_samples and event.reported_samples is not None:
        if event.reported_samples < move.checkpoint_samples * (1.0 - limits.progress_slack):
            return _finish(
                move,
                Phase.VERIFIED,
                event,
                f"it runs as planned but lost progress: {event.reported_samples:.0f} samples, "
                f"{move.checkpoint_samples:.0f} at its last checkpoint",
                pinned_reason="resuming lost progress",
                lost_progress=True,
            )
        return _finish(move, Phase.VERIFIED, event, "it runs as planned")
    if event.reported_samples is None:
        since_s = event.now_s - move.phase_s
        settles_s = limits.stillbirth_s if move.kind is MoveKind.MOVE else 0.0
        if since_s < (limits.first_report_s if move.expects_reports else settles_s):
            return move, ()
    return _finish(move, Phase.VERIFIED, event, "it runs as planned")


def _running_requeued(move: Move, event: Event, limits: Limits) -> Step:
    return _let_go(move, event, limits, "it reached its target and was requeued later, not by us", Phase.VERIFIED)


def _edited_ended(move: Move, event: Event, limits: Limits) -> Step:
    return _stillborn(move, event, limits) or _ended(move, event, limits)


def _stillborn(move: Move, event: Event, limits: Limits) -> Step | None:
    """A job that ran before and fails within seconds of its start in our shape goes back to the shape it ran in.

    On 22.05 a node that ended the last run within the same second can take the new credential for a revoked one, and
    Slurm then ends the job.
    """
    if move.kind is not MoveKind.MOVE or not event.killed_by_signal:
        return None
    if event.ran_s is not None and event.ran_s > limits.stillbirth_s:
        return None
    why = "it failed within seconds of its start in the new shape; it goes back to its former shape"
    return _return(move, event, limits, Return.REQUEUE, why, pinned_reason="it failed right after a move")


def _running_ended(move: Move, event: Event, limits: Limits) -> Step:
    stillborn = _stillborn(move, event, limits)
    if stillborn is not None:
        return stillborn
    return _finish(move, Phase.VERIFIED, event, f"it reached its target and ended ({event.end_state or 'gone'})")


def _after_pause(event: Event, limits: Limits) -> float | None:
    """Begin time of a job on its way back: it may land on the nodes it just left, so they get time to forget it."""
    return event.now_s + 1.5 * limits.stillbirth_s if limits.stillbirth_s > 0 else None


def _returning_queued(move: Move, event: Event, limits: Limits) -> Step:
    if move.returning is Return.REQUEUE:
        # It is back in the queue: now its shape, or only the end of Slurm's own delay after the requeue.
        reshaped = move.former is not None and not event.former_there
        then = Return.FORMER_SHAPE if reshaped else Return.RELEASE
        move = replace(move, returning=then, attempts=0, tried_s=float("-inf"))
    done = {
        Return.FORMER_SHAPE: event.former_there,
        Return.RELEASE: event.begin_s is None or event.begin_s <= (_after_pause(event, limits) or event.now_s),
        Return.CLEAR_PINS: not event.pinned,
    }.get(move.returning, True)
    last = Phase.ABORTED if move.returning is Return.CLEAR_PINS or move.kind is MoveKind.START else Phase.RESTORED
    if done:
        return _finish(move, last, event, move.outcome)
    if event.now_s < move.tried_s + limits.retry_s * (move.attempts + 1):
        return move, ()
    if move.attempts >= limits.attempts and event.now_s - move.phase_s > limits.room_wait_s:
        return _finish(move, last, event, f"{move.outcome}; Slurm took no further edit, it waits as it is")
    if move.returning is Return.FORMER_SHAPE and move.former is not None:
        begin_s = event.now_s + limits.lease_s if move.kind is MoveKind.START else _after_pause(event, limits)
        edit = replace(move.former, begin_s=begin_s)
        return _try(move, event, Action(ActionKind.RESHAPE, move.job_id, move.cause, edit=edit))
    if move.returning is Return.RELEASE:
        begin_s = _after_pause(event, limits)
        if begin_s is not None:
            return _try(move, event, Action(ActionKind.LEASE, move.job_id, move.cause, begin_s=begin_s))
        return _try(move, event, Action(ActionKind.END_LEASE, move.job_id, move.cause))
    return _try(move, event, Action(ActionKind.CLEAR_PINS, move.job_id, move.cause))


def _returning_held(move: Move, event: Event, limits: Limits) -> Step:
    if move.returning is Return.CLEAR_PINS:
        return _returning_queued(move, event, limits)
    return _held(move, event, limits)


def _returning_new_run(move: Move, event: Event, limits: Limits) -> Step:
    if event.as_planned and move.returning is not Return.REQUEUE:
        return _finish(move, Phase.VERIFIED, event, "Slurm started it as planned after all")
    return _finish(move, Phase.RESTORED, event, move.outcome)


def _returning_ended(move: Move, event: Event, limits: Limits) -> Step:
    if move.returning is not Return.REQUEUE:
        return _ended(move, event, limits)
    # We killed it: never give up while Slurm still knows it, only try less often.
    if event.now_s < move.tried_s + limits.retry_s * min(move.attempts + 1, 10):
        return move, ()
    return _requeue(move, event)


def _ended(move: Move, event: Event, limits: Limits) -> Step:
    return _finish(move, Phase.ABORTED, event, f"it ended meanwhile ({event.end_state or 'Slurm forgot it'})")


def _held(move: Move, event: Event, limits: Limits) -> Step:
    return _let_go(move, event, limits, "its user or an administrator holds it; it is left to them")


def _paused(move: Move, event: Event, limits: Limits) -> Step:
    return _finish(move, Phase.ABORTED, event, "somebody suspended it in Slurm; it is left to them")


def _refused(move: Move, event: Event, limits: Limits) -> Step:
    """Slurm refused for good: undo what can be undone; the next read decides what is left to do."""
    why = f"Slurm refused: {event.why}"
    if move.phase in (Phase.PLANNED, Phase.WARNED) or move.kind is MoveKind.SHRINK:
        return _finish(move, Phase.ABORTED, event, f"{why}; it runs on")
    if move.phase in (Phase.REQUEUED, Phase.EDITED):
        return replace(move, attempts=limits.attempts, outcome=why), ()
    return replace(move, attempts=limits.attempts), ()


def _answer_lost(move: Move, event: Event, limits: Limits) -> Step:
    return (replace(move, unsure=True), ()) if move.phase is Phase.WARNED else (move, ())


def _done(move: Move, event: Event, limits: Limits) -> Step:
    return replace(move, landed=True), ()


def _withdrawn(move: Move, event: Event, limits: Limits) -> Step:
    """Nothing irreversible has happened in these phases: drop the move. Later phases walk on to a whole shape."""
    if move.phase in (Phase.PLANNED, Phase.WARNED):
        return _finish(move, Phase.ABORTED, event, event.why or "withdrawn")
    return move, ()


Handler = Callable[[Move, Event, Limits], Step]

_TABLE: Mapping[tuple[Phase, EventKind], Handler] = {
    (Phase.PLANNED, EventKind.OLD_RUN): _planned_running,
    (Phase.PLANNED, EventKind.NEW_RUN): _planned_new_run,
    (Phase.PLANNED, EventKind.QUEUED): _planned_queued,
    (Phase.PLANNED, EventKind.COMPLETING): _planned_completing,
    (Phase.PLANNED, EventKind.LAUNCH_HOLD): _planned_completing,
    (Phase.WARNED, EventKind.OLD_RUN): _warned_running,
    (Phase.WARNED, EventKind.NEW_RUN): _somebody_requeued,
    (Phase.WARNED, EventKind.QUEUED): _somebody_requeued,
    (Phase.WARNED, EventKind.COMPLETING): _somebody_requeued,
    (Phase.WARNED, EventKind.LAUNCH_HOLD): _somebody_requeued,
    (Phase.WARNED, EventKind.ENDED): _warned_ended,
    (Phase.REQUEUED, EventKind.OLD_RUN): _requeued_old_run,
    (Phase.REQUEUED, EventKind.NEW_RUN): _started_as_before,
    (Phase.REQUEUED, EventKind.QUEUED): _requeued_queued,
    (Phase.REQUEUED, EventKind.LAUNCH_HOLD): _mend,
    (Phase.EDITED, EventKind.OLD_RUN): _edited_old_run,
    (Phase.EDITED, EventKind.NEW_RUN): _edited_new_run,
    (Phase.EDITED, EventKind.QUEUED): _edited_queued,
    (Phase.EDITED, EventKind.LAUNCH_HOLD): _mend,
    (Phase.EDITED, EventKind.DONE): _done,
    (Phase.EDITED, EventKind.ENDED): _edited_ended,
    (Phase.RUNNING, EventKind.NEW_RUN): _running,
    (Phase.RUNNING, EventKind.QUEUED): _running_requeued,
    (Phase.RUNNING, EventKind.HELD): _running_requeued,
    (Phase.RUNNING, EventKind.LAUNCH_HOLD): _mend,
    (Phase.RUNNING, EventKind.ENDED): _running_ended,
    (Phase.RUNNING, EventKind.GONE): _running_ended,
    (Phase.RETURNING, EventKind.QUEUED): _returning_queued,
    (Phase.RETURNING, EventKind.HELD): _returning_held,
    (Phase.RETURNING, EventKind.NEW_RUN): _returning_new_run,
    (Phase.RETURNING, EventKind.LAUNCH_HOLD): _mend,
    (Phase.RETURNING, EventKind.ENDED): _returning_ended,
    **{
        (phase, kind): handler
        for phase in (Phase.PLANNED, Phase.WARNED, Phase.REQUEUED, Phase.EDITED, Phase.RETURNING)
        for kind, handler in (
            (EventKind.GONE, _ended),
            (EventKind.REFUSED, _refused),
            (EventKind.ANSWER_LOST, _answer_lost),
            (EventKind.WITHDRAWN, _withdrawn),
        )
    },
    **{
        (phase, EventKind.ENDED): _ended
        for phase in (Phase.PLANNED, Phase.REQUEUED)
    },
    **{
        (phase, EventKind.HELD): _held
        for phase in (Phase.PLANNED, Phase.WARNED, Phase.REQUEUED, Phase.EDITED)
    },
    **{
        (phase, EventKind.PAUSED): _paused
        for phase in (Phase.PLANNED, Phase.WARNED, Phase.REQUEUED, Phase.EDITED, Phase.RUNNING, Phase.RETURNING)
    },
}  # fmt: skip
