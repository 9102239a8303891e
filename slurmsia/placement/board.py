"""What is free on every node while one placement is being made. Working state of this package, thrown away after it.

Arrays are per node in the snapshot's order. The board only adds and subtracts; who goes where is decided elsewhere.
It must never hand out a node that is not up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cluster import JobId, Node, Shape
from ..reshape import PerGpu

Seats = tuple[tuple[str, int], ...]
"""GPUs by node, sorted by node name."""


@dataclass(frozen=True, slots=True)
class Occupant:
    """A job that holds ``seats`` whatever this placement decides: a neighbour, or a managed job that stays put."""

    job_id: JobId
    seats: Seats
    per_gpu: PerGpu
    distributed: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """A job that is to hold ``shape``. ``keep``: it already does, ``at`` is where; ``movable``: a kept job that may be
    placed anew for another's sake, at a charge.

    ``nodes``: names of nodes Slurm would let it have (``None`` = any); ``exact``: several nodes as the user asked, not
    necessarily whole ones; ``distributed``: counts for the rule of one elastic multi-node job per node.
    """

    job_id: JobId
    shape: Shape
    per_gpu: PerGpu
    nodes: frozenset[str] | None = None
    exact: bool = False
    at: Seats = ()
    keep: bool = False
    movable: bool = True

    @property
    def distributed(self) -> bool:
        return self.shape.nodes > 1

    @property
    def whole(self) -> bool:
        """Takes nodes whole: several nodes (the whole-node rule), or a job that asked for exclusive nodes."""
        return self.per_gpu.whole_nodes or (self.shape.nodes > 1 and not self.exact)


class Board:
    """Free GPUs, CPUs and memory per node."""

    def __init__(self, nodes: Sequence[Node], one_distributed_per_node: bool = True) -> None:
        self.names = [node.name for node in nodes]
        self.index = {name: number for number, name in enumerate(self.names)}
        types = sorted({node.gpu_type for node in nodes if node.gpu_type is not None})
        self.type_code = {name: number for number, name in enumerate(types)}
        self.type = np.array([self.type_code[node.gpu_type] if node.gpu_type else -1 for node in nodes], dtype=np.int64)
        self.size = np.array([node.gpus for node in nodes], dtype=np.int64)
        self.largest = int(self.size.max(initial=0))
        self.up = np.array([node.takes_work for node in nodes], dtype=np.bool_)
        leaves = sorted({node.leaf_switch for node in nodes if node.leaf_switch is not None})
        leaf_code = {name: number for number, name in enumerate(leaves)}
        self.leaf = np.array(
            [leaf_code[node.leaf_switch] if node.leaf_switch else -1 for node in nodes], dtype=np.int64
        )
        self.free = self.size.copy()
        self.cpus = np.array([node.cpus - node.cpus_used_by_others for node in nodes], dtype=np.float64)
        self.memory_mb = np.array([node.memory_mb - node.memory_mb_used_by_others for node in nodes], dtype=np.float64)
        self.jobs = np.zeros(len(nodes), dtype=np.int64)
        self.distributed = np.zeros(len(nodes), dtype=np.int64)
        self.one_distributed_per_node = one_distributed_per_node
        self._masks: dict[frozenset[str], NDArray[np.bool_]] = {}
        self._big_enough: dict[tuple[frozenset[str] | None, str, int, bool], NDArray[np.bool_]] = {}

    def copy(self) -> Board:
        """An independent board in the same state (fixed facts are shared)."""
        twin = object.__new__(Board)
        twin.__dict__.update(self.__dict__)
        twin.free, twin.cpus, twin.memory_mb = self.free.copy(), self.cpus.copy(), self.memory_mb.copy()
        twin.jobs, twin.distributed = self.jobs.copy(), self.distributed.copy()
        return twin

    def take(self, seats: Seats, per_gpu: PerGpu, distributed: bool) -> None:
        self._change(seats, per_gpu, distributed, -1)

    def release(self, seats: Seats, per_gpu: PerGpu, distributed: bool) -> None:
        self._change(seats, per_gpu, distributed, 1)

    def _change(self, seats: Seats, per_gpu: PerGpu, distributed: bool, sign: int) -> None:
        for name, gpus in seats:
            node = self.index.get(name)
            if node is None:
                continue
            self.free[node] += sign * (self.size[node] if per_gpu.whole_nodes else gpus)
            self.cpus[node] += sign * math.ceil(per_gpu.cpus * gpus - 1e-9)
            self.memory_mb[node] += sign * (per_gpu.memory_mb or 0.0) * gpus
            self.jobs[node] -= sign
            if distributed:
                self.distributed[node] -= sign

    def mask(self, nodes: frozenset[str] | None) -> NDArray[np.bool_]:
        """[nodes] membership of a set of names; ``None`` = all. Remembered, because many jobs share a set."""
        if nodes is None:
            return self.up
        found = self._masks.get(nodes)
        if found is None:
            found = np.fromiter((name in nodes for name in self.names), np.bool_, len(self.names)) & self.up
            self._masks[nodes] = found
        return found

    def big_enough(self, wish: Wish) -> NDArray[np.bool_]:
        """[nodes] that could take one node's part of the wish if nothing ran there. Remembered: not to be changed."""
        each, gpu_type, whole = wish.shape.gpus_per_node, wish.shape.gpu_type, wish.whole
        known = self._big_enough.get((wish.nodes, gpu_type, each, whole))
        if known is not None:
            return known
        good: NDArray[np.bool_] = self.mask(wish.nodes) & (self.type == self.type_code.get(gpu_type, -2))
        good &= (self.size == each) if whole else (self.size >= each)
        self._big_enough[wish.nodes, gpu_type, each, whole] = good
        return good

    def roomy(self, wish: Wish) -> NDArray[np.bool_]:
        """[nodes] that can take one node's part of the wish now."""
        each = wish.shape.gpus_per_node
        good: NDArray[np.bool_] = self.big_enough(wish) & (self.free >= each)
        good &= self.cpus >= math.ceil(wish.per_gpu.cpus * each - 1e-9)
        if wish.per_gpu.memory_mb:
            good &= self.memory_mb >= wish.per_gpu.memory_mb * each
        if wish.per_gpu.whole_nodes:
            good &= self.jobs == 0
        if wish.distributed and self.one_distributed_per_node:
            good &= self.distributed == 0
        return good

    def seats(self, nodes: Iterable[int], each: int) -> Seats:
        return tuple(sorted((self.names[node], each) for node in nodes))
