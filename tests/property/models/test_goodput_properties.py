"""Goodput: the matrix is the scalar formula, never above throughput, monotone, and blind to order and history."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Shape
from slurmsia.models.base import BatchLimits, EfficiencyModel, JobModel, PipelineParams, ThroughputParams, TypeModel
from slurmsia.models.efficiency import efficiency
from slurmsia.models.goodput import GoodputTable, best_batch, evaluate, goodput_matrix
from slurmsia.models.speed import model_step_time, step_seconds
from slurmsia.models.throughput import pipeline_step_time, step_time

SHAPES = [Shape("a100", 1, k) for k in (1, 2, 4, 8)] + [Shape("a100", n, 8 * n) for n in (2, 3, 8)]
SHAPES += [Shape("t4", 1, 1), Shape("t4", 1, 4), Shape("t4", 5, 20)]

small = st.floats(1e-8, 2.0)
kappas = st.one_of(st.just(0.0), st.floats(0.0, 3.0))
params = st.builds(
    ThroughputParams, small, st.floats(1e-8, 0.1), small, small, small, small, st.floats(1.0, 10.0), kappas
)
knots = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.sampled_from([2, 4, 8, 16]),
        st.sampled_from([4.0, 8.0, 24.0, 32.0, 33.5]),
        st.floats(-3, 3),
    ),
    max_size=6,
    unique_by=lambda knot: knot[:3],
).map(tuple)
pipelines = st.builds(
    PipelineParams,
    stages=st.sampled_from([1, 2, 4]),
    microbatches=st.integers(1, 64),
    microbatch_size=st.integers(1, 4),
    forward_s=st.floats(1e-4, 1.0),
    alpha_n=st.floats(0, 1),
    beta_n=st.floats(0, 0.1),
)


def type_models(name: str) -> st.SearchStrategy[TypeModel]:
    plain = st.builds(
        lambda p, error, limit, scale, k: TypeModel(name, p, "fit", error, limit, scale, knots=k),
        params,
        st.floats(0, 1),
        st.one_of(st.none(), st.integers(0, 300)),
        st.floats(0.1, 10),
        knots,
    )
    return st.one_of(plain, plain, st.builds(lambda p: TypeModel(name, p, "fit", 0.1), pipelines))


def test_a_matrix_filled_in_parts_side_by_side_is_the_one_filled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from slurmsia_cli.bench_matrix import make_models, make_shapes

    from slurmsia.models import goodput

    models, shapes = make_models(40, seed=1), make_shapes(24)
    at_once = goodput_matrix(models, shapes)
    monkeypatch.setattr(goodput, "CHUNK_ROWS", 3)
    in_parts = goodput_matrix(models, shapes)
    assert in_parts.job_ids == at_once.job_ids
    for name in ("goodput", "throughput", "local_batch", "accumulation", "rel_error"):
        assert np.array_equal(getattr(in_parts, name), getattr(at_once, name)), name


@given(
    type_models("a100"), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4, 8]), st.floats(1.0, 512.0),
    st.integers(0, 7),
)  # fmt: skip
def test_one_shapes_seconds_are_those_of_the_array(
    model: TypeModel, nodes: int, per_node: int, local_batch: float, accumulation: int
) -> None:
    asked = (nodes, nodes * per_node, local_batch, accumulation)
    assert step_seconds(model, *asked) == pytest.approx(float(model_step_time(model, *asked)), rel=1e-12)


@st.composite
def models(draw: st.DrawFn, job_id: str = "1") -> JobModel:
    initial = draw(st.integers(1, 300))
    return JobModel(
        job_id,
        {name: draw(type_models(name)) for name in draw(st.sets(st.sampled_from(["a100", "t4"])))},
        BatchLimits(
            initial,
            initial * draw(st.integers(1, 30)),
            draw(st.integers(1, 20)),
            draw(st.one_of(st.none(), st.integers(1, 200))),
            draw(st.booleans()),
        ),
        EfficiencyModel(draw(st.sampled_from([0.0, 1e-3, 0.1, 1.0])), draw(st.sampled_from([0.0, 0.5, 20.0]))),
        units={"t4": draw(st.sampled_from([1, 2]))},
    )


@given(model=models())
@settings(max_examples=120, deadline=None)
def test_the_matrix_is_the_scalar_formula(model: JobModel) -> None:
    matrix = goodput_matrix([model], SHAPES)
    smooth = replace(model, types={name: replace(one, knots=()) for name, one in model.types.items()})
    plain = goodput_matrix([smooth], SHAPES)
    for column, shape in enumerate(SHAPES):
        expected = best_batch(smooth, shape)
        assert plain.goodput[0, column] == pytest.approx(expected.goodput, rel=1e-8, abs=0)
        # where micro-batches tie to the last digits, either is the one that measured deviations start from
        if (expected.local_batch, expected.accumulation) == (
            plain.local_batch[0, column],
            plain.accumulation[0, column],
        ):
            assert matrix.goodput[0, column] == pytest.approx(best_batch(model, shape).goodput, rel=1e-8, abs=0)
        chosen = evaluate(model, shape, int(matrix.local_batch[0, column]), int(matrix.accumulation[0, column]))
        assert matrix.goodput[0, column] == pytest.approx(chosen.goodput, rel=1e-8, abs=0)
        assert matrix.throughput[0, column] == pytest.approx(chosen.throughput, rel=1e-8, abs=0)


@given(before=models(), after=models(), local_batch=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_batch_held_is_valued_by_the_model_of_the_moment(before: JobModel, after: JobModel, local_batch: int) -> None:
    table = GoodputTable()
    learnt = replace(before, efficiency=after.efficiency)
    for model in (before, learnt, learnt, after, before):
        for shape in (SHAPES[0], SHAPES[-1]):
            assert table.held(model, shape, local_batch, 0) == evaluate(model, shape, local_batch, 0)


@given(model=models())
@settings(max_examples=60, deadline=None)
def test_goodput_is_never_above_throughput_and_the_batch_stays_within_limits(model: JobModel) -> None:
    matrix = goodput_matrix([model], SHAPES)
    assert np.all(matrix.goodput <= matrix.throughput * (1 + 1e-8))
    for column, shape in enumerate(SHAPES):
        type_model = model.types.get(shape.gpu_type)
        if matrix.goodput[0, column] == 0 or type_model is None or isinstance(type_model.params, PipelineParams):
            continue
        m, u = matrix.local_batch[0, column], matrix.accumulation[0, column] + 1
        limits = [x for x in (type_model.local_max, model.batch.local_max) if x is not None]
        assert m <= min(limits, default=m)
        if model.batch.adaptive:
            replicas = shape.gpus // model.units.get(shape.gpu_type, 1)
            assert m >= model.batch.local_min
            # the smallest legal total batch may be rounded up to whole samples per GPU
            assert replicas * m * u <= max(model.batch.maximum, model.batch.initial + replicas * u)


@given(model=models(), factor=st.floats(0.2, 0.95), field=st.sampled_from(["alpha_c", "beta_c", "alpha_n", "alpha_r"]))
@settings(max_examples=60, deadline=None)
def test_faster_parameters_never_lower_the_goodput_of_a_batch(model: JobModel, factor: float, field: str) -> None:
    faster = {
        name: replace(t, params=replace(t.params, **{field: factor * getattr(t.params, field)}))
        for name, t in model.types.items()
        if isinstance(t.params, ThroughputParams)
    }
    quick = replace(model, types={**model.types, **faster})
    for shape in SHAPES:
        before = best_batch(model, shape)
        if before.goodput > 0:
            after = evaluate(quick, shape, before.local_batch, before.accumulation)
            assert after.goodput >= before.goodput * (1 - 1e-8)


@given(model=models())
@settings(max_examples=60, deadline=None)
def test_the_best_batch_is_within_three_percent_of_every_legal_batch(model: JobModel) -> None:
    smooth = replace(
        model,
        types={k: replace(t, knots=()) for k, t in model.types.items() if isinstance(t.params, ThroughputParams)},
        batch=replace(model.batch, adaptive=True),
    )
    shape = Shape("a100", 1, 4)
    if "a100" not in smooth.types:
        return
    best = best_batch(smooth, shape).goodput
    batch = smooth.batch
    high = min([x for x in (batch.local_max, smooth.types["a100"].local_max) if x is not None], default=10**6)
    rng = np.random.default_rng(0)
    for _ in range(60):
        u = int(rng.integers(1, 12))
        most = min(high, batch.maximum // (4 * u))
        least = max(batch.local_min, -(-batch.initial // (4 * u)))
        if least <= most:
            m = int(rng.integers(least, most + 1))
            assert evaluate(smooth, shape, m, u - 1).goodput <= best * 1.03


@given(square=st.floats(0, 1e6), variance=st.floats(0, 1e6), initial=st.integers(1, 10**6), times=st.floats(1, 1e4))
def test_efficiency_is_one_at_m0_and_falls_as_the_batch_grows(
    square: float, variance: float, initial: int, times: float
) -> None:
    moments = EfficiencyModel(square, variance)
    assert float(efficiency(moments, initial, initial)) == 1.0
    here, further = efficiency(moments, np.array([initial * times, 2 * initial * times]), initial)
    assert 0.0 < further <= here <= 1.0
    assert here >= 1.0 / times * (1 - 1e-9)


@given(model=params, microbatches=st.integers(1, 64), gpus=st.integers(1, 64), batch=st.integers(1, 32))
def test_a_pipeline_of_one_stage_is_the_plain_form(
    model: ThroughputParams, microbatches: int, gpus: int, batch: int
) -> None:
    plain = replace(model, gamma=1.0, kappa=0.0)
    forward_s = (plain.alpha_c + plain.beta_c * batch) / 3.0
    pipeline = PipelineParams(1, microbatches, batch, forward_s, plain.alpha_n, plain.beta_n)
    nodes = 2 if gpus > 1 else 1
    expected = float(step_time(plain, nodes, gpus, batch, microbatches - 1))
    assert float(pipeline_step_time(pipeline, gpus)) == pytest.approx(expected, rel=1e-9)
    type_model = TypeModel("a100", pipeline, "fit", 0.1)
    assert float(model_step_time(type_model, nodes, gpus, batch)) == pytest.approx(expected, rel=1e-9)


@given(first=models("1"), second=models("2"), third=models("3"))
@settings(max_examples=25, deadline=None)
def test_a_refreshed_table_equals_a_new_one_whatever_was_in_it_before(
    first: JobModel, second: JobModel, third: JobModel
) -> None:
    table = GoodputTable()
    table.refresh([first, second], SHAPES)
    changed = replace(first, types=third.types, version=1)
    kept = table.refresh([third, second, changed], SHAPES)
    fresh = goodput_matrix([third, second, changed], SHAPES)
    assert kept.job_ids == fresh.job_ids
    for name in ("goodput", "throughput", "local_batch", "accumulation", "rel_error"):
        assert np.array_equal(getattr(kept, name), getattr(fresh, name)), name
