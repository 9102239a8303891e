"""A job that hears directives and traps no signal (torchrun) is asked for its checkpoint all the same."""

from __future__ import annotations

from dataclasses import replace

from slurmsia.cluster import Shape
from slurmsia.history import Observation, Progress, Report
from slurmsia.moves.channel import ReportedJobs
from slurmsia.moves.move import ActionKind, Event, EventKind, Limits, Move, MoveKind, Phase
from slurmsia.moves.table import step
from slurmsia.reshape import Reshape

LIMITS = Limits()
EDIT = Reshape(Shape("a100", 1, 2), 1, 2, features="a100")
MOVE = Move("7", MoveKind.MOVE, "r1/7", 100.0, 0, edit=EDIT, former=EDIT, asks=True, grace_s=60.0, phase_s=100.0)


def test_it_is_asked_by_directive_and_never_signalled() -> None:
    after, actions = step(MOVE, Event(EventKind.OLD_RUN, 101.0), LIMITS)
    assert after.phase is Phase.WARNED
    assert [action.kind for action in actions] == [ActionKind.ASK_CHECKPOINT]


def test_it_is_requeued_only_after_its_checkpoint() -> None:
    warned, _ = step(MOVE, Event(EventKind.OLD_RUN, 101.0), LIMITS)
    waiting, actions = step(warned, Event(EventKind.OLD_RUN, 120.0), LIMITS)
    assert (waiting.phase, actions) == (Phase.WARNED, ())
    after, actions = step(waiting, Event(EventKind.OLD_RUN, 121.0, checkpointed=True), LIMITS)
    assert after.phase is Phase.REQUEUED
    assert ActionKind.REQUEUE in [action.kind for action in actions]


def test_a_missed_grace_aborts_the_move_and_withdraws_the_directive() -> None:
    warned, _ = step(MOVE, Event(EventKind.OLD_RUN, 101.0), LIMITS)
    after, actions = step(warned, Event(EventKind.OLD_RUN, 101.0 + 60.0 + 30.0), LIMITS)
    assert (after.phase, after.missed_grace) == (Phase.ABORTED, True)
    assert [action.kind for action in actions] == [ActionKind.CARRY_ON]


def test_a_shell_loop_that_only_reports_is_not_taken_for_one_that_reads_directives() -> None:
    jobs = ReportedJobs()
    start = Report("7", 0, 1, 100.0, "start")
    jobs.hear(start)
    by_library = jobs.news("7")
    jobs.hear(replace(start, job_id="8", extra=(("src", "shell"),)))
    by_shell = jobs.news("8")
    assert by_library is not None
    assert by_shell is not None
    assert (by_library.reads_directives, by_shell.reads_directives) == (True, False)


def test_a_job_that_has_not_read_its_checkpoint_yet_is_not_taken_for_one_that_lost_it() -> None:
    jobs = ReportedJobs()
    jobs.hear(Report("7", 1, 0, 100.0, "start", progress=Progress(100.0, 0.0, 14_000.0)))
    before = jobs.news("7")
    jobs.hear(Report("7", 1, 1, 130.0, "progress", progress=Progress(130.0, 0.0, 14_000.0)))
    loading = jobs.news("7")
    step = Observation("t4", 1, 2, 20.0, 0, 10.0, 10.0, 10.0)
    jobs.hear(Report("7", 1, 2, 160.0, "progress", (step,), progress=Progress(160.0, 0.0, 14_000.0)))
    lost = jobs.news("7")
    assert before is not None
    assert loading is not None
    assert lost is not None
    assert (before.samples, loading.samples, lost.samples) == (None, None, 0.0)
