"""Configurations to nodes as the public simulator does it: largest first, a rotating pointer, no memory.

Only for ``--physics artifact``; placement in production is `slurmsia.placement`. A move between nodes of one type is
free there, so all that matters is how often it happens.
"""

from __future__ import annotations

from collections.abc import Sequence

from .clusters import TypeNodes


def place_fast(group: TypeNodes, wanted: Sequence[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """Node number of each GPU, per job; ``wanted`` is (job, GPUs) in queue order. The sum must fit the type."""
    free = [group.gpus_per_node] * group.nodes
    pointer = 0
    placed: dict[str, tuple[int, ...]] = {}
    for job, gpus in sorted(wanted, key=lambda pair: -pair[1]):
        node, left, mine = pointer, gpus, []
        whole = gpus // group.gpus_per_node
        checked = 0
        while whole > 0 and checked < group.nodes:
            if free[node] == group.gpus_per_node:
                free[node] = 0
                mine += [node] * group.gpus_per_node
                left -= group.gpus_per_node
                whole -= 1
            node = (node + 1) % group.nodes
            checked += 1
        while left > 0:
            take = min(left, free[node])
            free[node] -= take
            left -= take
            mine += [node] * take
            node = (node + 1) % group.nodes
        placed[job] = tuple(mine)
        pointer = node
    return placed


def gpus_on_nodes(nodes_of_gpus: Sequence[int]) -> tuple[int, ...]:
    """GPUs per node in the order they were taken, as the profiles key placements."""
    counts: list[int] = []
    for i, node in enumerate(nodes_of_gpus):
        if i and nodes_of_gpus[i - 1] == node:
            counts[-1] += 1
        else:
            counts.append(1)
    return tuple(counts)
