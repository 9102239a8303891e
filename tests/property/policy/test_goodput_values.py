"""Properties of the values of policy `goodput`, whatever the jobs, models and estimates are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Shape
from slurmsia.config.policy import PolicySection
from slurmsia.models.base import GoodputMatrix, JobModel, RestartCost
from slurmsia.policy.base import Candidate, RoundProblem, Terms
from slurmsia.policy.registry import policy

SHAPES = (Shape("a", 1, 1), Shape("a", 1, 2), Shape("a", 1, 4), Shape("b", 1, 1), Shape("b", 1, 2))
COLUMNS = len(SHAPES)

speeds = st.one_of(st.just(0.0), st.floats(1e-6, 1e9))
seconds = st.floats(0.0, 1e7)
works = st.one_of(st.none(), st.floats(0.0, 1e15))


@st.composite
def rounds(draw: st.DrawFn) -> RoundProblem:
    jobs = draw(st.integers(1, 6))
    goodput = np.array(
        draw(st.lists(st.lists(speeds, min_size=COLUMNS, max_size=COLUMNS), min_size=jobs, max_size=jobs))
    )
    error = np.array(draw(st.lists(st.floats(0, 2), min_size=jobs * COLUMNS, max_size=jobs * COLUMNS)))
    candidates, models = [], {}
    for number in range(jobs):
        name = f"j{number}"
        current = draw(st.integers(-1, COLUMNS - 1))
        current = current if current >= 0 and goodput[number, current] > 0 else -1
        candidates.append(
            Candidate(
                name,
                managed=draw(st.booleans()),
                current=current,
                age_s=draw(seconds),
                run_s=draw(seconds),
                waited_s=draw(seconds),
                restarts=draw(st.integers(0, 50)),
            )
        )
        cost = RestartCost(draw(st.floats(0, 7200)))
        models[name] = JobModel(name, restart=cost, work_done=0.0, work_remaining=draw(works))
    whole = np.zeros(goodput.shape, dtype=np.int64)
    names = tuple(candidate.job_id for candidate in candidates)
    matrix = GoodputMatrix(names, goodput, goodput, whole, whole, error.reshape(goodput.shape))
    gpus = {"a": 8, "b": 4}
    return RoundProblem(0.0, 60.0, tuple(candidates), SHAPES, matrix, goodput > 0, models, gpus, gpus)


def said(round_: RoundProblem, **options: object) -> Terms:
    terms = policy("goodput", PolicySection.model_validate({"name": "goodput", "goodput": options})).terms(round_)
    assert isinstance(terms, Terms)
    return terms


@settings(max_examples=50, deadline=None)
@given(rounds())
def test_every_usable_configuration_has_a_finite_value_of_at_least_nothing(round_: RoundProblem) -> None:
    value = said(round_).value
    assert np.isfinite(value[round_.valid]).all()
    assert (value[round_.valid] >= 0).all()
    assert np.isneginf(value[~round_.valid]).all()


@settings(max_examples=50, deadline=None)
@given(rounds())
def test_more_goodput_is_never_worth_less(round_: RoundProblem) -> None:
    terms = said(round_, explore=0, gpu_price=0, pay_back=0)
    for row, candidate in enumerate(round_.candidates):
        if candidate.managed:
            ok = round_.valid[row]
            order = np.argsort(round_.matrix.goodput[row][ok], kind="stable")
            value = terms.value[row][ok][order]
            assert (np.diff(value) >= -1e-9 * np.maximum(value[1:], 1.0)).all()


@settings(max_examples=50, deadline=None)
@given(rounds(), st.floats(1.0, 1e4))
def test_waiting_longer_is_never_worth_less(round_: RoundProblem, longer_s: float) -> None:
    later = tuple(replace(c, waited_s=c.waited_s + longer_s) for c in round_.candidates)
    before, after = said(round_).value, said(replace(round_, candidates=later)).value
    mine = round_.valid & np.array([[c.managed] for c in round_.candidates])
    assert (after[mine] >= before[mine] * (1 - 1e-12)).all()


@settings(max_examples=50, deadline=None)
@given(rounds())
def test_a_costlier_restart_never_makes_a_move_more_attractive(round_: RoundProblem) -> None:
    dear = {
        name: replace(model, restart=RestartCost(model.restart.mean_s * 2 + 60))
        for name, model in round_.models.items()
    }
    before, after = said(round_).value, said(replace(round_, models=dear)).value
    for row, candidate in enumerate(round_.candidates):
        if candidate.managed and candidate.current >= 0:
            ok = round_.valid[row]
            gain = before[row][ok] - before[row, candidate.current]
            now = after[row][ok] - after[row, candidate.current]
            scale = np.abs(before[row][ok]) + np.abs(after[row][ok]) + 1.0
            assert (now <= gain + 1e-9 * scale).all()


@settings(max_examples=50, deadline=None)
@given(rounds())
def test_the_order_of_jobs_does_not_matter(round_: RoundProblem) -> None:
    turned = slice(None, None, -1)
    matrix = GoodputMatrix(
        round_.matrix.job_ids[turned],
        round_.matrix.goodput[turned],
        round_.matrix.throughput[turned],
        round_.matrix.local_batch[turned],
        round_.matrix.accumulation[turned],
        round_.matrix.rel_error[turned],
    )
    other = replace(round_, candidates=round_.candidates[turned], matrix=matrix, valid=round_.valid[turned])
    np.testing.assert_allclose(said(other).value[turned], said(round_).value, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(rounds(), st.floats(1.0, 1e6))
def test_a_longer_run_never_makes_a_slower_place_more_attractive(round_: RoundProblem, longer_s: float) -> None:
    elastic = tuple(replace(c, max_gpus=2) for c in round_.candidates)
    later = tuple(replace(c, run_s=c.run_s + longer_s) for c in elastic)
    before, after = (said(replace(round_, candidates=who), explore=0, gpu_price=0).value for who in (elastic, later))
    for row, candidate in enumerate(round_.candidates):
        if candidate.managed and candidate.current >= 0:
            slower = round_.valid[row] & (round_.matrix.goodput[row] < round_.matrix.goodput[row, candidate.current])
            np.testing.assert_allclose(after[row][slower], before[row][slower], rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(rounds(), st.floats(0.05, 1.0))
def test_the_exponent_changes_no_jobs_order_of_configurations(round_: RoundProblem, exponent: float) -> None:
    linear, concave = said(round_, p=1.0).value, said(round_, p=exponent).value
    for row, candidate in enumerate(round_.candidates):
        if candidate.managed:
            ok = round_.valid[row]
            order = np.argsort(linear[row][ok], kind="stable")
            assert (np.diff(concave[row][ok][order]) >= -1e-9 * np.maximum(concave[row][ok][order][1:], 1e-9)).all()
