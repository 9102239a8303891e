"""Goodput over GPUs for each type with one standard deviation, what a job gained, advice with the exact line.

Everything follows from the job's model and the snapshot; nothing here decides where a job runs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from slurmsia.cluster import Job, Shape
from slurmsia.deciding.configurations import all_shapes
from slurmsia.declaration import Declaration, DeclarationError, Level, format, parse
from slurmsia.models.base import JobModel
from slurmsia.models.goodput import DOUBLING_ERROR, best_batch

from .state import View

#: Below this gain of doubling its GPUs, a job wastes most of the second half.
_WASTE = 1.25
#: Above this gain, a job would use more GPUs than it may have.
_WORTH = 1.4
_MOST_POINTS = 16


def curves(view: View, model: JobModel, most_gpus: int) -> list[dict[str, Any]]:
    """By type: source, relative error and the points (gpus, nodes, goodput, low, high), smallest first."""
    if view.snapshot is None:
        return []
    by_type: dict[str, list[Shape]] = {}
    for shape in all_shapes(view.snapshot.nodes):
        if shape.gpus <= max(1, 2 * most_gpus) and shape.gpu_type in model.types:
            known = by_type.setdefault(shape.gpu_type, [])
            if not any(other.gpus == shape.gpus and other.nodes <= shape.nodes for other in known):
                known.append(shape)
    found = []
    for name in sorted(by_type):
        kind = model.types[name]
        points = []
        for shape in by_type[name][:_MOST_POINTS]:
            goodput = best_batch(model, shape).goodput
            if goodput > 0:
                error = point_error(model, shape)
                points.append(
                    {
                        "gpus": shape.gpus,
                        "nodes": shape.nodes,
                        "goodput": goodput,
                        "low": goodput * max(0.0, 1 - error),
                        "high": goodput * (1 + error),
                    }
                )
        found.append(
            {
                "gpu_type": name,
                "source": kind.source,
                "rel_error": kind.rel_error,
                "observations": kind.observations,
                "sentence": kind.sentence,
                "points": points,
            }
        )
    return found


def point_error(model: JobModel, shape: Shape) -> float:
    """Relative standard deviation on a shape: the type's own, and more for each doubling beyond what was seen."""
    kind = model.types[shape.gpu_type]
    doublings = max(0.0, math.log2(shape.gpus / max(model.max_gpus_seen, 1)))
    return math.hypot(kind.rel_error, DOUBLING_ERROR * doublings)


def gained(view: View, job: Job, model: JobModel) -> dict[str, Any] | None:
    """Goodput now against the shape that the user asked for; ``None`` while it holds nothing or nothing is known."""
    standing = view.state.standings.get(job.id)
    held = job.allocation.shape if job.allocation is not None else None
    asked = standing.requested if standing is not None else None
    if held is None or held.gpu_type not in model.types:
        return None
    if asked is None or asked.gpu_type not in model.types:
        wanted = standing.submitted if standing is not None and standing.submitted is not None else job.request
        if not wanted.gpus:
            return None
        asked = Shape(held.gpu_type, max(1, wanted.nodes), wanted.gpus)
    now, then = best_batch(model, held).goodput, best_batch(model, asked).goodput
    if now <= 0 or then <= 0:
        return None
    return {
        "asked": str(asked),
        "held": str(held),
        "goodput_asked": then,
        "goodput_held": now,
        "ratio": now / then,
    }


