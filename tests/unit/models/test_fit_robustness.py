"""What a fit does with bad luck: slow first steps, contradictions, scales never seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.history import Observation
from slurmsia.models.base import ThroughputParams
from slurmsia.models.fit import UNSEEN_SLOPE, fit
from slurmsia.models.groups import group
from slurmsia.models.throughput import step_time

TRUTH = ThroughputParams(0.1, 0.002, 0.08, 0.004, 0.02, 0.001, 1.8)
SHAPES = [(1, 1), (1, 2), (1, 4), (2, 8), (4, 16)]


def steady(
    nodes: int, gpus: int, batch: float, count: float = 100.0, slow_steps_s: tuple[float, ...] = ()
) -> Observation:
    step = float(step_time(TRUTH, nodes, gpus, batch))
    sync = max(step - (TRUTH.alpha_c + TRUTH.beta_c * batch), 0.0) if gpus > 1 else 0.0
    return Observation(
        "t4",
        nodes,
        gpus,
        batch,
        0,
        count + len(slow_steps_s),
        count * step + sum(slow_steps_s),
        count * step**2 + sum(slow**2 for slow in slow_steps_s),
        count * sync,
    )


def error(params: ThroughputParams, nodes: int, gpus: int, batch: float) -> float:
    return abs(float(step_time(params, nodes, gpus, batch)) / float(step_time(TRUTH, nodes, gpus, batch)) - 1.0)


def test_one_slow_first_step_of_a_minute_leaves_the_group_mean_where_it_was() -> None:
    clean = group([steady(1, 1, 32)])
    spoilt = group([steady(1, 1, 32, slow_steps_s=(60.0,))])
    assert spoilt.step_s[0] == pytest.approx(clean.step_s[0], rel=0.01)


def test_a_slow_first_step_on_every_shape_changes_no_prediction_by_more_than_five_percent() -> None:
    seen = [steady(n, k, m, slow_steps_s=(45.0,)) for n, k in SHAPES for m in (16.0, 64.0)]
    result = fit(seen)
    assert max(error(result.params, n, k, m) for n, k in SHAPES for m in (16.0, 32.0, 64.0)) < 0.05


def test_a_shape_measured_while_its_node_was_paused_is_outvoted_by_the_others() -> None:
    seen = [steady(n, k, m) for n, k in SHAPES for m in (16.0, 32.0, 64.0)]
    paused = replace(seen[4], step_sum_s=10 * seen[4].step_sum_s, step_square_sum_s2=100 * seen[4].step_square_sum_s2)
    result = fit([*seen[:4], paused, *seen[5:]])
    others = [(n, k, m) for n, k in SHAPES for m in (16.0, 64.0)]
    assert sorted(error(result.params, *point) for point in others)[len(others) // 2] < 0.05
    assert max(error(result.params, *point) for point in others) < 0.25


def test_more_steps_weigh_more_and_one_step_alone_weighs_little() -> None:
    few, many = steady(1, 1, 16, count=1), steady(1, 2, 16, count=500)
    groups = group([few, many])
    assert groups.weight[1] > 5 * groups.weight[0]
    assert group([few, many], weights="unweighted").weight.tolist() == [0.5, 0.5]


def test_sums_pool_over_restarts_by_addition() -> None:
    halves = [steady(1, 2, 32, count=50), steady(1, 2, 32, count=150)]
    assert fit(halves).params == fit([steady(1, 2, 32, count=200)]).params


def test_after_one_gpu_more_gpus_are_expected_to_scale_perfectly() -> None:
    result = fit([steady(1, 1, m) for m in (16.0, 32.0, 64.0)])
    one, eight = step_time(result.params, 1, 1, 32), step_time(result.params, 1, 8, 32)
    assert float(eight) == pytest.approx(float(one), rel=1e-6)
    assert error(result.params, 1, 1, 40.0) < 0.02


def test_nodes_never_seen_are_at_least_a_tenth_slower_to_synchronise_than_one_node() -> None:
    params = fit([steady(n, k, m) for n, k in SHAPES[:3] for m in (16.0, 64.0)]).params
    assert params.alpha_n == pytest.approx(1.1 * params.alpha_r)
    assert params.beta_n == pytest.approx(1.1 * params.beta_r)


def test_after_two_gpus_the_all_reduce_is_expected_to_grow_but_not_in_the_artifacts_fit() -> None:
    seen = [steady(1, k, m) for k in (1, 2) for m in (16.0, 64.0)]
    assert fit(seen).params.beta_r == pytest.approx(UNSEEN_SLOPE * fit(seen).params.alpha_r)
    assert fit(seen, weights="unweighted").params.beta_r == pytest.approx(1e-8)


def test_with_one_batch_size_half_of_the_step_is_taken_to_be_overhead() -> None:
    result = fit([steady(1, 1, 32.0)])
    mean = float(step_time(TRUTH, 1, 1, 32.0))
    assert result.params.alpha_c == pytest.approx(mean / 2)
    assert result.params.alpha_c + 32 * result.params.beta_c == pytest.approx(mean, rel=1e-3)


def test_no_usable_observation_gives_the_prior_and_says_so() -> None:
    result = fit([steady(1, 1, 32.0, count=0.0), replace(steady(1, 1, 32.0), step_sum_s=float("nan"))])
    assert result.ended == "no-data"
    assert result.rel_error == 1.0
    assert result.free == ()


def test_a_billion_rows_of_one_group_fit_like_one_of_a_billion_steps() -> None:
    billion = steady(1, 1, 32.0, count=1e9)
    assert fit([billion]).params.alpha_c == pytest.approx(fit([steady(1, 1, 32.0)]).params.alpha_c, rel=1e-6)


def test_steps_without_reported_synchronisation_are_still_fitted() -> None:
    seen = [replace(steady(n, k, m), sync_sum_s=0.0) for n, k in SHAPES for m in (16.0, 32.0, 64.0)]
    result = fit(seen)
    assert max(error(result.params, n, k, m) for n, k in SHAPES for m in (16.0, 64.0)) < 0.1
