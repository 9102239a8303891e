"""What the public simulator believes of a job: fitted step times, one projection ratio, capped batch sizes.

Only for ``--physics artifact`` (ARTIFACT.md section 2 and "Traps"): goodput of a type that the job has not run on is
the goodput of the first modelled type *at that type's memory limits*, times one 1-GPU ratio. The estimator of
production lives in `slurmsia.models` and does better; nothing of this may leak there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..cluster import Shape
from ..history import Observation
from ..models.base import ThroughputParams
from .applications import LARGEST_JOB_GPUS
from .artifact_fit import artifact_fit
from .profiles import ApplicationTruth, Placement, fold

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Batch sizes tried between the smallest and the largest, geometrically spaced.
BATCH_SAMPLES = 50
_ROUNDING = 1e-8
#: A new batch on a known shape causes a refit when it is predicted worse than this (log error of step and micro-batch
#: time), or when the points have grown by this share: the public code refits every time, with next to no difference.
EXPLAINED = 0.02
REFIT_GROWTH = 0.1


@dataclass(frozen=True)
class _Grid:
    """Batches tried, [samples, columns]: total batch, micro-batch, extra micro-batches, and which are allowed."""

    total: Floats
    local: Floats
    accumulation: Floats
    allowed: NDArray[np.bool_]


@lru_cache(maxsize=4096)
def _grid(
    initial: int, largest: int, local_min: int, local_max: tuple[int, ...], replicas: tuple[int, ...], tune: bool
) -> _Grid:
    gpus = np.array(replicas, dtype=np.float64)
    limit = np.array(local_max, dtype=np.float64)
    if tune:
        batch = np.geomspace(np.maximum(float(initial), local_min * gpus), float(largest), BATCH_SAMPLES)
    else:
        batch = np.full((1, len(gpus)), float(largest))
    local = batch / gpus
    accumulation = np.ceil(local / limit - _ROUNDING) - 1.0
    alone = (gpus == 1) & (local > initial + _ROUNDING)
    accumulation = np.where(alone, np.maximum(accumulation, 1.0), accumulation)
    atomic = np.ceil(local / (accumulation + 1.0) - _ROUNDING)
    return _Grid(
        total=gpus * atomic * (accumulation + 1.0),
        local=atomic,
        accumulation=accumulation,
        allowed=(local_min <= atomic) & (atomic <= limit),
    )


@dataclass(frozen=True)
class _Speed:
    """Step-time parameters, one for all columns of a grid or an array [columns]; ``gamma`` always an array."""

    alpha_c: Floats | float
    beta_c: Floats | float
    alpha_n: Floats | float
    beta_n: Floats | float
    alpha_r: Floats | float
    beta_r: Floats | float
    gamma: Floats


def _one_speed(p: ThroughputParams) -> _Speed:
    return _Speed(p.alpha_c, p.beta_c, p.alpha_n, p.beta_n, p.alpha_r, p.beta_r, np.array([p.gamma]))


def _speeds(params: Sequence[ThroughputParams]) -> _Speed:
    rows = [(p.alpha_c, p.beta_c, p.alpha_n, p.beta_n, p.alpha_r, p.beta_r, p.gamma) for p in params]
    return _Speed(*np.array(rows).T)


def _throughput(speed: _Speed, nodes: Floats, gpus: Floats, grid: _Grid) -> Floats:
    """Samples per second of every batch of the grid; zero where the batch is not allowed."""
    compute = speed.alpha_c + speed.beta_c * grid.local
    more = np.maximum(gpus - 2.0, 0.0)
    across = speed.alpha_n + speed.beta_n * more
    within = speed.alpha_r + speed.beta_r * more
    sync = np.where(nodes > 1, across, np.where(gpus > 1, within, _ROUNDING))
    step = (compute**speed.gamma + sync**speed.gamma) ** (1.0 / speed.gamma)
    return np.where(grid.allowed, grid.total / (grid.accumulation * compute + step), 0.0)


def _explains(params: ThroughputParams, nodes: int, gpus: int, local: int, step_s: float, compute_s: float) -> bool:
    """Whether a fit already predicts a new point within `EXPLAINED`: refitting would hardly move it."""
    compute = params.alpha_c + params.beta_c * local
    more = max(gpus - 2, 0)
    if nodes > 1:
        sync = params.alpha_n + params.beta_n * more
    else:
        sync = params.alpha_r + params.beta_r * more if gpus > 1 else _ROUNDING
    step = (compute**params.gamma + sync**params.gamma) ** (1.0 / params.gamma)
    return abs(math.log(step / step_s)) < EXPLAINED and abs(math.log(compute / compute_s)) < EXPLAINED


def _efficiency(moments: tuple[float, float], total: Floats, initial: int) -> Floats:
    square, variance = moments
    scale = total / initial
    below = variance / scale + square
    gain = np.where(below > 0, (variance + square) / np.where(below > 0, below, 1.0), 1.0)
    return np.asarray(gain / scale)


@dataclass(frozen=True)
class Columns:
    """The configurations of a cluster as arrays, with which type each belongs to.

    Elastic jobs may take the first ``elastic_count`` (default all); the rest are odd sizes of rigid jobs.
    """

    shapes: tuple[Shape, ...]
    types: tuple[str, ...]
    node_gpus: Mapping[str, int]
    elastic_count: int | None = None
    elastic: NDArray[np.bool_] = field(init=False)
    gpus: Ints = field(init=False)
    type_index: Ints = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gpus", np.array([shape.gpus for shape in self.shapes], dtype=np.int64))
        count = len(self.shapes) if self.elastic_count is None else self.elastic_count
        object.__setattr__(self, "elastic", np.arange(len(self.shapes)) < count)
        order = {name: i for i, name in enumerate(self.types)}
        object.__setattr__(
            self, "type_index", np.array([order[shape.gpu_type] for shape in self.shapes], dtype=np.int64)
        )


class ArtifactEstimate:
    """Everything the public simulator knows of one job; mutable, owned by the job of the simulation.

    ``moments`` is the epoch's true gradient statistics as last seen; ``cap`` the workload's batch size.
    """

    def __init__(
        self,
        truth: ApplicationTruth,
        columns: Columns,
        cap: int,
        project: bool,
        tune: bool,
        most: int | None = None,
    ) -> None:
        self.truth = truth
        self.columns = columns
        self.cap = max(cap, truth.initial_batch) if tune else cap
        self.project = project
        self.tune = tune
        self.most = most
        self.params: dict[str, ThroughputParams] = {}
        self.seen: dict[str, int] = {}
        self.moments: tuple[float, float] | None = None
        self.version = 0
        self._fitted: dict[str, int] = {}
        self._points: dict[str, dict[tuple[int, int, int], Observation]] = {}
        self._rows: tuple[object, Floats] | None = None
        self._speeds: tuple[object, tuple[_Grid, Floats]] | None = None
        self._batches: dict[object, tuple[int, int]] = {}

    def record(self, gpu_type: str, placement: Placement, local: int, step_s: float, sync_s: float) -> None:
        """One profile point per (nodes, GPUs, local batch); a new one refits the type."""
        points = self._points.setdefault(gpu_type, {})
        gpus = sum(placement)
        key = (len(placement), gpus, local)
        if key in points:
            return
        points[key] = Observation(gpu_type, len(placement), gpus, local, 0, 1.0, step_s, step_s * step_s, sync_s)
        new_shape = all((nodes, count) != key[:2] for nodes, count, other in points if (nodes, count, other) != key)
        self.seen[gpu_type] = max(self.seen.get(gpu_type, 0), gpus)
        known = self.params.get(gpu_type)
        few = len(points) < (1.0 + REFIT_GROWTH) * self._fitted.get(gpu_type, 0)
        same_speed = known is not None and _explains(known, len(placement), gpus, local, step_s, step_s - sync_s)
        if same_speed and few and not new_shape:
            return
        self._fitted[gpu_type] = len(points)
        self.params[gpu_type] = artifact_fit(points.values())
        self.version += 1
        self._batches.clear()

    def batch_for(self, gpu_type: str, placement: Placement, fixed_batch: int | None) -> tuple[int, int]:
        """(micro-batch, extra micro-batches) a running job uses on its placement (the application's own M_max)."""
        key = (gpu_type, placement, self.moments, fixed_batch)
        found = self._batches.get(key)
        if found is None:
            found = self._batches[key] = self._batch_for(gpu_type, placement, fixed_batch)
        return found

    def _batch_for(self, gpu_type: str, placement: Placement, fixed_batch: int | None) -> tuple[int, int]:
        truth, profile = self.truth, self.truth.on(gpu_type)
        gpus = sum(placement)
        local_max = profile.placement_local_max(placement)
        params = self.params.get(gpu_type)
        total = fixed_batch
        if total is None and (params is None or self.moments is None):
            total = max(truth.initial_batch, profile.local_min * gpus)
        if total is None:
            assert params is not None
            assert self.moments is not None
            grid = _grid(truth.initial_batch, truth.largest_batch, profile.local_min, (local_max,), (gpus,), True)
            speed = _throughput(_one_speed(params), np.array([len(placement)]), np.array([gpus]), grid)
            best = int(np.argmax((speed * _efficiency(self.moments, grid.total, truth.initial_batch))[:, 0]))
            local, accumulation = int(grid.local[best, 0]), int(grid.accumulation[best, 0])
        else:
            each = math.ceil(total / gpus - _ROUNDING)
            accumulation = math.ceil(each / local_max - _ROUNDING) - 1
            if gpus == 1 and total > truth.initial_batch:
                accumulation = max(1, accumulation)
            local = math.ceil(each / (accumulation + 1) - _ROUNDING)
        measured_max = profile.gpus_local_max(gpus)
        if measured_max is not None:
            local = min(local, measured_max)
        return min(local, truth.largest_batch // (gpus * (accumulation + 1))), accumulation

    def max_gpus(self) -> dict[str, int]:
        """The doubling rule per type: twice the largest profiled count, 64, M_max // m_min; shared when projecting."""
        truth = self.truth
        if self.most is not None:
            return dict.fromkeys(self.columns.types, self.most)
        limits = {
            name: min(
                max(2 * self.seen.get(name, 0), 1), LARGEST_JOB_GPUS, truth.largest_batch // truth.on(name).local_min
            )
            for name in self.columns.types
        }
        if self.project:
            widest = max(limits.values())
            return dict.fromkeys(limits, max(widest, 1))
        return {name: max(limit, 1) for name, limit in limits.items()}

    def goodput_row(self) -> Floats:
        """Goodput of every configuration [C]; 0 where the policy may not choose it. Cached until something changes."""
        key = (self.version, self.moments)
        if self._rows is None or self._rows[0] != key:
            self._rows = (key, self._goodput_row())
        return self._rows[1]

    def _goodput_row(self) -> Floats:
        columns = self.columns
        modelled = [name for name in columns.types if name in self.params]
        if not modelled or self.moments is None:
            return np.where(columns.gpus == 1, 1.0, 0.0)
        source = {name: name if name in self.params else modelled[0] for name in columns.types}
        grid, speed = self._speed(source)
        worth = _efficiency(self.moments, grid.total, self.truth.initial_batch)
        best = (speed * worth).max(axis=0)
        limit = self.max_gpus()
        allowed = columns.gpus <= np.array([limit[name] for name in columns.types])[columns.type_index]
        known = np.array([self.project or name in self.params for name in columns.types])[columns.type_index]
        row = np.where(allowed & known, best * self._ratios(source), 0.0)
        if not known.all():
            lowest = float(row[row > 0].min()) if bool((row > 0).any()) else 1.0
            row = np.where(~known & (columns.gpus == 1), lowest, row)
        return row

    def _ratios(self, source: Mapping[str, str]) -> Floats:
        ratio = [
            1.0 if source[name] == name else self.truth.on(name).single_ratio / self.truth.on(source[name]).single_ratio
            for name in self.columns.types
        ]
        return np.array(ratio)[self.columns.type_index]

    def _speed(self, source: Mapping[str, str]) -> tuple[_Grid, Floats]:
        if self._speeds is not None and self._speeds[0] == self.version:
            return self._speeds[1]
        columns, truth = self.columns, self.truth
        origin = [source[shape.gpu_type] for shape in columns.shapes]
        local_max = {name: truth.on(name).local_max for name in set(origin)}
        grid = _grid(
            truth.initial_batch,
            self.cap,
            truth.on(origin[0]).local_min,
            tuple(local_max[name] for name in origin),
            tuple(shape.gpus for shape in columns.shapes),
            self.tune,
        )
        nodes = np.array(
            [
                shape.nodes if name == shape.gpu_type else -(-shape.gpus // columns.node_gpus[name])
                for shape, name in zip(columns.shapes, origin, strict=False)
            ]
        )
        speed = _throughput(
            _speeds([self.params[name] for name in origin]), nodes, columns.gpus.astype(np.float64), grid
        )
        self._speeds = (self.version, (grid, speed))
        return grid, speed


class OracleEstimate(ArtifactEstimate):
    """For schedulers that are told everything and choose only the type: true throughput at the requested batch."""

    def record(self, gpu_type: str, placement: Placement, local: int, step_s: float, sync_s: float) -> None:
        """Nothing to learn: only remember what was run."""
        self.seen[gpu_type] = max(self.seen.get(gpu_type, 0), sum(placement))

    def _goodput_row(self) -> Floats:
        row = np.zeros(len(self.columns.shapes))
        for c, shape in enumerate(self.columns.shapes):
            placement = _packed(shape, self.columns.node_gpus[shape.gpu_type])
            local, accumulation = self.batch_for(shape.gpu_type, placement, self.cap)
            step_s, sync_s = self.truth.on(shape.gpu_type).step_and_sync_s(placement, local)
            row[c] = shape.gpus * local * (accumulation + 1) / (step_s + (step_s - sync_s) * accumulation)
        return row


def _packed(shape: Shape, node_gpus: int) -> Placement:
    """Full nodes and a rest, as a packing scheduler would place the request."""
    full, rest = divmod(shape.gpus, node_gpus)
    return fold((node_gpus,) * full + ((rest,) if rest else ()), shape.gpu_type)
