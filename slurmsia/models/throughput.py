"""How long one optimiser step takes on a shape: the model of Pollux and Sia, one term added, and a pipeline form.

Everything here is a pure function of parameters and NumPy arrays (or plain numbers) that broadcast against each
other. This module must never fit, never look at a history and never know about batch limits of a job.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import PipelineParams, ThroughputParams

#: Anything that broadcasts: a number or an array of them.
Numbers = Any
Floats = NDArray[np.float64]

#: Passes through a pipeline stage in one micro-batch: one forward and a backward of twice its length (ARTIFACT.md 1.3).
FORWARDS_PER_MICROBATCH = 3.0


def grad_time(params: ThroughputParams, local_batch: Numbers) -> Floats:
    """Seconds of one micro-batch on one GPU, ``alpha_c + beta_c * m`` (Sia section 3.2, Pollux eq. 8)."""
    return np.asarray(params.alpha_c + params.beta_c * np.asarray(local_batch, dtype=np.float64))


def sync_time(params: ThroughputParams, nodes: Numbers, gpus: Numbers) -> Floats:
    """Seconds of one gradient all-reduce over ``gpus`` GPUs on ``nodes`` nodes; 0 on one GPU (Pollux eq. 9).

    GPUs of one node share its links whether or not other nodes take part: across nodes ``kappa`` times the all-reduce
    of as many GPUs within one node comes on top (not in the paper, where ``kappa`` is 0).
    """
    nodes = np.asarray(nodes)
    more = np.maximum(np.asarray(gpus, dtype=np.float64) - 2.0, 0.0)
    within = params.alpha_r + params.beta_r * more
    across = params.alpha_n + params.beta_n * more
    if params.kappa:
        across = across + params.kappa * shared_time(params.alpha_r, params.beta_r, nodes, gpus)
    return np.where(np.asarray(gpus) <= 1, 0.0, np.where(nodes > 1, across, within))


def shared_time(alpha_r: Numbers, beta_r: Numbers, nodes: Numbers, gpus: Numbers) -> Floats:
    """Seconds of an all-reduce within one of ``nodes`` nodes over its share of ``gpus`` GPUs; 0 with one GPU each."""
    dense = np.asarray(gpus, dtype=np.float64) / nodes
    return np.where(dense > 1.0, alpha_r + beta_r * np.maximum(dense - 2.0, 0.0), 0.0)


def overlap(first: Floats, second: Floats, gamma: Numbers) -> Floats:
    """``(a^gamma + b^gamma)^(1/gamma)`` without overflow: 1 = no overlap of compute and network, inf = full overlap."""
    longer = np.maximum(first, second)
    shorter = np.minimum(first, second)
    ratio = np.divide(shorter, longer, out=np.zeros(np.broadcast(first, second).shape), where=longer > 0)
    return np.asarray(longer * (1.0 + ratio**gamma) ** (1.0 / np.asarray(gamma)))


def step_time(
    params: ThroughputParams, nodes: Numbers, gpus: Numbers, local_batch: Numbers, accumulation: Numbers = 0
) -> Floats:
    """Seconds of one optimiser step with ``accumulation`` extra micro-batches (SIA.md section 1, Pollux eq. 10-12)."""
    compute = grad_time(params, local_batch)
    full = overlap(compute, sync_time(params, nodes, gpus), params.gamma)
    return np.asarray(np.asarray(accumulation) * compute + full)


def sync_time_at(params: ThroughputParams, nodes: int, gpus: int) -> float:
    """`sync_time` of one shape: the same number within rounding."""
    if gpus <= 1:
        return 0.0
    more, dense = gpus - 2.0, gpus / nodes
    if nodes <= 1:
        return params.alpha_r + params.beta_r * more
    sync = params.alpha_n + params.beta_n * more
    if dense > 1.0:
        sync += params.kappa * (params.alpha_r + params.beta_r * max(dense - 2.0, 0.0))
    return sync


def step_time_at(
    params: ThroughputParams, nodes: int, gpus: int, local_batch: float, accumulation: float = 0
) -> float:  # fmt: skip
    """`step_time` of one shape: the same number within rounding, without what an array costs."""
    compute = params.alpha_c + params.beta_c * local_batch
    if gpus <= 1:
        return (accumulation + 1.0) * compute
    sync = sync_time_at(params, nodes, gpus)
    longer, shorter = max(compute, sync), min(compute, sync)
    ratio = shorter / longer if longer > 0.0 else 0.0
    return float(accumulation * compute + longer * (1.0 + ratio**params.gamma) ** (1.0 / params.gamma))


def pipeline_step_time(params: PipelineParams, gpus: Numbers, microbatches: Numbers | None = None) -> Floats:
    """Seconds of one step of a hybrid-parallel job on ``gpus`` GPUs: GPipe bubbles plus the replicas' all-reduce.

    ``3 * ((stages - 1) + microbatches) * forward_s + T_sync(replicas)``; with one stage it is the plain form with
    ``gamma = 1``, ``T_grad = 3 * forward_s`` and ``microbatches - 1`` accumulation steps (Sia section 3.4).
    """
    replicas = np.asarray(gpus, dtype=np.float64) / params.stages
    passes = (params.stages - 1) + np.asarray(params.microbatches if microbatches is None else microbatches)
    sync = np.where(replicas <= 1.0, 0.0, params.alpha_n + params.beta_n * np.maximum(replicas - 2.0, 0.0))
    return np.asarray(FORWARDS_PER_MICROBATCH * passes * params.forward_s + sync)


def is_sane(params: ThroughputParams) -> bool:
    """Whether every parameter is finite, non-negative and ``gamma`` lies in [1, 10]."""
    p = params
    values = (p.alpha_c, p.beta_c, p.alpha_n, p.beta_n, p.alpha_r, p.beta_r, p.kappa)
    return all(math.isfinite(value) and value >= 0.0 for value in values) and 1.0 <= params.gamma <= 10.0
