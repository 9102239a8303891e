"""``slurmsia bench matrix``: time to fill a goodput matrix with batch search, and to refresh its changed rows.

Jobs are made from the shipped applications with a fixed seed; half of their models carry measured deviations.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from statistics import median

import click

from slurmsia.cluster import Shape
from slurmsia.models import shipped
from slurmsia.models.base import EfficiencyModel, JobModel, Knots, PipelineParams, TypeModel
from slurmsia.models.goodput import GoodputTable

GPUS_PER_NODE = {"t4": 4, "rtx": 8, "a100": 8, "quad": 4}


def make_shapes(count: int) -> list[Shape]:
    """``count`` configurations of four types: powers of two on a node, then whole nodes."""
    shapes = [Shape(t, 1, 1 << k) for t, size in GPUS_PER_NODE.items() for k in range(size.bit_length())]
    nodes = 2
    while len(shapes) < count:
        shapes.extend(Shape(t, nodes, nodes * size) for t, size in GPUS_PER_NODE.items())
        nodes += 1
    return shapes[:count]


def make_models(count: int, seed: int) -> list[JobModel]:
    """``count`` jobs like the shipped applications, each with its own parameters, gradient noise and deviations."""
    rng = random.Random(seed)
    apps = [app for app in shipped.applications().values() if app.batch.maximum > app.batch.initial]
    models = []
    for i in range(count):
        app = rng.choice(apps)
        types = {name: _varied(model, rng) for name, model in app.types.items()}
        noise = rng.uniform(0.2, 5.0) * app.efficiency.variance
        moments = EfficiencyModel(app.efficiency.square, noise)
        models.append(JobModel(f"{i + 1}", types, app.batch, moments, known=True))
    return models


def _varied(model: TypeModel, rng: random.Random) -> TypeModel:
    if isinstance(model.params, PipelineParams) or rng.random() < 0.5:
        return replace(model, scale=rng.uniform(0.7, 1.4))
    largest = model.local_max or 64
    knots: Knots = tuple(
        (1, gpus, float(batch), rng.gauss(0.0, 0.5))
        for gpus in (1, 2, 4)
        for batch in sorted({max(largest // 4, 1), max(largest // 2, 1), largest})
    )
    return replace(model, scale=rng.uniform(0.7, 1.4), knots=knots)


@click.command("matrix")
@click.option("--jobs", default=5000, show_default=True, help="Rows.")
@click.option("--configurations", default=60, show_default=True, help="Columns.")
@click.option("--changed", default=0.1, show_default=True, help="Share of rows whose model changed in a refresh.")
@click.option("--repeat", default=5, show_default=True, help="Runs; the median and the worst are printed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def matrix_bench(jobs: int, configurations: int, changed: float, repeat: int, as_json: bool) -> None:
    """Time of filling a goodput matrix and of refreshing the rows that changed.

    \b
    Example:
      slurmsia bench matrix --jobs 5000 --configurations 60
    """
    shapes = make_shapes(configurations)
    models = make_models(jobs, seed=0)
    fresh: list[float] = []
    refreshed: list[float] = []
    share_feasible = 0.0
    for run in range(repeat):
        table = GoodputTable()
        begin = time.perf_counter()
        matrix = table.refresh(models, shapes)
        fresh.append(1e3 * (time.perf_counter() - begin))
        share_feasible = float((matrix.goodput > 0).mean())
        rng = random.Random(run)
        moved = [
            replace(model, efficiency=EfficiencyModel(model.efficiency.square, 2.0 * model.efficiency.variance))
            if rng.random() < changed
            else model
            for model in models
        ]
        begin = time.perf_counter()
        table.refresh(moved, shapes)
        refreshed.append(1e3 * (time.perf_counter() - begin))
    result = {
        "jobs": jobs,
        "configurations": configurations,
        "feasible_share": share_feasible,
        "fill": {"median_ms": median(fresh), "worst_ms": max(fresh)},
        "refresh": {"changed_share": changed, "median_ms": median(refreshed), "worst_ms": max(refreshed)},
    }
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    click.echo(f"{jobs} jobs x {configurations} configurations, {share_feasible:.0%} of them feasible")
    click.echo(f"fill: median {median(fresh):.0f} ms, worst {max(fresh):.0f} ms")
    click.echo(f"refresh with {changed:.0%} changed: median {median(refreshed):.0f} ms, worst {max(refreshed):.0f} ms")
