"""The package's own numbers: parameters fitted from published profiles, one set per application and GPU type.

Reads `shipped.json` once; `slurmsia models fit-shipped` remakes it. Used as ratios between GPU types for jobs that
have run on only one, and by the simulator's short tests. Never a substitute for a job's own measurements.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from statistics import median
from typing import Any

from .base import BatchLimits, EfficiencyModel, PipelineParams, ThroughputParams, TypeModel
from .bootstrap import TypeRatio, compute_ratio

#: Said in the file itself: how its numbers were made.
NOTE = (
    "Step-time parameters (seconds, seconds per sample) fitted by slurmsia to the step times published with "
    "Subramanya et al., SOSP'23 (and Qiao et al., OSDI'21); made by: slurmsia models fit-shipped --profiles DIR -o FILE"
)


@dataclass(frozen=True)
class Application:
    """One profiled application: its batch range, its gradient moments mid-training, and a model per GPU type."""

    name: str
    batch: BatchLimits
    efficiency: EfficiencyModel
    types: Mapping[str, TypeModel]


@lru_cache(maxsize=1)
def applications() -> Mapping[str, Application]:
    """All shipped applications by name."""
    text = resources.files(__package__).joinpath("shipped.json").read_text(encoding="utf-8")
    return from_json(json.loads(text))


def from_json(document: Mapping[str, Any]) -> Mapping[str, Application]:
    """Parse the shipped document (see `to_json`)."""
    return {name: _application(name, entry) for name, entry in document["applications"].items()}


def to_json(apps: Mapping[str, Application], note: str) -> dict[str, Any]:
    """The document of `shipped.json`: times in seconds, six significant digits."""
    return {
        "note": note,
        "applications": {name: _entry(app) for name, app in sorted(apps.items())},
    }


@lru_cache(maxsize=64)
def type_ratios(application: str = "") -> tuple[TypeRatio, ...]:
    """1-GPU throughput ratios between every ordered pair of types; of one application, or the median over all.

    ``rel_error`` is the spread between applications (half the range of the middle two thirds).
    """
    apps = applications()
    chosen = [apps[application]] if application in apps else list(apps.values())
    found: dict[tuple[str, str], list[float]] = {}
    for app in chosen:
        for first, a in app.types.items():
            for second, b in app.types.items():
                if (
                    first != second
                    and isinstance(a.params, ThroughputParams)
                    and isinstance(b.params, ThroughputParams)
                ):
                    batch = min(a.local_max or app.batch.initial, b.local_max or app.batch.initial, app.batch.initial)
                    found.setdefault((first, second), []).append(compute_ratio(a.params, b.params, max(batch, 1)))
    label = f"shipped:{application}" if application in apps else "shipped:all applications"
    result = []
    for (first, second), values in sorted(found.items()):
        ordered = sorted(values)
        cut = len(ordered) // 6
        middle = median(ordered)
        spread = 0.5 * (ordered[-1 - cut] - ordered[cut]) / middle
        result.append(TypeRatio(first, second, middle, spread, label))
    return tuple(result)


@lru_cache(maxsize=4096)
def application_of(job_name: str) -> str:
    """The shipped application that a job's name starts with (``cifar10-17`` -> ``cifar10``), or an empty string."""
    lowered = job_name.lower()
    return max((name for name in applications() if lowered.startswith(name)), key=len, default="")


def _application(name: str, entry: Mapping[str, Any]) -> Application:
    batch = BatchLimits(
        initial=entry["batch"]["initial"],
        maximum=entry["batch"]["maximum"],
        local_min=entry["batch"]["local_min"],
        adaptive=True,
    )
    types = {}
    for gpu_type, values in entry["types"].items():
        params: ThroughputParams | PipelineParams
        if "pipeline" in values:
            params = PipelineParams(**values["pipeline"])
        else:
            params = ThroughputParams(**values["throughput"])
        types[gpu_type] = TypeModel(
            gpu_type,
            params,
            source=f"shipped:{name}",
            rel_error=values["rel_error"],
            local_max=values["local_max"],
            max_gpus_seen=values["max_gpus"],
        )
    return Application(name, batch, EfficiencyModel(*entry["efficiency"]), types)


def _entry(app: Application) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for gpu_type, model in sorted(app.types.items()):
        kind = "pipeline" if isinstance(model.params, PipelineParams) else "throughput"
        values = {key: _short(getattr(model.params, key)) for key in type(model.params).__dataclass_fields__}
        types[gpu_type] = {
            kind: values,
            "rel_error": _short(model.rel_error),
            "local_max": model.local_max,
            "max_gpus": model.max_gpus_seen,
        }
    batch = app.batch
    return {
        "batch": {"initial": batch.initial, "maximum": batch.maximum, "local_min": batch.local_min},
        "efficiency": [_short(app.efficiency.square), _short(app.efficiency.variance)],
        "types": types,
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
