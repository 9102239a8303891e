"""What every Slurm client promises, on the emulator and on every live release alike."""

from __future__ import annotations

import pytest
from lab import Ask, Lab, editable, job_of, running, wait_for

from slurmsia.cluster import GpuForm, Job, JobState, NodeState, Shape
from slurmsia.reshape import Reshape
from slurmsia.slurm.client import EditIgnored, NoSuchJob, NotPending, SlurmRejected

T4_2X2 = Shape("t4", 2, 4)
RTX_8 = Shape("rtx", 1, 8)
T4_1 = Shape("t4", 1, 1)


def edit(shape: Shape, *, tasks: int | None = None, cpus: int | None = None, **more: object) -> Reshape:
    tasks = shape.nodes if tasks is None else tasks
    return Reshape(shape, tasks, tasks if cpus is None else cpus, features=shape.gpu_type, **more)  # type: ignore[arg-type]


def requeued(lab: Lab, job_id: str) -> Job:
    lab.client.requeue(job_id)
    return wait_for(lab, job_id, editable, "pending and editable")


def moved(lab: Lab, job_id: str, to: Reshape) -> Job:
    """One whole move: requeue, edit, running.

    The pause matters: a node that ended the job's last run in the same second takes the new credential for the revoked
    one, and Slurm then *ends* the job ("Killing non-startable batch", seen on 22.05). The mover waits likewise.
    """
    before = wait_for(lab, job_id, running, "running")
    requeued(lab, job_id)
    lab.pass_time(2.0)
    lab.client.reshape(job_id, to)
    return wait_for(lab, job_id, lambda job: running(job) and job.restarts > before.restarts, "running again")


# --- reads ----------------------------------------------------------------------------------------------------------


def test_the_snapshot_names_every_node_with_its_gpus_and_type(lab: Lab) -> None:
    snapshot = lab.client.snapshot()
    by_type: dict[str, list[int]] = {}
    for node in snapshot.nodes:
        assert node.state is NodeState.UP, node
        by_type.setdefault(str(node.gpu_type), []).append(node.gpus)
    assert by_type == {"a100": [8], "rtx": [8, 8], "t4": [4, 4, 4]}
    assert {kind.name for kind in snapshot.gpu_types} == {"a100", "rtx", "t4"}
    assert any(partition.name == "batch" and partition.up for partition in snapshot.partitions)


def test_gpus_held_are_told_by_job_node_and_type(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=4, nodes=2, feature="t4"))
    job = wait_for(lab, job_id, running, "running")
    assert job.allocation is not None
    assert job.allocation.gpu_type == "t4"
    assert [gpus for _, gpus in job.allocation.gpus_by_node] == [2, 2]


def test_user_text_comes_back_as_it_was_written_and_moves_nothing_else(lab: Lab) -> None:
    name = "x UserId=0(root) JobState=FAILED"
    comment = 'sia: gpus=1-8 "é" a=b JobId=1 Partition=none'
    job_id = lab.submit(Ask(name=name, comment=comment, held=True))
    job = wait_for(lab, job_id, lambda job: job.hold == "user", "held by its user")
    assert (job.name, job.comment, job.state) == (name, comment, JobState.PENDING)
    assert job.user_id != 0


def test_each_array_task_has_an_id_of_its_own(lab: Lab) -> None:
    array = lab.submit(Ask(array="0-1", feature="t4"))
    for task in (0, 1):
        job = wait_for(lab, f"{array}_{task}", running, "running")
        assert job.unmanageable == ""


@pytest.mark.parametrize(
    ("ask", "form", "gpus"),
    [
        (Ask(gpus=2), GpuForm.PER_NODE_UNTYPED, 2),
        (Ask(gpus=2, gpu_type="t4", form=GpuForm.PER_NODE_TYPED), GpuForm.PER_NODE_TYPED, 2),
        (Ask(gpus=2, form=GpuForm.TOTAL), GpuForm.TOTAL, 2),
        (Ask(gpus=4, nodes=2), GpuForm.PER_NODE_UNTYPED, 4),
    ],
)
def test_how_a_job_asked_for_gpus_is_told(lab: Lab, ask: Ask, form: GpuForm, gpus: int) -> None:
    job_id = lab.submit(ask)
    job = wait_for(lab, job_id, running, "running")
    assert (job.request.gpu_form, job.request.gpus, job.request.nodes) == (form, gpus, ask.nodes)


