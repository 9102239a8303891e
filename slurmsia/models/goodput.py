"""Goodput of jobs in configurations, each at its best batch: one vectorised pass for a whole round.

The best batch is found exactly, not sampled. With ``u = s + 1`` micro-batches a step, step time is convex in the
total batch along the path "grow m to its limit, then accumulate", and AdaScale progress per step is concave, so
goodput has one maximum on it: bisection finds it for u = 1, a closed form for u > 1. `best_batch` is the plain
search over the same candidates for one job. Must never fit anything and never read a history.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster import JobId, Shape
from .base import (
    BatchLimits,
    EfficiencyModel,
    GoodputMatrix,
    JobModel,
    Knots,
    PipelineParams,
    ThroughputParams,
    TypeModel,
)
from .batch import (
    NEAR_MEASURED,
    Chosen,
    Columns,
    best_batch_columns,
    ceil_div,
    fixed_batch,
    near_measured,
    quantise,
    quantised,
)
from .bias_columns import BiasColumns
from .efficiency import sane
from .speed import model_step_time, throughput
from .throughput import FORWARDS_PER_MICROBATCH, shared_time

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A new batch is adopted only for more than this gain over the current one (Pollux, section 4.2).
BATCH_CHANGE_GAIN = 0.05
#: Relative error added for every doubling of GPUs beyond what the job has run on (median of `slurmsia bench fit`).
DOUBLING_ERROR = 0.1
#: Rows filled at a time, so that the columns of a pass stay in the processor's cache.
CHUNK_ROWS = 512
#: Chunks filled side by side at most, on as many cores as there are.
MOST_WORKERS = 4
#: Stands for "no limit" on a micro-batch.
UNLIMITED = 1 << 40


@dataclass(frozen=True, slots=True)
class BatchOption:
    """One batch on one shape: samples per GPU and micro-batch, extra micro-batches, and what they yield.

    ``throughput`` in samples/s, ``goodput`` in samples/s worth as much as at M0; both 0 where infeasible.
    """

    local_batch: int
    accumulation: int
    throughput: float
    goodput: float


INFEASIBLE = BatchOption(0, 0, 0.0, 0.0)


def keep_or_change(current: BatchOption, best: BatchOption, gain: float = BATCH_CHANGE_GAIN) -> BatchOption:
    """The batch to use: ``best`` only if its goodput exceeds the current one's by more than ``gain`` (5 %)."""
    return best if best.goodput > (1.0 + gain) * current.goodput else current


def unit_gpus(model: JobModel, type_model: TypeModel) -> int:
    """GPUs per replica on a type: pipeline stages, or the declared unit, or 1."""
    if isinstance(type_model.params, PipelineParams):
        return max(type_model.params.stages, 1)
    return max(model.units.get(type_model.gpu_type, model.units.get("*", 1)), 1)


def local_limit(batch: BatchLimits, type_model: TypeModel) -> int:
    """Largest micro-batch on a type: the job's own limit and the type's memory."""
    limits = [limit for limit in (batch.local_max, type_model.local_max) if limit is not None]
    return min(limits, default=UNLIMITED)


def evaluate(model: JobModel, shape: Shape, local_batch: int, accumulation: int) -> BatchOption:
    """Throughput and goodput of one given batch on one shape; `INFEASIBLE` where the type or unit does not fit."""
    return _option(model, shape, local_batch, accumulation, _speed(model, shape, local_batch, accumulation))


def _speed(model: JobModel, shape: Shape, local_batch: int, accumulation: int) -> float | None:
    """Samples/s of one given batch on one shape; ``None`` where the type or unit does not fit."""
    type_model = model.types.get(shape.gpu_type)
    if type_model is None or local_batch < 1 or accumulation < 0:
        return None
    unit = unit_gpus(model, type_model)
    if shape.gpus % unit:
        return None
    if unit > 1:
        # deviations are measured per whole shape of a plain job; replicas of several GPUs have none
        type_model = replace(type_model, knots=())
    gpus = shape.gpus if isinstance(type_model.params, PipelineParams) else shape.gpus // unit
    return float(throughput(type_model, shape.nodes, gpus, local_batch, accumulation))


