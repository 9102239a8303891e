"""Whatever lies ahead of a job, the batch that it is told is one that it may use, and the best for some noise ahead."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Shape
from slurmsia.history import Gradient, JobHistory, NoiseCell, Observation, Progress
from slurmsia.models.base import BatchLimits, JobModel, NoiseAhead, ThroughputParams, TypeModel
from slurmsia.models.goodput import goodput_matrix
from slurmsia.models.held import Asked, held_batches
from slurmsia.models.noise import NoiseMap, Pace, way

SHAPES = (Shape("a100", 1, 1), Shape("a100", 1, 4), Shape("t4", 3, 12))


@st.composite
def ways(draw: st.DrawFn) -> NoiseAhead:
    gaps = draw(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=8))
    path, samples = [], draw(st.sampled_from([0.0, 500.0]))
    for gap in gaps:
        path.append((samples, draw(st.floats(-6.0, 13.0)), draw(st.floats(0.0, 0.5))))
        samples += gap
    return NoiseAhead(tuple(path), draw(st.sampled_from([1.0, 4.0, 64.0])), 0.0)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    params = ThroughputParams(
        draw(st.floats(1e-8, 1.0)), draw(st.floats(1e-6, 0.01)), draw(st.floats(1e-8, 0.5)), draw(st.floats(1e-8, 0.1)),
        draw(st.floats(1e-8, 0.5)), draw(st.floats(1e-8, 0.1)), draw(st.floats(1.0, 10.0)),
    )  # fmt: skip
    first = draw(st.integers(1, 300))
    limits = BatchLimits(
        first, first * draw(st.integers(1, 64)), draw(st.integers(1, 8)), draw(st.integers(8, 1000)), True
    )
    types = {name: TypeModel(name, params, "fit", 0.05) for name in ("a100", "t4")}
    model = JobModel("1", types, limits, noise_ahead=draw(ways()))
    return Asked(model, draw(st.sampled_from(SHAPES)), draw(st.floats(0.0, 1e5)))


@given(one=asked())
@settings(max_examples=150, deadline=None)
def test_the_batch_told_is_legal_and_worth_what_is_said(one: Asked) -> None:
    told = held_batches([one])[0]
    legal = goodput_matrix([one.model], [one.shape]).local_batch[0, 0] >= 1
    assert (told.best.local_batch >= 1) == legal
    ratios = [ratio for _, ratio, _ in one.model.noise_ahead.path]  # type: ignore[union-attr]
    found = math.log(told.moments.variance / told.moments.square)
    assert min(ratios) - 0.5 * 12 <= found <= max(ratios) + 0.5 * 12
    if legal:
        again = told.option(one.model, one.shape, told.best.local_batch, told.best.accumulation)
        assert again.goodput == pytest.approx(told.best.goodput, rel=1e-8)
        assert told.best.local_batch <= (one.model.batch.local_max or math.inf)


numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0, 1e300, -1.0]))


@given(
    done=numbers, square=numbers, variance=numbers, scale=numbers, remaining=st.one_of(st.none(), numbers),
    seconds=numbers,
    cells=st.lists(st.tuples(st.integers(-10, 200), st.integers(-2, 20), numbers, numbers), max_size=6),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_odd_reports_never_break_the_way_ahead(
    done: float, square: float, variance: float, scale: float, remaining: float | None, seconds: float,
    cells: list[tuple[int, int, float, float]],
) -> None:  # fmt: skip
    steps = Observation("a100", 1, 1, 8.0, 0, 100.0, seconds, 1.0)
    history = JobHistory(
        "1", 1, observations=(steps,), gradient=Gradient(0.0, square, variance, scale), progress=Progress(0.0, done)
    )
    kind = NoiseMap(NoiseCell(at, doubling, count, log, 0.0) for at, doubling, count, log in cells)
    found = way(history, kind, history.gradient, remaining, Pace().after(history))
    assert all(math.isfinite(value) for point in found.path for value in point)
    assert list(found.path) == sorted(found.path, key=lambda point: point[0])
    assert found.path[0][0] >= 0.0
    assert 0.0 < found.held_s < 2000.0
    assert found.scale >= 1.0
