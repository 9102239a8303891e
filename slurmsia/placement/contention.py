"""How much jobs on several nodes slow each other down on the uplinks of leaf switches.

A job that spans leaf switches loads each uplink it uses; where loads add up to more than the link carries, its
network time stretches (DeepShare's subject, without learning). Pure arithmetic: it places nothing and knows no models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..cluster import JobId, Node
from .board import Seats


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one step of a job takes: ``compute_s`` (Tc), ``network_s`` (Tn) alone on its links, and their overlap
    exponent ``gamma`` (1 = none)."""

    compute_s: float
    network_s: float
    gamma: float = 1.0

    @property
    def sensitivity(self) -> float:
        """s = Tn^g / (Tc^g + Tn^g) in [0, 1]: share of a step that the network decides; also the load on a link of a
        node's own speed."""
        compute, network = self.compute_s**self.gamma, self.network_s**self.gamma
        return network / (compute + network) if compute + network > 0 else 0.0

    def ratio(self, phi: float) -> float:
        """Goodput at stretch ``phi`` >= 1 over goodput alone: [(Tc^g + Tn^g) / (Tc^g + (phi Tn)^g)]^(1/g)."""
        share = self.sensitivity
        return float((1.0 - share + share * phi**self.gamma) ** (-1.0 / self.gamma))


@dataclass(frozen=True, slots=True)
class Uplinks:
    """``leaf`` of each node by name (nodes without a known switch share one); ``nodes``: how many nodes' full traffic
    the uplink of each leaf carries."""

    leaf: Mapping[str, str]
    nodes: Mapping[str, float]

    @classmethod
    def of(cls, nodes: Sequence[Node], oversubscription: float) -> Uplinks:
        """Each uplink carries 1/``oversubscription`` of what all nodes of its leaf can send together."""
        leaf = {node.name: node.leaf_switch or "" for node in nodes}
        count: dict[str, int] = {}
        for name in leaf.values():
            count[name] = count.get(name, 0) + 1
        return cls(leaf, {name: size / oversubscription for name, size in count.items()})

    def spread(self, seats: Seats) -> dict[str, int]:
        """Nodes by leaf of a job whose traffic crosses uplinks; empty for one that stays under one leaf."""
        found: dict[str, int] = {}
        for name, _ in seats:
            leaf = self.leaf.get(name, "")
            found[leaf] = found.get(leaf, 0) + 1
        return found if len(found) > 1 else {}


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Limits of one refinement: ``nodes`` looked at, and CP-SAT's deterministic time."""

    uplinks: Uplinks
    nodes: int = 32
    deterministic_time: float = 0.5


def ratios(uplinks: Uplinks, jobs: Mapping[JobId, tuple[Seats, Traffic]]) -> dict[JobId, float]:
    """Goodput of each job beside the others over its goodput alone, in (0, 1]."""
    spread = {job_id: uplinks.spread(seats) for job_id, (seats, _) in sorted(jobs.items())}
    load: dict[str, float] = {}
    for job_id, leaves in spread.items():
        for leaf, count in leaves.items():
            load[leaf] = load.get(leaf, 0.0) + jobs[job_id][1].sensitivity * count / uplinks.nodes.get(leaf, 1.0)
    return {
        job_id: jobs[job_id][1].ratio(max((max(1.0, load[leaf]) for leaf in leaves), default=1.0))
        for job_id, leaves in spread.items()
    }
