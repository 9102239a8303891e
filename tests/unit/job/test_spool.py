"""What the daemon reads from the spool, and what nobody can make it do."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from slurmsia.cluster import Allocation
from slurmsia.config import JobsSection
from slurmsia.job import spool_cleanup
from slurmsia.job.directive import Directive, DirectiveReader, SpeedModel
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.job.names import ROTATED
from slurmsia.job.spool import Expected, SpoolReader

UID = os.getuid()
HELD = Allocation("a100", (("n1", 4), ("n2", 4)))
RUN = ("7", 0)
NAME = f"7.0.{UID}.jsonl"
KNOWN = {RUN: Expected(UID, HELD)}
NOW_S = 1_800_000_000.0


def line(seq: int, **changes: Any) -> bytes:
    record = {
        "v": 1,
        "job": 7,
        "restart": 0,
        "seq": seq,
        "t": NOW_S - 100 + seq,
        "ev": "progress",
        "alloc": {"type": "a100", "nodes": 2, "gpus": 8},
        "steps": [{"local": 32, "accum": 0, "n": 410, "step": 61.2, "step2": 9.15, "sync": 11.8}],
        "progress": {"samples": 1000.0 * seq},
    }
    return json.dumps({**record, **changes}).encode() + b"\n"


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir(mode=0o1777)
    (tmp_path / "directives").mkdir()
    return tmp_path


def reader(spool: Path, clock: Clock, **limits: Any) -> SpoolReader:
    return SpoolReader(spool, JobsSection(**limits), clock=clock)


def test_lines_are_read_once_and_in_order(spool: Path, clock: Clock) -> None:
    spool_reader = reader(spool, clock)
    file = spool / "reports" / NAME
    file.write_bytes(line(0) + line(1))
    assert [report.seq for report in spool_reader.poll(KNOWN).reports] == [0, 1]
    assert spool_reader.poll(KNOWN).reports == ()
    with file.open("ab") as appended:
        appended.write(line(2))
    batch = spool_reader.poll(KNOWN)
    assert [report.seq for report in batch.reports] == [2]
    assert batch.problems == {}
    observation = batch.reports[0].observations[0]
    assert (observation.gpu_type, observation.nodes, observation.gpus, observation.count) == ("a100", 2, 8, 410)


def test_a_torn_last_line_waits_for_its_rest(spool: Path, clock: Clock) -> None:
    spool_reader = reader(spool, clock)
    file = spool / "reports" / NAME
    whole = line(0)
    file.write_bytes(whole[:40])
    batch = spool_reader.poll(KNOWN)
    assert batch.reports == ()
    assert batch.problems == {}
    file.write_bytes(whole)
    assert len(spool_reader.poll(KNOWN).reports) == 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"v":1,"job":7', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 5000, "brackets"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "v is missing"),
        (b"[]", "not a JSON object"),
        (line(1, t=float("nan")).strip(), "contains NaN"),
        (line(1, t=float("inf")).strip(), "contains Infinity"),
        (line(1).strip().replace(b'"seq": 1', b'"seq": ' + b"9" * 4000), "4000 digits"),
        (line(1).strip().replace(b"61.2", b"1e999"), "finite"),
        (line(1, v=2).strip(), "version 1"),
        (line(1, job=8).strip(), "job 8"),
        (line(1, restart=3).strip(), "restart 3"),
        (line(0).strip(), "seq 0 comes after seq 0"),
        (line(1, ev="won").strip(), "ev is 'won'"),
        (line(1, t=NOW_S + 10_000).strip(), "ahead of the daemon's clock"),
        (line(1, alloc={"nodes": 2, "gpus": 64}).strip(), "says 64 gpus but Slurm says 8"),
        (line(1, alloc={"type": "h200"}).strip(), "Slurm says a100"),
        (line(1, steps=[{"local": 32, "n": 10, "step": -1.0, "step2": 1.0}]).strip(), "greater than 0"),
        (line(1, steps=[{"local": 32, "n": 10, "step": 10.0, "step2": 1.0}]).strip(), "sum of squares"),
        (line(1, steps=[{"local": 32, "n": 1, "step": 1.0, "step2": 1.0, "sync": 2.0}]).strip(), "longer than"),
        (line(1, steps={"local": 1}).strip(), "JSON list"),
        (line(1, steps=[{}] * 65).strip(), "at most 64"),
        (line(1, grad={"sqr": True, "var": 1, "scale": 1}).strip(), "sqr is True"),
        (line(1, progress={"samples": -5}).strip(), "samples is -5"),
        (line(1, facts={"\ud800": 1}).strip(), "cannot be printed"),
        (b'{"x":"' + b"a" * 20_000 + b'"}', "longer than 16384 bytes"),
    ],
)
def test_a_bad_line_is_dropped_and_named_and_the_next_one_is_read(
    spool: Path, clock: Clock, bad: bytes, says: str
) -> None:
    (spool / "reports" / NAME).write_bytes(line(0) + bad + b"\n" + line(2))
    spool_reader = reader(spool, clock)
    reports = [report.seq for _ in range(3) for report in spool_reader.poll(KNOWN).reports]
    assert reports == [0, 2]
    (sentence,) = spool_reader.poll(KNOWN).problems["7"]
    assert says in sentence
    assert len(sentence) < 300


def refused(spool: Path, clock: Clock, known: Mapping[tuple[str, int], Expected] = KNOWN) -> str:
    batch = reader(spool, clock).poll(known)
    assert batch.reports == ()
    assert batch.counters.bytes_read == 0
    (sentence,) = batch.problems["7"]
    return sentence


def test_a_link_to_another_file_is_not_read(spool: Path, clock: Clock) -> None:
    secret = spool / "secret"
    secret.write_bytes(line(0))
    (spool / "reports" / NAME).symlink_to(secret)
    assert "is a link" in refused(spool, clock)
    assert secret.exists()
    assert not (spool / "reports" / NAME).is_symlink()


def test_a_fifo_does_not_block(spool: Path, clock: Clock) -> None:
    os.mkfifo(spool / "reports" / NAME)
    assert "is a FIFO" in refused(spool, clock)


def test_a_socket_and_a_folder_are_not_read(spool: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(spool / "reports")
        server.bind(NAME)
        assert "is a socket" in refused(spool, clock)
    (spool / "reports" / NAME).mkdir()
    assert "is a folder" in refused(spool, clock)


@pytest.mark.skipif(os.getuid() != 0, reason="making a device needs root")
def test_a_device_is_not_opened(spool: Path, clock: Clock) -> None:
    try:
        os.mknod(spool / "reports" / NAME, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this container may not make devices")
    assert "is a device" in refused(spool, clock)


def test_another_users_file_does_not_speak_for_the_job_and_gives_way(spool: Path, clock: Clock) -> None:
    other = {RUN: Expected(UID + 1, HELD)}
    (spool / "reports" / f"7.0.{UID + 1}.jsonl").write_bytes(line(0))
    assert f"belongs to user id {UID}" in refused(spool, clock, other)
    assert list((spool / "reports").iterdir()) == []


def test_a_sparse_file_of_ten_gigabytes_is_not_read(spool: Path, clock: Clock) -> None:
    with (spool / "reports" / NAME).open("wb") as file:
        file.truncate(10 * 10**9)
    assert "10000 MB" in refused(spool, clock)


def test_a_file_without_line_ends_costs_a_bounded_read_and_no_memory(spool: Path, clock: Clock) -> None:
    (spool / "reports" / NAME).write_bytes(b"\0" * 5_000_000 + b"\n" + line(0))
    spool_reader = reader(spool, clock)
    largest, reports = 0, []
    for _ in range(100):
        batch = spool_reader.poll(KNOWN)
        largest = max(largest, batch.counters.bytes_read)
        reports += [report.seq for report in batch.reports]
    assert reports == [0]
    assert largest <= 64 * 1024
    assert spool_reader.poll(KNOWN).problems["7"] == ("report line dropped: a line is longer than 16384 bytes",)


def test_a_flood_is_read_in_slices_and_starves_nobody(spool: Path, clock: Clock) -> None:
    known = {("7", 0): Expected(UID, HELD), ("8", 0): Expected(UID, HELD)}
    (spool / "reports" / NAME).write_bytes(b"".join(line(seq) for seq in range(500)))
    (spool / "reports" / f"8.0.{UID}.jsonl").write_bytes(line(0, job=8))
    spool_reader = reader(spool, clock, max_lines_per_poll=10, max_user_kb_per_poll=20)
    batches = [spool_reader.poll(known) for _ in range(4)]
    assert all(sum(report.job_id == "7" for report in batch.reports) <= 10 for batch in batches)
    assert sum(report.job_id == "8" for batch in batches for report in batch.reports) == 1


def test_a_renamed_file_is_finished_before_the_new_one_is_read(spool: Path, clock: Clock) -> None:
    file = spool / "reports" / NAME
    spool_reader = reader(spool, clock)
    file.write_bytes(line(0))
    spool_reader.poll(KNOWN)
    with file.open("ab") as appended:
        appended.write(line(1))
    file.rename(str(file) + ROTATED)
    file.write_bytes(line(2))
    assert [report.seq for report in spool_reader.poll(KNOWN).reports] == [1, 2]


def test_a_link_put_in_place_between_polls_is_caught(spool: Path, clock: Clock) -> None:
    file = spool / "reports" / NAME
    spool_reader = reader(spool, clock)
    file.write_bytes(line(0))
    spool_reader.poll(KNOWN)
    file.unlink()
    file.symlink_to("/etc/shadow")
    assert "is a link" in spool_reader.poll(KNOWN).problems["7"][0]


def test_a_file_that_became_shorter_is_read_again_and_old_lines_are_not_taken_twice(spool: Path, clock: Clock) -> None:
    file = spool / "reports" / NAME
    spool_reader = reader(spool, clock)
    file.write_bytes(line(0) + line(1))
    spool_reader.poll(KNOWN)
    os.truncate(file, 0)
    with file.open("ab") as appended:
        appended.write(line(1))
    batch = spool_reader.poll(KNOWN)
    assert batch.reports == ()
    assert any("became shorter" in sentence for sentence in batch.problems["7"])


def test_the_last_lines_of_a_run_are_read_after_it_is_over(spool: Path, clock: Clock) -> None:
    file = spool / "reports" / NAME
    spool_reader = reader(spool, clock)
    file.write_bytes(line(0))
    spool_reader.poll(KNOWN)
    with file.open("ab") as appended:
        appended.write(line(1, ev="end"))
    assert [report.event for report in spool_reader.poll({}).reports] == ["end"]


def test_a_runs_file_is_removed_some_time_after_its_end(spool: Path, clock: Clock) -> None:
    file = spool / "reports" / NAME
    spool_reader = reader(spool, clock, keep_after_end_s=3600)
    file.write_bytes(line(0))
    spool_reader.poll(KNOWN)
    spool_reader.poll({})
    clock.now_s += 3500
    spool_reader.poll({})
    assert file.exists()
    clock.now_s += 200
    spool_reader.poll({})
    assert not file.exists()


def test_strays_are_removed_a_few_at_a_time_and_known_files_stay(spool: Path, clock: Clock) -> None:
    for number in range(50):
        stray = spool / "reports" / f"{1000 + number}.0.{UID}.jsonl"
        stray.write_bytes(b"x")
    (spool / "reports" / NAME).write_bytes(line(0))
    clock.now_s = os.stat(spool / "reports" / NAME).st_mtime + 90_000
    spool_reader = reader(spool, clock, cleanup_entries_per_poll=10)
    for turn in range(1, 9):
        spool_reader.poll(KNOWN)
        assert spool_reader.finish_cleanup()[0] <= 10 * turn
    assert [path.name for path in (spool / "reports").iterdir()] == [NAME]


def crowd(spool: Path, files: int) -> float:
    """Files of no job, and when they were made."""
    for number in range(files):
        (spool / "reports" / f"junk{number}").write_bytes(b"x")
    return os.stat(spool / "reports" / f"junk{files - 1}").st_mtime


def test_more_strays_than_a_user_may_leave_are_removed_and_named_to_him_and_to_the_operator(
    spool: Path, clock: Clock
) -> None:
    clock.now_s = crowd(spool, 50) + 130
    spool_reader = reader(spool, clock, max_files_per_user=20)
    spool_reader.poll(KNOWN)
    spool_reader.finish_cleanup()
    assert len(list((spool / "reports").iterdir())) == 20
    batch = spool_reader.poll(KNOWN)
    assert f"user id {UID} left 50 files" in batch.folder_problem
    assert any("left 50 files" in sentence for sentence in batch.problems["7"])
    for _ in range(3):
        spool_reader.finish_cleanup()
        batch = spool_reader.poll(KNOWN)
    assert not batch.folder_problem
    assert "7" not in batch.problems


def test_a_file_that_may_be_of_a_run_slurm_has_not_shown_yet_is_spared_in_a_crowd(spool: Path, clock: Clock) -> None:
    clock.now_s = crowd(spool, 50) + 60
    spool_reader = reader(spool, clock, max_files_per_user=20)
    spool_reader.poll(KNOWN)
    spool_reader.finish_cleanup()
    assert len(list((spool / "reports").iterdir())) == 50


def test_a_poll_never_waits_for_a_listing_that_hangs(
    spool: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spool / "reports" / NAME).write_bytes(line(0))
    hangs, let_go = threading.Event(), threading.Event()

    def scandir(folder: int) -> object:
        hangs.set()
        let_go.wait(60)
        raise OSError("gone")

    monkeypatch.setattr(spool_cleanup.os, "scandir", scandir)
    spool_reader = reader(spool, clock)
    assert len(spool_reader.poll(KNOWN).reports) == 1
    assert hangs.wait(60)
    with (spool / "reports" / NAME).open("ab") as file:
        file.write(line(1))
    assert len(spool_reader.poll(KNOWN).reports) == 1
    let_go.set()
    spool_reader.finish_cleanup()


def test_a_missing_folder_is_one_sentence(tmp_path: Path, clock: Clock) -> None:
    batch = reader(tmp_path, clock).poll(KNOWN)
    assert "cannot be opened" in batch.folder_problem


def test_marks_let_the_next_reader_go_on_where_the_last_one_stopped(spool: Path, clock: Clock) -> None:
    file = spool / "reports" / NAME
    file.write_bytes(line(0))
    first = reader(spool, clock)
    first.poll(KNOWN)
    with file.open("ab") as appended:
        appended.write(line(1))
    second = SpoolReader(spool, JobsSection(), marks=first.marks(), clock=clock)
    assert [report.seq for report in second.poll(KNOWN).reports] == [1]


def test_a_directive_is_replaced_whole_and_read_back(spool: Path) -> None:
    writer, job = DirectiveWriter(spool), DirectiveReader(str(spool), "12_3")
    assert job.read() is None
    model = SpeedModel(0.1, 0.01, 0.2, 0.01, 0.1, 0.01, 2.0, 1.0, 50.0, 256, 4096, 16, 128)
    first = Directive(
        seq=1, action="checkpoint", deadline_s=12.5, reason="moves to 8 a100", model=model, local_batch=64
    )
    writer.write("12_3", first)
    assert job.read() == first
    writer.write("12_3", Directive(seq=2))
    assert job.read() == Directive(seq=2)
    assert [path.name for path in (spool / "directives").iterdir()] == ["12_3.json"]


def test_a_broken_directive_leaves_the_last_good_one(spool: Path) -> None:
    job = DirectiveReader(str(spool), "5")
    DirectiveWriter(spool).write("5", Directive(seq=1))
    assert job.read() == Directive(seq=1)
    (spool / "directives" / "5.json").write_text('{"seq": 2, "action": "explode"}')
    assert job.read() == Directive(seq=1)


def test_a_directive_cannot_be_written_outside_its_folder(spool: Path) -> None:
    with pytest.raises(ValueError, match="no directive file"):
        DirectiveWriter(spool).write("../7", Directive(seq=1))
