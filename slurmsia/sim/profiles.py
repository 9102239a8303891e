"""Ground truth of a simulation: measured step times and gradient statistics from a folder of profile files.

The folder has one sub-folder per application with ``placements-TYPE.csv``, ``scalability-TYPE.csv`` and
``validation-BATCH.csv``. Lookups follow the published simulator (EVALUATION.md) and are cached, because a simulation
asks the same few hundred questions a million times. Nothing here may be shown to a policy: it is the truth.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .applications import GPUS_PER_NODE, PROFILED_NODES, SUFFIX_OF_TYPE, facts

Floats = NDArray[np.float64]
#: GPUs on each node of an allocation, for example ``(4, 4)``.
Placement = tuple[int, ...]


class ProfileError(ValueError):
    """A profile folder or file that cannot be used; the text names the file and what to do."""


def canonical(placement: Sequence[int]) -> Placement:
    """The lexicographically smallest rotation of a placement without empty nodes, as the profiles are keyed."""
    kept = tuple(count for count in placement if count)
    return min((kept[i:] + kept[:i] for i in range(len(kept))), default=())


def fold(placement: Sequence[int], gpu_type: str) -> Placement:
    """A placement over at most the profiled number of nodes: spread evenly where it has more (ARTIFACT.md 3)."""
    kept = tuple(count for count in placement if count)
    most = PROFILED_NODES.get(gpu_type, len(kept))
    if len(kept) <= most:
        return kept
    left, each = sum(kept), math.ceil(sum(kept) / most)
    folded = []
    while left > 0:
        folded.append(min(each, left))
        left -= folded[-1]
    return tuple(folded)


@dataclass
class TypeProfile:
    """Step times of one application on one GPU type.

    ``exact``: placement -> (local batches, step seconds, sync seconds); ``points`` [n, 5]: nodes, GPUs, local batch,
    step and sync seconds of everything measured, in the order that the interpolation's mesh depends on.
    """

    application: str
    gpu_type: str
    exact: dict[Placement, tuple[Floats, Floats, Floats]]
    points: Floats
    scalability: Floats
    local_min: int
    local_max: int
    single_ratio: float
    """Samples per second at the largest batch over the longest step of one GPU: the public code's type ratio."""
    _mesh: Any = None
    _times: dict[tuple[Placement, float], tuple[float, float]] = field(default_factory=dict)
    _placement_local_max: dict[Placement, int] = field(default_factory=dict)
    _gpus_local_max: dict[int, int] = field(default_factory=dict)

    def step_and_sync_s(self, placement: Placement, local_batch: float) -> tuple[float, float]:
        """Seconds of one step without accumulation and the part spent synchronising, on a placement.

        Exact placement: linear over the local batch. Otherwise linear over (nodes, GPUs, local batch); outside the
        measured hull the nearest measured point, scaled by the batch. Raises `ProfileError` without any data.
        """
        key = (placement, local_batch)
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = self._look_up(canonical(placement), local_batch)
        return found

    def _look_up(self, placement: Placement, local_batch: float) -> tuple[float, float]:
        measured = self.exact.get(placement)
        if measured is not None:
            local, step, sync = measured
            if local[0] <= local_batch <= local[-1]:
                return float(np.interp(local_batch, local, step)), float(np.interp(local_batch, local, sync))
            edge = 0 if local_batch < local[0] else -1
            sync_edge = float(sync[edge])
            return float((step[edge] - sync_edge) * local_batch / local[edge] + sync_edge), sync_edge
        nodes = min(len(placement), PROFILED_NODES.get(self.gpu_type, 16))
        step_s, sync_s = self._between(nodes, sum(placement), local_batch)
        if math.isfinite(step_s) and math.isfinite(sync_s) and step_s > 0:
            return step_s, sync_s
        return self._nearest(nodes, sum(placement), local_batch)

    def _between(self, *at: float) -> tuple[float, float]:
        """Linear on the simplex of measured points around (nodes, GPUs, local batch); NaN outside their hull.

        What `scipy.interpolate.LinearNDInterpolator` does, to the last bit, for one point and without its imports.
        """
        if self._mesh is None:
            from scipy.spatial import Delaunay

            self._mesh = Delaunay(self.points[:, :3])
        simplex = int(self._mesh.find_simplex(at))
        if simplex < 0:
            return math.nan, math.nan
        *rows, corner = self._mesh.transform[simplex].tolist()
        offset = [value - origin for value, origin in zip(at, corner, strict=True)]
        step = sync = 0.0
        last = 1.0
        shares = []
        for row in rows:
            share = 0.0
            for factor, value in zip(row, offset, strict=True):
                share += factor * value
            shares.append(share)
            last -= share
        for share, point in zip((*shares, last), self._mesh.simplices[simplex].tolist(), strict=True):
            step += share * float(self.points[point, 3])
            sync += share * float(self.points[point, 4])
        return step, sync

    def _nearest(self, nodes: int, gpus: int, local_batch: float) -> tuple[float, float]:
        where = self.points
        distance = (
            np.abs(np.log(where[:, 0] / nodes))
            + np.abs(np.log(where[:, 1] / gpus))
            + 0.2 * np.abs(np.log(where[:, 2] / local_batch))
        )
        _, _, local, step, sync = where[int(np.argmin(distance))]
        return float((step - sync) * local_batch / local + sync), float(sync)

    def placement_local_max(self, placement: Placement) -> int:
        """Largest local batch that was run on this placement (memory limit of the ground truth)."""
        key = canonical(placement)
        found = self._placement_local_max.get(key)
        if found is None:
            measured = self.exact.get(key)
            if measured is not None:
                found = int(measured[0][-1])
            else:
                wide = self.scalability[(self.scalability[:, 0] >= len(key)) & (self.scalability[:, 1] >= sum(key))]
                found = int(wide[:, 2].max()) if len(wide) else self.local_max
            self._placement_local_max[key] = found
        return found

    def gpus_local_max(self, gpus: int) -> int | None:
        """Largest local batch of any measured placement with that many GPUs; ``None`` when there is none."""
        if not self._gpus_local_max:
            for placement, (local, _, _) in self.exact.items():
                total = sum(placement)
                self._gpus_local_max[total] = max(self._gpus_local_max.get(total, 0), int(local[-1]))
        return self._gpus_local_max.get(gpus)


