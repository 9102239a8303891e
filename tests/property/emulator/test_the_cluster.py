"""Whatever users, nodes and clients do, the emulated cluster gives nothing out twice and loses no job."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from slurmsia.cluster import GpuForm, JobState, NodeState, Shape
from slurmsia.reshape import Reshape
from slurmsia.slurm.client import SlurmError
from slurmsia.slurm.emulator import Emulator, FixedWork, Latencies, Submission, gang, make_cluster

deeds = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from([(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (6, 2)]),
        st.sampled_from([GpuForm.PER_NODE_UNTYPED, GpuForm.TOTAL]),
        st.sampled_from(["", "t4", "rtx"]),
    ),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 3.0, 60.0, 130.0, 700.0])),
    st.tuples(
        st.sampled_from(["requeue", "cancel", "hold", "release", "signal", "end_lease", "preempt"]), st.integers(0, 9)
    ),
    st.tuples(st.just("reshape"), st.integers(0, 9), st.sampled_from([("t4", 1, 4), ("rtx", 1, 8), ("t4", 2, 8)])),
    st.tuples(st.sampled_from(["fail", "drain", "resume"]), st.sampled_from(["t4-01", "t4-02", "rtx-01"])),
    st.tuples(st.just("pause"), st.sampled_from([5.0, 100.0])),
)


def _do(emulator: Emulator, jobs: list[str], deed: tuple) -> None:  # type: ignore[type-arg]
    name = deed[0]
    client = emulator.client()
    if name == "submit":
        gpus, nodes = deed[1]
        if deed[2] is GpuForm.PER_NODE_UNTYPED and gpus % nodes:
            return
        request = gang(gpus, nodes, form=deed[2], features=deed[3])
        jobs.append(emulator.submit(Submission(request, time_limit_s=3000.0), FixedWork(2000.0, report_every_s=None)))
    elif name == "advance":
        emulator.advance(deed[1])
    elif name == "pause":
        emulator.pause_controller(deed[1])
    elif name in ("fail", "drain", "resume"):
        {"fail": emulator.fail_node, "drain": emulator.drain, "resume": emulator.resume}[name](deed[1])
    elif jobs:
        job_id = jobs[deed[1] % len(jobs)]
        if name == "reshape":
            gpu_type, nodes, gpus = deed[2]
            edit = Reshape(Shape(gpu_type, nodes, gpus), nodes, 4 * gpus, features=gpu_type)
            client.reshape(job_id, edit)
        else:
            {
                "requeue": client.requeue,
                "cancel": emulator.user_cancel,
                "hold": emulator.user_hold,
                "release": emulator.user_release,
                "signal": lambda one: client.signal(one, "USR1"),
                "end_lease": client.end_lease,
                "preempt": emulator.preempt,
            }[name](job_id)


@settings(max_examples=150, deadline=None)
@given(st.lists(deeds, max_size=40), st.sampled_from([Latencies.none(), Latencies(completing_s=2.0)]))
def test_no_gpu_is_given_out_twice_and_no_job_disappears(story: list[tuple], latencies: Latencies) -> None:  # type: ignore[type-arg]
    emulator = Emulator(make_cluster([("t4", 2, 4), ("rtx", 1, 8)]), latencies=latencies)
    total = {node.name: (node.gpus, node.cpus, node.memory_mb) for node in emulator.node_views()}
    jobs: list[str] = []
    for deed in story:
        try:
            _do(emulator, jobs, deed)
        except SlurmError:
            continue
        finally:
            used = {name: [0, 0, 0] for name in total}
            for record in emulator.records.values():
                assert (record.allocation is not None) == bool(record.grants)
                assert not (record.state is JobState.RUNNING and not record.grants)
                for name, *need in record.grants:
                    used[name] = [have + want for have, want in zip(used[name], need, strict=True)]
            for name, node in emulator.nodes.items():
                free = (node.free_gpus, node.free_cpus, node.free_mb)
                assert all(have >= 0 for have in free)
                assert tuple(u + f for u, f in zip(used[name], free, strict=True)) == total[name]
    for job_id in jobs:
        assert emulator.job(job_id).id == job_id
    for run in emulator.accounting:
        assert run.end_s >= run.start_s >= run.submit_s


@settings(max_examples=50, deadline=None)
@given(st.lists(deeds, max_size=30))
@example(
    story=[
        ("submit", (1, 1), GpuForm.TOTAL, ""),
        ("advance", 0.5),
        ("submit", (8, 1), GpuForm.PER_NODE_UNTYPED, ""),
        ("advance", 0.5),
        ("submit", (1, 1), GpuForm.PER_NODE_UNTYPED, ""),
        ("advance", 0.5),
    ]
)
def test_a_view_is_never_stale(story: list[tuple]) -> None:  # type: ignore[type-arg]
    """Cached views of jobs and nodes always say what the controller's records say."""
    emulator = Emulator(make_cluster([("t4", 2, 4), ("rtx", 1, 8)]))
    jobs: list[str] = []
    for deed in story:
        try:
            _do(emulator, jobs, deed)
        except SlurmError:
            continue
        finally:
            for job in emulator.jobs():
                record = emulator.records[job.id]
                assert (job.state, job.hold, job.completing, job.begin_s, job.restarts, job.reason) == (
                    record.state, record.hold, record.completing, record.begin_s, record.restarts, record.reason,
                )  # fmt: skip
                assert (job.request, job.allocation, job.comment) == (
                    record.request,
                    record.allocation,
                    record.comment,
                )
            for node in emulator.node_views():
                kept = emulator.nodes[node.name]
                # a node that is up may be shown as planned by backfill for a job that waits
                assert node.state in ((kept.state, NodeState.PROMISED) if kept.state is NodeState.UP else (kept.state,))
                kept.view = None
                assert emulator._node_view(kept) == node
