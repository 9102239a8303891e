"""The fit: finds what made the data, never raises, and is never beaten by a general optimiser on its own loss."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from slurmsia.history import Observation
from slurmsia.models.base import ThroughputParams
from slurmsia.models.fit import DOUBTFUL_LOSS, NAMES, fit, loss
from slurmsia.models.groups import group
from slurmsia.models.throughput import is_sane, step_time

SHAPES = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 16), (3, 24), (4, 32)]
#: Several numbers of GPUs a node: what tells how much of a node's own all-reduce comes on top of the one across nodes.
DENSITIES = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 4), (2, 4), (2, 8), (4, 16), (2, 16), (4, 32)]
BATCHES = [16.0, 32.0, 64.0, 128.0]

params = st.builds(
    lambda step, share, n, rho_n, r, rho_r, gamma: ThroughputParams(
        alpha_c=step * share,
        beta_c=step * (1 - share) / 64.0,
        alpha_n=step * n,
        beta_n=step * n * rho_n,
        alpha_r=step * r,
        beta_r=step * r * rho_r,
        gamma=gamma,
    ),
    step=st.floats(1e-3, 10.0),
    share=st.floats(0.1, 0.8),
    n=st.floats(0.1, 2.0),
    rho_n=st.floats(0.0, 0.1),
    r=st.floats(0.02, 0.5),
    rho_r=st.floats(0.0, 0.1),
    gamma=st.floats(1.0, 4.0),
)


def observed(
    truth: ThroughputParams, noise: float, seed: int, shapes: list[tuple[int, int]] = SHAPES
) -> list[Observation]:
    """Sums of 200 noisy steps per shape and batch."""
    rng = random.Random(seed)
    found = []
    for nodes, gpus in shapes:
        for batch in BATCHES:
            mean = float(step_time(truth, nodes, gpus, batch)) * math.exp(rng.gauss(0.0, noise))
            sync = max(mean - (truth.alpha_c + truth.beta_c * batch), 0.0) if gpus > 1 else 0.0
            count = 200.0
            found.append(
                Observation("a100", nodes, gpus, batch, 0, count, count * mean, count * mean**2 * 1.01, count * sync)
            )
    return found


@given(truth=params, seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_step_times_come_back_from_noisy_data_also_between_the_points_that_were_seen(
    truth: ThroughputParams, seed: int
) -> None:
    result = fit(observed(truth, noise=0.02, seed=seed))
    grid = [(1, 1, 48.0), (1, 3, 24.0), (1, 6, 100.0), (2, 12, 90.0), (4, 28, 20.0)]
    for nodes, gpus, batch in grid:
        expected = float(step_time(truth, nodes, gpus, batch))
        assert float(step_time(result.params, nodes, gpus, batch)) == pytest.approx(expected, rel=0.12)
    assert result.rel_error < 0.15
    compute = result.params.alpha_c + result.params.beta_c * 64
    assert compute == pytest.approx(truth.alpha_c + truth.beta_c * 64, rel=0.08)


@given(truth=params)
@settings(max_examples=4, deadline=None)
def test_no_general_optimiser_finds_a_lower_loss(truth: ThroughputParams) -> None:
    groups = group(observed(truth, noise=0.1, seed=3), weights="unweighted")
    ours = fit(groups, weights="unweighted")
    assert set(ours.free) == set(NAMES) - {"kappa"}
    scale = float(np.median(groups.step_s))
    start = [0.1 * scale, 0.01 * scale] * 3 + [1.001]
    theirs = minimize(
        lambda x: loss(ThroughputParams(*x), groups),
        start,
        method="L-BFGS-B",
        bounds=[(1e-8, None)] * 6 + [(1.0, 10.0)],
    )
    assert ours.loss <= theirs.fun * 1.02 + 1e-4


@given(truth=params, kappa=st.floats(0.0, 2.0), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_links_shared_by_gpus_of_a_node_are_found_and_foretell_other_numbers_of_nodes(
    truth: ThroughputParams, kappa: float, seed: int
) -> None:
    truth = replace(truth, kappa=kappa)
    result = fit(observed(truth, noise=0.02, seed=seed, shapes=DENSITIES))
    assert set(result.free) == set(NAMES)
    assert result.covariance.shape == (8, 8)
    for nodes, gpus, batch in [(3, 3, 48.0), (3, 12, 100.0), (4, 8, 24.0), (3, 24, 90.0)]:
        expected = float(step_time(truth, nodes, gpus, batch))
        assert float(step_time(result.params, nodes, gpus, batch)) == pytest.approx(expected, rel=0.15)


@given(truth=params, kappa=st.floats(0.0, 2.0))
@example(truth=ThroughputParams(1.0, 0.015625, 0.25, 0.0, 1.0, 0.0, 2.0), kappa=0.0)  # no network seen across nodes
@settings(max_examples=4, deadline=None)
def test_no_general_optimiser_finds_a_lower_loss_with_shared_links(truth: ThroughputParams, kappa: float) -> None:
    groups = group(observed(replace(truth, kappa=kappa), noise=0.1, seed=3, shapes=DENSITIES))
    ours = fit(groups)
    scale = float(np.median(groups.step_s))
    theirs = minimize(
        lambda x: loss(ThroughputParams(*x), groups),
        [0.1 * scale, 0.01 * scale] * 3 + [1.001, 0.5],
        method="L-BFGS-B",
        bounds=[(1e-8, None)] * 6 + [(1.0, 10.0), (0.0, None)],
    )
    assert loss(ours.params, groups) <= theirs.fun * 1.02 + 1e-4


@given(truth=params, kappa=st.floats(0.0, 2.0))
@settings(max_examples=4, deadline=None)
def test_the_artifacts_fit_knows_no_shared_links(truth: ThroughputParams, kappa: float) -> None:
    result = fit(observed(replace(truth, kappa=kappa), noise=0.02, seed=1, shapes=DENSITIES), weights="unweighted")
    assert result.params.kappa == 0.0
    assert set(result.free) == set(NAMES) - {"kappa"}


wild = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 1e-300, 1e300, 1e9, 5e-324, 1.0]),
)
observations = st.builds(
    Observation,
    gpu_type=st.just("a100"),
    nodes=st.integers(-1, 2000),
    gpus=st.integers(-1, 10000),
    local_batch=wild,
    accumulation=st.integers(-1, 10**6),
    count=wild,
    step_sum_s=wild,
    step_square_sum_s2=wild,
    sync_sum_s=wild,
)


@given(seen=st.lists(observations, max_size=12), weights=st.sampled_from(["count", "unweighted"]))
@settings(max_examples=120, deadline=None)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_input_gives_sane_parameters_and_says_how_the_fit_ended(seen: list[Observation], weights: str) -> None:
    result = fit(seen, weights=weights)
    assert is_sane(result.params)
    assert result.ended in {"converged", "iteration-limit", "no-data"}
    assert 0.0 <= result.rel_error <= 1.0
    assert np.all(np.isfinite(result.covariance))


positive = st.floats(1e-150, 1e150)


@given(
    seen=st.lists(
        st.builds(
            lambda nodes, per_node, batch, count, step: Observation(
                "t4", nodes, nodes * per_node, batch, 0, count, count * step, count * step * step
            ),
            nodes=st.integers(1, 64),
            per_node=st.integers(1, 8),
            batch=positive,
            count=st.floats(1e-6, 1e12),
            step=positive,
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_absurd_magnitudes_and_contradictions_are_fitted_too(seen: list[Observation]) -> None:
    result = fit(seen)
    assert is_sane(result.params)
    assert result.ended != "no-data"
    assert math.isfinite(result.residual)


@given(truth=params, seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_warm_start_fits_well_or_as_well_as_a_cold_one(truth: ThroughputParams, seed: int) -> None:
    first = fit(observed(truth, 0.05, seed, SHAPES[:5]))
    everything = observed(truth, 0.05, seed)
    warm, cold = fit(everything, warm=first.params), fit(everything)
    assert warm.loss <= max(DOUBTFUL_LOSS, cold.loss * 1.02)