def test_a_job_that_may_not_be_requeued_is_called_unmanageable(lab: Lab) -> None:
    job_id = lab.submit(Ask(requeue=False))
    job = wait_for(lab, job_id, running, "running")
    assert "--no-requeue" in job.unmanageable


def test_a_dependent_job_shows_that_it_waits_for_another(lab: Lab) -> None:
    first = lab.submit(Ask())
    second = lab.submit(Ask(after=first))
    wait_for(lab, first, running, "running")
    job = wait_for(lab, second, lambda job: job.state is JobState.PENDING and bool(job.dependency), "dependent")
    assert first in job.dependency


# --- the move -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        Ask(gpus=4, nodes=2, feature="t4"),
        Ask(gpus=4, nodes=2, feature="t4", tasks_per_node=None),
        Ask(gpus=4, nodes=2, feature="t4", cpus_per_task=2),
        Ask(gpus=2, form=GpuForm.TOTAL, feature="t4"),
        Ask(gpus=4, nodes=2, feature="t4", whole_memory=True),
    ],
    ids=["gres", "no-tasks-per-node", "cpus-per-task", "gpus-total", "whole-memory"],
)
def test_a_move_gives_the_job_exactly_the_new_shape_and_its_steps_too(lab: Lab, ask: Ask) -> None:
    job_id = lab.submit(ask)
    job = moved(lab, job_id, edit(RTX_8, cpus=4))
    assert job.allocation is not None
    assert (job.allocation.gpu_type, job.allocation.gpus, len(job.allocation.nodes)) == ("rtx", 8, 1)
    (view,) = lab.step(job_id)
    assert (view.node, view.gpus) == (job.allocation.nodes[0], 8)
    assert view.cpus >= 4


def test_a_job_grows_from_one_gpu_to_two_nodes_and_shrinks_back(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=1, feature="t4"))
    grown = moved(lab, job_id, edit(T4_2X2))
    assert grown.allocation is not None
    assert [gpus for _, gpus in grown.allocation.gpus_by_node] == [2, 2]
    assert [view.gpus for view in lab.step(job_id)] == [2, 2]
    small = moved(lab, job_id, edit(T4_1))
    assert small.allocation is not None
    assert small.allocation.gpus == 1
    assert [view.gpus for view in lab.step(job_id)] == [1]


def test_a_typed_request_moves_to_another_type(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=2, gpu_type="t4", form=GpuForm.PER_NODE_TYPED))
    if lab.client.capabilities().slurm_version < (23, 11, 0):
        job = wait_for(lab, job_id, running, "running")
        assert "typed GPUs" in job.unmanageable
        return
    job = moved(lab, job_id, edit(Shape("rtx", 1, 4)))
    assert job.allocation is not None
    assert (job.allocation.gpu_type, job.allocation.gpus) == ("rtx", 4)


def test_required_nodes_pin_a_job_and_can_be_cleared_again(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=1, feature="t4"))
    wait_for(lab, job_id, running, "running")
    requeued(lab, job_id)
    target = next(node.name for node in lab.client.nodes() if node.gpu_type == "rtx" and "batch" in node.partitions)
    later = lab.client.now_s() + 300
    lab.client.reshape(job_id, edit(Shape("rtx", 1, 2), required_nodes=(target,), begin_s=later))
    job = job_of(lab, job_id)
    assert job is not None
    assert job.request.required_nodes == (target,)
    lab.client.clear_pins(job_id)
    job = job_of(lab, job_id)
    assert job is not None
    assert job.request.required_nodes == ()
    lab.client.end_lease(job_id)
    wait_for(lab, job_id, running, "running")


