"""Ground truth from the package's own fitted parameters, for runs without a folder of measured profiles.

Step times follow the shipped step-time model exactly; gradient moments stay constant. Good for the demo and for short
tests, not for claims: those need measured profiles. Reads only the package's data file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from ..models.base import ThroughputParams
from ..models.shipped import applications
from ..models.throughput import overlap, sync_time
from .applications import GPUS_PER_NODE, PROFILED_NODES
from .profiles import ApplicationTruth, Placement, ProfileError, TypeProfile

#: Epochs into which a job's work is cut.
EPOCHS = 20
#: Applications whose shipped models are plain data-parallel ones on every type.
NAMES = ("bert", "cifar10", "deepspeech2", "imagenet", "yolov3")


@dataclass
class ShippedTruth(ApplicationTruth):
    """An application as the shipped parameters describe it."""

    def has(self, gpu_type: str) -> bool:
        return gpu_type in self._types

    def on(self, gpu_type: str) -> TypeProfile:
        found = self._types.get(gpu_type)
        if found is None:
            raise ProfileError(f"{self.name} has no shipped parameters for {gpu_type}")
        return found


def shipped_truth(name: str, work: float) -> ShippedTruth:
    """The truth of one application with ``work`` scale-invariant iterations to do. Raises `ProfileError`."""
    app = applications().get(name)
    if app is None or name not in NAMES:
        raise ProfileError(f"no shipped parameters for `{name}`; there are: {', '.join(NAMES)}")
    sizes = _sizes(app.batch.initial, app.batch.maximum)
    square, variance = app.efficiency.square, app.efficiency.variance
    truth = ShippedTruth(
        name=name,
        folder=Path(),
        batch_sizes=sizes,
        progress=tuple(work * (epoch + 1) / EPOCHS for epoch in range(EPOCHS)),
        square=np.full((len(sizes), EPOCHS), square),
        variance=np.full((len(sizes), EPOCHS), variance),
    )
    for gpu_type in app.types:
        profile = _profile(name, gpu_type)
        if profile is not None:
            # the tables are shared; what a job has looked up in them goes with the job
            truth._types[gpu_type] = replace(profile, _times={}, _placement_local_max={}, _gpus_local_max={})
    return truth


def _sizes(smallest: int, largest: int) -> tuple[int, ...]:
    sizes = [smallest]
    while sizes[-1] * 2 <= largest:
        sizes.append(sizes[-1] * 2)
    if sizes[-1] != largest:
        sizes.append(largest)
    return tuple(sizes)


@cache
def _profile(name: str, gpu_type: str) -> TypeProfile | None:
    """One for all jobs of an application: how much work they have changes none of it."""
    app = applications()[name]
    model = app.types[gpu_type]
    if not isinstance(model.params, ThroughputParams):
        return None
    params = model.params
    local_max = model.local_max or 4 * app.batch.initial
    local_min = min(app.batch.local_min, local_max)
    local = np.unique(np.geomspace(local_min, local_max, 12).round())
    exact: dict[Placement, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    points: list[list[float]] = []
    for placement in _placements(gpu_type):
        nodes, gpus = len(placement), sum(placement)
        grad = params.alpha_c + params.beta_c * local
        sync = sync_time(params, nodes, gpus)
        step = overlap(grad, np.broadcast_to(sync, local.shape), params.gamma)
        exact[placement] = (local, step, np.maximum(step - grad, 0.0))
        points += [[nodes, gpus, m, t, max(t - g, 0.0)] for m, t, g in zip(local, step, grad, strict=True)]
    return TypeProfile(
        application=app.name,
        gpu_type=gpu_type,
        exact=exact,
        points=np.array(points),
        scalability=np.zeros((0, 5)),
        local_min=int(local[0]),
        local_max=int(local[-1]),
        single_ratio=float(local[-1] / exact[(1,)][1][-1]),
    )


def _placements(gpu_type: str) -> list[Placement]:
    """Every count on one node, and equal shares of two to the profiled number of nodes."""
    size = GPUS_PER_NODE.get(gpu_type, 8)
    found: list[Placement] = [(count,) for count in range(1, size + 1)]
    for nodes in range(2, PROFILED_NODES.get(gpu_type, 4) + 1):
        found += [(count,) * nodes for count in range(1, size + 1)]
    return found
