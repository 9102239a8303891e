"""When a job would start and end on each type and size, as a range: from its model and from what runs now.

A range, never a promise: starts assume that running jobs end between what their models and their limits say, in the
order in which GPUs become free. Pure; asks neither Slurm nor the store.
"""

from __future__ import annotations

import math
from typing import Any

from slurmsia.cluster import Job, JobState, Shape
from slurmsia.deciding.configurations import all_shapes
from slurmsia.models.base import JobModel
from slurmsia.models.goodput import best_batch

from .curves import point_error
from .rows import shape_row
from .state import View

Json = dict[str, Any]
#: One standard deviation each way is said; a wait is at most this.
_LONGEST_S = 90 * 86_400.0
_MOST_OPTIONS = 24


def estimate(
    view: View, model: JobModel, job: Job | None, low_gpus: int, high_gpus: int, types: tuple[str, ...]
) -> Json:
    """Options by type and size, best end first. ``job`` holds what it holds: those shapes start at once."""
    snapshot = view.snapshot
    held = job.allocation.shape if job is not None and job.allocation is not None else None
    options = []
    for shape in all_shapes(snapshot.nodes if snapshot is not None else ()):
        if not low_gpus <= shape.gpus <= high_gpus or (types and shape.gpu_type not in types):
            continue
        if shape.gpu_type not in model.types:
            continue
        goodput = best_batch(model, shape).goodput
        if goodput <= 0:
            continue
        start_low, start_high = (0.0, 0.0) if shape == held else _starts(view, shape, job)
        error = point_error(model, shape)
        low, high = _runs(model, goodput, error)
        options.append(
            {
                "shape": shape_row(shape),
                "goodput": goodput,
                "start_low_s": start_low,
                "start_high_s": start_high,
                "run_low_s": low,
                "run_high_s": high,
                "end_low_s": None if low is None else start_low + low,
                "end_high_s": None if high is None or start_high is None else start_high + high,
            }
        )
    options.sort(key=lambda option: (option["end_high_s"] or math.inf, option["start_low_s"], -option["goodput"]))
    return {
        "job_id": job.id if job is not None else None,
        "sentence": _sentence(model, options),
        "work": {
            "done": model.work_done,
            "remaining": model.work_remaining,
            "remaining_std": model.remaining_std,
            "source": model.remaining_source,
        },
        "options": options[:_MOST_OPTIONS],
    }


def _runs(model: JobModel, goodput: float, error: float) -> tuple[float | None, float | None]:
    """Seconds of running, one standard deviation each way; ``None`` where the work is not known."""
    if model.work_remaining is None:
        return None, None
    spread = model.remaining_std or 0.0
    low = max(0.0, model.work_remaining - spread) / (goodput * (1 + error))
    high = (model.work_remaining + spread) / (goodput * max(0.05, 1 - error))
    return min(low, _LONGEST_S), min(high, _LONGEST_S)


def _starts(view: View, shape: Shape, job: Job | None) -> tuple[float, float | None]:
    """Seconds until enough GPUs of the type are free: soonest by models, latest by time limits (``None``: unknown)."""
    snapshot = view.snapshot
    if snapshot is None:
        return 0.0, None
    types = {node.name: node.gpu_type for node in snapshot.nodes}
    use = next((use for use in view.uses if use.gpu_type == shape.gpu_type), None)
    free = use.free if use is not None else 0
    ends: list[tuple[float, float, int]] = []
    for other in snapshot.jobs:
        if other.allocation is None or other.state is JobState.ENDED:
            continue
        gpus = sum(count for name, count in other.allocation.gpus_by_node if types.get(name) == shape.gpu_type)
        if job is not None and other.id == job.id:
            free += gpus
        elif gpus:
            low, high = _ends(view, other, snapshot.taken_s)
            ends.append((low, high, gpus))
    low = _when([(soon, gpus) for soon, _, gpus in ends], free, shape.gpus)
    high = _when([(late, gpus) for _, late, gpus in ends], free, shape.gpus)
    return min(low, _LONGEST_S), high if high < _LONGEST_S else None


def _ends(view: View, job: Job, now_s: float) -> tuple[float, float]:
    limit = math.inf
    if job.time_limit_s is not None and job.start_s is not None:
        limit = max(0.0, job.start_s + job.time_limit_s - now_s)
    model, target = view.state.models.get(job.id), view.targets.get(job.id)
    if model is None or target is None or target.current_goodput <= 0 or model.work_remaining is None:
        return (0.0 if model is not None else limit if math.isfinite(limit) else 0.0), limit
    low, high = _runs(model, target.current_goodput, 0.1)
    return min(low or 0.0, limit), min(high if high is not None else math.inf, limit)


def _when(ends: list[tuple[float, int]], free: int, wanted: int) -> float:
    if free >= wanted:
        return 0.0
    for end, gpus in sorted(ends):
        free += gpus
        if free >= wanted:
            return end
    return math.inf


def _sentence(model: JobModel, options: list[Json]) -> str:
    if not options:
        return "No configuration of this cluster suits the job."
    best = options[0]
    where = best["shape"]["text"]
    if best["end_low_s"] is None:
        return f"Its work is not known (say target=, or report it), so only starts are estimated; first: {where}."
    sure = "" if model.known else " Nothing was measured of it yet, so this is a guess from similar jobs."
    return f"It would end soonest on {where}.{sure}"
