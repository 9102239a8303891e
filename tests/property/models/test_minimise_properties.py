"""The minimiser's derivatives are those of its loss, whatever parts of the network a job has used."""

from __future__ import annotations

import numpy as np
import pytest

from slurmsia.models.groups import Groups
from slurmsia.models.minimise import GAMMA, evaluate, problem_of

SHAPES = {
    "one GPU": [(1, 1), (1, 1), (1, 1)],
    "one node": [(1, 1), (1, 2), (1, 4)],
    "several nodes": [(2, 8), (4, 16), (2, 2)],
    "both": [(1, 1), (1, 4), (2, 8)],
    "shared links": [(1, 4), (2, 2), (3, 12)],
}


@pytest.mark.parametrize("accumulation", [0.0, 2.0])
@pytest.mark.parametrize("reported", [(True, True, True), (True, False, True)])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_gradient_is_the_slope_of_the_loss(
    shapes: list[tuple[int, int]], reported: tuple[bool, ...], accumulation: float
) -> None:
    nodes, gpus = np.array(shapes, dtype=np.float64).T
    step = np.array([0.4, 0.7, 1.3])
    groups = Groups(
        nodes=nodes,
        gpus=gpus,
        local_batch=np.array([8.0, 32.0, 64.0]),
        accumulation=np.array([0.0, accumulation, 0.0]),
        step_s=step,
        grad_s=np.where(reported, 0.8 * step, np.nan),
        weight=np.array([0.5, 0.2, 0.3]),
        count=np.ones(3),
    )
    problem = problem_of(groups, groups.weight)
    x = np.array([0.05, 0.008, 0.04, 0.3, 0.03, 0.2, 1.7, 0.6])[: len(problem.free)]
    _, gradient, _ = evaluate(problem, x)
    for index in range(len(x)):
        near = 1e-6 * np.eye(len(x))[index]
        slope = (evaluate(problem, x + near)[0] - evaluate(problem, x - near)[0]) / 2e-6
        assert gradient[index] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_only_what_was_measured_is_free() -> None:
    def free(shapes: list[tuple[int, int]], batches: list[float]) -> list[bool]:
        nodes, gpus = np.array(shapes, dtype=np.float64).T
        ones = np.ones(len(shapes))
        found = problem_of(Groups(nodes, gpus, np.array(batches), 0 * ones, ones, ones, ones, ones), ones)
        return found.free.tolist()

    assert free([(1, 1), (1, 1)], [8, 8]) == [False, True, False, False, False, False, False]
    assert free([(1, 1), (1, 1)], [8, 16]) == [True, True, False, False, False, False, False]
    assert free([(1, 2), (1, 1)], [8, 8]) == [False, True, False, False, True, False, True]
    assert free([(1, 4), (2, 2)], [8, 8]) == [False, True, True, False, True, True, True]
    assert free([(2, 4), (1, 1)], [8, 8])[:GAMMA] == [False, True, True, True, False, False]
    # how GPUs of a node share its links: told by several numbers of them across nodes, beside several on one node
    assert free([(1, 4), (2, 2), (2, 8)], [8, 8, 8]) == [False, True, True, True, True, True, True, True]
    assert len(free([(1, 4), (2, 8), (4, 16)], [8, 8, 8])) == len(free([(1, 1), (2, 2), (2, 8)], [8, 8, 8])) == 7