def _option(model: JobModel, shape: Shape, local_batch: int, accumulation: int, speed: float | None) -> BatchOption:
    if speed is None:
        return INFEASIBLE
    replicas = shape.gpus // unit_gpus(model, model.types[shape.gpu_type])
    worth = _efficiency(sane(model.efficiency), replicas * local_batch * (accumulation + 1), model.batch.initial)
    return BatchOption(local_batch, accumulation, quantised(speed), quantised(speed * worth))


def _efficiency(moments: EfficiencyModel, total_batch: int, initial_batch: int) -> float:
    """`efficiency.efficiency` of one total batch in plain numbers, operation by operation."""
    scale = max(total_batch / max(initial_batch, 1e-12), 1.0)
    bottom = moments.variance / scale + moments.square
    gain = (moments.variance + moments.square) / bottom if bottom > 0 else scale
    return min(gain / scale, 1.0)


def best_batch(model: JobModel, shape: Shape) -> BatchOption:
    """The best legal batch of one job on one shape, by plain search over `batch.best_batch_columns`' candidates.

    The reference for the matrix: same limits, same candidates, no vectorised arithmetic. Returns `INFEASIBLE` where
    no batch is legal. Micro-batch limits: the job's, and the type's memory (SIA.md sections 1 and 2).
    """
    type_model = model.types.get(shape.gpu_type)
    if type_model is None:
        return INFEASIBLE
    unit = unit_gpus(model, type_model)
    if shape.gpus % unit or shape.gpus < unit:
        return INFEASIBLE
    replicas, batch = shape.gpus // unit, model.batch
    if isinstance(type_model.params, PipelineParams):
        return _pipeline_batch(model, shape, type_model.params, replicas)
    low, high = max(batch.local_min, 1), local_limit(batch, type_model)
    first, last = max(batch.initial, 1), max(batch.maximum, batch.initial, 1)
    if high < 1:
        return INFEASIBLE
    if not batch.adaptive:
        extra = max(-(-first // (replicas * high)), 1)
        local = -(-first // (replicas * extra))
        legal = first >= replicas * low and local <= high
        return evaluate(model, shape, local, extra - 1) if legal else INFEASIBLE
    if low > high or replicas * low > last:
        return INFEASIBLE
    fewest = max(-(-first // (replicas * high)), 1)
    smallest = replicas * fewest * max(-(-first // (replicas * fewest)), low)
    if smallest > max(last, first + replicas * fewest):
        return INFEASIBLE
    smooth = replace(model, types={**model.types, shape.gpu_type: replace(type_model, knots=())})
    options = set(_candidates(smooth, shape, replicas, low, high, first, last))
    ranked = [evaluate(smooth, shape, m, u - 1) for m, u in sorted(options, key=lambda o: (o[0] * o[1], o[1]))]
    best = max(ranked, key=lambda option: option.goodput)
    if not type_model.knots or unit > 1:
        return best
    near = [evaluate(model, shape, best.local_batch, best.accumulation)]
    for m in sorted({knot[2] for knot in type_model.knots}):
        u = 2 if replicas == 1 and m > first else 1
        within = best.local_batch / NEAR_MEASURED <= m <= best.local_batch * NEAR_MEASURED
        if within and low <= m <= high and m == int(m) and first <= replicas * m * u <= last:
            near.append(evaluate(model, shape, int(m), u - 1))
    return max(near, key=lambda option: option.goodput)


def _candidates(
    model: JobModel, shape: Shape, replicas: int, low: int, high: int, first: int, last: int
) -> list[tuple[int, int]]:
    fewest = max(-(-first // (replicas * high)), 1)
    smallest = max(-(-first // (replicas * fewest)), low)
    options = [(smallest, fewest)]
    if fewest == 1 and replicas > 1:
        options += [(m, 1) for m in range(smallest, min(high, last // replicas) + 1)]
    if fewest == 1 and replicas == 1 and last > first:
        options += [(m, 2) for m in range(max(-(-first // 2), low), min(high, last // 2) + 1)]
    most = last // replicas // high
    options += [(high, u) for u in range(max(fewest, 2), most + 1)]
    if last > replicas * high * fewest:
        between = _accumulation_root(model, shape, replicas, high, first)
        between = min(max(between, fewest, 2), max(last / (replicas * high), fewest, 2))
        for target in (min(between * high, last // replicas), last // replicas):
            u = max(math.ceil(target / high - 1e-9), 2)
            m = math.floor(target / u + 1e-9)
            if m >= low and replicas * m * u >= first:
                options.append((m, u))
    return options


def _accumulation_root(model: JobModel, shape: Shape, replicas: int, high: int, first: int) -> float:
    """Micro-batches per step, as a real number, at which goodput is highest with the largest micro-batch."""
    type_model = model.types[shape.gpu_type]
    compute = float(model_step_time(type_model, shape.nodes, replicas, high)) * type_model.scale
    assert isinstance(type_model.params, ThroughputParams)
    alone = type_model.params.alpha_c + type_model.params.beta_c * high
    moments = sane(model.efficiency)
    bottom = alone * moments.square * replicas * high
    if bottom <= 0:
        return math.inf if compute > alone else 0.0
    return math.sqrt(moments.variance * first * max(compute - alone, 0.0) / bottom)


def _pipeline_batch(model: JobModel, shape: Shape, params: PipelineParams, replicas: int) -> BatchOption:
    """A pipeline's micro-batches are fixed per replica when the batch may grow, else the total batch is kept."""
    per_replica = params.microbatch_size * replicas
    microbatches = params.microbatches
    if not model.batch.adaptive and model.batch.initial > 1:
        microbatches = max(-(-model.batch.initial // per_replica), 1)
    elif model.batch.adaptive and per_replica * microbatches > max(model.batch.maximum, model.batch.initial):
        return INFEASIBLE
    return evaluate(model, shape, params.microbatch_size, microbatches - 1)


def one_gpu_throughput(model: JobModel, gpu_type: str) -> float | None:
    """Samples/s at M0 on one GPU (one replica) of a type where the job itself was measured; else ``None``.

    What the store keeps for ratios between types (`SimilarHistory.type_ratios`).
    """
    type_model = model.types.get(gpu_type)
    if type_model is None or type_model.observations <= 0:
        return None
    fixed = replace(model, batch=replace(model.batch, adaptive=False, local_min=1))
    option = best_batch(fixed, Shape(gpu_type, 1, unit_gpus(model, type_model)))
    return option.throughput if option.throughput > 0 else None


class GoodputTable:
    """The goodput matrix kept between rounds: only rows whose model changed are computed again."""

    def __init__(self) -> None:
        self._shapes: tuple[Shape, ...] = ()
        self._models: dict[JobId, JobModel] = {}
        self._row: dict[JobId, int] = {}
        self._data = np.zeros((5, 0, 0))
        self._held: dict[JobId, tuple[TypeModel | None, object, float | None]] = {}
        #: what others keep between rounds of the batches that they told (`held.tell`)
        self.told: dict[JobId, Any] = {}

    def held(self, model: JobModel, shape: Shape, local_batch: int, accumulation: int) -> BatchOption:
        """As `evaluate`; remembers how fast each job's last batch asked for is, while what that comes from stands."""
        type_model, batch = model.types.get(shape.gpu_type), (shape, local_batch, accumulation, model.units)
        known = self._held.get(model.job_id)
        if known is None or known[0] is not type_model or known[1] != batch:
            known = (type_model, batch, _speed(model, shape, local_batch, accumulation))
            self._held[model.job_id] = known
        return _option(model, shape, local_batch, accumulation, known[2])

    def refresh(self, models: Sequence[JobModel], shapes: Sequence[Shape]) -> GoodputMatrix:
        """The matrix of ``models`` x ``shapes``; identical to `goodput_matrix` whatever was asked before."""
        shapes = tuple(shapes)
        if shapes != self._shapes:
            self._models, self._row, self._data = {}, {}, np.zeros((5, 0, len(shapes)))
            self._shapes = shapes
        changed = [i for i, model in enumerate(models) if not self.holds(model)]
        data = np.empty((5, len(models), len(shapes)))
        new = set(changed)
        kept = [i for i in range(len(models)) if i not in new]
        if kept:
            data[:, kept] = self._data[:, [self._row[models[i].job_id] for i in kept]]
        parts = [changed[start : start + CHUNK_ROWS] for start in range(0, len(changed), CHUNK_ROWS)]
        for part, filled in zip(parts, _fill_each([[models[i] for i in part] for part in parts], shapes), strict=True):
            data[:, part] = filled
        self._models = {model.job_id: model for model in models}
        self._row = {model.job_id: i for i, model in enumerate(models)}
        self._data = data
        for job_id in [job_id for job_id in self._held if job_id not in self._models]:
            del self._held[job_id]
        return GoodputMatrix(
            job_ids=tuple(model.job_id for model in models),
            goodput=data[0].copy(),
            throughput=data[1].copy(),
            local_batch=data[2].astype(np.int64),
            accumulation=data[3].astype(np.int64),
            rel_error=data[4].copy(),
        )

    def holds(self, model: JobModel) -> bool:
        """Whether the row of this job is up to date: nothing that its goodput depends on has changed."""
        known = self._models.get(model.job_id)
        if known is None or known is model:
            return known is not None
        # progress and restart costs change with every report and touch no goodput
        return (known.types, known.batch, known.efficiency, known.units) == (
            model.types,
            model.batch,
            model.efficiency,
            model.units,
        )


def goodput_matrix(models: Sequence[JobModel], shapes: Sequence[Shape]) -> GoodputMatrix:
    """Goodput of every job in every configuration at its best batch, in one vectorised pass (SIA.md section 1).

    ``rel_error`` grows by `DOUBLING_ERROR` for every doubling beyond the GPUs that the job has run on.
    """
    return GoodputTable().refresh(models, shapes)


def _fill_each(parts: Sequence[Sequence[JobModel]], shapes: tuple[Shape, ...]) -> Iterator[Floats]:
    """`_fill` of each part; several side by side, as NumPy lets go of the interpreter in columns of this length."""
    workers = min(len(parts), MOST_WORKERS, os.cpu_count() or 1)
    if workers <= 1:
        yield from (_fill(part, shapes) for part in parts)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="goodput") as side_by_side:
        yield from side_by_side.map(partial(_fill, shapes=shapes), parts)


def _fill(models: Sequence[JobModel], shapes: tuple[Shape, ...]) -> Floats:
    """[5, jobs, shapes]: goodput, throughput, local batch, accumulation, relative error."""
    types = sorted({shape.gpu_type for shape in shapes})
    column_type = np.array([types.index(shape.gpu_type) for shape in shapes], dtype=np.intp)
    nodes = np.array([shape.nodes for shape in shapes], dtype=np.float64)
    gpus = np.array([shape.gpus for shape in shapes], dtype=np.float64)
    per_type = np.zeros((len(models), len(types), 14))
    of_job: list[tuple[float, ...]] = []
    of_type: list[tuple[float, ...]] = []
    plain: list[tuple[int, int]] = []
    pipelines: list[tuple[int, int]] = []
    knots: list[Knots] = []
    knot_row = np.full((len(models), len(types)), -1, dtype=np.intp)
    for i, model in enumerate(models):
        batch, moments = model.batch, sane(model.efficiency)
        first = max(batch.initial, 1)
        last, low = max(batch.maximum, first), max(batch.local_min, 1)
        of_job.append((first, last, low, moments.square, moments.variance, batch.adaptive))
        seen = model.max_gpus_seen or UNLIMITED
        for t, name in enumerate(types):
            type_model = model.types.get(name)
            if type_model is None:
                continue
            params = type_model.params
            if isinstance(params, PipelineParams):
                pipelines.append((i, t))
                continue
            unit = unit_gpus(model, type_model)
            if type_model.knots and unit == 1:
                knot_row[i, t] = len(knots)
                knots.append(type_model.knots)
            plain.append((i, t))
            of_type.append(
                (
                    1.0,
                    params.alpha_c,
                    params.beta_c,
                    params.alpha_n,
                    params.beta_n,
                    params.alpha_r,
                    params.beta_r,
                    params.gamma,
                    type_model.scale,
                    local_limit(batch, type_model),
                    unit,
                    type_model.rel_error,
                    type_model.max_gpus_seen or seen,
                    params.kappa,
                )
            )
    per_job = np.array(of_job, dtype=np.float64)
    if plain:
        per_type[tuple(zip(*plain, strict=True))] = of_type
    data = np.zeros((5, len(models), len(shapes)))
    present = per_type[:, column_type, 0] > 0
    per_replica = np.maximum(per_type[:, column_type, 10], 1.0)
    feasible = present & (np.mod(gpus[None, :], per_replica) == 0) & (per_type[:, column_type, 9] >= 1)
    rows, columns = np.nonzero(feasible)
    if len(rows):
        # copies with one row per quantity: what follows reads each of them whole, several times
        fields = np.ascontiguousarray(per_type.reshape(-1, per_type.shape[2]).T)
        entry = fields.take(rows * len(types) + column_type[columns], axis=1)
        job = np.ascontiguousarray(per_job.T).take(rows, axis=1)
        replicas = gpus[columns] / entry[10]
        across = nodes[columns] > 1
        more = np.maximum(replicas - 2.0, 0.0)
        sync = np.where(across, entry[3] + entry[4] * more, entry[5] + entry[6] * more)
        shared = np.flatnonzero(across & (entry[13] > 0))
        if len(shared):
            alpha_r, beta_r, kappa = entry[5, shared], entry[6, shared], entry[13, shared]
            sync[shared] += kappa * shared_time(alpha_r, beta_r, nodes[columns[shared]], replicas[shared])
        c = Columns(
            np.array(
                [
                    entry[1],
                    entry[2],
                    np.where(replicas <= 1, 0.0, sync),
                    entry[7],
                    entry[8],
                    replicas,
                    job[0],
                    job[1],
                    job[2],
                    entry[9],
                    job[3],
                    job[4],
                ]
            )
        )
        adaptive = job[5] > 0
        best = Chosen(len(rows))
        for chosen, solve in ((np.flatnonzero(adaptive), best_batch_columns), (np.flatnonzero(~adaptive), fixed_batch)):
            if len(chosen):
                best.put(chosen, *solve(c if len(chosen) == len(rows) else c.take(chosen)))
        measured = np.flatnonzero((knot_row[rows, column_type[columns]] >= 0) & (best.m > 0))
        if len(measured):
            row = knot_row[rows, column_type[columns]][measured]
            bias = BiasColumns(knots, shapes)
            best.put(
                measured,
                *near_measured(c.take(measured), best.take(measured), adaptive[measured], bias, row, columns[measured]),
            )
        at = rows, columns
        data[0][at], data[1][at] = quantise(best.goodput), quantise(best.rate)
        data[2][at], data[3][at] = best.m, np.maximum(best.u - 1.0, 0.0)
        beyond = np.log2(np.maximum(gpus[columns] / entry[12], 1.0))
        data[4][at] = np.where(best.m > 0, np.minimum(np.hypot(entry[11], DOUBLING_ERROR * beyond), 1.0), 0.0)
    if pipelines:
        _fill_pipelines(data, models, pipelines, per_job, types, column_type, gpus)
    return data


def _fill_pipelines(
    data: Floats,
    models: Sequence[JobModel],
    pipelines: Sequence[tuple[int, int]],
    per_job: Floats,
    types: Sequence[str],
    column_type: NDArray[np.intp],
    gpus: Floats,
) -> None:
    """Write the hybrid-parallel entries, (job, type) index pairs, into ``data``; as `_pipeline_batch` has them."""
    values = np.empty((len(pipelines), 8))
    for at, (i, t) in enumerate(pipelines):
        type_model = models[i].types[types[t]]
        params = type_model.params
        assert isinstance(params, PipelineParams)
        values[at] = (
            max(params.stages, 1),
            params.microbatches,
            params.microbatch_size,
            params.forward_s,
            params.alpha_n,
            params.beta_n,
            type_model.scale,
            type_model.rel_error,
        )
    index = np.array(pipelines, dtype=np.intp)
    entry, column = np.nonzero(column_type[None, :] == index[:, 1, None])
    fits = (gpus[column] % values[entry, 0] == 0) & (gpus[column] >= values[entry, 0])
    entry, column = entry[fits], column[fits]
    stages, usual, size, forward_s, alpha, beta, scale, rel_error = values[entry].T
    row = index[entry, 0]
    first, last, _, square, variance, adaptive = per_job[row].T
    replicas = gpus[column] / stages
    fixed = (adaptive <= 0) & (first > 1)
    microbatches = np.where(fixed, np.maximum(ceil_div(first, replicas * size), 1.0), usual)
    total = replicas * size * microbatches
    legal = (adaptive <= 0) | (total <= last)
    sync = np.where(replicas <= 1.0, 0.0, alpha + beta * np.maximum(replicas - 2.0, 0.0))
    seconds = (FORWARDS_PER_MICROBATCH * (stages - 1.0 + microbatches) * forward_s + sync) / scale
    rate = total / seconds
    worth = (variance + square) / (variance + square * np.maximum(total / first, 1.0))
    chosen = (quantise(rate * worth), quantise(rate), size, microbatches - 1.0, rel_error)
    for layer, value in enumerate(chosen):
        data[layer, row, column] = np.where(legal, value, 0.0)
