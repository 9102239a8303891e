"""What jobs on several nodes send over the network, from their models; and what that costs where they sit now.

Joins models and placement, which know nothing of each other. Pure; used only where the policy file turns the
contention term on.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..cluster import JobId, Node, Shape
from ..config.placement import PlacementSection
from ..models.base import JobModel, ThroughputParams
from ..models.throughput import grad_time, pipeline_step_time, sync_time
from ..placement import Neighbourhood, Seats, Traffic, Uplinks, ratios


def traffic_of(model: JobModel, shape: Shape, local_batch: int) -> Traffic | None:
    """Compute and network time of one step (Tc, Tn and gamma of `Traffic`); ``None`` on one node or without a model."""
    known = model.types.get(shape.gpu_type)
    if shape.nodes < 2 or known is None:
        return None
    params = known.params
    if isinstance(params, ThroughputParams):
        return Traffic(
            float(grad_time(params, max(local_batch, 1))),
            float(sync_time(params, shape.nodes, shape.gpus)),
            params.gamma,
        )
    alone = float(pipeline_step_time(params, params.stages))
    return Traffic(alone, max(float(pipeline_step_time(params, shape.gpus)) - alone, 0.0))


def neighbourhood(nodes: tuple[Node, ...], section: PlacementSection) -> Neighbourhood:
    """The limits of one improvement, with the uplinks of the cluster."""
    return Neighbourhood(Uplinks.of(nodes, section.oversubscription), section.contention_nodes)


def placement_factors(
    nodes: tuple[Node, ...], section: PlacementSection, jobs: Mapping[JobId, tuple[Seats, Traffic]]
) -> dict[JobId, float]:
    """Goodput of each job where it sits over its goodput without neighbours: last round's placement factor."""
    return ratios(Uplinks.of(nodes, section.oversubscription), jobs)
