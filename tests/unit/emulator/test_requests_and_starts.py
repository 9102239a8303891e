"""What the emulated controller starts, where, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.cluster import GpuForm, GpuLimit, JobState, NodeState, Reservation
from slurmsia.slurm.emulator import (
    Emulator,
    FixedWork,
    Latencies,
    NeverEnding,
    Submission,
    Update,
    gang,
    lease_at_submit,
    make_cluster,
)


def small(**options: object) -> Emulator:
    return Emulator(make_cluster([("t4", 2, 4), ("rtx", 1, 8)]), latencies=Latencies.none(), **options)  # type: ignore[arg-type]


def running_on(emulator: Emulator, job_id: str) -> tuple[str, ...]:
    allocation = emulator.job(job_id).allocation
    return () if allocation is None else allocation.nodes


def test_presets_have_the_gpus_of_the_evaluation() -> None:
    assert Emulator("hetero64").cluster.gpus == {"t4": 24, "rtx": 24, "a100": 16}
    assert Emulator("homog64").cluster.gpus == {"t4": 64}
    assert Emulator("physical44").cluster.gpus == {"rtx": 24, "a100": 16, "quad": 4}


def test_a_job_runs_for_its_work_and_is_accounted_for() -> None:
    emulator = small()
    job_id = emulator.submit(Submission(gang(4, features="t4")), FixedWork(400.0))
    emulator.run_until(1000.0)
    assert emulator.job(job_id).end_state == "COMPLETED"
    (run,) = emulator.accounting
    assert run.elapsed_s == pytest.approx(100.0)
    assert run.allocation.gpus_by_node == (("t4-01", 4),)


def test_a_single_node_job_takes_the_tightest_node() -> None:
    emulator = small()
    assert running_on(emulator, _settled(emulator, Submission(gang(3)))) == ("t4-01",)
    assert running_on(emulator, _settled(emulator, Submission(gang(1)))) == ("t4-01",)
    assert running_on(emulator, _settled(emulator, Submission(gang(8)))) == ("rtx-01",)


def _settled(emulator: Emulator, submission: Submission) -> str:
    job_id = emulator.submit(submission, NeverEnding())
    emulator.settle()
    return job_id


def test_features_types_and_required_nodes_are_obeyed() -> None:
    emulator = small()
    assert running_on(emulator, _settled(emulator, Submission(gang(1, features="rtx")))) == ("rtx-01",)
    typed = gang(1, gpu_type="rtx", form=GpuForm.PER_NODE_TYPED)
    assert running_on(emulator, _settled(emulator, Submission(typed))) == ("rtx-01",)
    pinned = replace(gang(1), required_nodes=("t4-02",))
    assert running_on(emulator, _settled(emulator, Submission(pinned))) == ("t4-02",)


def test_a_gpus_total_may_be_split_unevenly() -> None:
    emulator = small()
    _settled(emulator, Submission(gang(2, features="t4")))
    total = gang(6, 2, form=GpuForm.TOTAL, features="t4")
    job_id = _settled(emulator, Submission(total))
    allocation = emulator.job(job_id).allocation
    assert allocation is not None
    assert allocation.gpus == 6


def test_an_impossible_request_waits_with_bad_constraints() -> None:
    emulator = small()
    job_id = _settled(emulator, Submission(gang(16, 1)))
    assert emulator.job(job_id).reason == "BadConstraints"


def test_nodes_that_backfill_promised_say_so_until_the_job_starts() -> None:
    emulator = small()
    _settled(emulator, Submission(gang(3, features="rtx"), time_limit_s=600.0))
    blocked = _settled(emulator, Submission(gang(8, features="rtx")))
    assert emulator.job(blocked).reason == "Resources"
    states = {node.name: node.state for node in emulator.client().snapshot().nodes}
    assert states == {"rtx-01": NodeState.PROMISED, "t4-01": NodeState.UP, "t4-02": NodeState.UP}
    emulator.user_cancel(blocked)
    emulator.settle()
    assert {node.state for node in emulator.client().snapshot().nodes} == {NodeState.UP}


def test_backfill_never_delays_the_job_it_promised_nodes_to() -> None:
    emulator = small()
    first = _settled(emulator, Submission(gang(8, features="rtx"), time_limit_s=1000.0))
    blocked = _settled(emulator, Submission(gang(8, features="rtx"), time_limit_s=1000.0))
    emulator.set_priority(blocked, 10.0)
    assert emulator.job(blocked).reason == "Resources"
    emulator.user_cancel(first)
    emulator.settle()
    assert emulator.job(blocked).state is JobState.RUNNING


def test_a_short_job_is_backfilled_before_a_blocked_wide_one_and_a_long_one_is_not() -> None:
    emulator = small()
    _settled(emulator, Submission(gang(4, features="rtx"), time_limit_s=1000.0))
    wide = _settled(emulator, Submission(gang(8, features="rtx"), time_limit_s=1000.0))
    long = _settled(emulator, Submission(gang(4, features="rtx"), time_limit_s=5000.0))
    short = _settled(emulator, Submission(gang(4, features="rtx"), time_limit_s=500.0))
    states = {job_id: emulator.job(job_id).state for job_id in (wide, long, short)}
    assert states == {wide: JobState.PENDING, long: JobState.PENDING, short: JobState.RUNNING}


def test_a_declared_job_waits_on_a_lease_only_while_the_heartbeat_is_fresh() -> None:
    beat: list[float | None] = [0.0]
    emulator = small(submit_hook=lease_at_submit(lambda: beat[0], 600.0))
    leased = _settled(emulator, Submission(gang(1), comment="sia: gpus=1-4"))
    plain = _settled(emulator, Submission(gang(1)))
    assert emulator.job(leased).reason == "BeginTime"
    assert emulator.job(plain).state is JobState.RUNNING
    emulator.run_until(599.0)
    assert emulator.job(leased).state is JobState.PENDING
    late = _settled(emulator, Submission(gang(1), comment="sia: gpus=1-4"))
    assert emulator.job(late).state is JobState.RUNNING


def test_a_leased_job_starts_by_itself_when_nobody_renews() -> None:
    emulator = small()
    job_id = _settled(emulator, Submission(gang(2), begin_s=600.0))
    emulator.run_until(601.0)
    assert emulator.job(job_id).state is JobState.RUNNING


def test_a_reservation_keeps_jobs_away_that_would_still_run_when_it_begins() -> None:
    emulator = small()
    emulator.reserve(Reservation("maintenance", frozenset({"rtx-01"}), 1000.0, 2000.0))
    long = _settled(emulator, Submission(gang(8, features="rtx"), time_limit_s=1500.0))
    short = _settled(emulator, Submission(gang(4, features="rtx"), time_limit_s=500.0))
    assert emulator.job(long).reason.startswith("ReqNodeNotAvail")
    assert emulator.job(short).state is JobState.RUNNING
    emulator.run_until(2001.0)
    assert emulator.job(long).state is JobState.RUNNING


def test_a_drained_node_keeps_its_jobs_and_takes_no_new_ones() -> None:
    emulator = small()
    old = _settled(emulator, Submission(gang(4, features="rtx")))
    emulator.drain("rtx-01")
    new = _settled(emulator, Submission(gang(4, features="rtx")))
    assert emulator.job(old).state is JobState.RUNNING
    assert emulator.job(new).state is JobState.PENDING
    emulator.resume("rtx-01")
    emulator.settle()
    assert emulator.job(new).state is JobState.RUNNING


def test_limits_of_associations_are_enforced_and_named() -> None:
    emulator = small()
    emulator.set_limits((GpuLimit("account research", 4, account="research"),))
    _settled(emulator, Submission(gang(4)))
    over = _settled(emulator, Submission(gang(1)))
    other = _settled(emulator, Submission(gang(1), account="teaching"))
    assert emulator.job(over).reason == "AssocGrpGRES"
    assert emulator.job(other).state is JobState.RUNNING


def test_a_time_limit_ends_the_run_and_starts_anew_with_every_run() -> None:
    emulator = small()
    job_id = _settled(emulator, Submission(gang(1), time_limit_s=100.0))
    emulator.run_until(90.0)
    emulator.requeue(job_id)
    emulator.update(job_id, Update(begin_s=90.0))
    emulator.run_until(185.0)
    assert emulator.job(job_id).state is JobState.RUNNING
    emulator.run_until(191.0)
    assert emulator.job(job_id).end_state == "TIMEOUT"


def test_a_dependency_holds_a_job_back_until_the_other_has_ended() -> None:
    emulator = small()
    first = emulator.submit(Submission(gang(1)), FixedWork(50.0))
    second = _settled(emulator, Submission(gang(1), dependency=(first,)))
    assert emulator.job(second).reason == "Dependency"
    emulator.run_until(60.0)
    assert emulator.job(second).state is JobState.RUNNING


def test_ended_jobs_leave_the_queue_after_their_minimum_age() -> None:
    emulator = small()
    job_id = emulator.submit(Submission(gang(1)), FixedWork(50.0))
    emulator.run_until(340.0)
    assert [job.id for job in emulator.jobs()] == [job_id]
    emulator.run_until(351.0)
    assert emulator.jobs() == ()
    assert emulator.job(job_id).end_state == "COMPLETED"


def test_the_same_seed_is_the_same_history() -> None:
    def history(seed: int) -> list[object]:
        emulator = Emulator("hetero64", seed=seed)
        for index in range(40):
            emulator.run_until(index * 30.0)
            emulator.submit(Submission(gang(1 + index % 8), time_limit_s=900.0), FixedWork(100.0 + 37.0 * index))
        emulator.run_until(5000.0)
        return [*emulator.accounting]

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_unchanged_jobs_are_the_same_objects_in_the_next_read() -> None:
    emulator = small()
    job_id = _settled(emulator, Submission(gang(1)))
    before = emulator.job(job_id)
    _settled(emulator, Submission(gang(1)))
    assert emulator.job(job_id) is before
