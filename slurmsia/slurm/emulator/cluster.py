"""Clusters for the emulator: any mix of node sizes, types, partitions and features, and the presets of the evaluation.

Values only; the emulator keeps the changing state of nodes itself. Nothing here knows jobs or time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...cluster import GpuLimit, GpuType, Node, NodeState, Partition, Site

#: (nodes, GPUs per node) by type: the clusters of the Sia evaluation (SOSP'23, section 5).
PRESETS: Mapping[str, tuple[tuple[str, int, int], ...]] = {
    "hetero64": (("t4", 6, 4), ("rtx", 3, 8), ("a100", 2, 8)),
    "homog64": (("t4", 16, 4),),
    "physical44": (("rtx", 3, 8), ("a100", 2, 8), ("quad", 1, 4)),
}

#: GPU memory in GB of the types in the presets.
_MEMORY_GB = {"t4": 16.0, "rtx": 11.0, "a100": 40.0, "quad": 24.0}


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster as its slurm.conf would say it: nodes, partitions, limits, site facts."""

    nodes: tuple[Node, ...]
    partitions: tuple[Partition, ...] = ()
    gpu_types: tuple[GpuType, ...] = ()
    limits: tuple[GpuLimit, ...] = ()
    site: Site = field(default_factory=lambda: Site(cluster="emulated", slurm_version=(25, 11, 0)))

    @property
    def gpus(self) -> dict[str, int]:
        """GPUs by type, whether up or not."""
        total: dict[str, int] = {}
        for node in self.nodes:
            if node.gpu_type is not None:
                total[node.gpu_type] = total.get(node.gpu_type, 0) + node.gpus
        return total


def make_cluster(
    groups: Sequence[tuple[str, int, int]],
    *,
    cpus_per_gpu: int = 8,
    memory_mb_per_gpu: int = 64_000,
    site: Site | None = None,
    limits: tuple[GpuLimit, ...] = (),
    partition_per_type: bool = False,
) -> ClusterSpec:
    """A cluster of (type, nodes, GPUs per node) groups; nodes are ``a100-01``, ... with their type as a feature.

    All nodes are in partition ``main``; with ``partition_per_type`` each type has a partition of its own as well.
    """
    nodes: list[Node] = []
    count_by_type: dict[str, int] = {}
    for gpu_type, count, gpus in groups:
        first = count_by_type.get(gpu_type, 0)
        count_by_type[gpu_type] = first + count
        for index in range(first + 1, first + count + 1):
            names = {"main", gpu_type} if partition_per_type else {"main"}
            nodes.append(
                Node(
                    name=f"{gpu_type}-{index:02d}",
                    gpu_type=gpu_type,
                    gpus=gpus,
                    cpus=gpus * cpus_per_gpu,
                    memory_mb=gpus * memory_mb_per_gpu,
                    state=NodeState.UP,
                    features=frozenset({gpu_type}),
                    partitions=frozenset(names),
                    leaf_switch=f"leaf-{gpu_type}",
                )
            )
    nodes.sort(key=lambda node: node.name)
    partition_names = sorted({name for node in nodes for name in node.partitions})
    partitions = tuple(
        Partition(name, nodes=frozenset(node.name for node in nodes if name in node.partitions))
        for name in partition_names
    )
    types = tuple(
        GpuType(name, memory_bytes=_MEMORY_GB[name] * 1e9 if name in _MEMORY_GB else None)
        for name in sorted(count_by_type)
    )
    spec = ClusterSpec(tuple(nodes), partitions, types, limits)
    return spec if site is None else ClusterSpec(spec.nodes, spec.partitions, spec.gpu_types, limits, site)


def preset(name: str, scale: int = 1) -> ClusterSpec:
    """One of `PRESETS`, with ``scale`` times as many nodes. Raises `ValueError` for an unknown name."""
    try:
        groups = PRESETS[name]
    except KeyError:
        raise ValueError(f"no cluster preset {name!r}; known: {', '.join(sorted(PRESETS))}") from None
    return make_cluster([(gpu_type, nodes * scale, gpus) for gpu_type, nodes, gpus in groups])
