"""Requeues, edits, holds and faults, as measured on real releases (SLURM.md is the source of each promise)."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from slurmsia.cluster import GpuForm, JobState, Shape
from slurmsia.reshape import Reshape
from slurmsia.slurm.client import EditIgnored, NoSuchJob, NotPending, SlurmClient, SlurmRejected, SlurmUnavailable
from slurmsia.slurm.emulator import (
    Emulator,
    FaultKind,
    FixedWork,
    Latencies,
    NeverEnding,
    RealClock,
    Submission,
    Update,
    gang,
    make_cluster,
)

RTX8 = Reshape(Shape("rtx", 1, 8), tasks=1, cpus=32, features="rtx")


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(make_cluster([("t4", 2, 4), ("rtx", 2, 8)]), latencies=Latencies(schedule_s=0.5, completing_s=1.0))


def start(emulator: Emulator, form: GpuForm = GpuForm.PER_NODE_UNTYPED, nodes: int = 2) -> str:
    gpu_type = "t4" if form is GpuForm.PER_NODE_TYPED else None
    request = gang(4 * nodes, nodes, form=form, gpu_type=gpu_type, features="t4")
    job_id = emulator.submit(Submission(request, comment="sia: gpus=1-8"), NeverEnding(die_s=2.0))
    emulator.advance(1.0)
    assert emulator.job(job_id).state is JobState.RUNNING
    return job_id


def test_the_client_speaks_the_whole_protocol(emulator: Emulator) -> None:
    client: SlurmClient = emulator.client()
    assert client.capabilities().shrink
    assert client.health().up
    assert len(client.snapshot().nodes) == len(client.nodes()) == 4


def test_a_requeued_job_is_completing_then_pending_for_the_requeue_delay(emulator: Emulator) -> None:
    job_id = start(emulator)
    emulator.client().requeue(job_id)
    job = emulator.job(job_id)
    assert (job.state, job.completing, job.restarts) == (JobState.PENDING, True, 1)
    assert job.begin_s == emulator.now_s + 121.0
    assert job.hold == ""
    emulator.advance(3.1)
    assert not emulator.job(job_id).completing


def test_a_requeued_job_that_nobody_edits_starts_again_in_its_old_shape(emulator: Emulator) -> None:
    job_id = start(emulator)
    emulator.client().requeue(job_id)
    emulator.advance(123.0)
    job = emulator.job(job_id)
    assert job.state is JobState.RUNNING
    assert job.allocation is not None
    assert job.allocation.shape == Shape("t4", 2, 8)


def test_a_job_that_completes_longer_than_the_delay_restarts_in_its_old_shape() -> None:
    emulator = Emulator(make_cluster([("t4", 2, 4)]), latencies=Latencies(completing_s=200.0, schedule_s=0.0))
    job_id = emulator.submit(Submission(gang(4)), NeverEnding())
    emulator.settle()
    emulator.requeue(job_id)
    emulator.advance(150.0)
    assert emulator.job(job_id).completing
    emulator.advance(60.0)
    assert emulator.job(job_id).state is JobState.RUNNING


def test_an_edit_is_refused_while_the_job_runs_and_while_it_completes(emulator: Emulator) -> None:
    job_id = start(emulator)
    client = emulator.client()
    with pytest.raises(NotPending) as running:
        client.reshape(job_id, RTX8)
    assert running.value.code == 2073
    client.requeue(job_id)
    with pytest.raises(NotPending):
        client.reshape(job_id, RTX8)


def test_one_edit_writes_the_whole_shape_and_the_job_runs_in_it(emulator: Emulator) -> None:
    job_id = start(emulator)
    client = emulator.client()
    client.requeue(job_id)
    emulator.advance(4.0)
    client.reshape(job_id, RTX8)
    emulator.advance(1.0)
    job = emulator.job(job_id)
    assert job.allocation is not None
    assert job.allocation.shape == Shape("rtx", 1, 8)
    assert (job.request.tasks, job.request.cpus) == (1, 32)


@pytest.mark.parametrize("form", [GpuForm.PER_NODE_UNTYPED, GpuForm.PER_NODE_TYPED, GpuForm.TOTAL])
def test_an_edit_keeps_the_gpu_form_of_the_submission(emulator: Emulator, form: GpuForm) -> None:
    job_id = start(emulator, form)
    client = emulator.client()
    client.requeue(job_id)
    emulator.advance(4.0)
    client.reshape(job_id, RTX8)
    emulator.advance(1.0)
    job = emulator.job(job_id)
    assert job.request.gpu_form is form
    assert job.allocation is not None
    assert job.allocation.shape == Shape("rtx", 1, 8)


def test_a_typed_edit_of_an_untyped_request_is_refused(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(1), begin_s=600.0))
    with pytest.raises(SlurmRejected) as refused:
        emulator.update(job_id, Update(gres=("t4", 4)))
    assert refused.value.code == 2072


def test_a_job_with_gpus_per_task_cannot_be_reshaped(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(4, form=GpuForm.PER_TASK), begin_s=600.0))
    with pytest.raises(SlurmRejected, match="GRES"):
        emulator.client().reshape(job_id, RTX8)


def test_a_node_count_without_task_and_cpu_counts_ends_in_bad_constraints(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(4), begin_s=600.0))
    emulator.update(job_id, Update(nodes=2, begin_s=0.0))
    emulator.advance(2.0)
    assert emulator.job(job_id).reason == "BadConstraints"
    emulator.update(job_id, Update(nodes=2, tasks=2, cpus=16))
    emulator.advance(2.0)
    assert emulator.job(job_id).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("update", "code"),
    [
        (Update(features="h100"), 2029),
        (Update(required_nodes=("nowhere",)), 2018),
        (Update(partition="nowhere"), 2000),
        (Update(nodes=1, tasks=1, cpus=4, required_nodes=("t4-01", "t4-02")), 2014),
    ],
)
def test_a_refused_edit_changes_nothing(emulator: Emulator, update: Update, code: int) -> None:
    job_id = emulator.submit(Submission(gang(4), begin_s=600.0))
    before = emulator.job(job_id)
    with pytest.raises(SlurmRejected) as refused:
        emulator.update(job_id, update)
    assert refused.value.code == code
    assert emulator.job(job_id) == before


def test_a_shrunk_job_returns_with_its_whole_request_after_a_requeue(emulator: Emulator) -> None:
    job_id = start(emulator)
    client = emulator.client()
    client.shrink(job_id, ("t4-01",))
    allocation = emulator.job(job_id).allocation
    assert allocation is not None
    assert allocation.gpus == 4
    with pytest.raises(SlurmRejected):
        client.shrink(job_id, ("t4-02",))
    client.requeue(job_id)
    emulator.advance(125.0)
    allocation = emulator.job(job_id).allocation
    assert allocation is not None
    assert allocation.gpus == 8


def test_a_failed_node_requeues_its_jobs_and_a_pin_makes_them_wait_for_it(emulator: Emulator) -> None:
    free = emulator.submit(Submission(gang(8, features="rtx")), NeverEnding())
    emulator.advance(1.0)
    pinned = emulator.submit(Submission(gang(8, features="rtx"), begin_s=5.0), NeverEnding())
    emulator.update(pinned, Update(required_nodes=("rtx-02",)))
    emulator.advance(10.0)
    emulator.fail_node("rtx-02")
    emulator.advance(130.0)
    assert emulator.job(free).state is JobState.RUNNING
    assert emulator.job(pinned).reason.startswith("ReqNodeNotAvail")
    assert [run.state for run in emulator.accounting] == ["NODE_FAIL"]


def test_a_job_submitted_with_no_requeue_ends_with_its_node(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(8, features="rtx"), requeue=False), NeverEnding())
    emulator.advance(1.0)
    with pytest.raises(SlurmRejected):
        emulator.client().requeue(job_id)
    emulator.fail_node("rtx-01")
    assert emulator.job(job_id).end_state == "NODE_FAIL"
    assert emulator.job(job_id).unmanageable


def test_a_quick_restart_on_the_same_node_can_fail_and_is_held_by_slurm() -> None:
    emulator = Emulator(
        make_cluster([("t4", 1, 4)]), latencies=Latencies(schedule_s=0.0, completing_s=0.1, launch_failure=1.0)
    )
    job_id = emulator.submit(Submission(gang(4)), NeverEnding())
    emulator.settle()
    client = emulator.client()
    client.requeue(job_id)
    emulator.advance(1.0)
    client.end_lease(job_id)
    emulator.advance(1.0)
    assert emulator.job(job_id).hold == "launch-failure"
    assert emulator.job(job_id).reason == "launch failed requeued held"
    client.end_launch_failure_hold(job_id)
    emulator.advance(130.0)
    assert emulator.job(job_id).state is JobState.RUNNING


def test_a_users_hold_cannot_be_ended_by_a_client(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(1), begin_s=600.0))
    emulator.user_hold(job_id)
    with pytest.raises(SlurmRejected):
        emulator.client().end_launch_failure_hold(job_id)
    emulator.client().end_lease(job_id)
    emulator.advance(700.0)
    assert emulator.job(job_id).hold == "user"


def test_an_unhandled_signal_kills_and_an_ended_job_can_be_requeued(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(1)), FixedWork(1e6, handles_signal=False))
    emulator.advance(5.0)
    client = emulator.client()
    client.signal(job_id, "USR1")
    job = emulator.job(job_id)
    assert (job.state, job.end_state, job.exit_code) == (JobState.ENDED, "FAILED", 138)
    client.requeue(job_id)
    emulator.advance(125.0)
    assert emulator.job(job_id).state is JobState.RUNNING


def test_a_handled_signal_checkpoints_and_the_next_run_resumes_there(emulator: Emulator) -> None:
    work = FixedWork(1e6, save_s=3.0)
    job_id = emulator.submit(Submission(gang(2)), work)
    emulator.advance(100.0)
    emulator.client().signal(job_id, "USR1")
    emulator.advance(4.0)
    assert [r.event for r in emulator.take_reports()][-1] == "checkpointed"
    safe = work.safe_gpu_s
    assert safe > 190.0
    emulator.client().requeue(job_id)
    emulator.advance(130.0)
    assert emulator.take_reports()[0].progress.samples == pytest.approx(safe)  # type: ignore[union-attr]


def test_a_call_that_fails_changes_nothing_and_a_lost_answer_changed_everything(emulator: Emulator) -> None:
    job_id = start(emulator)
    client = emulator.client()
    emulator.faults.inject(FaultKind.FAILS, "requeue")
    with pytest.raises(SlurmUnavailable):
        client.requeue(job_id)
    assert emulator.job(job_id).state is JobState.RUNNING
    emulator.faults.inject("answer-lost", "requeue", job_id)
    with pytest.raises(SlurmUnavailable):
        client.requeue(job_id)
    assert emulator.job(job_id).state is JobState.PENDING


def test_an_ignored_edit_is_found_by_the_read_back(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(1), begin_s=600.0))
    emulator.faults.inject("ignored", "reshape")
    with pytest.raises(EditIgnored):
        emulator.client().reshape(job_id, RTX8)
    assert emulator.job(job_id).request.gpus == 1


def test_an_edit_that_the_sites_hook_rewrites_is_found_by_the_read_back(emulator: Emulator) -> None:
    job_id = emulator.submit(Submission(gang(1), begin_s=600.0))
    emulator.modify_hook = lambda job, update: Update(nodes=1, tasks=1, cpus=8, gres=(None, 2))
    with pytest.raises(EditIgnored):
        emulator.client().reshape(job_id, RTX8)


def test_a_paused_controller_answers_nobody_while_jobs_run_on(emulator: Emulator) -> None:
    ending = emulator.submit(Submission(gang(4, features="t4")), FixedWork(80.0))
    emulator.advance(1.0)
    waiting = emulator.submit(Submission(gang(8, 2, features="t4")), NeverEnding())
    emulator.advance(1.0)
    emulator.pause_controller(60.0)
    with pytest.raises(SlurmUnavailable):
        emulator.client().jobs()
    emulator.advance(30.0)
    assert emulator.job(waiting).state is JobState.PENDING
    emulator.advance(40.0)
    assert emulator.job(ending).end_state == "COMPLETED"
    assert emulator.job(waiting).state is JobState.RUNNING


def test_a_client_that_calls_too_fast_is_told_to_wait(emulator: Emulator) -> None:
    client = emulator.client(rate_limit_per_s=2.0)
    for _ in range(4):
        client.jobs()
    with pytest.raises(SlurmUnavailable, match="rate"):
        client.jobs()
    emulator.advance(5.0)
    client.jobs()


def test_an_unknown_job_is_named(emulator: Emulator) -> None:
    with pytest.raises(NoSuchJob) as unknown:
        emulator.client().requeue("77")
    assert unknown.value.code == 2017
    assert unknown.value.job_id == "77"


def test_array_tasks_are_jobs_of_their_own(emulator: Emulator) -> None:
    tasks = emulator.submit_array(Submission(gang(1)), [NeverEnding(), NeverEnding()])
    emulator.advance(1.0)
    assert tasks == ["1_0", "1_1"]
    emulator.client().requeue("1_1")
    assert emulator.job("1_0").state is JobState.RUNNING
    assert emulator.job("1_1").state is JobState.PENDING


def test_on_a_fast_real_clock_time_passes_by_itself() -> None:
    for_ever_known = replace(Latencies.none(), min_job_age_s=math.inf)  # however slow this machine is
    emulator = Emulator("hetero64", clock=RealClock(speed=1e4), latencies=for_ever_known)
    job_id = emulator.submit(Submission(gang(1)), FixedWork(10.0))
    client = emulator.client()
    while client.jobs().jobs[0].state is not JobState.ENDED:
        time.sleep(0.001)
    assert emulator.job(job_id).end_state == "COMPLETED"


def test_without_latencies_a_move_is_done_at_one_instant() -> None:
    emulator = Emulator(make_cluster([("t4", 2, 4), ("rtx", 1, 8)]), latencies=Latencies.none())
    job_id = emulator.submit(Submission(gang(4, features="t4")), NeverEnding())
    emulator.settle()
    client = emulator.client()
    client.requeue(job_id)
    client.reshape(job_id, RTX8)
    allocation = emulator.job(job_id).allocation
    assert allocation is not None
    assert allocation.shape == Shape("rtx", 1, 8)
    assert emulator.now_s == 0.0
