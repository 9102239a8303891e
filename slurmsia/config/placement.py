"""Section ``[placement]``: from configurations to nodes."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class PlacementSection(Section):
    """How configurations become nodes."""

    one_distributed_job_per_node: bool = True
    """At most one elastic multi-node job on a node."""
    contention: bool = False
    """Place new jobs on several nodes so that they slow each other down least on the uplinks of leaf switches."""
    oversubscription: float = Field(default=2.0, ge=1, le=64)
    """With contention: traffic of all nodes under a leaf switch over what its uplink carries; 1 = never too much."""
    contention_nodes: int = Field(default=32, ge=2, le=128)
    """With contention: nodes that one improvement of a placement looks at."""