def advice(view: View, job: Job, model: JobModel | None, found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What the owner could change, most useful first, each with the exact ``#SBATCH`` line."""
    types = frozenset(kind.name for kind in view.snapshot.gpu_types) if view.snapshot is not None else None
    try:
        declared = parse(job.comment, known_types=types)
    except DeclarationError as error:
        return [
            {
                "sentence": f"The sia: words cannot be read ({error.sentence}), so the job is left alone.",
                "line": _line(f"gpus=1-{max(1, job.request.gpus)}"),
            }
        ]
    if declared is None:
        most = max(2, 2 * job.request.gpus)
        return [
            {
                "sentence": "The job has no sia: words, so slurmsia leaves it alone; with these it may grow and move.",
                "line": _line(f"gpus=1-{most} signal=USR1@60"),
            }
        ]
    given: list[dict[str, str]] = []
    if declared.level in (Level.RESTARTABLE, Level.ADAPTIVE) and not job.requeue:
        given.append({"sentence": "The job may not be requeued, so it can never move.", "line": "#SBATCH --requeue"})
    if model is not None:
        given += _about_size(declared, found)
        given += _about_types(declared, found)
        if not model.known:
            given.append(
                {
                    "sentence": "Nothing is known of its speed; call `slurmsia report` in its loop, or say where its "
                    "log shows progress.",
                    "line": _line(_words(declared) + " progress='step ([0-9]+)'"),
                }
            )
    if declared.level is Level.RIGID:
        most = max(2, 2 * job.request.gpus)
        given.append(
            {
                "sentence": "The job is declared rigid; if it saves and resumes, it may grow and move.",
                "line": _line(f"gpus=1-{most} signal=USR1@60"),
            }
        )
    return given


def _about_size(declared: Declaration, found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Too narrow or too wide a range of GPUs, judged on the type with the best goodput within it."""
    best_type, best = None, 0.0
    for curve in found:
        if declared.types and curve["gpu_type"] not in declared.types:
            continue
        within = [point["goodput"] for point in curve["points"] if point["gpus"] <= declared.max_gpus]
        if within and max(within) > best:
            best_type, best = curve, max(within)
    if best_type is None or declared.level is Level.RIGID:
        return []
    most = declared.max_gpus
    beyond = [point for point in best_type["points"] if most < point["gpus"] <= 2 * most]
    if beyond and beyond[-1]["low"] > _WORTH * best:
        point = beyond[-1]
        return [
            {
                "sentence": f"It would run {point['goodput'] / best:.1f}x as fast on {point['gpus']} "
                f"{best_type['gpu_type']} as on the {most} it may have.",
                "line": _line(_words(declared, max_gpus=point["gpus"])),
            }
        ]
    half = [
        point
        for point in best_type["points"]
        if declared.min_gpus <= point["gpus"] <= most / 2 and best < _WASTE * point["goodput"]
    ]
    if half and most > 1:
        return [
            {
                "sentence": f"Beyond {half[0]['gpus']} {best_type['gpu_type']} it gains only "
                f"{best / half[0]['goodput']:.2f}x; a smaller range costs little and waits less.",
                "line": _line(_words(declared, max_gpus=half[0]["gpus"])),
            }
        ]
    return []


def _about_types(declared: Declaration, found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A type that it excludes and that would serve it better."""
    if not declared.types:
        return []
    best = {
        curve["gpu_type"]: max((p["goodput"] for p in curve["points"] if p["gpus"] <= declared.max_gpus), default=0.0)
        for curve in found
    }
    allowed = max((best.get(name, 0.0) for name in declared.types), default=0.0)
    others = [(goodput, name) for name, goodput in best.items() if name not in declared.types]
    if not others or allowed <= 0 or max(others)[0] < _WASTE * allowed:
        return []
    goodput, name = max(others)
    return [
        {
            "sentence": f"On {name}, which it excludes, it is expected to run {goodput / allowed:.1f}x as fast.",
            "line": _line(_words(declared, types=tuple(sorted({*declared.types, name})))),
        }
    ]


def _words(declared: Declaration, **changes: Any) -> str:
    return format(replace(declared, **changes)).removeprefix("sia:").strip()


def _line(words: str) -> str:
    text = f"sia: {words}"
    quote = '"' if "'" in text else "'"
    return f"#SBATCH --comment={quote}{text}{quote}"
