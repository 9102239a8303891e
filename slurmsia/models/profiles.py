"""Read published step-time profiles (CSV, the public Sia artifact's layout) as observations, and fit them.

Only for making `shipped.json` and for benches; a running daemon never needs it. Files that are missing or rows that
do not parse are left out and counted, never an error: more applications and types than the known ones may be there.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..history import Observation
from .base import BatchLimits, EfficiencyModel, TypeModel
from .fit import fit
from .pipeline import fit_pipeline
from .shipped import Application

#: Type names in the profile files -> the names this package uses.
TYPE_NAMES: Mapping[str, str] = {"aws": "t4", "dgx-ext": "a100", "rtx": "rtx", "quad": "quad", "azure": "v100"}
#: Profile types that repeat another type with fewer batches.
LEFT_OUT_TYPES = frozenset({"dgx"})


@dataclass(frozen=True)
class Limits:
    """Published batch range of an application: M0, largest total, smallest micro-batch, largest per type."""

    initial: int
    maximum: int
    local_min: int
    local_max: Mapping[str, int]


def _limits(initial: int, maximum: int, local_min: int, t4: int, rtx: int, quad: int, a100: int) -> Limits:
    return Limits(initial, maximum, local_min, {"t4": t4, "rtx": rtx, "quad": quad, "a100": a100})


#: Batch limits of the profiled applications (ARTIFACT.md section 2).
LIMITS: Mapping[str, Limits] = {
    "cifar10": _limits(128, 4096, 32, 1024, 1024, 2048, 4096),
    "bert": _limits(12, 384, 4, 12, 12, 24, 48),
    "deepspeech2": _limits(20, 640, 10, 80, 57, 160, 320),
    "yolov3": _limits(8, 512, 4, 16, 8, 16, 32),
    "imagenet": _limits(200, 12800, 20, 200, 200, 400, 800),
    "ncf": _limits(256, 32768, 32, 32768, 32768, 32768, 32768),
    "gpt_pmp": Limits(12, 384, 1, {}),
}
#: Hybrid-parallel applications: GPUs per replica by type, and micro-batches of size 1 per step.
STAGES: Mapping[str, Mapping[str, int]] = {"gpt_pmp": {"rtx": 8, "a100": 2}}
MICROBATCHES = 48


@dataclass(frozen=True)
class Point:
    """One profiled step time: seconds of a step without accumulation, and the all-reduce seconds within it."""

    nodes: int
    gpus: int
    local_batch: float
    step_s: float
    sync_s: float


@dataclass(frozen=True)
class Profile:
    """All points of one application on one type; repeated measurements stay separate points."""

    application: str
    gpu_type: str
    points: tuple[Point, ...]
    dropped_rows: int = 0
    efficiency: EfficiencyModel = field(default_factory=EfficiencyModel)

    def observations(self, points: tuple[Point, ...] | None = None) -> list[Observation]:
        """The points as observations of one step each."""
        return [observation(self.gpu_type, point) for point in (self.points if points is None else points)]


def observation(gpu_type: str, point: Point, count: float = 1.0) -> Observation:
    """A point as the sums of ``count`` equal steps."""
    return Observation(
        gpu_type,
        point.nodes,
        point.gpus,
        point.local_batch,
        0,
        count,
        count * point.step_s,
        count * point.step_s**2,
        count * point.sync_s,
    )


def read(directory: Path, application: str | None = None) -> list[Profile]:
    """Every profile below ``directory/<application>``, sorted by application and type.

    Placements with unequal nodes are left out: they are not configurations of the paper.
    """
    profiles = []
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        if application is not None and folder.name != application:
            continue
        suffixes = sorted({path.stem.partition("-")[2] for path in folder.glob("*-*.csv")})
        for suffix in suffixes:
            files = [folder / f"placements-{suffix}.csv", folder / f"scalability-{suffix}.csv"]
            if suffix in LEFT_OUT_TYPES or not any(path.exists() for path in files):
                continue
            points: set[Point] = set()
            dropped = 0
            for path in files:
                for point in _rows(path):
                    if point is None:
                        dropped += 1
                    else:
                        points.add(point)
            if points:
                ordered = tuple(sorted(points, key=lambda p: (p.gpus, p.nodes, p.local_batch, p.step_s)))
                profiles.append(
                    Profile(folder.name, TYPE_NAMES.get(suffix, suffix), ordered, dropped, _moments(folder))
                )
    return profiles


def fit_applications(profiles: list[Profile]) -> dict[str, Application]:
    """Our own parameters per application and type, from all points; applications without known limits are left out."""
    apps: dict[str, Application] = {}
    for name in sorted({profile.application for profile in profiles} & set(LIMITS)):
        limits = LIMITS[name]
        types: dict[str, TypeModel] = {}
        for profile in profiles:
            if profile.application != name:
                continue
            model = _type_model(profile, limits)
            if model is not None:
                types[profile.gpu_type] = model
        batch = BatchLimits(limits.initial, limits.maximum, limits.local_min, adaptive=True)
        moments = next(profile.efficiency for profile in profiles if profile.application == name)
        apps[name] = Application(name, batch, moments, types)
    return apps


def _type_model(profile: Profile, limits: Limits) -> TypeModel | None:
    most = max(point.gpus for point in profile.points)
    source = f"shipped:{profile.application}"
    local_max = limits.local_max.get(profile.gpu_type)
    if profile.application in STAGES:
        stages = STAGES[profile.application].get(profile.gpu_type)
        found = None if stages is None else fit_pipeline(pipeline_observations(profile, stages), stages)
        if found is None:
            return None
        return TypeModel(profile.gpu_type, found.params, source, found.rel_error, local_max, max_gpus_seen=most)
    result = fit(profile.observations())
    return TypeModel(profile.gpu_type, result.params, source, result.rel_error, local_max, max_gpus_seen=most)


def pipeline_observations(profile: Profile, stages: int) -> list[Observation]:
    """Whole steps of a pipeline from its profile, where ``step_s`` is one stage's forward time of one micro-batch.

    Only micro-batches of size 1 are used, as the jobs use them; a step is ``3 (stages - 1 + 48)`` of them and one
    all-reduce.
    """
    found = []
    for point in profile.points:
        if point.local_batch == 1:
            step = 3.0 * (stages - 1 + MICROBATCHES) * point.step_s + point.sync_s
            found.append(
                Observation(
                    profile.gpu_type, point.nodes, point.gpus, 1, MICROBATCHES - 1, 1.0, step, step**2, point.sync_s
                )
            )
    return found


def _rows(path: Path) -> Iterator[Point | None]:
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            try:
                if "placement" in row:
                    digits = [int(digit) for digit in row["placement"]]
                    nodes, gpus = len(digits), sum(digits)
                    if len(set(digits)) > 1:
                        continue
                else:
                    nodes, gpus = int(row["num_nodes"]), int(row["num_replicas"])
                point = Point(nodes, gpus, float(row["local_bsz"]), float(row["step_time"]), float(row["sync_time"]))
            except (KeyError, TypeError, ValueError):
                yield None
                continue
            values = (point.local_batch, point.step_s, point.sync_s)
            good = all(math.isfinite(value) and value >= 0 for value in values) and point.step_s > 0
            if not (good and 1 <= nodes <= gpus and point.local_batch > 0):
                yield None
            elif gpus % nodes == 0:
                yield point


def _moments(folder: Path) -> EfficiencyModel:
    """Gradient moments half-way through training at the smallest profiled batch, scaled to sum to 1."""
    files = sorted(
        (path for path in folder.glob("validation-*.csv") if path.stem.partition("-")[2].isdigit()),
        key=lambda path: int(path.stem.partition("-")[2]),
    )
    if not files:
        return EfficiencyModel()
    with files[0].open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    try:
        row = rows[len(rows) // 2]
        square, variance = float(row["grad_sqr"]), float(row["grad_var"])
    except (IndexError, KeyError, TypeError, ValueError):
        return EfficiencyModel()
    if not (math.isfinite(square) and math.isfinite(variance)) or square < 0 or variance < 0 or square + variance <= 0:
        return EfficiencyModel()
    return EfficiencyModel(square / (square + variance), variance / (square + variance))
