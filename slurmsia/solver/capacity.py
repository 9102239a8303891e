"""Capacity rows of a GPU type whose free GPUs lie in crumbs over its nodes.

One sum per type is wrong when free GPUs are scattered: eight nodes with one free GPU each cannot run one job on eight
GPUs of a node. For every block size B that some shape uses there is one row: blocks of B that the chosen shapes need
<= blocks of B that the nodes have free. Every row is necessary for any sizes; for shapes of power-of-two GPUs per
node, with whole-node shapes on several nodes counted against whole free nodes as well, they are also sufficient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..cluster import Shape
from .program import CapacityRow


def capacity_rows(
    shapes: Sequence[Shape], free_by_node: Mapping[str, Sequence[tuple[int, int]]]
) -> tuple[CapacityRow, ...]:
    """Rows for all shapes; ``free_by_node`` lists (free GPUs, GPUs of the node) for each usable node of a type.

    Per type one row for each number of GPUs per node among its shapes (at most five for nodes of one size up to 16),
    and one more for a whole-node shape on several nodes where larger nodes exist too. A type without nodes gets
    rows of limit 0. Raises nothing; negative free counts as none.
    """
    rows: list[CapacityRow] = []
    for gpu_type in sorted({shape.gpu_type for shape in shapes}):
        nodes = [(max(0, min(free, size)), size) for free, size in free_by_node.get(gpu_type, ()) if size > 0]
        columns = [c for c, shape in enumerate(shapes) if shape.gpu_type == gpu_type]
        for block in sorted({shapes[c].gpus_per_node for c in columns if shapes[c].gpus_per_node > 0}):
            need = np.zeros(len(shapes), dtype=np.int64)
            for c in columns:
                need[c] = shapes[c].nodes * (shapes[c].gpus_per_node // block)
            name = f"{gpu_type} GPUs" if block == 1 else f"blocks of {block} {gpu_type} GPUs"
            rows.append(CapacityRow(name, need, sum(free // block for free, _ in nodes)))
        rows.extend(_whole_node_rows(shapes, columns, gpu_type, nodes))
    return tuple(rows)


def _whole_node_rows(
    shapes: Sequence[Shape], columns: list[int], gpu_type: str, nodes: list[tuple[int, int]]
) -> list[CapacityRow]:
    """Shapes on several whole nodes against whole free nodes of that size, where the block row does not say so."""
    largest = max((size for _, size in nodes), default=0)
    sizes = {size for _, size in nodes}
    rows = []
    for size in sorted({shapes[c].gpus_per_node for c in columns if shapes[c].nodes > 1} & sizes):
        if size == largest:
            continue
        need = np.zeros(len(shapes), dtype=np.int64)
        for c in columns:
            if shapes[c].nodes > 1 and shapes[c].gpus_per_node == size:
                need[c] = shapes[c].nodes
        whole = sum(1 for free, total in nodes if free == total == size)
        rows.append(CapacityRow(f"whole {gpu_type} nodes of {size}", need, whole))
    return rows
