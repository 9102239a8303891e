"""``slurmsia bench fit``: how well and how fast step times are learnt from profiled points.

Inside: every point is predicted once from the four fifths of points that hold it out (fixed seed). Outside: a fit of
all points up to K GPUs predicts those above K and up to 2 K, for every K that doubles. Times are those of a job's
history as it grows by doubling, each refit started from the one before.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click

from slurmsia.history import Observation
from slurmsia.models.base import TypeModel
from slurmsia.models.bootstrap import estimate
from slurmsia.models.estimator import fit_type
from slurmsia.models.pipeline import estimate_pipeline, fit_pipeline
from slurmsia.models.profiles import STAGES, Profile, observation, pipeline_observations, read
from slurmsia.models.speed import model_step_time

INSIDE_TARGET = 0.05
OUTSIDE_TARGET = 0.15
BATCHES_PER_SHAPE = 3

#: (shape and batch) -> all observations of that point
Points = dict[tuple[int, int, float], list[Observation]]
Learn = Callable[[Sequence[Observation]], TypeModel]


@dataclass
class Cell:
    """One application on one type: median relative errors of step time, and where they come from."""

    application: str
    gpu_type: str
    points: int
    inside: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    doublings: dict[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        inside, outside = median(self.inside), median(self.outside) if self.outside else None
        return {
            "application": self.application,
            "gpu_type": self.gpu_type,
            "points": self.points,
            "inside_median_error": inside,
            "outside_median_error": outside,
            "outside_by_doubling": self.doublings,
            "met": inside <= INSIDE_TARGET and (outside is None or outside <= OUTSIDE_TARGET),
        }


def learner(profile: Profile) -> Learn:
    """How this profile's points become a model: the plain form, or the pipeline form for hybrid-parallel jobs."""
    gpu_type = profile.gpu_type
    stages = STAGES.get(profile.application, {}).get(gpu_type)
    if stages is None:
        return lambda seen: estimate(gpu_type, {gpu_type: fit_type(gpu_type, seen)}, {}, [])

    def learn_pipeline(seen: Sequence[Observation]) -> TypeModel:
        found = fit_pipeline(seen, stages)
        return estimate_pipeline(gpu_type, stages, {} if found is None else {gpu_type: found})

    return learn_pipeline


def points_of(profile: Profile) -> Points:
    """The profile's points as observations, measurements of one point together."""
    stages = STAGES.get(profile.application, {}).get(profile.gpu_type)
    if profile.application in STAGES and stages is None:
        return {}
    plain = profile.observations() if stages is None else pipeline_observations(profile, stages)
    points: Points = {}
    for o in plain:
        points.setdefault((o.nodes, o.gpus, o.local_batch), []).append(o)
    return points


def errors(model: TypeModel, points: Points, keys: Sequence[tuple[int, int, float]]) -> list[float]:
    """Relative errors of predicted step time at points."""
    found = []
    for key in keys:
        nodes, gpus, local = key
        measured = sum(o.step_sum_s for o in points[key]) / sum(o.count for o in points[key])
        found.append(
            abs(float(model_step_time(model, nodes, gpus, local, points[key][0].accumulation)) / measured - 1.0)
        )
    return found


def evaluate(profile: Profile, seed: int, folds: int) -> Cell | None:
    """Errors inside and one doubling outside; ``None`` where there are too few points for either."""
    points = points_of(profile)
    keys = sorted(points)
    if len(keys) < folds:
        return None
    cell = Cell(profile.application, profile.gpu_type, len(keys))
    learn = learner(profile)
    shuffled = list(keys)
    random.Random(seed).shuffle(shuffled)
    for fold in range(folds):
        held = sorted(shuffled[fold::folds])
        seen = [o for key in keys if key not in set(held) for o in points[key]]
        cell.inside.extend(errors(learn(seen), points, held))
    most = max(gpus for _, gpus, _ in keys)
    unit = STAGES.get(profile.application, {}).get(profile.gpu_type, 1)
    size = 2 * unit
    while size < most:
        seen = [o for key in keys if key[1] <= size for o in points[key]]
        beyond = [key for key in keys if size < key[1] <= 2 * size]
        if seen and beyond:
            found = errors(learn(seen), points, beyond)
            cell.doublings[f"{size}->{2 * size}"] = median(found)
            cell.outside.extend(found)
        size *= 2
    return cell


