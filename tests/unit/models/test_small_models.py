"""Efficiency, memory lines, restart costs, bootstrap order, batch rule, shipped numbers, measured deviations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from slurmsia.cluster import Shape
from slurmsia.history import Gradient, MemoryPoint, RestartSample
from slurmsia.models import bias, memory, restart, shipped
from slurmsia.models.base import EfficiencyModel, JobModel, ThroughputParams, TypeModel
from slurmsia.models.batch import quantise, quantised
from slurmsia.models.bootstrap import TypeFit, TypeRatio, estimate
from slurmsia.models.efficiency import (
    UNKNOWN,
    SmoothedMoments,
    adam_preconditioner,
    efficiency,
    from_consecutive,
    from_gradient,
    from_local_squares,
)
from slurmsia.models.estimator import fit_type
from slurmsia.models.goodput import BatchOption, best_batch, keep_or_change
from slurmsia.models.groups import group
from slurmsia.models.profiles import Point, observation
from slurmsia.models.throughput import overlap, step_time, sync_time

# ---- efficiency


def micro_gradients(rng: np.random.Generator, truth: np.ndarray, noise: float, n: int, batch: int) -> np.ndarray:
    return truth + rng.normal(0.0, noise / math.sqrt(batch), (n, len(truth)))


@pytest.mark.parametrize(("replicas", "micro_batch"), [(2, 64), (8, 32), (16, 128)])
def test_moments_from_replicas_do_not_depend_on_how_the_batch_was_split(replicas: int, micro_batch: int) -> None:
    rng, truth, initial = np.random.default_rng(1), np.full(50, 0.1), 128
    smoothed = SmoothedMoments()
    for _ in range(3000):
        g = micro_gradients(rng, truth, 2.0, replicas, micro_batch)
        scale = replicas * micro_batch / initial
        square, variance = from_local_squares([float(x @ x) for x in g], float(np.sum(g.mean(axis=0) ** 2)), scale)
        smoothed = smoothed.update(square, variance, 0.1)
    assert smoothed.square_sum / smoothed.weight == pytest.approx(50 * 0.1**2, rel=0.15)
    assert smoothed.variance_sum / smoothed.weight == pytest.approx(50 * 2.0**2 / initial, rel=0.05)


def test_noise_from_one_micro_gradient_alone_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="two GPUs or accumulate"):
        from_local_squares([1.0], 1.0, 1.0)


def test_consecutive_gradients_are_a_last_resort_that_agrees_on_average() -> None:
    rng, truth = np.random.default_rng(2), np.full(50, 0.3)
    found = []
    for _ in range(2000):
        a, b = micro_gradients(rng, truth, 2.0, 2, 128)
        found.append(from_consecutive(a, b, 1.0))
    square, variance = np.mean(found, axis=0)
    assert square == pytest.approx(50 * 0.3**2, rel=0.1)
    assert variance == pytest.approx(50 * 4.0 / 128, rel=0.05)


def test_adam_noise_is_that_of_the_preconditioned_gradient() -> None:
    # one coordinate a thousand times larger: raw squares see nothing else, preconditioned ones weigh all alike
    second = np.array([1e6, 1.0, 1.0]) * (1 - 0.999**100)
    scaled = np.array([1e3, 1.0, 1.0]) / adam_preconditioner(second, step=100)
    assert scaled == pytest.approx([1.0, 1.0, 1.0], rel=1e-6)
    assert adam_preconditioner(second, step=0).tolist() == [1.0, 1.0, 1.0]


def test_before_any_data_bigger_batches_are_free() -> None:
    assert SmoothedMoments().model == UNKNOWN
    assert float(efficiency(UNKNOWN, 1e6, 1)) == 1.0


def test_smoothing_counts_a_batch_of_scale_ten_like_ten_steps_and_starts_unbiased() -> None:
    first = SmoothedMoments().update(2.0, 3.0, 1.0)
    assert first.square_sum / first.weight == pytest.approx(2.0)
    tenfold = first.update(4.0, 3.0, 10.0)
    steps = first
    for _ in range(10):
        steps = steps.update(4.0, 3.0, 1.0)
    assert tenfold.square_sum == pytest.approx(steps.square_sum)
    assert first.update(math.nan, 1.0, 1.0) is first


@pytest.mark.parametrize(
    "gradient",
    [None, Gradient(0, math.nan, 1, 1), Gradient(0, 1, -1, 1), Gradient(0, 0, 0, 1), Gradient(0, 1, math.inf, 1)],
)
def test_gradients_that_cannot_be_are_the_same_as_none(gradient: Gradient | None) -> None:
    assert from_gradient(gradient) == UNKNOWN


def test_only_the_ratio_of_the_moments_matters_even_at_absurd_magnitudes() -> None:
    assert from_gradient(Gradient(0, 3e300, 1e300, 1)).square == pytest.approx(0.75)


# ---- memory and restarts


def _line(points: list[MemoryPoint]) -> memory.MemoryLine | None:
    return memory.lines_over(memory.peaks(points)).pooled


def test_memory_line_passes_above_every_peak_that_was_seen() -> None:
    line = _line([MemoryPoint("t4", m, 2e9 + m * 1e8 + extra) for m, extra in ((8, 0), (16, 3e8), (32, 0))])
    assert line is not None
    assert all(line.peak_bytes(m) >= 2e9 + m * 1e8 + extra - 1 for m, extra in ((8, 0), (16, 3e8), (32, 0)))
    assert line.largest_batch(16e9) < 140


def test_one_peak_alone_is_taken_to_grow_with_the_batch() -> None:
    line = _line([MemoryPoint("t4", 32.0, 8e9)])
    assert line is not None
    assert line.largest_batch(16e9) == 60


def test_a_type_measured_at_two_batches_goes_by_its_own_memory_and_others_by_the_careful_line() -> None:
    t4 = [MemoryPoint("t4", m, 1e9 + m * 8e8) for m in (4, 8)]
    a100 = [MemoryPoint("a100", m, 3e9 + m * 12e8) for m in (4, 8)]
    lines = memory.lines_over(memory.peaks([*t4, *a100]))
    careful, own = lines.on("rtx"), lines.on("t4")
    assert careful is not None
    assert own is not None
    assert own.largest_batch(16e9) == 17
    assert careful.largest_batch(16e9) == 10


def test_neighbouring_batches_do_not_make_a_line_of_their_own() -> None:
    points = [MemoryPoint("t4", 8.0, 8e9), MemoryPoint("t4", 9.0, 8.01e9), MemoryPoint("a100", 16.0, 20e9)]
    lines = memory.lines_over(memory.peaks(points))
    assert lines.on("t4") is lines.pooled


def test_without_memory_facts_the_declared_limit_stands() -> None:
    assert memory.largest_local_batch(None, 16e9, 64) == 64
    assert memory.largest_local_batch(_line([]), None, None) is None


def test_restart_cost_goes_from_prior_by_size_to_what_was_measured() -> None:
    small, big = restart.learn([]), restart.learn([], fixed_bytes=50e9)
    assert (small.source, small.mean_s) == ("prior", 46.0)
    assert big.mean_s > 200.0
    sample = RestartSample(5.0, 120.0, 20.0, 15.0)
    once, often = restart.learn([sample]), restart.learn([sample] * 10)
    assert once.source == "measured"
    assert 46.0 < once.mean_s < often.mean_s < 160.0
    assert often.mean_s == pytest.approx(160.0, rel=0.08)
    assert often.std_s < once.std_s


def test_restarts_of_similar_jobs_fill_in_and_parts_are_learnt_one_by_one() -> None:
    similar = restart.learn([], [RestartSample(5.0, 120.0, 20.0, 15.0)] * 6, likeness="script")
    assert similar.source == "similar:script"
    assert similar.mean_s > 100.0
    part = restart.learn([RestartSample(save_s=100.0)] * 8)
    assert part.mean_s == pytest.approx(38.0 + 100.0, rel=0.1)


def test_a_job_that_has_only_loaded_so_far_is_expected_to_save_as_much_faster_or_slower() -> None:
    nothing = restart.learn([])
    quick, slow = (restart.learn([RestartSample(load_s=s, first_step_s=1.0)]) for s in (2.2, 220.0))
    assert quick.mean_s < 24.0 < 45.0 < nothing.mean_s
    assert slow.mean_s > 180.0 + 50.0
    saved = restart.learn([RestartSample(save_s=12.0), RestartSample(load_s=2.2, first_step_s=1.0)])
    assert saved.mean_s > quick.mean_s + 8.0


def test_the_first_start_of_a_job_says_most_of_what_a_restart_costs_before_anything_was_saved() -> None:
    quick, slow = (restart.learn([RestartSample(first_step_s=s)]) for s in (1.0, 120.0))
    assert quick.mean_s < 28.0, "saving and loading are still unknown"
    assert slow.mean_s > 46.0 + 70.0


def test_an_outage_is_no_restart_cost() -> None:
    assert restart.learn([RestartSample(requeue_s=86400.0)]) == restart.learn([])


# ---- bootstrap, batch rule, numbers

TRUE = ThroughputParams(0.1, 0.002, 0.1, 0.005, 0.05, 0.002, 1.5)


def seen(gpu_type: str, shapes: list[tuple[int, int]], speed: float = 1.0) -> TypeFit:
    points = [
        Point(n, k, m, float(step_time(TRUE, n, k, m)) / speed, 0.0 if k == 1 else 0.03 / speed)
        for n, k in shapes
        for m in (16.0, 32.0, 64.0)
    ]
    return fit_type(gpu_type, [observation(gpu_type, point, 50.0) for point in points])


def test_sources_are_preferred_in_the_order_fit_similar_ratio_ratios_prior() -> None:
    wide, alone = [(1, 1), (1, 2), (1, 4)], [(1, 1)]
    ratios = [TypeRatio("a100", "t4", 2.0, 0.1, "similar:cluster")]
    own_both = {"t4": seen("t4", wide), "a100": seen("a100", wide, 3.0)}
    own_one = {"t4": seen("t4", wide), "a100": seen("a100", alone, 3.0)}
    old_only = {"t4": seen("t4", wide)}
    past = {"t4": seen("t4", wide), "a100": seen("a100", wide, 2.5)}
    assert estimate("a100", own_both, past, ratios).source == "fit"
    assert estimate("a100", own_one, past, ratios, "script").source == "similar:script"
    assert estimate("a100", own_one, {}, ratios).source == "ratio:t4"
    assert estimate("a100", old_only, past, ratios, "script").source == "similar:script"
    assert estimate("a100", old_only, {}, ratios).source == "similar:cluster"
    assert estimate("a100", {}, past, ratios, "script").source == "similar:script"
    assert estimate("a100", {}, {}, []).source == "prior"


def test_every_step_away_from_own_measurements_costs_certainty() -> None:
    wide = [(1, 1), (1, 2), (1, 4)]
    own = {"t4": seen("t4", wide), "a100": seen("a100", [(1, 1)], 3.0)}
    errors = [
        estimate("t4", own, {}, []).rel_error,
        estimate("a100", own, {}, []).rel_error,
        estimate("a100", {}, {}, []).rel_error,
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.1 < errors[1] < 0.3 < errors[2]


def test_a_batch_changes_only_for_more_than_five_percent() -> None:
    now = BatchOption(32, 0, 100.0, 100.0)
    assert keep_or_change(now, BatchOption(64, 0, 120.0, 104.9)) is now
    better = BatchOption(64, 0, 120.0, 105.1)
    assert keep_or_change(now, better) is better
    assert keep_or_change(BatchOption(0, 0, 0.0, 0.0), better) is better


def test_last_bits_of_a_kernel_do_not_reach_a_decision() -> None:
    value = 1234.56789012345
    assert quantise(np.float64(value)) == quantise(np.float64(np.nextafter(value, 2000.0)))
    assert float(quantise(np.float64(value))) == pytest.approx(value, rel=2e-9)
    assert float(quantise(np.float64(0.0))) == 0.0
    for one in (value, 1.0 - 2**-40, 1e-300, 5e-324, 1.79e308, math.inf, 0.0):
        assert quantised(one) == float(quantise(np.float64(one)))


def test_overlap_stays_finite_for_times_decades_apart() -> None:
    assert float(overlap(np.float64(1e-8), np.float64(1e9), 10.0)) == pytest.approx(1e9)
    assert float(overlap(np.float64(0.0), np.float64(0.0), 2.0)) == 0.0


def test_shipped_numbers_cover_the_published_applications_and_types() -> None:
    apps = shipped.applications()
    for name in ("cifar10", "bert", "deepspeech2", "imagenet", "yolov3"):
        assert {"t4", "rtx", "a100", "quad"} <= set(apps[name].types)
    assert {"rtx", "a100"} <= set(apps["gpt_pmp"].types)
    for app in apps.values():
        job = JobModel("1", app.types, app.batch, app.efficiency)
        for gpu_type, model in app.types.items():
            unit = getattr(model.params, "stages", 1)
            assert best_batch(job, Shape(gpu_type, 1, unit)).goodput > 0, (app.name, gpu_type)


def test_shipped_numbers_survive_being_written_again() -> None:
    apps = shipped.applications()
    assert shipped.from_json(shipped.to_json(apps, "note")) == apps


def test_a_job_is_like_a_shipped_application_when_its_name_starts_with_it() -> None:
    assert shipped.application_of("cifar10-17") == "cifar10"
    assert shipped.application_of("MyTraining") == ""


# ---- measured deviations


def test_a_batch_that_the_hardware_dislikes_is_avoided_once_it_was_measured() -> None:
    slow = {23.0: 1.8, 11.0: 1.8}
    points = [
        Point(1, k, m, float(step_time(TRUE, 1, k, m)) * slow.get(m, 1.0), 0.0)
        for k in (1, 2, 4)
        for m in (8.0, 11.0, 16.0, 23.0, 32.0)
    ]
    groups = group([observation("a100", point, 50.0) for point in points])
    found = bias.learn(groups, TRUE)
    factor = np.exp(bias.log_factor(found.knots, np.ones(3), np.array([2.0, 2.0, 2.0]), np.array([16.0, 23.0, 32.0])))
    assert factor[1] > 1.5
    assert max(factor[0], factor[2]) < 1.3
    assert found.rel_error is not None


def test_when_more_was_measured_than_enters_every_shape_keeps_its_share_from_all_over_its_batches() -> None:
    shapes = [(1, 1), (1, 2), (1, 4), *((n, 4 * n) for n in range(2, 22))]
    batches = [float(m) for m in range(8, 28)]
    points = [Point(n, k, m, float(step_time(TRUE, n, k, m)), 0.0) for n, k in shapes for m in batches]
    groups = group([observation("a100", point, 50.0) for point in points])
    assert len(groups) > bias.MOST_GROUPS
    knots = bias.learn(groups, TRUE).knots
    assert len(knots) == bias.MOST_GROUPS
    of_shape = [sorted(knot[2] for knot in knots if knot[:2] == shape) for shape in shapes]
    assert {len(found) for found in of_shape} == {bias.MOST_GROUPS // len(shapes), bias.MOST_GROUPS // len(shapes) + 1}
    assert max(b - a for found in of_shape for a, b in pairwise([batches[0], *found, batches[-1]])) <= 3.0


def test_of_a_shape_with_more_groups_than_enter_the_well_measured_ones_do() -> None:
    shapes = [(n, 4 * n) for n in range(1, 31)]
    points = [Point(n, k, m, float(step_time(TRUE, n, k, m)), 0.0) for n, k in shapes for m in range(8, 28)]
    well = {16.0, 19.0, 22.0}
    seen = [observation("a100", point, 500.0 if point.local_batch in well else 1.0) for point in points]
    knots = bias.learn(group(seen), TRUE).knots
    assert all(well <= {knot[2] for knot in knots if knot[:2] == shape} for shape in shapes)


def test_one_group_that_all_others_contradict_hardly_moves_what_is_expected_of_its_neighbours() -> None:
    batches = [8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 24.0]
    paused = {(2, 14.0)}
    points = [
        Point(1, k, m, float(step_time(TRUE, 1, k, m)) * (2.0 if (k, m) in paused else 1.0), 0.0)
        for k in (1, 2, 4)
        for m in batches
    ]
    found = bias.learn(group([observation("a100", point, 50.0) for point in points]), TRUE)
    beside = np.exp(bias.log_factor(found.knots, np.ones(2), np.array([2.0, 2.0]), np.array([13.0, 15.0])))
    assert beside == pytest.approx([1.0, 1.0], abs=0.06)


def test_gpus_that_share_the_links_of_their_node_slow_the_all_reduce_across_nodes() -> None:
    shared = replace(TRUE, kappa=2.0)
    assert float(sync_time(shared, 4, 4)) == float(sync_time(TRUE, 4, 4))
    assert float(sync_time(shared, 1, 4)) == float(sync_time(TRUE, 1, 4))
    # 4 GPUs on each of 4 nodes: twice the all-reduce of 4 GPUs on one node on top
    assert float(sync_time(shared, 4, 16)) == pytest.approx(0.1 + 14 * 0.005 + 2.0 * (0.05 + 2 * 0.002))
    assert sync_time(shared, np.array([1, 2, 2]), np.array([1, 2, 4])) == pytest.approx([0.0, 0.1, 0.11 + 2.0 * 0.05])


def test_a_borrowed_network_across_nodes_is_the_donors_with_two_gpus_a_node() -> None:
    spread = [(1, 1), (1, 2), (1, 4), (2, 2), (2, 4), (4, 8), (2, 8), (4, 16)]
    donor = seen("t4", spread)
    donor = replace(donor, fit=replace(donor.fit, params=replace(TRUE, kappa=2.0)))
    mine = seen("a100", [(1, 1)])
    borrowed = estimate("a100", {"t4": donor, "a100": mine}, {}, []).params
    assert isinstance(borrowed, ThroughputParams)
    ratio = float(sync_time(borrowed, 3, 6)) / float(sync_time(replace(TRUE, kappa=2.0), 3, 6))
    assert borrowed.kappa == 0.0
    assert ratio == pytest.approx(borrowed.alpha_r / TRUE.alpha_r)


def test_deviations_fade_far_from_what_was_measured() -> None:
    knots = ((1, 4, 32.0, 5.0),)
    near, far = (
        abs(float(bias.log_factor(knots, np.array([1.0]), np.array([k]), np.array([m]))[0]))
        for k, m in ((4.0, 32.0), (4096.0, 1e6))
    )
    assert near > 0.3
    assert far < 0.05 * near


def test_a_fit_without_deviations_predicts_by_its_parameters_alone() -> None:
    model = TypeModel("a100", TRUE, "fit", 0.1)
    job = JobModel("1", {"a100": model}, efficiency=EfficiencyModel(0.0, 1.0))
    doubled = replace(model, knots=((1, 1, 1.0, 5.0),))
    plain = best_batch(job, Shape("a100", 1, 1)).goodput
    assert plain == pytest.approx(1.0 / float(step_time(TRUE, 1, 1, 1.0)), rel=1e-8)
    assert best_batch(replace(job, types={"a100": doubled}), Shape("a100", 1, 1)).goodput < plain
