"""Which jobs a round decides about, and what it says of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.cluster import Allocation, GpuType, Job, JobState, Request, Shape, Snapshot
from slurmsia.config import ScopeSection
from slurmsia.deciding.eligibility import LeftAlone, Managed, split_queue
from slurmsia.standing import Standing

NOW = 10_000.0
JOB = Job(
    "7",
    1000,
    JobState.PENDING,
    submit_s=NOW - 50,
    comment="sia: gpus=1-8 signal=USR1@60",
    partitions=("gpu",),
    reason="Resources",
    request=Request(gpus=1),
)


def judged(job: Job, standing: Standing | None = None, **scope: tuple[str, ...]) -> Managed | LeftAlone:
    snapshot = Snapshot(NOW, (), (job,), (GpuType("a100"),))
    memory = {job.id: standing} if standing is not None else {}
    queue = split_queue(snapshot, memory, ScopeSection(**scope), lease_s=600, min_run_s=120)
    return (*queue.managed, *queue.left_alone)[0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"comment": "night run"}, "not-declared"),
        ({"comment": "sia: gpus=8-1"}, "bad-declaration"),
        ({"comment": "sia: gpus=1-8 types=h900"}, "bad-declaration"),
        ({"unmanageable": "a het job"}, "unmanageable"),
        ({"requeue": False}, "no-requeue"),
        ({"reservation": "maint"}, "reservation"),
        ({"request": Request(gpus=0)}, "no-gpus"),
        ({"hold": "user"}, "held"),
        ({"hold": "launch-failure"}, "launch-failure"),
        ({"reason": "Dependency", "dependency": "afterok:3"}, "dependency"),
        ({"begin_s": NOW + 5000}, "begins-later"),
        ({"state": JobState.SUSPENDED}, "suspended"),
        ({"completing": True}, "completing"),
    ],
)
def test_a_job_that_is_not_ours_now_is_left_alone_with_its_reason(change: dict, code: str) -> None:
    found = judged(replace(JOB, **change))
    assert isinstance(found, LeftAlone)
    assert found.code == code
    assert len(found.sentence) > 20


def test_a_wrong_declaration_is_named_with_what_is_wrong() -> None:
    found = judged(replace(JOB, comment="sia: gpus=1-8 types=h900"))
    assert isinstance(found, LeftAlone)
    assert "h900" in found.sentence


def test_only_jobs_in_scope_are_managed() -> None:
    assert isinstance(judged(JOB, partitions=("gpu",)), Managed)
    found = judged(JOB, partitions=("preempt",))
    assert isinstance(found, LeftAlone)
    assert found.code == "out-of-scope"


def test_a_lease_is_not_taken_for_a_begin_time_of_the_user() -> None:
    assert isinstance(judged(replace(JOB, begin_s=JOB.submit_s + 600)), Managed)
    assert isinstance(judged(replace(JOB, begin_s=NOW + 550), Standing("7", NOW - 900)), Managed)
    requeued = replace(JOB, submit_s=NOW - 20, begin_s=NOW + 101, restarts=1)
    assert isinstance(judged(requeued), Managed)


def test_a_begin_time_that_the_user_asked_for_is_respected_even_if_it_is_near() -> None:
    standing = Standing("7", NOW - 900, user_begin_s=NOW + 300)
    found = judged(replace(JOB, begin_s=NOW + 300), standing)
    assert isinstance(found, LeftAlone)
    assert found.code == "begins-later"


@pytest.mark.parametrize(
    ("comment", "standing", "started_s", "code"),
    [
        ("sia: level=rigid", Standing("7", 0.0), NOW - 999, "rigid"),
        ("sia: gpus=1-8", Standing("7", 0.0), NOW - 999, "moldable"),
        (JOB.comment, Standing("7", 0.0, pinned_reason="missed two graces"), NOW - 999, "pinned"),
        (JOB.comment, Standing("7", 0.0, restoring=True), NOW - 999, "restoring"),
        (JOB.comment, Standing("7", 0.0, in_flight=Shape("a100", 1, 2)), NOW - 999, "moving"),
        (JOB.comment, Standing("7", 0.0), NOW - 60, "young"),
        (JOB.comment, Standing("7", 0.0), NOW - 999, ""),
    ],
)
def test_what_may_not_be_moved_says_why(comment: str, standing: Standing, started_s: float, code: str) -> None:
    running = replace(
        JOB,
        comment=comment,
        state=JobState.RUNNING,
        start_s=started_s,
        allocation=Allocation("a100", (("n1", 1),)),
    )
    found = judged(running, standing)
    assert isinstance(found, Managed)
    assert found.stays_code == code
    assert bool(found.stays) == bool(code)


def test_undeclared_jobs_that_wait_for_room_are_demand_and_others_are_not() -> None:
    neighbour = replace(JOB, comment="")
    for reason, waits in (("Resources", True), ("Priority", True), ("Dependency", False), ("QOSMaxGRESPerUser", False)):
        found = judged(replace(neighbour, reason=reason))
        assert isinstance(found, LeftAlone)
        assert found.waits_for_room is waits
