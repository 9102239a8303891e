"""Clusters to simulate: three of the paper's, or a TOML file. Values only.

A file has one table per GPU type: ``[gpu_types.t4] nodes = 6, gpus_per_node = 4``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ..cluster import Shape
from .applications import LARGEST_JOB_GPUS, PROFILED_NODES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ClusterError(ValueError):
    """A cluster name or file that cannot be used."""


@dataclass(frozen=True, slots=True)
class TypeNodes:
    """``nodes`` nodes of one GPU type with ``gpus_per_node`` GPUs each."""

    gpu_type: str
    nodes: int
    gpus_per_node: int

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True)
class SimCluster:
    """A cluster by GPU type, in the order that the public code's projections depend on."""

    name: str
    types: tuple[TypeNodes, ...]

    @property
    def gpus(self) -> int:
        return sum(group.gpus for group in self.types)

    def scaled(self, factor: int) -> SimCluster:
        """The same cluster with ``factor`` times as many nodes of each type."""
        return SimCluster(
            f"{self.name}x{factor}", tuple(replace(group, nodes=group.nodes * factor) for group in self.types)
        )

    def artifact_shapes(self) -> tuple[Shape, ...]:
        """The configurations of the public simulator: powers of two on a node, then whole nodes as far as profiled."""
        shapes = []
        for group in self.types:
            size = 1
            while size <= group.gpus_per_node:
                shapes.append(Shape(group.gpu_type, 1, size))
                size *= 2
            most = min(group.nodes, PROFILED_NODES.get(group.gpu_type, group.nodes))
            for nodes in range(2, most + 1):
                if nodes * group.gpus_per_node <= LARGEST_JOB_GPUS:
                    shapes.append(Shape(group.gpu_type, nodes, nodes * group.gpus_per_node))
        return tuple(shapes)


_PRESETS = {
    "hetero64": (TypeNodes("t4", 6, 4), TypeNodes("a100", 2, 8), TypeNodes("rtx", 3, 8)),
    "homog64": (TypeNodes("t4", 16, 4),),
    "physical44": (TypeNodes("rtx", 3, 8), TypeNodes("a100", 2, 8), TypeNodes("quad", 1, 4)),
}

CLUSTERS = tuple(_PRESETS)


def load_cluster(name_or_file: str) -> SimCluster:
    """One of `CLUSTERS`, ``NAMExK`` for K times its nodes, or a TOML file. Raises `ClusterError`."""
    base, _, factor = name_or_file.rpartition("x")
    if base in _PRESETS and factor.isdigit() and int(factor) >= 1:
        return SimCluster(base, _PRESETS[base]).scaled(int(factor))
    if name_or_file in _PRESETS:
        return SimCluster(name_or_file, _PRESETS[name_or_file])
    file = Path(name_or_file)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ClusterError(f"{name_or_file}: neither a cluster ({', '.join(CLUSTERS)}) nor a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"{file}: is not TOML: {error}") from None
    try:
        types = tuple(
            TypeNodes(
                gpu_type=name,
                nodes=int(entry["nodes"]),
                gpus_per_node=int(entry["gpus_per_node"]),
            )
            for name, entry in table["gpu_types"].items()
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ClusterError(
            f"{file}: {error}; needed: one table [gpu_types.NAME] each with nodes and gpus_per_node"
        ) from None
    if not types or any(group.nodes < 1 or group.gpus_per_node < 1 for group in types):
        raise ClusterError(f"{file}: every GPU type needs at least one node with at least one GPU")
    return SimCluster(file.stem, types)
