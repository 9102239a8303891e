"""The clusters of `slurmsia bench robustness`: what the reference profiles can answer for."""

from __future__ import annotations

from slurmsia_cli.bench_robustness import _CLUSTERS

from slurmsia.sim.applications import GPUS_PER_NODE, PROFILED_NODES


def test_no_odd_cluster_has_more_nodes_of_a_type_profiled_on_one_node_than_one():
    """Speeds over several nodes cannot be interpolated for a type that was never measured on two."""
    for name, groups in _CLUSTERS.items():
        for kind, (nodes, gpus) in groups.items():
            assert gpus <= GPUS_PER_NODE[kind], (name, kind)
            assert nodes == 1 or PROFILED_NODES[kind] > 1, (name, kind)
