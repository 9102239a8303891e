"""The one atomic edit, and what Slurm would refuse it for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.cluster import (
    Allocation,
    GpuLimit,
    GpuType,
    Job,
    JobState,
    Node,
    NodeState,
    Partition,
    Request,
    Reservation,
    Shape,
    Site,
    Snapshot,
)
from slurmsia.config import GpuTypeSection
from slurmsia.declaration import Declaration
from slurmsia.reshape import Reshape, edit_for
from slurmsia.wouldstart import StartRules, would_start

TYPES = {"t4": GpuTypeSection(feature="t4"), "rtx": GpuTypeSection(feature="rtx"), "a100": GpuTypeSection()}
TWO_T4_NODES = Request(nodes=2, tasks=2, cpus=32, memory_mb=64_000, gpus=8, features="t4&ib")
JOB = Job("7", 1000, JobState.PENDING, 0.0, account="lab", partitions=("gpu",), request=TWO_T4_NODES)


def test_the_edit_writes_every_count_and_swaps_the_type_feature_only() -> None:
    edit = edit_for(JOB, Shape("rtx", 1, 8), TYPES)
    assert edit == Reshape(Shape("rtx", 1, 8), tasks=1, cpus=32, memory_mb_per_node=64_000, features="ib&rtx")


def test_tasks_scale_with_nodes_or_with_gpus_as_they_were_submitted() -> None:
    per_gpu = replace(JOB, request=replace(TWO_T4_NODES, tasks=8))
    assert edit_for(per_gpu, Shape("rtx", 1, 4), TYPES).tasks == 4
    assert edit_for(JOB, Shape("rtx", 3, 24), TYPES).tasks == 3
    shrunk = replace(JOB, request=Request(nodes=1, tasks=1, cpus=4, gpus=1))
    assert edit_for(shrunk, Shape("t4", 1, 4), TYPES, submitted=replace(TWO_T4_NODES, tasks=8)).tasks == 4


def test_declared_cpus_and_memory_per_gpu_win_over_the_request() -> None:
    edit = edit_for(JOB, Shape("t4", 1, 2), TYPES, declaration=Declaration(cpus_per_gpu=6, memory_mb_per_gpu=5000))
    assert (edit.cpus, edit.memory_mb_per_node) == (12, 10_000)


@pytest.mark.parametrize(
    ("request_change", "memory"), [({"memory_mb": 0}, 0), ({"memory_mb": None}, None), ({"memory_per_cpu": True}, None)]
)
def test_whole_node_unset_and_per_cpu_memory_keep_their_form(request_change: dict, memory: int | None) -> None:
    job = replace(JOB, request=replace(TWO_T4_NODES, **request_change))
    assert edit_for(job, Shape("t4", 1, 4), TYPES).memory_mb_per_node == memory


def test_an_old_pin_is_cleared_and_a_new_one_written_sorted() -> None:
    pinned = replace(JOB, request=replace(TWO_T4_NODES, required_nodes=("n9",)))
    assert edit_for(pinned, Shape("t4", 1, 4), TYPES).required_nodes == ()
    assert edit_for(JOB, Shape("t4", 1, 4), TYPES).required_nodes is None
    assert edit_for(JOB, Shape("t4", 2, 8), TYPES, pin_to=("n2", "n1")).required_nodes == ("n1", "n2")


def test_a_type_known_by_partition_is_steered_by_partition() -> None:
    types = {"h100": GpuTypeSection(partition="hopper")}
    plain = replace(JOB, request=replace(TWO_T4_NODES, features=""))
    assert edit_for(plain, Shape("h100", 1, 4), types).partition == "hopper"


NODES = tuple(
    Node(f"n{i}", "rtx", 8, 64, 256_000, features=frozenset({"rtx"}), partitions=frozenset({"gpu"})) for i in (1, 2)
)
SNAPSHOT = Snapshot(
    1000.0, NODES, (JOB,), (GpuType("rtx"),), (Partition("gpu", nodes=frozenset({"n1", "n2"}), max_time_s=7200.0),)
)
EDIT = Reshape(Shape("rtx", 1, 8), tasks=1, cpus=32, features="rtx")


def test_slurm_would_start_what_nothing_forbids() -> None:
    assert would_start(JOB, EDIT, SNAPSHOT) is None


@pytest.mark.parametrize(
    ("job", "snapshot", "edit", "word"),
    [
        ({"hold": "user"}, {}, {}, "held"),
        ({"time_limit_s": 9000.0}, {}, {}, "time limit"),
        ({}, {"partitions": (Partition("gpu", up=False),)}, {}, "down"),
        ({}, {"partitions": (Partition("gpu", nodes=frozenset({"n1"}), allow_accounts=frozenset({"x"})),)}, {}, "lab"),
        ({}, {}, {"shape": Shape("rtx", 3, 24)}, "2 of 3"),
        ({}, {}, {"cpus": 65}, "CPUs"),
        ({}, {}, {"memory_mb_per_node": 300_000}, "MB"),
        ({}, {}, {"features": "nvlink"}, "nvlink"),
        ({}, {"nodes": tuple(replace(node, state=NodeState.DRAINED) for node in NODES)}, {}, "drained"),
        ({}, {"limits": (GpuLimit("account lab", 4, account="lab"),)}, {}, "account lab"),
        ({}, {"limits": (GpuLimit("QOS", 4, per_job=True),)}, {}, "QOS"),
        (
            {"request": replace(TWO_T4_NODES, licenses="matlab:2")},
            {"site": Site(licenses=(("matlab", 3, 2),))},
            {},
            "matlab",
        ),
        (
            {"time_limit_s": 3600.0},
            {"reservations": (Reservation("maint", frozenset({"n1", "n2"}), 2000.0, 9000.0),)},
            {},
            "reservation",
        ),
    ],
)
def test_what_slurm_would_refuse_is_said_in_one_sentence(job: dict, snapshot: dict, edit: dict, word: str) -> None:
    why = would_start(replace(JOB, **job), replace(EDIT, **edit), replace(SNAPSHOT, **snapshot))
    assert why is not None
    assert word in why


def test_a_job_shorter_than_the_time_to_a_reservation_still_starts() -> None:
    reserved = replace(SNAPSHOT, reservations=(Reservation("maint", frozenset({"n1", "n2"}), 2000.0, 9000.0),))
    assert would_start(replace(JOB, time_limit_s=900.0), EDIT, reserved) is None


def test_a_shared_limit_counts_what_the_plan_leaves_to_others_not_what_they_hold_now() -> None:
    other = Job("8", 1, JobState.RUNNING, 0.0, account="lab", allocation=Allocation("rtx", (("n1", 8),)))
    limited = replace(SNAPSHOT, jobs=(JOB, other), limits=(GpuLimit("account lab", 10, account="lab"),))
    assert StartRules(limited).refusal(JOB, EDIT) is not None
    assert StartRules(limited, {"8": Shape("rtx", 1, 2)}).refusal(JOB, EDIT) is None