@dataclass
class ApplicationTruth:
    """One application: progress and gradient statistics per epoch, and a `TypeProfile` per GPU type.

    ``progress`` [epochs]: scale-invariant iterations done at the end of each epoch; ``batch_sizes`` ascending;
    ``square`` and ``variance`` [batch sizes, epochs]: gradient moments.
    """

    name: str
    folder: Path
    batch_sizes: tuple[int, ...]
    progress: tuple[float, ...]
    square: Floats
    variance: Floats
    _types: dict[str, TypeProfile] = field(default_factory=dict)
    _moments: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)

    @property
    def initial_batch(self) -> int:
        return self.batch_sizes[0]

    @property
    def largest_batch(self) -> int:
        return self.batch_sizes[-1]

    @property
    def epochs(self) -> int:
        return len(self.progress)

    @property
    def work(self) -> float:
        """Total work in scale-invariant iterations (samples at M0 divided by M0)."""
        return self.progress[-1]

    def moments(self, batch_size: int, epoch: int) -> tuple[float, float]:
        """Squared gradient norm and gradient variance of an epoch, linear between measured batch sizes."""
        key = (batch_size, epoch)
        found = self._moments.get(key)
        if found is None:
            sizes = self.batch_sizes
            clipped = min(max(batch_size, sizes[0]), sizes[-1])
            high = next(i for i, size in enumerate(sizes) if size >= clipped)
            low = high if sizes[high] == clipped else high - 1
            if low == high:
                share = 0.0
            else:
                share = (clipped - sizes[low]) / (sizes[high] - sizes[low])
            square, variance = self.square[:, epoch], self.variance[:, epoch]
            found = (
                float(square[low] + share * (square[high] - square[low])),
                float(variance[low] + share * (variance[high] - variance[low])),
            )
            self._moments[key] = found
        return found

    def on(self, gpu_type: str) -> TypeProfile:
        """The profile on a GPU type. Raises `ProfileError` when that type was not measured."""
        found = self._types.get(gpu_type)
        if found is None:
            found = self._types[gpu_type] = _load_type(self.folder, self.name, gpu_type)
        return found

    def has(self, gpu_type: str) -> bool:
        """Whether there are measurements on that GPU type."""
        suffix = SUFFIX_OF_TYPE.get(gpu_type, gpu_type)
        return (self.folder / f"placements-{suffix}.csv").is_file()