def growth(profile: Profile) -> list[list[Observation]]:
    """A job's history each time it doubles: up to three micro-batches on every shape of 1, 2, 4, ... GPUs."""
    histories: list[list[Observation]] = []
    seen: list[Observation] = []
    most = max(point.gpus for point in profile.points)
    size = 1
    while size <= most:
        for nodes in sorted({point.nodes for point in profile.points if point.gpus == size}):
            here = [point for point in profile.points if (point.gpus, point.nodes) == (size, nodes)]
            chosen = here[:: max(len(here) // BATCHES_PER_SHAPE, 1)][:BATCHES_PER_SHAPE]
            seen = seen + [observation(profile.gpu_type, point, 50.0) for point in chosen]
        if seen:
            histories.append(seen)
        size *= 2
    return histories


def times(profiles: Sequence[Profile]) -> dict[str, dict[str, float]]:
    """Milliseconds of a cold fit and of a warm-started refit of growing histories, everything included."""
    cold: list[float] = []
    warm: list[float] = []
    groups: list[int] = []
    for profile in profiles:
        if profile.application in STAGES:
            continue
        last = None
        for history in growth(profile):
            begin = time.perf_counter()
            first = fit_type(profile.gpu_type, history)
            cold.append(1e3 * (time.perf_counter() - begin))
            groups.append(first.fit.groups)
            if last is not None:
                begin = time.perf_counter()
                first = fit_type(profile.gpu_type, history, last)
                warm.append(1e3 * (time.perf_counter() - begin))
            last = first.fit.params
    return {
        name: {"median_ms": median(values), "worst_ms": max(values), "fits": len(values)}
        for name, values in (("cold", cold), ("warm", warm))
        if values
    } | {"groups": {"median": median(groups), "largest": max(groups)} if groups else {}}


@click.command("fit")
@click.option(
    "--profiles",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with one sub-folder of CSV profiles per application.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the held-out fifths.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fit_bench(profiles: Path, seed: int, as_json: bool) -> None:
    """Error of predicted step times on held-out profile points, and time of a cold fit and a warm refit.

    \b
    Example:
      slurmsia bench fit --profiles data/sia/profiles
    """
    found = read(profiles)
    if not found:
        raise click.ClickException(f"{profiles}: no profiles found; expected APPLICATION/placements-TYPE.csv")
    rows = [cell.row() for profile in found if (cell := evaluate(profile, seed, folds=5)) is not None]
    timing = times(found)
    met = sum(bool(row["met"]) for row in rows)
    if as_json:
        targets = {"inside": INSIDE_TARGET, "outside": OUTSIDE_TARGET}
        document = {"cells": rows, "met": met, "of": len(rows), "targets": targets, **timing}
        click.echo(json.dumps(document, indent=1))
        return
    click.echo("Median relative error of predicted step time: inside the observed range, one doubling of GPUs outside")
    click.echo(f"{'application':<14}{'type':<8}{'points':>7}{'inside':>9}{'outside':>9}   by doubling")
    for row in rows:
        doublings = row["outside_by_doubling"]
        assert isinstance(doublings, dict)
        detail = " ".join(f"{name}:{value:.0%}" for name, value in doublings.items())
        outside = row["outside_median_error"]
        click.echo(
            f"{row['application']:<14}{row['gpu_type']:<8}{row['points']:>7}{row['inside_median_error']:>9.1%}"
            f"{'-' if outside is None else format(outside, '.1%'):>9}   {detail}{'' if row['met'] else '  MISSED'}"
        )
    click.echo(f"{met} of {len(rows)} cells within {INSIDE_TARGET:.0%} inside and {OUTSIDE_TARGET:.0%} outside")
    for name in ("cold", "warm"):
        if name in timing:
            values = timing[name]
            click.echo(f"{name} fit: median {values['median_ms']:.2f} ms, worst {values['worst_ms']:.2f} ms")
    click.echo(f"groups of observations in a timed fit: median {timing['groups'].get('median', 0):.0f}")
