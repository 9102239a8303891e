"""Whatever a job does, and in whatever order it is seen, its move stays lawful and comes to an end."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Allocation, GpuForm, Job, JobState, Request, Shape
from slurmsia.moves.move import ActionKind, Event, EventKind, Limits, Move, MoveKind, Phase
from slurmsia.moves.table import derive, step
from slurmsia.reshape import Reshape

LIMITS = Limits()
EDIT = Reshape(Shape("rtx", 1, 8), tasks=1, cpus=32, features="rtx", required_nodes=())
FORMER = Reshape(Shape("t4", 1, 4), tasks=1, cpus=16, features="t4", required_nodes=())

#: Which phases may follow which; RETURNING and the final ones may follow any.
FORWARD = {
    Phase.PLANNED: {Phase.WARNED, Phase.REQUEUED, Phase.EDITED},
    Phase.WARNED: {Phase.REQUEUED},
    Phase.REQUEUED: {Phase.EDITED},
    Phase.EDITED: {Phase.RUNNING},
    Phase.RUNNING: {Phase.EDITED},
    Phase.RETURNING: set(),
}

jobs = st.builds(
    Job,
    id=st.just("7"),
    user_id=st.just(1000),
    state=st.sampled_from(JobState),
    submit_s=st.just(0.0),
    reason=st.sampled_from(["None", "Priority", "Resources", "BeginTime", "BadConstraints", "AssocGrpGRES"]),
    hold=st.sampled_from(["", "", "", "user", "admin", "launch-failure"]),
    completing=st.booleans(),
    begin_s=st.one_of(st.none(), st.floats(0, 5000)),
    restarts=st.integers(0, 5),
    request=st.builds(
        Request,
        gpus=st.sampled_from([4, 8, 2]),
        gpu_form=st.just(GpuForm.PER_NODE_UNTYPED),
        features=st.sampled_from(["t4", "rtx", ""]),
        required_nodes=st.sampled_from([(), ("rtx-01",)]),
    ),
    allocation=st.sampled_from(
        [None, Allocation("t4", (("t4-01", 4),)), Allocation("rtx", (("rtx-01", 8),)), Allocation(None, (("x", 1),))]
    ),
    end_state=st.sampled_from(["", "FAILED", "COMPLETED", "CANCELLED"]),
    exit_code=st.sampled_from([None, 0, 138]),
)
moves = st.builds(
    Move,
    job_id=st.just("7"),
    kind=st.sampled_from(MoveKind),
    cause=st.just("c"),
    planned_s=st.just(0.0),
    run=st.integers(0, 2),
    edit=st.just(EDIT),
    former=st.sampled_from([FORMER, None]),
    former_shape=st.sampled_from([FORMER.shape, None]),
    gpus_by_node=st.just((("rtx-01", 8),)),
    from_nodes=st.sampled_from([("t4-01",), ("rtx-01",)]),
    signal=st.sampled_from(["", "USR1"]),
    grace_s=st.floats(1, 100),
    expects_reports=st.booleans(),
    checkpoint_samples=st.sampled_from([None, 100.0]),
)
sights = st.tuples(
    st.one_of(st.none(), jobs, jobs, jobs),
    st.floats(0.0, 300.0),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0.0, 100.0]),
)
answers = st.sampled_from([EventKind.REFUSED, EventKind.ANSWER_LOST, EventKind.DONE, EventKind.WITHDRAWN, None, None])


@settings(max_examples=300, deadline=None)
@given(moves, st.lists(st.tuples(sights, answers), max_size=25))
def test_every_walk_is_lawful_repeatable_and_touches_only_its_own_job(
    move: Move, walk: list[tuple[tuple[Job | None, float, bool, bool, float | None], EventKind | None]]
) -> None:
    now_s = 0.0
    for (job, gap_s, room, saved, samples), answer in walk:
        now_s += gap_s
        event = derive(move, job, now_s, room=room, checkpointed=saved, reported_samples=samples)
        after, actions = step(move, event, LIMITS)
        assert step(move, event, LIMITS) == (after, actions)
        if move.phase.final:
            assert (after, actions) == (move, ())
        elif after.phase is not move.phase and not after.phase.final and after.phase is not Phase.RETURNING:
            assert after.phase in FORWARD[move.phase]
        for action in actions:
            assert (action.job_id, action.cause) == (move.job_id, move.cause)
            assert _fits(action.kind, job)
        if after.phase.final:
            assert after.outcome
        move = after
        if answer is not None:
            move, _ = step(move, Event(answer, now_s, why="because"), LIMITS)


def _fits(kind: ActionKind, job: Job | None) -> bool:
    """Calls that this sight of the job allows: edits only while it is pending, requeues never while it is pending."""
    if kind in (ActionKind.ASK_CHECKPOINT, ActionKind.CARRY_ON):
        return True
    if job is None:
        return False
    if kind in (ActionKind.SIGNAL, ActionKind.SHRINK):
        return job.state is JobState.RUNNING
    if kind is ActionKind.REQUEUE:
        return job.state in (JobState.RUNNING, JobState.ENDED)
    if kind is ActionKind.END_LAUNCH_HOLD:
        return job.state is JobState.PENDING and job.hold == "launch-failure"
    if kind is ActionKind.CLEAR_PINS:
        return job.state is JobState.PENDING and not job.completing
    return job.state is JobState.PENDING and not job.completing and not job.hold


@settings(max_examples=200, deadline=None)
@given(moves, jobs)
def test_a_job_that_never_changes_ends_its_move_in_bounded_time(move: Move, job: Job) -> None:
    """Whatever state Slurm leaves a job in for ever, we stop working on it, and stop calling, within an hour."""
    if job.state in (JobState.PENDING, JobState.RUNNING) and job.completing:
        job = replace(job, completing=False)
    now_s, calls = 0.0, 0
    while now_s < 3600.0 and not move.phase.final:
        now_s += 2.0
        seen = job if job.begin_s is None else replace(job, begin_s=job.begin_s)
        move, actions = step(move, derive(move, seen, now_s), LIMITS)
        calls += len(actions)
    killed_by_us = job.state is JobState.ENDED and job.end_state == "FAILED"
    waits_to_be_editable = job.state is JobState.PENDING and move.kind is MoveKind.START and job.hold
    assert move.phase.final or killed_by_us or waits_to_be_editable
    assert calls <= 20 or killed_by_us