class Profiles:
    """A folder of profiles; applications and types are read when first asked for."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ProfileError(f"{folder}: no such folder; name the folder with one sub-folder per application")
        self.folder = folder
        self._applications: dict[str, ApplicationTruth] = {}

    def application(self, name: str) -> ApplicationTruth:
        """The truth of one application. Raises `ProfileError` naming the missing file."""
        found = self._applications.get(name)
        if found is None:
            found = self._applications[name] = _load_application(self.folder / name, name)
        return found


def _load_application(folder: Path, name: str) -> ApplicationTruth:
    files = {int(path.stem.split("-")[1]): path for path in folder.glob("validation-*.csv")}
    if not files:
        raise ProfileError(f"{folder}: no validation-*.csv; the workload names application `{name}`")
    tables = {size: _table(files[size], ("progress", "grad_sqr", "grad_var")) for size in sorted(files)}
    epochs = min(len(table) for table in tables.values())
    progress = np.min([table[:epochs, 0] for table in tables.values()], axis=0)
    return ApplicationTruth(
        name=name,
        folder=folder,
        batch_sizes=tuple(tables),
        progress=tuple(float(value) for value in progress),
        square=np.array([table[:epochs, 1] for table in tables.values()]),
        variance=np.array([table[:epochs, 2] for table in tables.values()]),
    )


def _load_type(folder: Path, name: str, gpu_type: str) -> TypeProfile:
    suffix = SUFFIX_OF_TYPE.get(gpu_type, gpu_type)
    placements_file = folder / f"placements-{suffix}.csv"
    scalability_file = folder / f"scalability-{suffix}.csv"
    rows = _rows(placements_file)
    by_placement: dict[Placement, list[tuple[float, float, float]]] = {}
    by_shape: dict[tuple[float, float, float], list[tuple[float, float]]] = {}
    single_local, single_step = 0.0, 0.0
    one_replica = facts(name).stages.get(gpu_type, 1)
    for row in rows:
        placement = tuple(int(digit) for digit in row["placement"].strip())
        local, step, sync = float(row["local_bsz"]), float(row["step_time"]), float(row["sync_time"])
        by_placement.setdefault(placement, []).append((local, step, sync))
        by_shape.setdefault((len(placement), sum(placement), local), []).append((step, sync))
        if sum(placement) == one_replica:
            single_local, single_step = max(single_local, local), max(single_step, step)
    exact = {}
    for placement, measured in by_placement.items():
        columns = np.array(sorted(measured), dtype=np.float64).T
        exact[placement] = (columns[0], columns[1], columns[2])
    wide = (
        _table(scalability_file, ("num_nodes", "num_replicas", "local_bsz", "step_time", "sync_time"))
        if scalability_file.is_file()
        else np.zeros((0, 5))
    )
    pooled = [[*shape, *np.mean(times, axis=0)] for shape, times in sorted(by_shape.items())]
    local_batches = [float(local) for columns in exact.values() for local in columns[0]]
    known = facts(name)
    return TypeProfile(
        application=name,
        gpu_type=gpu_type,
        exact=exact,
        points=np.vstack([np.array(pooled, dtype=np.float64), wide]),
        scalability=wide,
        local_min=int(min(local_batches)),
        local_max=known.local_max.get(gpu_type, int(max(local_batches))),
        single_ratio=single_local / single_step if single_step > 0 else 1.0,
    )


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise ProfileError(f"{file}: cannot be read ({error.strerror}); is the GPU type profiled?") from None
    if not rows:
        raise ProfileError(f"{file}: has no rows")
    return rows


def _table(file: Path, columns: tuple[str, ...]) -> Floats:
    try:
        return np.array([[float(row[column]) for column in columns] for row in _rows(file)], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ProfileError(f"{file}: column {error} is missing or not a number; needed: {', '.join(columns)}") from None


def node_size(gpu_type: str) -> int:
    """GPUs per node of the machine on which a type was profiled (4 when unknown)."""
    return GPUS_PER_NODE.get(gpu_type, 4)
