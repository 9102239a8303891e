"""Hybrid-parallel jobs: fit the pipeline form from sums, and carry it to types with other numbers of stages.

One replica is a pipeline of ``stages`` GPUs that passes a fixed number of fixed micro-batches (Sia section 3.4).
Pure functions; never raise on bad observations, which are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..history import Observation
from .base import PipelineParams, TypeModel
from .bootstrap import NOTHING_KNOWN_ERROR, RATIO_ERROR, TypeRatio
from .groups import MODEL_ERROR, usable
from .throughput import FORWARDS_PER_MICROBATCH, pipeline_step_time


@dataclass(frozen=True, slots=True)
class PipelineFit:
    """Fitted pipeline of one type: parameters, RMS log error, steps behind it and largest GPU count seen."""

    params: PipelineParams
    rel_error: float
    count: float
    max_gpus_seen: int


def fit_pipeline(observations: Sequence[Observation], stages: int) -> PipelineFit | None:
    """Least relative squares of ``forward_s`` and the all-reduce line; ``None`` without usable observations.

    Micro-batch size and number are those of most steps; observations with others, or whose GPUs are no multiple of
    ``stages``, are left out. ``local_batch`` is the micro-batch of a replica, ``accumulation + 1`` its micro-batches.
    """
    good = [o for o in observations if usable(o) and o.gpus % stages == 0]
    if not good:
        return None
    counts: dict[tuple[float, int], float] = {}
    for o in good:
        counts[o.local_batch, o.accumulation] = counts.get((o.local_batch, o.accumulation), 0.0) + o.count
    local, accumulation = max(sorted(counts), key=lambda key: counts[key])
    microbatches = accumulation + 1
    passes = FORWARDS_PER_MICROBATCH * (stages - 1 + microbatches)
    weight_sum = log_sum = 0.0
    for o in good:
        if (o.local_batch, o.accumulation) != (local, accumulation):
            continue
        replicas = o.gpus // stages
        known_sync = 0 < o.sync_sum_s < o.step_sum_s
        if replicas > 1 and not known_sync:
            continue
        compute = (o.step_sum_s - (o.sync_sum_s if replicas > 1 else 0.0)) / o.count
        weight = min(o.count, 100.0)
        weight_sum += weight
        log_sum += weight * math.log(max(compute, 1e-9))
    if weight_sum > 0:
        compute_s = math.exp(log_sum / weight_sum)
    else:
        compute_s = min(o.step_sum_s / o.count for o in good)
    syncs: dict[int, list[float]] = {}
    for o in good:
        replicas = o.gpus // stages
        if replicas > 1 and (o.local_batch, o.accumulation) == (local, accumulation):
            mean = o.step_sum_s / o.count
            sync = o.sync_sum_s / o.count if 0 < o.sync_sum_s < o.step_sum_s else max(mean - compute_s, 0.0)
            syncs.setdefault(replicas, []).append(sync)
    alpha, beta = _line([(replicas - 2.0, math.fsum(s) / len(s)) for replicas, s in sorted(syncs.items())])
    params = PipelineParams(stages, microbatches, max(round(local), 1), compute_s / passes, alpha, beta)
    off = [
        math.log(float(pipeline_step_time(params, o.gpus)) / (o.step_sum_s / o.count))
        for o in good
        if (o.local_batch, o.accumulation) == (local, accumulation)
    ]
    residual = math.sqrt(math.fsum(x * x for x in off) / len(off)) if off else MODEL_ERROR
    return PipelineFit(
        params,
        rel_error=min(math.hypot(residual, MODEL_ERROR), 1.0),
        count=math.fsum(o.count for o in good),
        max_gpus_seen=max(o.gpus for o in good),
    )


def estimate_pipeline(
    gpu_type: str,
    stages: int,
    own: Mapping[str, PipelineFit],
    ratios: Sequence[TypeRatio] = (),
    microbatch_size: int = 1,
    microbatches: int = 1,
) -> TypeModel:
    """A pipeline model for a type: own fit, else another type's with its layers spread over this type's stages."""
    mine = own.get(gpu_type)
    if mine is not None:
        return TypeModel(
            gpu_type,
            mine.params,
            source="fit",
            rel_error=mine.rel_error,
            max_gpus_seen=mine.max_gpus_seen,
            observations=mine.count,
            sentence=f"{gpu_type}: measured up to {mine.max_gpus_seen} GPUs, ±{100 * mine.rel_error:.0f} %",
        )
    donor = min(own, key=lambda name: (-own[name].max_gpus_seen, own[name].rel_error, name), default=None)
    if donor is None:
        forward_s = 1.0 / (FORWARDS_PER_MICROBATCH * stages)
        params = PipelineParams(stages, microbatches, microbatch_size, forward_s)
        return TypeModel(
            gpu_type,
            params,
            source="prior",
            rel_error=NOTHING_KNOWN_ERROR,
            sentence=f"{gpu_type}: nothing measured yet, linear scaling assumed, ±{100 * NOTHING_KNOWN_ERROR:.0f} %",
        )
    there = own[donor].params
    known = next((r for r in ratios if (r.gpu_type, r.reference) == (gpu_type, donor) and r.ratio > 0), None)
    ratio, error = (known.ratio, math.hypot(known.rel_error, RATIO_ERROR)) if known else (1.0, NOTHING_KNOWN_ERROR)
    params = replace(there, stages=stages, forward_s=there.forward_s * there.stages / stages)
    rel_error = min(math.hypot(own[donor].rel_error, error), 1.0)
    return TypeModel(
        gpu_type,
        params,
        source=f"ratio:{donor}",
        rel_error=rel_error,
        scale=ratio,
        sentence=f"{gpu_type}: estimated from {donor} by the ratio {ratio:.2g}, ±{100 * rel_error:.0f} %",
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Non-negative intercept and slope through (replicas - 2, seconds); (0, 0) without points."""
    if not points:
        return 0.0, 0.0
    mean_x = math.fsum(x for x, _ in points) / len(points)
    mean_y = math.fsum(y for _, y in points) / len(points)
    spread = math.fsum((x - mean_x) ** 2 for x, _ in points)
    if spread <= 0:
        return mean_y, 0.0
    slope = max(math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / spread, 0.0)
    intercept = mean_y - slope * mean_x
    if intercept < 0:
        squares = math.fsum(x * x for x, _ in points)
        return 0.0, max(math.fsum(x * y for x, y in points) / squares, 0.0)
    return intercept, slope
