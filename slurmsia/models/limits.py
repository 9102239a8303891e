"""Batches that a job may use: what it declared, what its history shows, and what fits into a type's memory.

A job whose batch nobody knows gets a virtual one, fixed and large, since only ratios matter. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..cluster import GpuType
from ..declaration import Declaration, Level
from ..history import JobHistory, MemoryPoint, Observation, SimilarHistory
from . import memory
from .base import BatchLimits
from .groups import usable

#: Total batch of jobs whose batch nobody knows: only ratios matter, and every GPU count must get whole samples.
VIRTUAL_BATCH = 1 << 16


def virtual(observations: Iterable[Observation]) -> tuple[Observation, ...]:
    """Observations of a job whose batch is unknown, restated as steps of one fixed virtual total batch.

    What was measured is samples per second of each shape; with the total batch fixed, time per step is its inverse
    and the micro-batch shrinks as GPUs are added, which is all the model needs (strong scaling).
    """
    restated = []
    for o in observations:
        if not usable(o):
            continue
        samples = o.local_batch * (o.accumulation + 1) * o.gpus * o.count
        steps = samples / VIRTUAL_BATCH
        if not (math.isfinite(steps) and steps > 0):
            continue
        # the relative spread of the reports is kept: it says how far to trust them
        square = o.step_square_sum_s2 if o.step_square_sum_s2 > 0 else o.step_sum_s**2 / o.count
        step = o.step_sum_s / steps
        relative = square / (o.step_sum_s * (o.step_sum_s / o.count))
        restated.append(
            Observation(
                o.gpu_type,
                o.nodes,
                o.gpus,
                VIRTUAL_BATCH / o.gpus,
                0,
                o.count,
                step * o.count,
                relative * step * step * o.count,
            )
        )
    return tuple(restated)


def batch_limits(
    declaration: Declaration,
    history: JobHistory,
    by_type: Mapping[str, tuple[Observation, ...]],
    similar: SimilarHistory | None,
    units: Mapping[str, int],
) -> BatchLimits:
    """Range of the total batch and of the micro-batch: declared, else that of most steps, of similar jobs, or virtual.

    ``by_type``: the job's usable observations; ``units``: GPUs per replica.
    """
    low = declaration.local_min if declaration.local_min is not None else 1
    if declaration.batch_min is not None and not history.throughput_only:
        first = declaration.batch_min
        last = max(declaration.batch_max or first, first)
        adaptive = declaration.level is Level.ADAPTIVE and last > first
        return BatchLimits(first, last if adaptive else first, low, declaration.local_max, adaptive)
    if history.throughput_only:
        return BatchLimits(VIRTUAL_BATCH, VIRTUAL_BATCH)
    seen = _usual_batch([o for group in by_type.values() for o in group], units)
    if seen is None and similar is not None and similar.likeness != "cluster":
        seen = _usual_batch([o for o in similar.observations if usable(o)], units)
    first = VIRTUAL_BATCH if seen is None else seen
    return BatchLimits(first, first, 1 if seen is None else low, declaration.local_max if seen is not None else None)


def _usual_batch(observations: Sequence[Observation], units: Mapping[str, int]) -> int | None:
    """The total batch of most steps."""
    counts: dict[int, float] = {}
    for o in observations:
        replicas = max(o.gpus // units.get(o.gpu_type, 1), 1)
        total = round(min(replicas * o.local_batch * (o.accumulation + 1), 2.0**40))
        counts[total] = counts.get(total, 0.0) + o.count
    return max(max(sorted(counts), key=lambda total: counts[total]), 1) if counts else None


def local_max(
    gpu_type: GpuType,
    declaration: Declaration,
    batch: BatchLimits,
    points: Sequence[MemoryPoint],
    line: memory.MemoryLine | None,
    by_type: Mapping[str, tuple[Observation, ...]],
) -> int | None:
    """Largest micro-batch on a type; what has really run there always fits."""
    if batch.initial == VIRTUAL_BATCH:
        return None
    ran = max((o.local_batch for o in by_type.get(gpu_type.name, ())), default=0.0)
    total = gpu_type.memory_bytes
    if total is None:
        totals = [p.total_bytes for p in points if p.gpu_type == gpu_type.name and p.total_bytes is not None]
        total = min(totals, default=None)
    limit = memory.largest_local_batch(line, total, declaration.local_max)
    if limit is None and batch.adaptive:
        # nothing is known of memory: stay with what has run anywhere, or with what the job was submitted with
        everywhere = max((o.local_batch for group in by_type.values() for o in group), default=0.0)
        limit = max(round(everywhere), -(-batch.initial // max(declaration.min_gpus, 1)))
    return None if limit is None else max(limit, round(min(ran, 2.0**40)))
