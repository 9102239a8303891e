"""Reports, logs and directives: nothing lost, nothing late, and what is wrong reaches the job's owner."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from slurmsia_daemon import intake as intake_module
from slurmsia_daemon.intake import Intake
from slurmsia_daemon.log_tails import LogTails
from slurmsia_daemon.metrics import Metrics
from slurmsia_daemon.spool_channel import SpoolChannel

from slurmsia.cluster import Allocation, GpuType, Job, JobId, JobState, Node, Request, Snapshot
from slurmsia.config import ScopeSection
from slurmsia.deciding.prospect import prospect
from slurmsia.history import Observation, Report
from slurmsia.job.directive import CHECKPOINT, DirectiveReader
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.job.spool import SpoolBatch
from slurmsia.moves.channel import ReportedJobs
from slurmsia.moves.move import Move, MoveKind, Phase
from slurmsia.moves.standings import StandingBook
from slurmsia.slurm.json_form import stdout_path
from slurmsia.store import Store

NOW_S = 1_790_000_000.0


class Spool:
    """Hands out what it was given, and remembers what it was asked."""

    def __init__(self) -> None:
        self.waiting: list[Report] = []
        self.asked: Mapping[tuple[JobId, int], tuple[int, Allocation | None]] = {}
        self.problems: dict[JobId, tuple[str, ...]] = {}

    def poll(self, known: Mapping[tuple[JobId, int], tuple[int, Allocation | None]]) -> SpoolBatch:
        self.asked, taken, self.waiting = known, self.waiting, []
        return SpoolBatch(tuple(taken), self.problems)


def _job(job_id: str = "7", words: str = "sia: gpus=1-4", restarts: int = 0, **more: object) -> Job:
    job = Job(
        job_id, os.getuid(), JobState.RUNNING, NOW_S - 500.0, comment=words, start_s=NOW_S - 400.0,
        request=Request(gpus=1), allocation=Allocation("t4", (("n1", 1),)), restarts=restarts,
    )  # fmt: skip
    return replace(job, **more)


def _snapshot(*jobs: Job) -> Snapshot:
    node = Node("n1", "t4", 4, 32, 128_000)
    return Snapshot(NOW_S, (node,), jobs, (GpuType("t4"),))


def _report(seq: int, job_id: str = "7", restart: int = 0, src: str = "") -> Report:
    steps = Observation("t4", 1, 1, 32.0, 0, 10, 5.0, 2.5)
    extra = (("src", src),) if src else ()
    return Report(job_id, restart, seq, NOW_S, "progress", observations=(steps,), extra=extra)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 's.db'}", "c", auto_upgrade=True)


def _intake(store: Store, spool: Spool) -> Intake:
    return Intake(store, spool, ReportedJobs(), StandingBook(600.0), Metrics())


def test_a_backlog_is_stored_in_chunks_over_rounds_and_ticks_the_rest_with_the_next_round_and_nothing_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "ROUND_BUDGET_S", 0.0)
    monkeypatch.setattr(intake_module, "TICK_BUDGET_S", 0.0)
    monkeypatch.setattr(intake_module, "CHUNK", 10)
    spool, warnings = Spool(), list[str]()
    intake = _intake(store, spool)
    spool.waiting = [_report(seq) for seq in range(35)]
    assert intake.round(_snapshot(_job()), warnings)
    assert intake.held == 25
    assert "25 job reports are still to be stored" in warnings[0]
    for left, more in ((15, True), (5, False), (5, False)):
        intake.between({}, {})
        assert (intake.held, intake.backlog) == (left, more)
    assert intake.round(_snapshot(_job()), warnings)
    assert intake.held == 0
    assert sum(seen.count for seen in store.history(["7"])["7"].observations) == 350


def test_reports_of_shell_loops_and_logs_count_as_throughput_only(store: Store) -> None:
    spool = Spool()
    intake = _intake(store, spool)
    spool.waiting = [_report(1, "7", src="shell"), _report(1, "8")]
    intake.round(_snapshot(_job("7"), _job("8")), [])
    histories = store.history(["7", "8"])
    assert histories["7"].throughput_only
    assert not histories["8"].throughput_only


def test_a_report_that_the_store_refuses_is_a_problem_of_its_job(store: Store) -> None:
    spool = Spool()
    spool.problems = {"7": ("line 3 is no JSON",)}
    intake = _intake(store, spool)
    spool.waiting = [replace(_report(1), t_s=-1.0)]
    intake.round(_snapshot(_job()), [])
    said = intake.problems()["7"]
    assert said[0] == "line 3 is no JSON"
    assert "was not stored" in said[1]
    assert "t is -1.0" in said[1]


def test_between_rounds_the_new_run_is_heard_with_its_allocation(store: Store) -> None:
    spool = Spool()
    intake = _intake(store, spool)
    move = Move("7", MoveKind.MOVE, "r1/7", NOW_S, run=0, user_id=5, phase=Phase.RUNNING)
    new = _job(restarts=1, user_id=5)
    intake.between({"7": move}, {"7": new})
    assert spool.asked == {("7", 0): (5, None), ("7", 1): (5, new.allocation)}


def test_the_first_steps_of_a_started_job_are_not_read_before_its_allocation_is_known(store: Store) -> None:
    spool = Spool()
    intake = _intake(store, spool)
    move = Move("7", MoveKind.START, "r1/7", NOW_S, run=0, user_id=5, phase=Phase.EDITED)
    running = _job(user_id=5)
    waiting = replace(running, state=JobState.PENDING, allocation=None, start_s=None)
    intake.between({"7": move}, {"7": waiting})
    assert not spool.asked
    intake.between({"7": move}, {"7": running})
    assert spool.asked == {("7", 0): (5, running.allocation)}


def test_what_is_read_between_rounds_can_be_stored_at_once(store: Store) -> None:
    spool = Spool()
    intake = _intake(store, spool)
    intake.round(_snapshot(_job()), [])
    spool.waiting = [_report(1), _report(2)]
    intake.between({"7": Move("7", MoveKind.MOVE, "r1/7", NOW_S, run=0, user_id=5, phase=Phase.RUNNING)}, {})
    assert intake.held == 2
    intake.store_held()
    assert intake.held == 0
    assert sum(seen.count for seen in store.history(["7"])["7"].observations) == 20


def test_directives_grow_over_restarts_of_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "directives").mkdir()
    reader = DirectiveReader(str(tmp_path), "7")
    first = SpoolChannel(DirectiveWriter(tmp_path))
    first.carry_on("7", "a")
    one = reader.read()
    first.ask_checkpoint("7", NOW_S, "b")
    two = reader.read()
    assert one is not None
    assert two is not None
    assert two.seq == one.seq + 1
    time.sleep(2.1)
    second = SpoolChannel(DirectiveWriter(tmp_path))
    second.ask_checkpoint("7", NOW_S, "c")
    three = reader.read()
    assert three is not None
    assert three.seq > two.seq
    assert three.action == CHECKPOINT
    assert "c" in three.reason


def _pass(tails: LogTails, jobs: list[Job], now_s: float) -> tuple[Report, ...]:
    tails.poll(jobs, now_s)
    tails.wait()
    return tails.poll([], now_s)


def test_throughput_is_read_from_a_log_that_only_a_pattern_describes(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    job = _job(words=r"sia: gpus=1-4 progress='samples=(\d+)'", stdout_path=str(log))
    tails = LogTails()
    log.write_text("hello\nsamples=100\n")
    tails.poll([job], NOW_S)
    tails.wait()
    log.write_text("samples=100\nsamples=700\n")
    assert tails.poll([job], NOW_S + 60) == ()
    tails.wait()
    (report,) = tails.poll([], NOW_S + 60)
    tails.close()
    assert (report.job_id, report.restart, report.seq) == ("7", 0, int(NOW_S + 60))
    assert report.observations[0].local_batch == 600.0
    assert report.observations[0].step_sum_s == 60.0
    assert dict(report.extra)["src"] == "log"


def test_a_log_that_belongs_to_somebody_else_or_is_a_link_is_named_and_not_read(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    (tmp_path / "real").write_text("samples=1\n")
    log.symlink_to(tmp_path / "real")
    words = r"sia: gpus=1-4 progress='samples=(\d+)'"
    tails = LogTails()
    foreign = _job("8", words, user_id=os.getuid() + 1, stdout_path=str(tmp_path / "real"))
    assert _pass(tails, [_job("7", words, stdout_path=str(log)), foreign], NOW_S) == ()
    assert str(log) in tails.problems["7"][0]
    assert "not a plain file of the job's user" in tails.problems["8"][0] or "cannot be read" in tails.problems["8"][0]
    tails.close()


@pytest.mark.parametrize(
    ("record", "path"),
    [
        ({}, ""),
        ({"standard_output": "/h/slurm-%j.out", "job_id": 9}, "/h/slurm-9.out"),
        ({"standard_output": "%x-%u", "name": "n", "user_name": "u", "current_working_directory": "/w"}, "/w/n-u"),
        (
            {"standard_output": "/h/%4A_%a.out", "job_id": 9, "array_job_id": 5, "array_task_id": 3},
            "/h/0005_3.out",
        ),
        ({"standard_output": "/h/%j", "stdout_expanded": "/h/9.out", "job_id": 1}, "/h/9.out"),
        ({"standard_output": "/h/100%%", "job_id": 1}, "/h/100%"),
    ],
)  # fmt: skip
def test_the_log_of_a_job_is_found_with_its_patterns_filled_in(record: dict[str, object], path: str) -> None:
    assert stdout_path(record) == path


def test_the_prospect_counts_by_the_rules_of_a_round_and_gives_a_range() -> None:
    running = _job("1", "")
    waiting = replace(
        _job("2", ""),
        state=JobState.PENDING,
        allocation=None,
        start_s=None,
        reason="Resources",
        request=Request(gpus=2),
    )
    too_big = replace(waiting, id="3", request=Request(gpus=16))
    odd = replace(waiting, id="4", unmanageable="it is part of a heterogeneous job")
    found = prospect(_snapshot(running, waiting, too_big, odd), ScopeSection(), 600.0)
    assert (found.running, found.waiting, sum(found.not_eligible.values())) == (1, 2, 1)
    assert (found.idle_gpus, found.low_gpus, found.high_gpus, found.low_starts) == (3, 2, 3, 1)
    assert "from 2 (sizes as asked, any type) to 3 (any size)" in found.sentence
    assert "heterogeneous" in next(iter(found.why.values()))
    empty = prospect(_snapshot(), ScopeSection(), 600.0)
    assert empty.high_gpus == 0
    assert "No job could be managed" in empty.sentence
