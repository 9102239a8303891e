"""Jobs of every shape: what a step of a moved job really gets, which jobs are never ours, and what no write undoes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab import Ask, Lab, StepView, editable, job_of, running, wait_for
from test_conformance import RTX_8, T4_2X2, edit, moved, requeued

from slurmsia.cluster import GpuForm, Job, JobState, Shape
from slurmsia.reshape import Reshape
from slurmsia.slurm.client import EditIgnored, NotPending, SlurmError, SlurmRejected

TYPED = GpuForm.PER_NODE_TYPED


def seen(lab: Lab, job_id: str) -> Job:
    job = job_of(lab, job_id)
    assert job is not None
    return job


def nodes_of(lab: Lab, gpu_type: str) -> tuple[str, ...]:
    return tuple(node.name for node in lab.client.nodes() if node.gpu_type == gpu_type)


def cannot_be_edited(lab: Lab, ask: Ask) -> bool:
    return ask.gpu_type is not None and lab.client.capabilities().slurm_version < (23, 11, 0)


# --- what a step gets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        Ask(gpus=4, nodes=2, feature="t4"),
        Ask(gpus=2, gpu_type="t4", form=TYPED),
        Ask(gpus=2, form=GpuForm.TOTAL, feature="t4"),
        Ask(gpus=4, nodes=2, gpus_per_node=True, feature="t4"),
        Ask(gpus=2, gpu_type="t4", gpus_per_node=True, form=TYPED),
        Ask(gpus=4, nodes=2, feature="t4", tasks_per_node=None, cpus_per_task=3),
        Ask(gpus=2, feature="t4", partitions=("batch", "rtx")),
    ],
    ids=["gres", "gres-typed", "gpus", "gpus-per-node", "gpus-per-node-typed", "cpus-per-task", "two-partitions"],
)
def test_a_step_of_a_moved_job_gets_exactly_the_gpus_cpus_and_memory_of_the_new_shape(lab: Lab, ask: Ask) -> None:
    job_id = lab.submit(ask)
    if cannot_be_edited(lab, ask):
        assert "typed GPUs" in wait_for(lab, job_id, running, "running").unmanageable
        return
    job = moved(lab, job_id, edit(RTX_8, cpus=16, memory_mb_per_node=4000))
    assert job.allocation is not None
    assert job.allocation.gpu_type == "rtx"
    assert lab.step(job_id) == [StepView(job.allocation.nodes[0], 8, 16, 4000)]


def test_each_node_of_a_job_moved_to_two_nodes_gets_its_share(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=8, feature="rtx"))
    job = moved(lab, job_id, edit(T4_2X2, cpus=8, memory_mb_per_node=3000))
    assert job.allocation is not None
    assert lab.step(job_id) == [StepView(node, 2, 4, 3000) for node in job.allocation.nodes]


def test_several_tasks_a_node_get_their_cpus_after_a_move(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=2, feature="t4", tasks_per_node=2, cpus_per_task=2))
    job = moved(lab, job_id, edit(RTX_8, tasks=8, cpus=24, memory_mb_per_node=2000))
    assert job.request.tasks == 8
    assert [(view.gpus, view.cpus, view.memory_mb) for view in lab.step(job_id)] == [(8, 24, 2000)]


def test_a_job_with_whole_nodes_has_whole_nodes_after_a_move(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=4, feature="t4", exclusive=True))
    assert wait_for(lab, job_id, running, "running").request.exclusive
    job = moved(lab, job_id, edit(RTX_8, cpus=8, memory_mb_per_node=4000))
    assert job.request.exclusive
    assert job.allocation is not None
    node = next(node for node in lab.client.nodes() if node.name == job.allocation.nodes[0])
    assert lab.step(job_id) == [StepView(node.name, 8, node.cpus, 4000)]


def test_a_job_with_all_memory_of_its_node_has_all_of_the_new_one(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=4, feature="t4", whole_memory=True))
    assert wait_for(lab, job_id, running, "running").request.memory_mb == 0
    job = moved(lab, job_id, edit(RTX_8, cpus=4, memory_mb_per_node=0))
    assert job.request.memory_mb == 0
    assert job.allocation is not None
    node = next(node for node in lab.client.nodes() if node.name == job.allocation.nodes[0])
    assert lab.step(job_id) == [StepView(node.name, 8, 4, node.memory_mb)]


def test_a_task_of_an_array_gets_its_new_shape_alone(lab: Lab) -> None:
    array = lab.submit(Ask(array="0-1", feature="t4"))
    wait_for(lab, f"{array}_1", running, "running")
    job = moved(lab, f"{array}_0", edit(Shape("rtx", 1, 2), cpus=4, memory_mb_per_node=3000))
    assert job.allocation is not None
    assert lab.step(f"{array}_0") == [StepView(job.allocation.nodes[0], 2, 4, 3000)]
    assert [(view.gpus, view.cpus, view.memory_mb) for view in lab.step(f"{array}_1")] == [(1, 1, 100)]


def test_a_job_of_two_partitions_tells_both_and_can_be_given_one(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=1, feature="t4", partitions=("batch", "rtx"), begin_in_s=300))
    assert set(seen(lab, job_id).partitions) == {"batch", "rtx"}
    lab.client.reshape(job_id, edit(Shape("rtx", 1, 2), partition="rtx"))
    job = wait_for(lab, job_id, running, "running")
    assert job.partitions == ("rtx",)
    assert job.allocation is not None
    assert (job.allocation.gpu_type, job.allocation.gpus) == ("rtx", 2)


def test_a_time_limit_is_written_with_the_shape(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4", time_limit_min=30, begin_in_s=300))
    lab.client.reshape(job_id, edit(Shape("rtx", 1, 2), time_limit_s=1200.0, begin_s=lab.client.now_s() + 600))
    assert seen(lab, job_id).time_limit_s == 1200.0


# --- jobs that are never ours ---------------------------------------------------------------------------------------


def test_every_component_of_a_heterogeneous_job_is_left_alone_and_its_gpus_count_as_held(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=2, feature="t4", heterogeneous=True))
    wait_for(lab, job_id, running, "running")
    other = wait_for(lab, str(int(job_id) + 1), running, "running")
    for job in (seen(lab, job_id), other):
        assert "heterogeneous" in job.unmanageable
        assert job.allocation is not None
        assert (job.allocation.gpu_type, job.allocation.gpus) == ("t4", 2)


def test_a_job_in_a_reservation_is_left_alone_and_its_gpus_count_as_held(lab: Lab) -> None:
    lab.reserve("ours", nodes_of(lab, "rtx"), 0, 3600)
    job_id = lab.submit(Ask(gpus=2, feature="rtx", reservation="ours", partitions=("rtx",)))
    job = wait_for(lab, job_id, running, "running")
    assert "reservation ours" in job.unmanageable
    assert job.allocation is not None
    assert (job.allocation.gpu_type, job.allocation.gpus) == ("rtx", 2)


def test_a_reservation_that_begins_before_the_time_limit_ends_is_no_place_to_move_to(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=1, feature="t4", time_limit_min=30, partitions=("batch", "rtx")))
    wait_for(lab, job_id, running, "running")
    lab.reserve("soon", nodes_of(lab, "rtx"), 600, 3600)
    snapshot = replace(lab.client.snapshot(), reservations=lab.client.reservations())
    (reservation,) = (found for found in snapshot.reservations if found.name == "soon")
    assert reservation.nodes == frozenset(nodes_of(lab, "rtx"))
    assert abs(reservation.start_s - snapshot.taken_s - 600) < 90
    why = lab.client.would_start(seen(lab, job_id), edit(Shape("rtx", 1, 2)), snapshot)
    assert why is not None
    assert "reservation" in why
    assert lab.client.would_start(seen(lab, job_id), edit(Shape("rtx", 1, 2), time_limit_s=300.0), snapshot) is None
    assert lab.client.would_start(seen(lab, job_id), edit(Shape("t4", 1, 2)), snapshot) is None


# --- what no write of ours undoes -----------------------------------------------------------------------------------


def test_no_write_of_ours_releases_a_users_hold(lab: Lab) -> None:
    job_id = lab.submit(Ask(held=True, feature="t4"))
    assert wait_for(lab, job_id, lambda job: job.hold != "", "held").hold == "user"
    for write in (
        lambda: lab.client.renew_leases({job_id: lab.client.now_s() + 300}),
        lambda: lab.client.reshape(job_id, edit(Shape("rtx", 1, 2))),
        lambda: lab.client.clear_pins(job_id),
        lambda: lab.client.end_lease(job_id),
    ):
        write()
        lab.pass_time(1.0)
        assert (seen(lab, job_id).state, seen(lab, job_id).hold) == (JobState.PENDING, "user")


def test_a_job_that_slurm_holds_after_a_failed_launch_is_started_again(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4"))
    before = wait_for(lab, job_id, running, "running")
    requeued(lab, job_id)
    assert before.allocation is not None
    lab.pass_time(2.0)
    lab.launches(fail=True)
    lab.client.reshape(job_id, edit(Shape("t4", 1, 2), required_nodes=before.allocation.nodes))
    job = wait_for(lab, job_id, lambda job: job.hold != "", "held")
    assert (job.state, job.hold) == (JobState.PENDING, "launch-failure")
    lab.launches(fail=False)
    wait_for(lab, job_id, editable, "editable")
    # As in `moved`: a node that ended the failed launch within the same second kills the next. The mover waits, too.
    lab.pass_time(2.0)
    lab.client.end_launch_failure_hold(job_id)
    lab.client.end_lease(job_id)
    job = wait_for(lab, job_id, running, "running")
    assert job.allocation is not None
    assert (job.allocation.nodes, job.allocation.gpus) == (before.allocation.nodes, 2)


def test_no_write_of_ours_ends_a_jobs_wait_for_another(lab: Lab) -> None:
    first = lab.submit(Ask(feature="t4"))
    second = lab.submit(Ask(feature="t4", after=first))
    wait_for(lab, first, running, "running")
    lab.client.reshape(second, edit(Shape("rtx", 1, 2)))
    lab.client.end_lease(second)
    lab.pass_time(4.0)
    job = seen(lab, second)
    assert (job.state, job.request.gpus) == (JobState.PENDING, 2)
    assert first in job.dependency
    why = lab.client.would_start(job, edit(Shape("rtx", 1, 2)), lab.client.snapshot())
    assert why is not None
    assert "dependency" in why


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        Reshape(Shape("rtx", 1, 2), 1, 1, features="no-such-feature"),
        Reshape(Shape("rtx", 1, 2), 1, 1, features="rtx", partition="no-such-partition"),
        Reshape(Shape("rtx", 1, 2), 1, 1, features="rtx", required_nodes=("no-such-node",)),
    ],
    ids=["feature", "partition", "node"],
)
def test_an_edit_with_one_bad_field_changes_no_field(lab: Lab, wrong: Reshape) -> None:
    job_id = lab.submit(Ask(gpus=1, feature="t4", begin_in_s=300))
    before = seen(lab, job_id)
    with pytest.raises(SlurmRejected):
        lab.client.reshape(job_id, wrong)
    after = seen(lab, job_id)
    assert (after.request, after.partitions, after.state) == (before.request, before.partitions, JobState.PENDING)


def test_an_edit_that_the_sites_plugin_rewrites_is_named_with_what_was_wanted_and_found(lab: Lab) -> None:
    lab.rewrite_edits_of("stubborn", "t4")
    job_id = lab.submit(Ask(gpus=1, feature="t4", begin_in_s=300, name="stubborn"))
    with pytest.raises(EditIgnored) as ignored:
        lab.client.reshape(job_id, edit(Shape("rtx", 1, 2), begin_s=lab.client.now_s() + 300))
    assert (ignored.value.job_id, ignored.value.wanted, ignored.value.found) == (job_id, "rtx", "t4")
    assert ignored.value.fieldname.lower() == "features"


def test_a_job_that_is_still_completing_cannot_be_edited_yet(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4", script="trap '' TERM; while :; do sleep 1; done"))
    wait_for(lab, job_id, running, "running")
    lab.step(job_id)
    lab.client.requeue(job_id)
    job = seen(lab, job_id)
    if job.completing:
        with pytest.raises(NotPending) as refused:
            lab.client.reshape(job_id, edit(RTX_8))
        assert lab.live is False or refused.value.retryable
    job = wait_for(lab, job_id, editable, "editable")
    assert job.request.gpus == 1


@pytest.mark.parametrize("write", ["clear_pins", "end_lease", "reshape"])
def test_what_only_a_waiting_job_takes_is_refused_for_a_running_one(lab: Lab, write: str) -> None:
    job_id = lab.submit(Ask(feature="t4"))
    before = wait_for(lab, job_id, running, "running")
    arguments = (edit(RTX_8),) if write == "reshape" else ()
    with pytest.raises(NotPending):
        getattr(lab.client, write)(job_id, *arguments)
    after = seen(lab, job_id)
    assert (after.request, after.allocation, after.state) == (before.request, before.allocation, JobState.RUNNING)


def test_a_running_job_keeps_its_nodes_when_it_is_shrunk_wrongly(lab: Lab) -> None:
    job_id = lab.submit(Ask(gpus=4, nodes=2, feature="t4"))
    job = wait_for(lab, job_id, running, "running")
    assert job.allocation is not None
    elsewhere = nodes_of(lab, "rtx")[:1]
    for wrong in (job.allocation.nodes[1:], elsewhere):
        with pytest.raises(SlurmError):
            lab.client.shrink(job_id, wrong)
    assert seen(lab, job_id).allocation == job.allocation


def test_the_id_of_a_whole_array_requeues_no_task(lab: Lab) -> None:
    array = lab.submit(Ask(array="0-1", feature="t4"))
    tasks = [wait_for(lab, f"{array}_{task}", running, "running") for task in (0, 1)]
    with pytest.raises(SlurmRejected):
        lab.client.requeue(array)
    for job in tasks:
        assert (seen(lab, job.id).state, seen(lab, job.id).restarts) == (JobState.RUNNING, job.restarts)


def test_a_message_reaches_the_jobs_owner(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4", output="notified.out"))
    wait_for(lab, job_id, running, "running")
    lab.step(job_id)
    lab.client.notify(job_id, "slurmsia: a message = with 'signs' \"and\" $(no shell)")
    if lab.live:
        told = lab.output(job_id, "notified.out")  # type: ignore[attr-defined]
        assert "a message = with 'signs' \"and\" $(no shell)" in told


def test_a_second_requeue_of_a_moved_job_is_refused_and_changes_nothing_more(lab: Lab) -> None:
    job_id = lab.submit(Ask(feature="t4"))
    wait_for(lab, job_id, running, "running")
    job = requeued(lab, job_id)
    with pytest.raises(SlurmRejected):
        lab.client.requeue(job_id)
    assert seen(lab, job_id).restarts == job.restarts
