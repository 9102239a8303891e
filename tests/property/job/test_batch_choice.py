"""The batch that a job chooses is legal, is the best there is, and changes only for more than 5 %."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slurmsia.job.batch import MIN_GAIN, Batch, choose, gain, goodput
from slurmsia.job.directive import Directive, SpeedModel, parse_directive

rates = st.floats(1e-6, 10.0)


@st.composite
def models(draw: st.DrawFn) -> SpeedModel:
    initial = draw(st.integers(1, 512))
    smallest = draw(st.integers(1, 64))
    return SpeedModel(
        alpha_c=draw(rates),
        beta_c=draw(rates),
        alpha_n=draw(rates),
        beta_n=draw(rates),
        alpha_r=draw(rates),
        beta_r=draw(rates),
        gamma=draw(st.floats(1.0, 10.0)),
        square=draw(st.floats(0.0, 1e3)),
        variance=draw(st.floats(1e-6, 1e3)),
        batch_min=initial,
        batch_max=initial * draw(st.integers(1, 32)),
        local_min=smallest,
        local_max=smallest * draw(st.integers(1, 16)),
        accumulation_max=draw(st.integers(0, 15)),
    )


@given(models(), st.integers(1, 4), st.integers(1, 16))
def test_a_chosen_batch_is_within_every_limit(model: SpeedModel, nodes: int, per_node: int) -> None:
    gpus = nodes * per_node
    batch = choose(model, nodes, gpus)
    if batch is not None:
        assert model.batch_min <= batch.total(gpus) <= model.batch_max
        assert model.local_min <= batch.local <= model.local_max
        assert 0 <= batch.accumulation <= model.accumulation_max


@given(models(), st.integers(1, 4), st.integers(1, 16), st.integers(1, 1024), st.integers(0, 3))
def test_a_legal_batch_is_left_only_for_more_than_five_percent(
    model: SpeedModel, nodes: int, per_node: int, local: int, accumulation: int
) -> None:
    gpus = nodes * per_node
    current = Batch(local, accumulation)
    batch = choose(model, nodes, gpus, current)
    if batch is None or batch == current:
        return
    legal = model.batch_min <= current.total(gpus) <= model.batch_max and model.local_min <= local <= model.local_max
    if legal:
        assert goodput(model, batch, nodes, gpus) > MIN_GAIN * goodput(model, current, nodes, gpus)


@given(st.floats(0.0, 1e6), st.floats(1e-9, 1e6), st.floats(1.0, 1e4))
def test_a_larger_batch_gains_at_least_nothing_and_at_most_its_scale(
    square: float, variance: float, scale: float
) -> None:
    assert 1.0 - 1e-9 <= gain(square, variance, scale) <= scale * (1 + 1e-9)


@given(models(), st.integers(0, 10**9), st.none() | st.floats(0, 1e12), st.text(max_size=40))
def test_a_directive_is_read_back_as_it_was_written(
    model: SpeedModel, seq: int, deadline_s: float | None, reason: str
) -> None:
    directive = Directive(seq, "checkpoint", deadline_s, reason, 64, 1, model, 75)
    assert parse_directive(directive.to_json()) == directive
