"""The configurations a type offers and how jobs narrow them (SIA.md section 2 worked by hand)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from slurmsia.cluster import Job, JobState, Node, Request
from slurmsia.deciding.configurations import (
    Choices,
    ShapeTable,
    all_shapes,
    allowed,
    node_counts,
    shapes_of_type,
    unit_shapes,
)
from slurmsia.deciding.eligibility import Managed
from slurmsia.declaration import parse
from slurmsia.models.base import JobModel, ThroughputParams, TypeModel
from slurmsia.reshape import PerGpu
from slurmsia.standing import Standing

NODES = (*(Node(f"n{i}", "t4", 4, 32, 64_000) for i in range(3)), Node("x0", "rtx", 6, 24, 96_000))
SHAPES = all_shapes(NODES)
TABLE = ShapeTable.of(SHAPES, NODES)
LIGHT = PerGpu(1.0, 1000.0)
ONE_GPU = Request(gpus=1)


def sizes(gpu_type: str, ok: np.ndarray) -> list[int]:
    return [shape.gpus for shape, good in zip(SHAPES, ok, strict=True) if good and shape.gpu_type == gpu_type]


def managed(comment: str, request: Request = ONE_GPU) -> Managed:
    declaration = parse(comment)
    assert declaration is not None
    return Managed(Job("1", 0, JobState.PENDING, 0.0, request=request), declaration, Standing("1", 0.0), request)


def model(seen: int, known: bool = True) -> JobModel:
    params = ThroughputParams(1, 1, 1, 1, 1, 1, 1)
    return JobModel("1", {"t4": TypeModel("t4", params, "fit", 0.1, max_gpus_seen=seen)}, known=known)


def may_take(job: Managed, fits: NDArray[np.bool_], known: JobModel | None, from_history: bool = False) -> np.ndarray:
    return allowed(job, TABLE, Choices.of(job, TABLE, fits), known, from_history=from_history)


def test_one_node_by_doubling_then_whole_nodes_on_any_node_size() -> None:
    assert [(s.nodes, s.gpus) for s in shapes_of_type("t4", {4: 3})] == [(1, 1), (1, 2), (1, 4), (2, 8), (3, 12)]
    assert [(s.nodes, s.gpus) for s in shapes_of_type("rtx", {6: 1})] == [(1, 1), (1, 2), (1, 4), (1, 6)]


def test_many_nodes_go_up_in_steps_of_a_quarter_and_never_over_64_configurations() -> None:
    assert node_counts(20) == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 20)
    assert len(shapes_of_type("a100", {8: 12_500, 4: 9000, 16: 700})) == 64


def test_a_new_job_starts_at_its_minimum_and_then_at_most_doubles() -> None:
    fits = TABLE.fit(None, LIGHT)
    job = managed("sia: gpus=1-64 signal=USR1@60")
    assert sizes("t4", may_take(job, fits, None)) == [1]
    assert sizes("t4", may_take(job, fits, model(2))) == [1, 2, 4]
    assert sizes("t4", may_take(job, fits, model(4))) == [1, 2, 4, 8]
    least = managed("sia: gpus=3-64 signal=USR1@60")
    assert sizes("t4", may_take(least, fits, None)) == [4]


def test_with_history_a_new_job_starts_at_up_to_twice_what_similar_jobs_were_measured_on() -> None:
    fits = TABLE.fit(None, LIGHT)
    job = managed("sia: gpus=1-64 signal=USR1@60")
    known = replace(model(0), similar_gpus=4)
    assert sizes("t4", may_take(job, fits, known, from_history=True)) == [1, 2, 4, 8]
    assert sizes("t4", may_take(job, fits, known)) == [1]


def test_types_maximum_and_units_narrow_the_set() -> None:
    fits = TABLE.fit(None, LIGHT)
    job = managed("sia: gpus=1-4 types=rtx unit=2 signal=USR1@60")
    ok = may_take(job, fits, model(16))
    assert sizes("t4", ok) == []
    assert sizes("rtx", ok) == [2, 4]
    assert [shape.gpus for shape in unit_shapes("rtx", 3, (8,))] == [3, 6]


def test_a_rigid_job_takes_exactly_what_it_asked_for_on_any_type() -> None:
    job = managed("sia: level=rigid", Request(gpus=4))
    ok = may_take(job, TABLE.fit(None, LIGHT, exact=True), None)
    assert sizes("t4", ok) == [4]
    assert sizes("rtx", ok) == [4]


def test_a_moldable_job_of_a_known_kind_may_start_large_and_an_unknown_one_as_submitted() -> None:
    fits = TABLE.fit(None, LIGHT)
    job = managed("sia: gpus=1-8", Request(gpus=2))
    assert sizes("t4", may_take(job, fits, model(1))) == [1, 2, 4, 8]
    assert sizes("t4", may_take(job, fits, None)) == [1, 2]


def test_cpus_memory_and_closed_nodes_leave_no_configuration_there() -> None:
    assert sizes("rtx", TABLE.fit(None, PerGpu(5.0, None))) == [1, 2, 4]
    assert sizes("t4", TABLE.fit(None, PerGpu(1.0, 20_000.0))) == [1, 2]
    assert sizes("t4", TABLE.fit(frozenset({"n0", "x0"}), LIGHT)) == [1, 2, 4]
    assert sizes("t4", TABLE.fit(None, PerGpu(1.0, None, whole_nodes=True))) == [4, 8, 12]
