"""The transition table, step by step: what each sight of a job makes of its move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.cluster import Allocation, GpuForm, Job, JobState, Request, Shape
from slurmsia.moves.leases import standing_after
from slurmsia.moves.move import Action, ActionKind, Event, EventKind, Limits, Move, MoveKind, Phase, Return
from slurmsia.moves.table import derive, step
from slurmsia.reshape import Reshape
from slurmsia.standing import Standing

LIMITS = Limits()
OLD = Request(nodes=1, tasks=1, cpus=16, gpus=4, gpu_form=GpuForm.PER_NODE_UNTYPED, features="t4")
NEW = replace(OLD, gpus=8, cpus=32, features="rtx")
EDIT = Reshape(Shape("rtx", 1, 8), tasks=1, cpus=32, features="rtx", required_nodes=())
FORMER = Reshape(Shape("t4", 1, 4), tasks=1, cpus=16, features="t4", required_nodes=())
ON_T4 = Allocation("t4", (("t4-01", 4),))
ON_RTX = Allocation("rtx", (("rtx-01", 8),))
RUNNING = Job("7", 1000, JobState.RUNNING, 0.0, request=OLD, allocation=ON_T4, start_s=10.0)
PENDING = replace(RUNNING, state=JobState.PENDING, restarts=1, allocation=None, start_s=None, begin_s=221.0)
MOVED = replace(RUNNING, request=NEW, allocation=ON_RTX, restarts=1)


def move(phase: Phase = Phase.PLANNED, **changes: object) -> Move:
    plain = Move(
        "7",
        MoveKind.MOVE,
        "round-1/7",
        planned_s=100.0,
        run=0,
        phase=phase,
        phase_s=100.0,
        edit=EDIT,
        former=FORMER,
        former_shape=Shape("t4", 1, 4),
        gpus_by_node=(("rtx-01", 8),),
        from_nodes=("t4-01",),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def walk(one: Move, job: Job | None, now_s: float, **facts: object) -> tuple[Move, list[ActionKind]]:
    after, actions = step(one, derive(one, job, now_s, **facts), LIMITS)  # type: ignore[arg-type]
    assert all(action.cause == one.cause and action.job_id == one.job_id for action in actions)
    return after, [action.kind for action in actions]


def test_a_move_goes_from_plan_to_verified() -> None:
    one, calls = walk(move(), RUNNING, 101.0)
    assert (one.phase, calls) == (Phase.REQUEUED, [ActionKind.REQUEUE])
    one, calls = walk(one, replace(PENDING, completing=True), 102.0)
    assert (one.phase, calls) == (Phase.REQUEUED, [])
    one, calls = walk(one, PENDING, 104.0)
    assert (one.phase, calls) == (Phase.EDITED, [ActionKind.RESHAPE])
    one, calls = walk(one, replace(PENDING, request=NEW, begin_s=104.0, reason="None"), 106.0)
    assert (one.phase, calls, one.landed) == (Phase.EDITED, [], True)
    one, calls = walk(one, MOVED, 108.0)
    assert (one.phase, calls) == (Phase.RUNNING, [])
    one, calls = walk(one, MOVED, 108.0 + LIMITS.stillbirth_s)
    assert (one.phase, calls) == (Phase.VERIFIED, [])


def test_no_action_holds_or_cancels() -> None:
    words = {kind.value for kind in ActionKind}
    assert not any("cancel" in word or word == "hold" for word in words)
    assert ActionKind.END_LAUNCH_HOLD.value in words


def test_a_job_with_a_handler_is_warned_and_requeued_only_after_its_checkpoint() -> None:
    one, calls = walk(move(signal="USR1", grace_s=30.0), RUNNING, 100.0)
    assert (one.phase, calls) == (Phase.WARNED, [ActionKind.ASK_CHECKPOINT, ActionKind.SIGNAL])
    assert walk(one, RUNNING, 120.0)[1] == []
    one, calls = walk(one, RUNNING, 121.0, checkpointed=True)
    assert (one.phase, calls) == (Phase.REQUEUED, [ActionKind.REQUEUE])


def test_the_request_to_checkpoint_does_not_outlive_the_run_it_was_meant_for() -> None:
    _, calls = walk(move(Phase.REQUEUED, signal="USR1", grace_s=30.0), PENDING, 104.0)
    assert calls == [ActionKind.CARRY_ON, ActionKind.RESHAPE]
    spent = move(Phase.REQUEUED, signal="USR1", attempts=LIMITS.attempts)
    one, calls = walk(spent, RUNNING, 110.0)
    assert (one.phase, calls) == (Phase.ABORTED, [ActionKind.CARRY_ON])


def test_a_missed_grace_aborts_the_move_and_the_job_runs_on() -> None:
    one, calls = walk(move(Phase.WARNED, signal="USR1", grace_s=30.0), RUNNING, 136.0)
    assert (one.phase, one.missed_grace, calls) == (Phase.ABORTED, True, [ActionKind.CARRY_ON])


def test_two_missed_graces_pin_the_job() -> None:
    missed = move(Phase.ABORTED, missed_grace=True)
    once = standing_after(Standing("7", 0.0), missed, 136.0)
    assert (once.missed_graces, once.pinned_reason) == (1, "")
    assert standing_after(once, missed, 300.0).pinned_reason == "missed two graces"


def test_a_lost_signal_is_not_held_against_the_job() -> None:
    warned = move(Phase.WARNED, signal="USR1", grace_s=30.0)
    unsure, _ = step(warned, Event(EventKind.ANSWER_LOST, 101.0), LIMITS)
    one, _ = walk(unsure, RUNNING, 136.0)
    assert (one.phase, one.missed_grace) == (Phase.ABORTED, False)


def test_a_job_that_our_signal_killed_is_requeued_and_pinned() -> None:
    dead = replace(RUNNING, state=JobState.ENDED, end_state="FAILED", exit_code=138, end_s=101.0)
    one, calls = walk(move(Phase.WARNED, signal="USR1", grace_s=30.0), dead, 103.0)
    assert (one.phase, one.returning) == (Phase.RETURNING, Return.REQUEUE)
    assert calls == [ActionKind.CARRY_ON, ActionKind.REQUEUE]
    one, calls = walk(one, PENDING, 110.0)
    assert (one.phase, calls) == (Phase.RETURNING, [ActionKind.LEASE])
    one, _ = walk(one, replace(PENDING, begin_s=115.0), 112.0)
    assert (one.phase, bool(one.pinned_reason)) == (Phase.RESTORED, True)


def test_a_job_that_finished_by_itself_within_grace_is_left_finished() -> None:
    done = replace(RUNNING, state=JobState.ENDED, end_state="COMPLETED", exit_code=0, end_s=101.0)
    one, calls = walk(move(Phase.WARNED, signal="USR1", grace_s=30.0), done, 103.0)
    assert (one.phase, calls) == (Phase.ABORTED, [ActionKind.CARRY_ON])


def test_nobody_is_requeued_before_there_is_room() -> None:
    assert walk(move(), RUNNING, 101.0, room=False)[1] == []
    one, _ = walk(move(), RUNNING, 100.0 + LIMITS.plan_age_s + 1, room=False)
    assert one.phase is Phase.ABORTED


def test_a_requeue_without_effect_is_tried_again_and_then_given_up() -> None:
    one, now_s, tries = move(Phase.REQUEUED, attempts=1, tried_s=100.0), 102.0, 1
    while not one.phase.final:
        one, calls = walk(one, RUNNING, now_s)
        tries += len(calls)
        now_s += LIMITS.retry_s
    assert (one.phase, tries) == (Phase.ABORTED, LIMITS.attempts)


def test_a_job_that_slurm_restarts_before_the_edit_is_restored() -> None:
    one, calls = walk(move(Phase.REQUEUED), replace(RUNNING, restarts=1), 225.0)
    assert (one.phase, calls) == (Phase.RESTORED, [])


def test_a_requeued_job_that_dies_slowly_is_not_taken_for_a_new_run() -> None:
    dying = replace(RUNNING, completing=True, restarts=1)  # as Slurm 22.05 shows it
    one, calls = walk(move(Phase.REQUEUED), dying, 104.0)
    assert (one.phase, calls) == (Phase.REQUEUED, [])
    one, calls = walk(one, PENDING, 108.0)
    assert (one.phase, calls) == (Phase.EDITED, [ActionKind.RESHAPE])


def test_a_clock_that_is_set_back_makes_no_wait_longer() -> None:
    one, _ = walk(move(Phase.RUNNING, phase_s=400.0, tried_s=400.0), MOVED, 100.0)
    assert (one.phase, one.phase_s) == (Phase.RUNNING, 100.0)
    one, _ = walk(one, MOVED, 100.0 + LIMITS.stillbirth_s)
    assert one.phase is Phase.VERIFIED
    _, calls = walk(move(Phase.REQUEUED, phase_s=400.0, tried_s=400.0, attempts=1), RUNNING, 100.0)
    assert calls == []
    late = move(Phase.REQUEUED, phase_s=400.0, tried_s=400.0, attempts=1)
    late, _ = walk(late, RUNNING, 100.0)
    _, calls = walk(late, RUNNING, 100.0 + LIMITS.retry_s)
    assert calls == [ActionKind.REQUEUE]


def test_a_refused_edit_sends_the_job_back_to_its_former_shape() -> None:
    refused, _ = step(move(Phase.EDITED, attempts=1), Event(EventKind.REFUSED, 104.0, why="no"), LIMITS)
    one, calls = walk(refused, PENDING, 106.0)
    assert (one.phase, calls) == (Phase.RETURNING, [ActionKind.LEASE])
    one, _ = walk(one, replace(PENDING, begin_s=121.0), 108.0)
    assert one.phase is Phase.RESTORED
    assert "no" in one.outcome


def test_an_edited_job_that_slurm_does_not_start_gets_its_former_shape_back() -> None:
    edited = replace(PENDING, request=NEW, begin_s=104.0, reason="Priority")
    one, _ = walk(move(Phase.EDITED, landed=True), edited, 100.0 + LIMITS.deadlines.for_reason("Priority"))
    assert one.phase is Phase.EDITED
    one, calls = walk(one, edited, 260.0)
    assert (one.phase, calls) == (Phase.RETURNING, [ActionKind.RESHAPE])
    one, _ = walk(one, replace(PENDING, begin_s=None), 262.0)
    assert one.phase is Phase.RESTORED


@pytest.mark.parametrize(
    ("reason", "shorter"),
    [("BadConstraints", "ReqNodeNotAvail"), ("ReqNodeNotAvail, UnavailableNodes:x", "Priority"), ("AssocGrpGRES", "x")],
)
def test_deadlines_depend_on_slurms_reason(reason: str, shorter: str) -> None:
    assert LIMITS.deadlines.for_reason(reason) < LIMITS.deadlines.for_reason(shorter)


def test_a_launch_failure_is_mended_a_bounded_number_of_times_and_the_shape_written_again() -> None:
    held = replace(PENDING, hold="launch-failure", request=NEW)
    one, at_s = move(Phase.EDITED, landed=True), 110.0
    for count in range(1, 1 + LIMITS.mends):
        one, calls = walk(one, replace(held, restarts=1 + count), at_s)
        assert (calls, one.mends, one.landed) == ([], count, False)
        one, calls = walk(one, replace(held, restarts=1 + count), at_s + LIMITS.retry_s)
        assert calls == [ActionKind.END_LAUNCH_HOLD]
        one, calls = walk(one, replace(PENDING, request=NEW, restarts=1 + count), at_s + 2 * LIMITS.retry_s)
        assert calls == [ActionKind.RESHAPE]
        at_s += 10.0
    one, calls = walk(one, replace(held, restarts=2 + LIMITS.mends), at_s)
    assert (one.phase, calls) == (Phase.ABORTED, [])
    assert "scontrol release" in one.outcome


def test_no_launch_follows_a_failed_one_within_the_same_second() -> None:
    held = replace(PENDING, hold="launch-failure", request=NEW, restarts=2)
    one, calls = walk(move(Phase.EDITED, landed=True), held, 110.0)
    assert calls == []
    assert walk(one, held, 110.9)[1] == []
    one, calls = walk(one, held, 110.0 + LIMITS.retry_s)
    assert calls == [ActionKind.END_LAUNCH_HOLD]
    _, actions = step(one, derive(one, replace(PENDING, request=NEW, restarts=2), 115.0), LIMITS)
    assert [a.edit.begin_s for a in actions if a.edit] == [115.0 + LIMITS.same_node_wait_s]


def test_a_launch_failure_hold_that_does_not_end_is_told_and_left() -> None:
    held = replace(PENDING, hold="launch-failure", request=NEW, restarts=2)
    one, at_s = walk(move(Phase.EDITED, landed=True), held, 110.0)[0], 110.0
    for _ in range(LIMITS.attempts):
        at_s += LIMITS.retry_s
        one, calls = walk(one, held, at_s)
        assert calls == [ActionKind.END_LAUNCH_HOLD]
    one, calls = walk(one, held, at_s + LIMITS.retry_s)
    assert (one.phase, calls) == (Phase.ABORTED, [])
    assert "hold does not end" in one.outcome


@pytest.mark.parametrize("phase", [Phase.PLANNED, Phase.WARNED, Phase.REQUEUED, Phase.EDITED])
def test_a_users_hold_ends_the_move_at_once(phase: Phase) -> None:
    one, calls = walk(move(phase, signal="USR1" if phase is Phase.WARNED else ""), replace(PENDING, hold="user"), 130.0)
    assert one.phase is Phase.ABORTED
    assert set(calls) <= {ActionKind.CARRY_ON}


def test_a_job_that_fails_within_seconds_of_its_new_start_gets_its_former_shape_back() -> None:
    dead = replace(MOVED, state=JobState.ENDED, end_state="FAILED", exit_code=1, start_s=108.0, end_s=109.0)
    one, calls = walk(move(Phase.EDITED, landed=True), dead, 110.0)
    assert (one.phase, calls) == (Phase.RETURNING, [ActionKind.REQUEUE])
    one, calls = walk(one, replace(PENDING, request=NEW, restarts=2), 112.0)
    assert calls == [ActionKind.RESHAPE]
    one, _ = walk(one, replace(PENDING, restarts=2), 114.0)
    assert (one.phase, one.pinned_reason) == (Phase.RESTORED, "it failed right after a move")


def test_a_job_that_fails_later_or_was_never_run_before_is_left_as_it_ended() -> None:
    late = replace(MOVED, state=JobState.ENDED, end_state="FAILED", exit_code=1, start_s=108.0, end_s=200.0)
    assert walk(move(Phase.RUNNING), late, 201.0)[1] == []
    fresh = replace(late, end_s=109.0, restarts=0)
    assert walk(move(Phase.EDITED, kind=MoveKind.START), fresh, 110.0)[1] == []


def test_letting_go_of_a_job_takes_our_node_list_away() -> None:
    pinned = replace(PENDING, hold="user", request=replace(NEW, required_nodes=("rtx-01",)))
    one, calls = walk(move(Phase.EDITED, landed=True, pin=True), pinned, 130.0)
    assert (one.phase, calls) == (Phase.RETURNING, [ActionKind.CLEAR_PINS])
    one, _ = walk(one, replace(pinned, request=NEW), 132.0)
    assert one.phase is Phase.ABORTED


@pytest.mark.parametrize("phase", [Phase.PLANNED, Phase.WARNED, Phase.REQUEUED, Phase.EDITED, Phase.RETURNING])
@pytest.mark.parametrize("job", [None, replace(RUNNING, state=JobState.ENDED, end_state="CANCELLED")])
def test_a_cancelled_or_vanished_job_ends_its_move(phase: Phase, job: Job | None) -> None:
    one, calls = walk(move(phase), job, 130.0)
    assert (one.phase, calls) == (Phase.ABORTED, [])


def test_a_users_edit_after_ours_is_respected() -> None:
    users = replace(PENDING, request=replace(NEW, gpus=2), begin_s=104.0)
    one, calls = walk(move(Phase.EDITED, landed=True), users, 106.0)
    assert (one.phase, calls) == (Phase.ABORTED, [])


def test_a_users_begin_time_after_our_edit_is_respected() -> None:
    later = replace(PENDING, request=NEW, begin_s=5000.0)
    one, calls = walk(move(Phase.EDITED, landed=True), later, 106.0)
    assert (one.phase, calls) == (Phase.ABORTED, [])


def test_a_requeue_by_slurm_before_ours_drops_the_move() -> None:
    assert walk(move(), PENDING, 105.0)[0].phase is Phase.ABORTED
    assert walk(move(Phase.WARNED, signal="USR1"), PENDING, 105.0)[0].phase is Phase.ABORTED


def test_a_leased_job_is_started_by_one_edit() -> None:
    waiting = replace(PENDING, restarts=0, begin_s=700.0)
    one, calls = walk(move(kind=MoveKind.START, former_shape=None), waiting, 101.0)
    assert (one.phase, calls) == (Phase.EDITED, [ActionKind.RESHAPE])
    one, _ = walk(one, replace(MOVED, restarts=0), 103.0)
    assert one.phase is Phase.VERIFIED


def test_a_start_that_slurm_does_not_honour_goes_back_on_its_lease() -> None:
    edited = replace(PENDING, restarts=0, request=NEW, begin_s=104.0, reason="Resources")
    one, actions = step(
        move(Phase.EDITED, kind=MoveKind.START, landed=True),
        derive(move(Phase.EDITED, kind=MoveKind.START), edited, 300.0),
        LIMITS,
    )
    (action,) = actions
    assert one.phase is Phase.RETURNING
    assert action.edit == replace(FORMER, begin_s=300.0 + LIMITS.lease_s)


def test_a_suspended_job_waits_on_a_lease_and_not_on_a_hold() -> None:
    one, _ = walk(move(kind=MoveKind.SUSPEND, edit=None), RUNNING, 101.0)
    one, actions = step(one, derive(one, PENDING, 104.0), LIMITS)
    assert actions == (Action(ActionKind.LEASE, "7", "round-1/7", begin_s=104.0 + LIMITS.lease_s),)
    one, _ = walk(one, replace(PENDING, begin_s=704.0), 106.0)
    assert one.phase is Phase.VERIFIED


def test_a_shrink_keeps_the_run() -> None:
    two = replace(RUNNING, allocation=Allocation("t4", (("t4-01", 4), ("t4-02", 4))))
    plan = move(kind=MoveKind.SHRINK, edit=None, gpus_by_node=(("t4-01", 4),))
    one, actions = step(plan, derive(plan, two, 101.0), LIMITS)
    assert [a.keep_nodes for a in actions] == [("t4-01",)]
    assert walk(one, RUNNING, 103.0)[0].phase is Phase.VERIFIED


def test_progress_below_the_last_checkpoint_pins_the_job() -> None:
    waits = move(Phase.RUNNING, expects_reports=True, checkpoint_samples=1000.0)
    assert walk(waits, MOVED, 150.0)[0].phase is Phase.RUNNING
    assert walk(waits, MOVED, 150.0, reported_samples=1000.0)[0].pinned_reason == ""
    one, _ = walk(waits, MOVED, 150.0, reported_samples=100.0)
    assert (one.phase, one.lost_progress) == (Phase.VERIFIED, True)
    assert standing_after(Standing("7", 0.0), one, 150.0).pinned_reason == "resuming lost progress"


def test_an_edit_that_may_land_on_the_nodes_just_left_waits_a_few_seconds() -> None:
    stays = move(Phase.REQUEUED, from_nodes=("rtx-01",))
    _, actions = step(stays, derive(stays, PENDING, 104.0), LIMITS)
    assert [a.edit.begin_s for a in actions if a.edit] == [104.0 + LIMITS.same_node_wait_s]
    goes = move(Phase.REQUEUED)
    _, actions = step(goes, derive(goes, PENDING, 104.0), LIMITS)
    assert [a.edit.begin_s for a in actions if a.edit] == [None]


def test_a_job_that_its_user_requeued_a_moment_ago_is_not_started_within_the_same_second() -> None:
    again = move(kind=MoveKind.START, former_shape=None, from_nodes=(), run=1)
    _, actions = step(again, derive(again, PENDING, 104.0), LIMITS)
    assert [a.edit.begin_s for a in actions if a.edit] == [104.0 + LIMITS.same_node_wait_s]
    new = move(kind=MoveKind.START, former_shape=None, from_nodes=(), run=0)
    _, actions = step(new, derive(new, replace(PENDING, restarts=0), 104.0), LIMITS)
    assert [a.edit.begin_s for a in actions if a.edit] == [None]


def test_a_withdrawn_move_is_dropped_only_before_the_requeue() -> None:
    gone = Event(EventKind.WITHDRAWN, 101.0, why="paused")
    assert step(move(), gone, LIMITS)[0].phase is Phase.ABORTED
    assert step(move(Phase.REQUEUED), gone, LIMITS)[0].phase is Phase.REQUEUED
