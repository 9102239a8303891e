"""The configurations of a round: every shape a GPU type offers, and which of them each job may take (SIA.md 2).

Shapes come from the nodes there are; jobs narrow the set by their declaration, their size so far, what their user
submitted, and the nodes that Slurm would let them have. Pure; speaks of shapes, never of free GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cluster import Node, NodeState, Shape
from ..declaration import Level
from ..models.base import JobModel
from ..reshape import PerGpu
from .eligibility import Managed

MOST_PER_TYPE = 64
_EVERY_NODE_COUNT_UP_TO = 8
_STEP = 1.25


def shapes_of_type(gpu_type: str, node_sizes: Mapping[int, int]) -> tuple[Shape, ...]:
    """The configurations of one type; ``node_sizes``: GPUs per node -> number of such nodes.

    One node: 1, 2, 4, ... and the whole node; then whole nodes, each count up to 8 and steps of 1.25 above; the
    smallest 64 by number of nodes.
    """
    counted = {size: count for size, count in node_sizes.items() if size > 0 and count > 0}
    found: set[Shape] = set()
    for size, count in counted.items():
        gpus = 1
        while gpus < size:
            found.add(Shape(gpu_type, 1, gpus))
            gpus *= 2
        found |= {Shape(gpu_type, nodes, nodes * size) for nodes in node_counts(count)}
    chosen = sorted(found, key=lambda shape: (shape.nodes, shape.gpus))[:MOST_PER_TYPE]
    return tuple(sorted(chosen, key=lambda shape: (shape.gpus, shape.nodes)))


def node_counts(nodes: int) -> tuple[int, ...]:
    """1 to 8, then steps of 1.25, never over ``nodes``; ``nodes`` itself is included."""
    counts = list(range(1, min(nodes, _EVERY_NODE_COUNT_UP_TO) + 1))
    while counts and counts[-1] < nodes:
        counts.append(min(max(int(counts[-1] * _STEP), counts[-1] + 1), nodes))
    return tuple(counts)


def all_shapes(nodes: Iterable[Node], extra: Iterable[Shape] = ()) -> tuple[Shape, ...]:
    """Every configuration of every type of the cluster, types by name, then ``extra`` ones (odd sizes of rigid jobs,
    of units and of what runs), in order and without repeats."""
    sizes: dict[str, dict[int, int]] = {}
    for node in nodes:
        if node.gpu_type is not None and node.gpus > 0 and node.state is not NodeState.UNUSABLE:
            by_size = sizes.setdefault(node.gpu_type, {})
            by_size[node.gpus] = by_size.get(node.gpus, 0) + 1
    listed = [shape for gpu_type in sorted(sizes) for shape in shapes_of_type(gpu_type, sizes[gpu_type])]
    known = set(listed)
    return (*listed, *sorted(set(extra) - known))


def unit_shapes(gpu_type: str, unit: int, node_sizes: Iterable[int]) -> tuple[Shape, ...]:
    """Single-node shapes for replicas of ``unit`` GPUs: 1, 2, 4, ... replicas on a node, and as many as fit."""
    found: set[Shape] = set()
    for size in node_sizes:
        most = size // unit if unit > 0 else 0
        replicas = 1
        while replicas <= most:
            found.add(Shape(gpu_type, 1, replicas * unit))
            replicas *= 2
        if most:
            found.add(Shape(gpu_type, 1, most * unit))
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class ShapeTable:
    """The shapes of a round as arrays [configurations], and the nodes they must fit on as arrays [nodes]."""

    shapes: tuple[Shape, ...]
    types: tuple[str, ...]
    type_index: NDArray[np.int64]
    nodes: NDArray[np.int64]
    gpus: NDArray[np.int64]
    node_names: tuple[str, ...]
    node_type: NDArray[np.int64]
    node_gpus: NDArray[np.int64]
    node_cpus: NDArray[np.float64]
    node_memory_mb: NDArray[np.float64]
    node_up: NDArray[np.bool_]

    @classmethod
    def of(cls, shapes: Sequence[Shape], nodes: Sequence[Node]) -> ShapeTable:
        types = tuple(sorted({shape.gpu_type for shape in shapes} | {node.gpu_type for node in nodes if node.gpu_type}))
        index = {name: number for number, name in enumerate(types)}
        return cls(
            shapes=tuple(shapes),
            types=types,
            type_index=np.array([index[shape.gpu_type] for shape in shapes], dtype=np.int64),
            nodes=np.array([shape.nodes for shape in shapes], dtype=np.int64),
            gpus=np.array([shape.gpus for shape in shapes], dtype=np.int64),
            node_names=tuple(node.name for node in nodes),
            node_type=np.array([index[node.gpu_type] if node.gpu_type else -1 for node in nodes], dtype=np.int64),
            node_gpus=np.array([node.gpus for node in nodes], dtype=np.int64),
            node_cpus=np.array([node.cpus - node.cpus_used_by_others for node in nodes], dtype=np.float64),
            node_memory_mb=np.array(
                [node.memory_mb - node.memory_mb_used_by_others for node in nodes], dtype=np.float64
            ),
            node_up=np.array([node.takes_work for node in nodes], dtype=np.bool_),
        )

    def fit(self, usable: frozenset[str] | None, per_gpu: PerGpu, exact: bool = False) -> NDArray[np.bool_]:
        """[configurations] whether enough usable nodes are big enough, empty or not.

        Multi-node shapes want nodes of exactly their size per node (whole nodes) unless ``exact``, which asks as the
        user did: any node that is big enough. A job that takes nodes whole wants exactly fitting ones always.
        """
        mask = self.node_up.copy()
        if usable is not None:
            mask &= np.fromiter((name in usable for name in self.node_names), np.bool_, len(self.node_names))
        if not len(self.shapes) or not mask.any():
            return np.zeros(len(self.shapes), dtype=np.bool_)
        node_type, node_gpus = self.node_type[mask], self.node_gpus[mask]
        each = self.gpus // self.nodes
        same = self.type_index[:, None] == node_type[None, :]
        big = node_gpus[None, :] >= each[:, None]
        whole = np.full(len(self.shapes), per_gpu.whole_nodes) | ((self.nodes > 1) & (not exact))
        big &= ~whole[:, None] | (node_gpus[None, :] == each[:, None])
        cpus = np.ceil(per_gpu.cpus * each - 1e-9)[:, None] <= self.node_cpus[mask][None, :]
        memory = ((per_gpu.memory_mb or 0.0) * each)[:, None] <= self.node_memory_mb[mask][None, :]
        enough = (same & big & cpus & memory).sum(axis=1) >= self.nodes
        return np.asarray(enough, dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Choices:
    """What all jobs with one declaration and request may take, whatever they have run on. Arrays [configurations]:
    ``ok``: legal; ``first``: legal and the smallest of its type, where a new job starts."""

    ok: NDArray[np.bool_]
    first: NDArray[np.bool_]

    @classmethod
    def of(cls, managed: Managed, table: ShapeTable, fits: NDArray[np.bool_]) -> Choices:
        """By declaration, units, and as asked for rigid jobs; ``fits``: from `ShapeTable.fit`."""
        declaration, request = managed.declaration, managed.request
        ok = fits.copy()
        names = declaration.types or ((request.gpu_type,) if request.gpu_type else ())
        if names:
            ok &= np.array([name in names for name in table.types], dtype=np.bool_)[table.type_index]
        if declaration.level is Level.RIGID:
            ok &= (table.gpus == request.gpus) & (table.nodes == max(request.nodes, 1))
            return cls(ok, ok)
        units = np.array([declaration.unit_for(name) for name in table.types], dtype=np.int64)[table.type_index]
        ok &= (table.gpus >= declaration.min_gpus) & (table.gpus <= declaration.max_gpus) & (table.gpus % units == 0)
        return cls(ok, ok & (table.gpus == _smallest_by_type(table, ok)))


def allowed(
    managed: Managed,
    table: ShapeTable,
    choices: Choices,
    model: JobModel | None,
    growth: float = 2.0,
    from_history: bool = False,
) -> NDArray[np.bool_]:
    """[configurations] what one job may take: its ``choices``, and of those no more than scale-out by doubling allows.

    ``growth``: largest factor over the most GPUs seen so far, with ``from_history`` on similar jobs too. What the job
    holds now is not added here: the round keeps it legal whatever the tables say.
    """
    if managed.declaration.level is Level.RIGID:
        return choices.ok
    few = table.gpus <= most_gpus(managed, model, growth, from_history)
    return np.asarray((choices.ok & few) | choices.first, dtype=np.bool_)


def most_gpus(managed: Managed, model: JobModel | None, growth: float, from_history: bool = False) -> int:
    """Largest size to try now: ``growth`` times the most seen; a new moldable job whose kind is known may take any."""
    declaration = managed.declaration
    if declaration.level is Level.MOLDABLE and model is not None and model.known:
        return declaration.max_gpus
    seen = model.max_gpus_seen if model is not None else 0
    if from_history and model is not None:
        seen = max(seen, model.similar_gpus)
    if declaration.level is Level.MOLDABLE and not seen:
        return max(managed.request.gpus, declaration.min_gpus)
    return max(int(growth * seen), declaration.min_gpus)


def _smallest_by_type(table: ShapeTable, ok: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[configurations] the smallest legal size of each shape's type: where a new job starts."""
    none = np.iinfo(np.int64).max
    smallest = np.full(len(table.types), none, dtype=np.int64)
    np.minimum.at(smallest, table.type_index[ok], table.gpus[ok])
    return np.asarray(smallest[table.type_index], dtype=np.int64)
