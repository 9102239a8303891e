"""The batch that a job is told now, chosen for the noise of the time for which it will hold it.

Configurations are valued with the noise of a while ahead, because a choice of GPUs lasts; a batch lasts until the job's
next report only. At the start of training, where noise may grow tenfold within minutes, one number for both costs a
short job a tenth of its speed. So the way ahead (`noise.way`) is walked at the speed that the model promises, with the
best batch at each of its points, into the time for which the batch is held; the best batch there is the one to tell.
Pure; must never value a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..cluster import JobId, Shape
from .base import EfficiencyModel, JobModel, NoiseAhead, PipelineParams, ThroughputParams, TypeModel
from .batch import Columns, best_batch_columns
from .goodput import BatchOption, evaluate, goodput_matrix, local_limit, unit_gpus
from .noise import moments
from .throughput import sync_time_at

Floats = NDArray[np.float64]

#: Noise ahead is rounded to so many digits of its logarithm, so that last bits of a kernel never decide a batch.
LOG_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: the best batch of a job on a shape, ``held_s`` seconds of work ahead."""

    model: JobModel
    shape: Shape
    held_s: float


@dataclass(frozen=True, slots=True)
class Told:
    """The best batch, and the moments that it is best for."""

    best: BatchOption
    moments: EfficiencyModel

    def option(self, model: JobModel, shape: Shape, local_batch: int, accumulation: int) -> BatchOption:
        """What another batch would yield then."""
        return evaluate(replace(model, efficiency=self.moments), shape, local_batch, accumulation)


#: What was asked last of each job, what its model was made of, and the answer.
Known = dict[JobId, tuple[tuple[object, ...], Mapping[str, TypeModel], Told]]


def tell(asked: Sequence[Asked], known: Known) -> list[Told]:
    """`held_batches`, reckoned again only where something changed since it was put into ``known``, which is kept up."""
    keys = [(a.shape, a.held_s, a.model.noise_ahead, a.model.batch, a.model.units) for a in asked]
    before = [known.get(a.model.job_id) for a in asked]
    new = [
        i
        for i, (a, key, was) in enumerate(zip(asked, keys, before, strict=True))
        if was is None or was[1] is not a.model.types or was[0] != key
    ]
    answers = {i: was[2] for i, was in enumerate(before) if was is not None}
    answers.update(zip(new, held_batches([asked[i] for i in new]), strict=True))
    known.clear()
    known.update({a.model.job_id: (keys[i], a.model.types, answers[i]) for i, a in enumerate(asked)})
    return [answers[i] for i in range(len(asked))]


def held_batches(asked: Sequence[Asked]) -> list[Told]:
    """One answer for each question: `INFEASIBLE` as best where no batch is legal."""
    if not asked:
        return []
    then = [replace(a.model, efficiency=there) for a, there in zip(asked, _moments_then(asked), strict=True)]
    shapes = sorted({a.shape for a in asked}, key=lambda shape: (shape.gpu_type, shape.nodes, shape.gpus))
    matrix = goodput_matrix(then, shapes)
    column = {shape: number for number, shape in enumerate(shapes)}
    told = []
    for row, (a, model) in enumerate(zip(asked, then, strict=True)):
        at = row, column[a.shape]
        best = BatchOption(
            int(matrix.local_batch[at]),
            int(matrix.accumulation[at]),
            float(matrix.throughput[at]),
            float(matrix.goodput[at]),
        )
        told.append(Told(best, model.efficiency))
    return told


def _moments_then(asked: Sequence[Asked]) -> list[EfficiencyModel]:
    """Gradient moments of each job after the time asked for."""
    ways = [a.model.noise_ahead for a in asked]
    found = [a.model.efficiency if way is None else moments(way.path[0][1]) for a, way in zip(asked, ways, strict=True)]
    walked: list[tuple[int, NoiseAhead, list[float]]] = []
    for i, (a, way) in enumerate(zip(asked, ways, strict=True)):
        fields = _fields(a.model, a.shape) if way is not None and len(way.path) > 1 else None
        if way is not None and fields is not None:
            walked.append((i, way, fields))
    if not walked:
        return found
    table = np.repeat(np.array([fields for _, _, fields in walked]).T, [len(way.path) for _, way, _ in walked], axis=1)
    ahead = [moments(ratio) for _, way, _ in walked for _, ratio, _ in way.path]
    table = np.vstack((table, [m.square for m in ahead], [m.variance for m in ahead]))
    columns = Columns(table)
    _, goodput, local, micro_batches = best_batch_columns(columns)
    scale = columns.replicas * local * micro_batches / columns.first
    start = 0
    for i, way, _ in walked:
        part = slice(start, start + len(way.path))
        start = part.stop
        if bool((goodput[part] > 0).all()):
            found[i] = moments(round(_noise_then(way, goodput[part], scale[part], asked[i].held_s), LOG_DIGITS))
    return found


def _noise_then(way: NoiseAhead, goodput: Floats, scale: Floats, held_s: float) -> float:
    """Log of noise after ``held_s``: ``goodput`` (samples/s) is the best at each point, with batch ``scale``."""
    samples, ratio, by_batch = np.array(way.path).T
    steps = np.diff(samples, prepend=0.0)
    speed = goodput.copy()
    speed[1:] = 0.5 * (goodput[1:] + goodput[:-1])
    ratio = ratio + by_batch * np.log2(np.maximum(scale, 1.0) / way.scale)
    return float(np.interp(held_s, np.cumsum(steps / speed), ratio))


def _fields(model: JobModel, shape: Shape) -> list[float] | None:
    """The rows of `batch.Columns` without moments; ``None`` where the batch is not the job's to choose."""
    type_model = model.types.get(shape.gpu_type)
    if type_model is None or not model.batch.adaptive or isinstance(type_model.params, PipelineParams):
        return None
    params: ThroughputParams = type_model.params
    unit, high = unit_gpus(model, type_model), local_limit(model.batch, type_model)
    if shape.gpus % unit or high < 1:
        return None
    replicas, first = shape.gpus // unit, max(model.batch.initial, 1)
    return [
        params.alpha_c,
        params.beta_c,
        sync_time_at(params, shape.nodes, replicas),
        params.gamma,
        type_model.scale,
        replicas,
        first,
        max(model.batch.maximum, first),
        max(model.batch.local_min, 1),
        high,
    ]
