"""Throughput from a job's log, and what a hostile expression or log can do about it: nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmsia.cluster import Allocation
from slurmsia.job.log_tail import LogTail, Matcher

HELD = Allocation("t4", (("n1", 2),))
UID = os.getuid()


@pytest.fixture
def matcher() -> Iterator[Matcher]:
    made = Matcher()
    yield made
    made.close()


def tail(path: Path, pattern: str, matcher: Matcher, uid: int = UID) -> LogTail:
    return LogTail(str(path), uid, pattern, "7", 0, matcher)


def test_two_looks_at_the_log_make_a_throughput(tmp_path: Path, matcher: Matcher) -> None:
    log = tmp_path / "log"
    job = tail(log, r"samples=(\d+)", matcher)
    assert job.poll(HELD, 0.0, 0) is None
    log.write_text("hello\nsamples=100\n")
    assert job.poll(HELD, 100.0, 0) is None
    log.write_text("hello\nsamples=100\nsamples=900\nbye\n")
    report = job.poll(HELD, 120.0, 1)
    assert report is not None
    (observation,) = report.observations
    assert (observation.local_batch * observation.gpus, observation.step_sum_s) == (800, 20.0)
    assert report.progress is not None
    assert report.progress.samples == 900
    assert job.poll(HELD, 130.0, 2) is None


def test_a_rate_in_the_log_needs_no_total(tmp_path: Path, matcher: Matcher) -> None:
    log = tmp_path / "log"
    log.write_text("speed 40.0 img/s\n")
    job = tail(log, r"speed (?P<rate>[0-9.]+) img/s", matcher)
    assert job.poll(HELD, 0.0, 0) is None
    report = job.poll(HELD, 10.0, 1)
    assert report is not None
    assert report.observations[0].local_batch * 2 / report.observations[0].step_sum_s == 40.0


def test_an_expression_that_never_ends_is_given_up_and_others_are_still_read(tmp_path: Path) -> None:
    matcher = Matcher(limit_s=0.3)
    evil, good = tmp_path / "evil", tmp_path / "good"
    evil.write_text("a" * 60 + "!\n")
    good.write_text("samples=1\n")
    job = tail(evil, r"(a+)+$", matcher)
    assert job.poll(HELD, 0.0, 0) is None
    assert "given up" in job.problem
    other = tail(good, r"samples=(\d+)", matcher)
    other.poll(HELD, 0.0, 0)
    good.write_text("samples=5\n")
    assert other.poll(HELD, 1.0, 1) is not None
    matcher.close()


def test_a_log_that_is_a_link_or_another_users_is_not_read(tmp_path: Path, matcher: Matcher) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    job = tail(tmp_path / "link", r"root:x:(\d+)", matcher)
    assert job.poll(HELD, 0.0, 0) is None
    assert "cannot be read" in job.problem
    (tmp_path / "log").write_text("samples=1\n")
    other = tail(tmp_path / "log", r"samples=(\d+)", matcher, uid=UID + 1)
    assert other.poll(HELD, 0.0, 0) is None
    assert "not a plain file of the job's user" in other.problem
    os.mkfifo(tmp_path / "fifo")
    assert tail(tmp_path / "fifo", r"(\d+)", matcher).poll(HELD, 0.0, 0) is None


def test_only_the_end_of_a_long_log_is_looked_at(tmp_path: Path, matcher: Matcher) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(10**10)
        file.seek(10**10)
        file.write(b"\nsamples=5\n")
    job = tail(log, r"samples=(\d+)", matcher)
    job.poll(HELD, 0.0, 0)
    with log.open("ab") as file:
        file.write(b"samples=6\n")
    assert job.poll(HELD, 1.0, 1) is not None
