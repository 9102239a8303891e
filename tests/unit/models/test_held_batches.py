"""A batch is told for the time for which it is held: small while a model begins to train, larger for what comes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from slurmsia.cluster import Shape
from slurmsia.models.base import BatchLimits, EfficiencyModel, JobModel, NoiseAhead, ThroughputParams, TypeModel
from slurmsia.models.goodput import INFEASIBLE, best_batch
from slurmsia.models.held import Asked, held_batches, tell
from slurmsia.models.noise import moments

SHAPE = Shape("a100", 1, 4)
#: Noise of 1 at the start and twice as much with each doubling of the work.
WAY = tuple((40_000.0 * (2.0**k - 1.0), k * math.log(2.0), 0.0) for k in range(9))


def _model(way: NoiseAhead | None, job_id: str = "1", adaptive: bool = True) -> JobModel:
    params = ThroughputParams(0.05, 1e-4, 0.1, 0.01, 0.06, 0.005, 1.5)
    return JobModel(
        job_id,
        {"a100": TypeModel("a100", params, "fit", 0.05)},
        BatchLimits(128, 8192, 16, 2048, adaptive),
        EfficiencyModel(0.02, 0.98),
        noise_ahead=way,
    )


def _total(held_s: float, way: tuple[tuple[float, float, float], ...] = WAY) -> int:
    best = held_batches([Asked(_model(NoiseAhead(way, 1.0, 0.0)), SHAPE, held_s)])[0].best
    return 4 * best.local_batch * (best.accumulation + 1)


def test_the_batch_of_the_first_minute_is_that_for_the_noise_of_the_first_minute() -> None:
    first = best_batch(replace(_model(None), efficiency=moments(0.0)), SHAPE)
    told = held_batches([Asked(_model(NoiseAhead(WAY, 1.0, 0.0)), SHAPE, 0.0)])[0]
    assert told.best == first
    assert told.best != best_batch(_model(None), SHAPE)


def test_the_longer_a_batch_is_held_the_larger_it_is_where_noise_grows() -> None:
    totals = [_total(seconds) for seconds in (0.0, 5.0, 30.0, 120.0, 1e6)]
    assert totals == sorted(totals)
    assert totals[0] < totals[2] < totals[-1]


def test_beyond_the_way_noise_stays_what_it_was_at_its_end() -> None:
    last = best_batch(replace(_model(None), efficiency=moments(WAY[-1][1])), SHAPE)
    assert held_batches([Asked(_model(NoiseAhead(WAY, 1.0, 0.0)), SHAPE, 1e9)])[0].best == last


def test_noise_that_grows_with_the_batch_makes_the_batch_larger() -> None:
    steeper = tuple((samples, ratio, 0.3) for samples, ratio, _ in WAY)
    assert _total(30.0, steeper) > _total(30.0)


def test_a_faster_shape_gets_further_in_the_same_time() -> None:
    model = _model(NoiseAhead(WAY, 1.0, 0.0))
    slow = replace(model, types={"a100": replace(model.types["a100"], scale=0.2)})
    fast, slower = (held_batches([Asked(one, SHAPE, 60.0)])[0].moments for one in (model, slow))
    assert fast.variance > slower.variance


def test_what_cannot_be_chosen_is_said_as_for_the_matrix() -> None:
    ahead = NoiseAhead(WAY, 1.0, 0.0)
    fixed, elsewhere = Asked(_model(ahead, adaptive=False), SHAPE, 30.0), Asked(_model(ahead), Shape("t4", 1, 4), 30.0)
    no_way = Asked(_model(None), SHAPE, 30.0)
    answers = held_batches([fixed, elsewhere, no_way])
    assert 4 * answers[0].best.local_batch * (answers[0].best.accumulation + 1) == 128
    assert answers[1].best == INFEASIBLE
    assert answers[2].best == best_batch(no_way.model, SHAPE)


def test_what_is_kept_between_rounds_changes_no_answer() -> None:
    known: dict = {}
    ahead = NoiseAhead(WAY, 1.0, 0.0)
    first = [Asked(_model(ahead, "1"), SHAPE, 30.0), Asked(_model(ahead, "2"), SHAPE, 90.0)]
    assert tell(first, known) == held_batches(first)
    assert tell(first, known) == held_batches(first)
    longer = [first[1], replace(first[0], held_s=300.0), Asked(_model(ahead, "3"), Shape("a100", 2, 8), 30.0)]
    assert tell(longer, known) == held_batches(longer)
    faster = [replace(first[0], model=replace(first[0].model, types={"a100": TypeModel(
        "a100", ThroughputParams(0.01, 1e-4, 0.1, 0.01, 0.06, 0.005, 1.5), "fit", 0.05)}))]  # fmt: skip
    assert tell(faster, known) == held_batches(faster)
    assert set(known) == {"1"}


def test_another_batch_is_valued_for_the_same_time() -> None:
    asked = Asked(_model(NoiseAhead(WAY, 1.0, 0.0)), SHAPE, 30.0)
    told = held_batches([asked])[0]
    same = told.option(asked.model, SHAPE, told.best.local_batch, told.best.accumulation)
    assert same.goodput == pytest.approx(told.best.goodput, rel=1e-8)
    assert told.option(asked.model, SHAPE, 2048, 0).goodput < same.goodput