def test_array_tasks_move_one_by_one(lab: Lab) -> None:
    array = lab.submit(Ask(array="0-1", feature="t4"))
    first, second = f"{array}_0", f"{array}_1"
    wait_for(lab, second, running, "running")
    before = wait_for(lab, second, running, "running").restarts
    job = moved(lab, first, edit(Shape("rtx", 1, 2)))
    assert job.allocation is not None
    assert job.allocation.gpu_type == "rtx"
    other = job_of(lab, second)
    assert other is not None
    assert (other.state, other.restarts) == (JobState.RUNNING, before)


# --- leases and the dead-man's switch -------------------------------------------------------------------------------


def test_a_requeued_job_gets_the_begin_time_that_starts_it_by_itself(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4"))
    wait_for(lab, job_id, running, "running")
    job = requeued(lab, job_id)
    delay = lab.client.site().requeue_delay_s
    assert delay >= 60
    assert job.begin_s is not None
    assert abs(job.begin_s - lab.client.now_s() - delay) < 30
    assert job.hold == ""


def test_a_requeue_is_counted_no_later_than_it_moves_the_submit_time(lab: Lab) -> None:
    """By this the store tells a requeued job from another one under its id, whenever it looks."""
    job_id = lab.submit(Ask(feature="t4", dies_s=3))
    before = wait_for(lab, job_id, running, "running")
    lab.pass_time(2.0)
    lab.client.requeue(job_id)
    seen = [before, wait_for(lab, job_id, lambda job: job.completing, "completing")]
    seen.append(wait_for(lab, job_id, editable, "pending and editable"))
    assert [job.restarts - before.restarts for job in seen] in ([0, 0, 1], [0, 1, 1])
    moved_by_s = [job.submit_s - before.submit_s for job in seen]
    assert moved_by_s == sorted(moved_by_s)
    assert moved_by_s[-1] > 0
    assert all(job.restarts > before.restarts for job, by_s in zip(seen, moved_by_s, strict=True) if by_s > 0)


def test_a_lease_is_renewed_and_ended(lab: Lab) -> None:
    job_id = lab.submit(Ask(begin_in_s=120))
    until = round(lab.client.now_s()) + 900.0
    assert lab.client.renew_leases({job_id: until}) == {}
    job = job_of(lab, job_id)
    assert job is not None
    assert job.begin_s is not None
    assert abs(job.begin_s - until) < 2
    assert (job.state, job.hold) == (JobState.PENDING, "")
    lab.client.end_lease(job_id)
    wait_for(lab, job_id, running, "running")


def test_an_edit_with_a_later_begin_leaves_the_job_on_a_lease(lab: Lab) -> None:
    job_id = lab.submit(Ask(begin_in_s=300))
    until = round(lab.client.now_s()) + 600.0
    lab.client.reshape(job_id, edit(RTX_8, begin_s=until))
    job = job_of(lab, job_id)
    assert job is not None
    assert (job.state, job.request.gpus, job.request.nodes) == (JobState.PENDING, 8, 1)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_running_job_cannot_be_reshaped(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4"))
    before = wait_for(lab, job_id, running, "running")
    with pytest.raises(NotPending):
        lab.client.reshape(job_id, edit(RTX_8))
    after = job_of(lab, job_id)
    assert after is not None
    assert after.allocation == before.allocation


def test_a_job_that_does_not_exist_is_named_as_such(lab: Lab) -> None:
    with pytest.raises(NoSuchJob):
        lab.client.requeue("999999")
    with pytest.raises(NoSuchJob):
        lab.client.reshape("999999", edit(RTX_8))
    assert isinstance(lab.client.renew_leases({"999999": lab.client.now_s() + 300})["999999"], NoSuchJob)


def test_a_pending_job_cannot_be_requeued(lab: Lab) -> None:
    job_id = lab.submit(Ask(held=True))
    with pytest.raises(SlurmRejected):
        lab.client.requeue(job_id)


def test_a_job_that_its_user_cancelled_is_not_put_back(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4"))
    wait_for(lab, job_id, running, "running")
    lab.cancel(job_id)
    with pytest.raises(SlurmRejected, match=r"cancelled|is ending"):
        lab.client.requeue(job_id)
    ended = wait_for(lab, job_id, lambda job: job.state is JobState.ENDED and not job.completing, "ended")
    assert ended.end_state == "CANCELLED"
    with pytest.raises(NoSuchJob, match="cancelled"):
        lab.client.requeue(job_id)
    lab.pass_time(2.0)
    assert job_of(lab, job_id) in (None, ended)


def test_a_job_without_requeue_cannot_be_requeued(lab: Lab) -> None:
    job_id = lab.submit(Ask(requeue=False))
    wait_for(lab, job_id, running, "running")
    with pytest.raises(SlurmRejected):
        lab.client.requeue(job_id)
    job = job_of(lab, job_id)
    assert job is not None
    assert job.state is JobState.RUNNING


def test_a_shape_that_no_node_has_never_starts_in_another_one(lab: Lab) -> None:
    job_id = lab.submit(Ask(begin_in_s=300))
    try:
        lab.client.reshape(job_id, edit(Shape("t4", 1, 64)))
    except (SlurmRejected, EditIgnored):
        return
    lab.pass_time(4.0)
    job = job_of(lab, job_id)
    assert job is not None
    assert job.state is JobState.PENDING


def test_a_users_hold_is_told_and_never_released_by_us(lab: Lab) -> None:
    job_id = lab.submit(Ask(held=True))
    job = wait_for(lab, job_id, lambda job: job.hold != "", "held")
    assert job.hold == "user"
    with pytest.raises(SlurmRejected):
        lab.client.end_launch_failure_hold(job_id)
    job = job_of(lab, job_id)
    assert job is not None
    assert job.hold == "user"


def test_a_running_job_on_two_nodes_gives_one_back(lab: Lab) -> None:
    if not lab.client.capabilities().shrink:
        pytest.skip("this site disables shrinking")
    job_id = lab.submit(Ask(gpus=4, nodes=2, feature="t4"))
    job = wait_for(lab, job_id, running, "running")
    assert job.allocation is not None
    keep = job.allocation.nodes[:1]
    lab.client.shrink(job_id, keep)
    after = wait_for(lab, job_id, lambda job: job.allocation is not None and len(job.allocation.nodes) == 1, "shrunk")
    assert after.state is JobState.RUNNING
    assert after.allocation is not None
    assert after.allocation.nodes == keep


def test_a_signal_reaches_the_batch_shell(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4", script="trap 'exit 3' USR1; while :; do sleep 0.2; done"))
    wait_for(lab, job_id, running, "running")
    lab.step(job_id)
    lab.client.signal(job_id, "USR1")
    if lab.live:
        job = wait_for(lab, job_id, lambda job: job.state is JobState.ENDED, "ended by its own trap")
        assert (job.end_state, job.exit_code) == ("FAILED", 3)


def test_a_job_that_our_signal_ends_says_so(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4", script="while :; do sleep 0.2; done"))
    wait_for(lab, job_id, running, "running")
    lab.step(job_id)
    lab.client.signal(job_id, "USR1")
    if lab.live:
        job = wait_for(lab, job_id, lambda job: job.state is JobState.ENDED, "ended by the signal")
        assert (job.end_state, job.exit_code) == ("FAILED", 128 + 10)


@pytest.mark.parametrize("name", ["KILL", "TERM", "USR1; rm -rf /", ""])
def test_a_signal_that_is_no_request_for_a_checkpoint_is_refused(lab: Lab, name: str) -> None:
    job_id = lab.submit(Ask(feature="t4"))
    wait_for(lab, job_id, running, "running")
    with pytest.raises(SlurmRejected):
        lab.client.signal(job_id, name)


@pytest.mark.parametrize("job_id", ["1; true", "-1", "1 2", "$(id)", "1_", "", "1,2"])
def test_nothing_but_a_job_id_ever_reaches_slurm(lab: Lab, job_id: str) -> None:
    with pytest.raises(SlurmRejected):
        lab.client.requeue(job_id)


def test_the_client_says_that_slurm_is_there(lab: Lab) -> None:
    health = lab.client.health()
    assert health.up, health.sentence
