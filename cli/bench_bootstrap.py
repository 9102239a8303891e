"""``slurmsia bench bootstrap``: how good are estimates for a GPU type on which a job has run on one GPU only.

For every ordered pair of types: the job's 1-GPU points on the new type and all its points on the old one go in, the
goodput at the best batch of every configuration of the new type comes out, and is compared with what was measured.
The public artifact's way (one goodput ratio, the old type's limits) is computed beside it from the same points.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

import click

from slurmsia.cluster import Shape
from slurmsia.models.base import BatchLimits, JobModel, TypeModel
from slurmsia.models.bootstrap import estimate
from slurmsia.models.efficiency import efficiency
from slurmsia.models.estimator import fit_type
from slurmsia.models.fit import fit
from slurmsia.models.goodput import best_batch
from slurmsia.models.profiles import LIMITS, Point, Profile, read


@dataclass(frozen=True)
class Pair:
    """Errors of one ordered pair: median relative error of goodput over configurations, ours and the artifact's."""

    application: str
    old: str
    new: str
    configurations: int
    ours: tuple[float, ...]
    artifact: tuple[float, ...]


def is_configuration(point: Point, node_gpus: int) -> bool:
    """Whether a point's shape is one the scheduler can choose: a power of two on one node, or whole nodes."""
    if point.nodes == 1:
        return point.gpus & (point.gpus - 1) == 0
    return point.gpus == point.nodes * node_gpus


def measured_goodput(profile: Profile, nodes: int, gpus: int, batch: BatchLimits, local_max: int) -> float:
    """Best goodput over the measured micro-batches of one shape, accumulating where the limits ask for it."""
    best = 0.0
    for point in profile.points:
        if (point.nodes, point.gpus) != (nodes, gpus) or not batch.local_min <= point.local_batch <= local_max:
            continue
        grad_s = point.step_s if gpus == 1 else max(point.step_s - point.sync_s, 1e-9)
        most = int(batch.maximum / (gpus * point.local_batch) + 1e-9)
        for u in range(1, min(most, 64) + 1):
            total = gpus * point.local_batch * u
            if total < batch.initial or (gpus == 1 and u == 1 and total > batch.initial):
                continue
            worth = float(efficiency(profile.efficiency, total, batch.initial))
            best = max(best, total * worth / ((u - 1) * grad_s + point.step_s))
    return best


def artifact_ratio(new: Profile, old: Profile) -> float:
    """The public artifact's ratio: largest micro-batch over its step time on one GPU, new type over old."""
    speeds = []
    for profile in (new, old):
        alone = [point for point in profile.points if point.gpus == 1]
        speeds.append(max(p.local_batch for p in alone) / max(p.step_s for p in alone))
    return speeds[0] / speeds[1]


def compare(old: Profile, new: Profile) -> Pair | None:
    """Both estimates for one ordered pair; ``None`` where the profiles or limits needed are missing."""
    limits = LIMITS.get(new.application)
    if limits is None or not {old.gpu_type, new.gpu_type} <= set(limits.local_max):
        return None
    alone = [point for point in new.points if point.gpus == 1]
    if not alone or not any(point.gpus == 1 for point in old.points) or all(point.gpus == 1 for point in old.points):
        return None
    batch = BatchLimits(limits.initial, limits.maximum, limits.local_min, adaptive=True)
    own = {
        old.gpu_type: fit_type(old.gpu_type, old.observations()),
        new.gpu_type: fit_type(new.gpu_type, new.observations(tuple(alone))),
    }
    ours = _job(estimate(new.gpu_type, own, {}, []), new, batch, limits.local_max[new.gpu_type])
    published = fit(old.observations(), weights="unweighted").params
    theirs = _job(TypeModel(new.gpu_type, published, "fit", 0.0), new, batch, limits.local_max[old.gpu_type])
    ratio = artifact_ratio(new, old)
    node_gpus = max(point.gpus // point.nodes for point in new.points)
    most = max(point.gpus for point in old.points)
    shapes = {(p.nodes, p.gpus) for p in new.points if 1 < p.gpus <= most and is_configuration(p, node_gpus)}
    errors: tuple[list[float], list[float]] = ([], [])
    for nodes, gpus in sorted(shapes):
        truth = measured_goodput(new, nodes, gpus, batch, limits.local_max[new.gpu_type])
        if truth <= 0:
            continue
        shape = Shape(new.gpu_type, nodes, gpus)
        errors[0].append(abs(best_batch(ours, shape).goodput / truth - 1.0))
        errors[1].append(abs(ratio * best_batch(theirs, shape).goodput / truth - 1.0))
    if not errors[0]:
        return None
    return Pair(new.application, old.gpu_type, new.gpu_type, len(errors[0]), tuple(errors[0]), tuple(errors[1]))


def _job(model: TypeModel, profile: Profile, batch: BatchLimits, local_max: int) -> JobModel:
    limited = BatchLimits(batch.initial, batch.maximum, batch.local_min, local_max, True)
    return JobModel("bench", {model.gpu_type: model}, limited, profile.efficiency)


@click.command("bootstrap")
@click.option(
    "--profiles",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with one sub-folder of CSV profiles per application.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bootstrap_bench(profiles: Path, as_json: bool) -> None:
    """Error of goodput estimated for a type where the job has run on one GPU only, ours and the artifact's.

    \b
    Example:
      slurmsia bench bootstrap --profiles data/sia/profiles
    """
    pairs: list[Pair] = []
    for _, found in groupby(read(profiles), key=lambda profile: profile.application):
        types = list(found)
        for old in types:
            for new in types:
                pair = compare(old, new) if old.gpu_type != new.gpu_type else None
                if pair is not None:
                    pairs.append(pair)
    applications = {}
    for name, group in groupby(pairs, key=lambda pair: pair.application):
        of_app = list(group)
        ours = median(error for pair in of_app for error in pair.ours)
        artifact = median(error for pair in of_app for error in pair.artifact)
        applications[name] = {"ours": ours, "artifact": artifact, "ours_at_least_as_good": ours <= artifact}
    if as_json:
        rows = [
            {
                "application": pair.application,
                "from": pair.old,
                "to": pair.new,
                "configurations": pair.configurations,
                "ours_median_error": median(pair.ours),
                "artifact_median_error": median(pair.artifact),
            }
            for pair in pairs
        ]
        click.echo(json.dumps({"pairs": rows, "applications": applications}, indent=1))
        return
    click.echo("Relative error of estimated goodput, median over configurations (1 GPU seen on the new type)")
    click.echo(f"{'application':<14}{'from':>6}{'to':>6}{'configs':>9}{'ours':>8}{'artifact':>10}")
    for pair in pairs:
        click.echo(
            f"{pair.application:<14}{pair.old:>6}{pair.new:>6}{pair.configurations:>9}"
            f"{median(pair.ours):>8.1%}{median(pair.artifact):>10.1%}"
        )
    for name, row in applications.items():
        click.echo(f"{name:<14}{'all':>6}{'':>6}{'':>9}{row['ours']:>8.1%}{row['artifact']:>10.1%}")
