"""What a job may rely on: reports are written when they can be, and nothing ever disturbs the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from slurmsia.cluster import Allocation
from slurmsia.config import JobsSection
from slurmsia.history import Report
from slurmsia.job import Directive, Reporter, report_file, reporter
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.job.spool import Expected, SpoolReader

UID = os.getuid()


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("SLURM") or name == "RANK"]:
        monkeypatch.delenv(name)
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_JOB_NUM_NODES", "2"), ("SLURM_GPUS_ON_NODE", "4")):
        monkeypatch.setenv(name, value)
    (tmp_path / "reports").mkdir()
    (tmp_path / "directives").mkdir()
    return tmp_path


def lines(spool: Path, restart: int = 0) -> list[dict[str, Any]]:
    path = spool / "reports" / f"7.{restart}.{UID}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def eventually(condition: Callable[[], Any], limit_s: float = 10.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def test_what_a_reporter_writes_the_daemon_reads_without_complaint(spool: Path) -> None:
    with Reporter(spool=str(spool), period_s=0.05, look_s=0.05, target=1e6) as job:
        job.restored(512, 1.5)
        for _ in range(20):
            job.step(local=32, sync=0.0001)
            time.sleep(0.005)
        job.gradient(1.0, 2.0, 4.0)
        job.memory(3e10, 4e10, 32)
        job.checkpointed(2.5)
        job.step(local=32)
    held = Allocation("a100", (("n1", 4), ("n2", 4)))
    reader = SpoolReader(spool, JobsSection())
    batch = reader.poll({("7", 0): Expected(UID, held)})
    assert batch.problems == {}
    events = [report.event for report in batch.reports]
    assert events[0] == "start"
    assert "checkpointed" in events
    assert events[-1] == "end"
    assert sum(entry.count for report in batch.reports for entry in report.observations) == 19
    last = batch.reports[-1].progress
    assert last is not None
    assert (last.samples, last.checkpoint_samples) == (512 + 21 * 256, 512 + 20 * 256)
    assert batch.reports[0].handles_signal
    assert any(report.gradient and report.gradient.scale == 4.0 for report in batch.reports)


def test_only_rank_zero_writes(spool: Path) -> None:
    with Reporter(spool=str(spool), rank=1, period_s=0.01) as job:
        job.step(local=1)
    assert list((spool / "reports").iterdir()) == []


def test_outside_of_slurm_nothing_happens(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    with Reporter(spool=str(spool)) as job:
        job.step(local=1)
        job.checkpointed(1.0)
    assert list((spool / "reports").iterdir()) == []


def test_statistics_wait_for_a_missing_spool_and_the_user_is_told_once(
    spool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (spool / "reports").rmdir()
    with Reporter(spool=str(spool), period_s=0.02, look_s=0.02) as job:
        job.step(local=32, seconds=1.0)
        job.step(local=32, seconds=1.0)
        eventually(lambda: job._warned)
        time.sleep(0.1)
        (spool / "reports").mkdir()
        eventually(
            lambda: any("steps" in line for line in (lines(spool) if any((spool / "reports").iterdir()) else []))
        )
    counts = [entry["n"] for line in lines(spool) for entry in line.get("steps", [])]
    assert sum(counts) == 2
    assert capfd.readouterr().err.count("goes on unreported") == 1


def test_a_full_disk_tears_a_line_and_the_next_line_stands_by_itself(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = report_file.ReportFile(str(spool), "7", 0)
    assert file.append({"ev": "start", "t": 1.0})
    real_write = os.write
    with monkeypatch.context() as full:
        full.setattr(report_file.os, "write", lambda handle, data: real_write(handle, data[:10]))
        assert not file.append({"ev": "progress", "t": 2.0})
    assert "full" in file.problem
    assert file.append({"ev": "progress", "t": 3.0})
    reader = SpoolReader(spool, JobsSection())
    reports = reader.poll({("7", 0): Expected(UID, None)}).reports
    assert [report.t_s for report in reports] == [1.0, 3.0]


@pytest.fixture
def small_disk(spool: Path) -> Iterator[Path]:
    """The report folder on a file system of 64 kB."""
    reports = spool / "reports"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(reports)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a small file system here")
    yield reports
    subprocess.run(["umount", "-l", str(reports)], check=True)


def test_a_training_goes_on_while_its_disk_is_full_and_reports_again_when_there_is_room(
    spool: Path, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    known = {("7", 0): Expected(UID, Allocation("t4", (("n1", 4), ("n2", 4))))}
    reader = SpoolReader(spool, JobsSection(max_lines_per_poll=10_000))
    heard: list[Report] = []

    def hears(event: str) -> bool:
        heard.extend(reader.poll(known).reports)
        return any(report.event == event for report in heard)

    with Reporter(spool=str(spool), period_s=0.01, look_s=0.01) as job:
        eventually(lambda: hears("start"))
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        for _ in range(2000):
            job.step(local=32, seconds=1.0)
            time.sleep(0.0001)
        eventually(lambda: job._warned)
        filler.unlink()
        eventually(lambda: hears("progress"))
    eventually(lambda: hears("end"))
    assert sum(seen.count for report in heard for seen in report.observations) == 2000


def test_a_spool_that_hangs_delays_neither_a_step_nor_the_end_of_the_job(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(report_file.ReportFile, "append", lambda *_: let_go.wait(60))
    job = Reporter(spool=str(spool), period_s=0.01, look_s=0.01).start()
    for _ in range(1000):
        job.step(local=32, seconds=1.0)
    job.checkpointed(1.0, wait_s=0.05)
    job.close(wait_s=0.05)
    assert not let_go.is_set()
    let_go.set()


def test_a_second_process_of_the_same_run_goes_on_counting(spool: Path) -> None:
    assert report_file.ReportFile(str(spool), "7", 0).append({"ev": "start", "t": 1.0})
    assert report_file.ReportFile(str(spool), "7", 0).append({"ev": "progress", "t": 2.0})
    assert [line["seq"] for line in lines(spool)] == [0, 1]


def test_a_grown_file_is_renamed_and_begun_anew(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_file, "ROTATE_BYTES", 200)
    file = report_file.ReportFile(str(spool), "7", 0)
    for turn in range(5):
        assert file.append({"ev": "progress", "t": float(turn), "pad": "x" * 80})
    assert [line["seq"] for line in lines(spool)][-1] == 4
    assert len(list((spool / "reports").iterdir())) == 2


def test_a_link_in_the_place_of_the_report_file_is_not_written_through(spool: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (spool / "reports" / f"7.0.{UID}.jsonl").symlink_to(victim)
    assert not report_file.ReportFile(str(spool), "7", 0).append({"ev": "start", "t": 1.0})
    assert victim.read_text() == "precious"


def test_a_file_nobody_else_may_read_under_a_strict_umask_is_opened_up(spool: Path) -> None:
    old = os.umask(0o077)
    try:
        assert report_file.ReportFile(str(spool), "7", 0).append({"ev": "start", "t": 1.0})
    finally:
        os.umask(old)
    assert (spool / "reports" / f"7.0.{UID}.jsonl").stat().st_mode & 0o444 == 0o444


def test_the_signal_reaches_the_users_handler_too_and_asks_for_a_checkpoint(spool: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with Reporter(spool=str(spool), period_s=10) as job:
            assert not job.stop_now()
            os.kill(os.getpid(), signal.SIGUSR1)
            eventually(lambda: job.checkpoint_wanted)
            assert heard == [signal.SIGUSR1]
            assert job.stop_now()
            job.go_on()
            assert not job.checkpoint_wanted
        os.kill(os.getpid(), signal.SIGUSR1)
        eventually(lambda: len(heard) == 2)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_comes_when_the_training_is_over_does_not_end_the_job(spool: Path) -> None:
    script = (
        "import atexit, os, signal\n"
        "from slurmsia.job import Reporter\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGUSR1)\n"
        f"with Reporter(spool={str(spool)!r}, period_s=10):\n"
        "    pass\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


def test_all_ranks_hear_rank_zeros_word(spool: Path) -> None:
    asked, other = Reporter(spool=str(spool), rank=0), Reporter(spool=str(spool), rank=1)
    asked._signalled = True
    told: list[int] = []
    assert asked.stop_now(lambda number: told.append(number) or number)
    assert other.stop_now(lambda number: told[0])


def test_a_directive_asks_for_a_checkpoint_and_a_later_one_lets_the_job_go_on(spool: Path) -> None:
    writer = DirectiveWriter(spool)
    with Reporter(spool=str(spool), period_s=10, look_s=0.01) as job:
        writer.write("7", Directive(seq=1, action="checkpoint", deadline_s=time.time() + 60, reason="moves"))
        eventually(lambda: job.checkpoint_wanted)
        timer = threading.Timer(0.05, lambda: writer.write("7", Directive(seq=2, action="run")))
        timer.start()
        assert job.wait_for_requeue(60) is False
        assert not job.checkpoint_wanted
        timer.join()


def test_a_job_waits_no_longer_than_its_limit_for_a_daemon_that_is_gone(spool: Path) -> None:
    with Reporter(spool=str(spool), period_s=10, look_s=0.01) as job:
        job._signalled = True
        assert job.wait_for_requeue(0.05) is False
        assert not job.checkpoint_wanted


def test_a_directive_with_an_exit_code_ends_the_job_with_it(spool: Path) -> None:
    with Reporter(spool=str(spool), period_s=10, look_s=0.01) as job:
        DirectiveWriter(spool).write("7", Directive(seq=1, action="checkpoint", exit_code=75))
        eventually(lambda: job.checkpoint_wanted)
        with pytest.raises(SystemExit) as left:
            job.wait_for_requeue(1)
    assert left.value.code == 75


def test_a_forked_child_reports_nothing_and_never_waits_for_a_lock(spool: Path) -> None:
    with Reporter(spool=str(spool), period_s=10) as job:
        eventually(lambda: len(lines(spool)) == 1 if any((spool / "reports").iterdir()) else False)
        with job._lock:
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                job.step(local=1)
                job.checkpointed(1.0)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [line["ev"] for line in lines(spool)] == ["start", "end"]


def test_memory_stays_bounded_whatever_is_reported(spool: Path) -> None:
    (spool / "reports").rmdir()
    with Reporter(spool=str(spool), period_s=0.01, look_s=0.01) as job:
        for index in range(1000):
            job.step(local=index + 1, seconds=1.0)
            job._event("checkpointed", {})
        assert len(job._sums) <= reporter._MAX_SETTINGS
        assert len(job._events) <= reporter._MAX_EVENTS


def test_memory_stays_bounded_when_steps_go_on_beside_lines_that_cannot_be_written(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Reporter(spool=str(spool), period_s=1000.0, look_s=1000.0) as job:
        batches = iter(range(1, 10_000))

        def goes_on_and_fails(record: dict[str, object]) -> bool:
            for _ in range(reporter._MAX_SETTINGS):
                job.step(local=next(batches), seconds=1.0)
            return False

        assert job._file is not None
        monkeypatch.setattr(job._file, "append", goes_on_and_fails)
        for _ in range(4):
            job.step(local=1, seconds=1.0)
            job._write("progress", {})
            assert len(job._sums) <= reporter._MAX_SETTINGS
        monkeypatch.undo()
        # what was measured first is kept, and goes on to be summed
        assert job._sums[1.0, 0][0] == 5.0


def test_a_clock_set_back_does_not_disturb_step_times(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Reporter(spool=str(spool), period_s=0.02, look_s=0.02) as job:
        job.step(local=1)
        monkeypatch.setattr(time, "time", lambda: 1000.0)
        job.step(local=1)
    steps = [entry for line in lines(spool) for entry in line.get("steps", [])]
    assert [entry["n"] for entry in steps] == [1]
    assert 0 < steps[0]["step"] < 60


def test_many_threads_lose_no_step(spool: Path) -> None:
    with Reporter(spool=str(spool), period_s=0.01, look_s=0.01) as job:
        threads = [
            threading.Thread(target=lambda: [job.step(local=2, samples=16, seconds=0.5) for _ in range(500)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(entry["n"] for line in lines(spool) for entry in line.get("steps", [])) == 2000
    assert job.samples == 2000 * 16


def test_a_job_that_closes_while_its_reporter_looks_for_events_still_reports_its_end(spool: Path) -> None:
    job = Reporter(spool=str(spool), period_s=60.0, look_s=0.01)

    class ClosedInBetween(deque[Any]):
        """The looking thread finds nothing, and the job closes before it looks whether the job has closed."""

        def __bool__(self) -> bool:
            found = len(self) > 0
            if not found and not job._closing:
                self.append(("end", {"t": 1.0}))
                job._closing = True
            return found

    job.start()
    eventually(lambda: not len(job._events))
    job._events = ClosedInBetween()
    job._wake.set()
    assert job._thread is not None
    job._thread.join(10)
    assert [line["ev"] for line in lines(spool)] == ["start", "end"]


WARMS_UP = """
import time
time.sleep(0.6)  # imports, a data set, compiling
from slurmsia.job import Reporter
for _ in range(2):
    with Reporter(spool={spool!r}, period_s=0.05, look_s=0.05) as job:
        for _ in range(3):
            job.step(local=32)
            time.sleep(0.01)
"""


def test_what_a_program_does_before_its_first_step_counts_as_part_of_every_start(spool: Path) -> None:
    subprocess.run([sys.executable, "-c", WARMS_UP.format(spool=str(spool))], check=True, timeout=60)
    told = [line["ckpt"]["first_step_s"] for line in lines(spool) if "ckpt" in line]
    assert 0.6 <= told[0] < 30.0
    assert told[-1] < 0.3, "training again in the same process is no start of it"
    assert told[-1] < told[0]
