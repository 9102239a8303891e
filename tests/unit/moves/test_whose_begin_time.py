"""A begin time ahead is either a lease of ours or its user's: waiting jobs stay ours, and wishes of users stand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.cluster import Job, JobState, Request, Snapshot
from slurmsia.config import Config
from slurmsia.moves.leases import due_renewals, limits_of
from slurmsia.moves.standings import StandingBook

LEASE_S = 600.0
SUBMITTED_S = 10_000.0
LIMITS = limits_of(Config())


def waiting(begin_s: float | None) -> Job:
    return Job(
        "7",
        1000,
        JobState.PENDING,
        submit_s=SUBMITTED_S,
        begin_s=begin_s,
        comment="sia: gpus=1-8",
        request=Request(nodes=1, gpus=1),
    )


def at(now_s: float, job: Job) -> Snapshot:
    return Snapshot(taken_s=now_s, nodes=(), jobs=(job,), gpu_types=())


@pytest.mark.parametrize("round_s", [60.0, 360.0, 500.0])
def test_a_job_that_waits_for_hours_is_never_taken_for_one_that_its_user_put_off(round_s: float) -> None:
    book, job = StandingBook(LEASE_S), waiting(SUBMITTED_S + LEASE_S)
    limits = limits_of(Config.model_validate({"policy": {"round_s": round_s}}))
    now_s = SUBMITTED_S + 13.0
    for _ in range(40):
        assert job.begin_s is not None
        assert job.begin_s > now_s, "the lease ran out between two rounds"
        snapshot = at(now_s, job)
        standings = book.observe(snapshot)
        assert standings["7"].user_begin_s is None
        job = replace(job, begin_s=due_renewals(snapshot, {"7"}, standings, limits).get("7", job.begin_s))
        now_s += round_s


@pytest.mark.parametrize("ahead_s", [120.0, 400.0, 7 * 3600.0])
def test_a_begin_time_that_its_user_sets_while_the_job_waits_on_our_lease_is_the_users(ahead_s: float) -> None:
    book = StandingBook(LEASE_S)
    now_s = SUBMITTED_S + 300.0
    book.observe(at(now_s, waiting(SUBMITTED_S + LEASE_S)))
    edited = waiting(now_s + 60.0 + ahead_s)
    for later_s in (60.0, 120.0):
        standings = book.observe(at(now_s + later_s, edited))
        assert standings["7"].user_begin_s == edited.begin_s
        assert not due_renewals(at(now_s + later_s, edited), {"7"}, standings, LIMITS)


def test_once_the_users_begin_time_has_come_the_job_is_ours_to_lease() -> None:
    book = StandingBook(LEASE_S)
    theirs = waiting(SUBMITTED_S + 5000.0)
    now_s = SUBMITTED_S + 4990.0
    assert book.observe(at(now_s, theirs))["7"].user_begin_s == theirs.begin_s
    snapshot = at(now_s + 60.0, theirs)
    due = due_renewals(snapshot, {"7"}, book.observe(snapshot), LIMITS)
    assert due == {"7": now_s + 60.0 + LEASE_S}
    leased = waiting(due["7"])
    assert book.observe(at(now_s + 120.0, leased))["7"].user_begin_s is None
