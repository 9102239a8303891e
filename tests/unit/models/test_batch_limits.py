"""A batch that cannot be split within the job's own limits is absent, not exceeded."""

from __future__ import annotations

from slurmsia.cluster import Shape
from slurmsia.models.base import BatchLimits, JobModel, ThroughputParams, TypeModel
from slurmsia.models.goodput import best_batch, goodput_matrix

PARAMS = ThroughputParams(0.01, 0.001, 0.001, 0.001, 0.001, 0.001, 1.5)


def test_a_least_micro_batch_never_pushes_the_total_beyond_its_limit() -> None:
    limits = BatchLimits(initial=73, maximum=73, local_min=3, local_max=3, adaptive=True)
    model = JobModel("1", {"t4": TypeModel("t4", PARAMS, "fit", 0.1)}, limits)
    shape = Shape("t4", 6, 24)
    assert best_batch(model, shape).goodput == 0
    assert goodput_matrix([model], [shape]).goodput[0, 0] == 0


def test_whole_samples_per_gpu_may_still_round_the_smallest_batch_up() -> None:
    limits = BatchLimits(initial=73, maximum=73, local_min=1, local_max=8, adaptive=True)
    model = JobModel("1", {"t4": TypeModel("t4", PARAMS, "fit", 0.1)}, limits)
    found = best_batch(model, Shape("t4", 1, 4))
    assert (found.local_batch, found.accumulation) in {(7, 2), (19, 0), (5, 3), (4, 4), (10, 1)}
    assert found.goodput > 0
