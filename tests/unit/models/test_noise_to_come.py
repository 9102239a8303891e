"""Gradient noise to come: batches are chosen for it, so both what a job says and what its kind went through count."""

from __future__ import annotations

import math

import pytest

from slurmsia.history import Gradient, JobHistory, NoiseCell, Observation, Progress, Report, noise_cell
from slurmsia.models.base import EfficiencyModel
from slurmsia.models.efficiency import UNKNOWN
from slurmsia.models.noise import FIRST_HELD_S, GROWTH, HELD_POINT, NoiseMap, Pace, ahead, way

NOBODY = NoiseMap(())


def _report(samples: float, ratio: float, scale: float = 1.0) -> Report:
    return Report(
        "1", 0, 1, 0.0, "progress", gradient=Gradient(0.0, 1.0, ratio, scale), progress=Progress(0.0, samples)
    )


def _kind(*seen: tuple[float, float], jobs: int = 4) -> NoiseMap:
    """A kind whose ``jobs`` jobs all reported these (samples, ratio)."""
    cells = [noise_cell(_report(samples, ratio)) for samples, ratio in seen]
    return NoiseMap(
        NoiseCell(c.samples_cell, c.scale_doubling, jobs * c.count, jobs * c.log_sum, jobs * c.log_square_sum)
        for c in cells
        if c is not None
    )


def _job(samples: float, ratio: float, seconds: float = 1000.0) -> JobHistory:
    steps = Observation("t4", 1, 1, 8.0, 0, 100.0, seconds, seconds**2 / 100.0)
    return JobHistory(
        "1", 1, observations=(steps,), gradient=Gradient(0.0, 1.0, ratio, 1.0), progress=Progress(0.0, samples)
    )


def _ratio(moments: EfficiencyModel) -> float:
    return moments.variance / moments.square


GROWING = _kind(*((1000.0 * 1.19**k, 2.0 * 1.19**k) for k in range(24)))


def test_a_job_ahead_of_all_others_is_taken_to_become_noisier_until_its_next_report() -> None:
    assert _ratio(ahead(_job(1000.0, 5.0), NOBODY, None, None)) == pytest.approx(5.0 * GROWTH)


def test_a_job_that_others_have_gone_ahead_of_expects_what_they_met() -> None:
    # at 10,000 samples after 1,000 s, so 4,500 samples further on: the others had 29 there
    found = _ratio(ahead(_job(10_000.0, 20.0), GROWING, None, None))
    assert 24.0 < found < 34.0


def test_a_job_noisier_than_its_kind_stays_noisier_than_its_kind() -> None:
    usual = _ratio(ahead(_job(10_000.0, 20.0), GROWING, None, None))
    noisy = _ratio(ahead(_job(10_000.0, 80.0), GROWING, None, None))
    assert 1.5 * usual < noisy < 4.5 * usual


def test_a_new_job_is_sized_for_the_noise_of_its_first_quarter_not_for_the_end_of_the_last_job() -> None:
    last = Gradient(0.0, 1.0, 900.0, 1.0)
    found = _ratio(ahead(JobHistory("2"), GROWING, last, 40_000.0))
    assert found == pytest.approx(20.0, rel=0.25)


def test_a_new_job_of_unknown_length_has_the_last_word_of_similar_jobs() -> None:
    assert _ratio(ahead(JobHistory("2"), GROWING, Gradient(0.0, 1.0, 9.0, 1.0), None)) == pytest.approx(9.0)


def test_nothing_known_means_a_larger_batch_is_free_until_somebody_reports() -> None:
    assert ahead(JobHistory("2"), NOBODY, None, 1000.0) is UNKNOWN


def test_work_close_to_its_end_is_not_reckoned_with_noise_beyond_it() -> None:
    far = _ratio(ahead(_job(10_000.0, 20.0), GROWING, None, None))
    near = _ratio(ahead(_job(10_000.0, 20.0), GROWING, None, 400.0))
    assert near < far


@pytest.mark.parametrize("samples", [math.nan, math.inf, -1.0, 0.0])
@pytest.mark.parametrize("ratio", [math.nan, math.inf, -1.0, 0.0, 1e300])
@pytest.mark.parametrize("scale", [math.nan, 0.0, 1e300, 1.0])
def test_odd_numbers_never_raise_and_never_give_odd_moments(samples: float, ratio: float, scale: float) -> None:
    noise_cell(_report(samples, ratio, scale))
    history = JobHistory("1", gradient=Gradient(0.0, 1.0, ratio, scale), progress=Progress(0.0, samples))
    for remaining in (None, math.nan, math.inf, -5.0, 0.0, 1e300):
        moments = ahead(history, GROWING, Gradient(0.0, ratio, 1.0, scale), remaining)
        assert 0 <= moments.square <= 1
        assert 0 <= moments.variance <= 1
        assert moments.square + moments.variance == pytest.approx(1)


def test_a_vanishing_gradient_counts_as_very_noisy_not_as_infinitely_so() -> None:
    cell = noise_cell(_report(9.0, 1e300))
    assert cell is not None
    assert cell.log_sum == pytest.approx(math.log(1e6))


def _at(job: JobHistory, kind: NoiseMap, latest: Gradient | None = None, remaining: float | None = None) -> list[float]:
    """Noise along the way of a job."""
    return [math.exp(ratio) for _, ratio, _ in way(job, kind, latest, remaining, Pace()).path]


def test_the_way_of_a_job_that_begins_is_that_of_its_kind_from_the_first_report_on() -> None:
    found = way(JobHistory("2"), GROWING, Gradient(0.0, 1.0, 900.0, 1.0), 40_000.0, Pace())
    assert found.held_s == FIRST_HELD_S
    assert [round(samples) for samples, _, _ in found.path][:3] == [0, 939, 1409]
    assert math.exp(found.path[0][1]) == pytest.approx(2.5, rel=0.3)
    assert math.exp(found.path[-1][1]) == pytest.approx(2.0 * 939.0 * 16.0 / 1000.0, rel=0.3)


def test_a_job_of_which_nobody_knows_anything_begins_with_little_noise_not_with_the_largest_batch() -> None:
    assert _at(JobHistory("2"), NOBODY) == pytest.approx([2.0])
    assert _at(JobHistory("2"), NOBODY, Gradient(0.0, 1.0, 9.0, 1.0)) == pytest.approx([9.0])


def test_the_way_of_a_job_that_runs_begins_with_what_it_reports_and_ends_with_what_others_met() -> None:
    found = _at(_job(2_000.0, 4.0), GROWING)
    assert found[0] == pytest.approx(4.0, rel=0.2)
    assert found[-1] == pytest.approx(36.0, rel=0.3)
    assert found == sorted(found)


def test_the_way_ends_before_the_work_does() -> None:
    last = way(_job(10_000.0, 20.0), GROWING, None, 400.0, Pace()).path[-1]
    assert last[0] == pytest.approx(200.0)


def test_the_way_says_how_noise_depends_on_the_batch_where_several_were_tried() -> None:
    cells = [
        noise_cell(_report(samples, ratio * scale**0.4, scale))
        for samples in (8_000.0, 10_000.0, 12_000.0)
        for ratio, scale in ((5.0, 1.0), (5.0, 4.0), (5.0, 16.0))
    ]
    kind = NoiseMap(NoiseCell(c.samples_cell, c.scale_doubling, 4.0, 4.0 * c.log_sum, 0.0) for c in cells if c)
    slopes = [slope for _, _, slope in way(_job(10_000.0, 9.0), kind, None, None, Pace()).path]
    assert 0.05 < slopes[0] < 0.4 * math.log(2.0) * 1.01
    one_batch = way(_job(10_000.0, 9.0), GROWING, None, None, Pace()).path
    assert [slope for _, _, slope in one_batch] == pytest.approx([0.0] * len(one_batch), abs=1e-9)


def _paces(*worked_s: float) -> list[Pace]:
    found, pace = [], Pace()
    for seconds in worked_s:
        pace = pace.after(_job(1.0, 1.0, seconds))
        found.append(pace)
    return found


def test_a_job_whose_reports_come_twice_as_late_each_time_is_told_for_the_gap_after_the_next() -> None:
    assert [pace.held_s for pace in _paces(30.0, 90.0, 210.0)] == pytest.approx(
        [60.0 + HELD_POINT * 120.0, 120.0 + HELD_POINT * 240.0, 240.0 + HELD_POINT * 480.0]
    )


def test_a_job_that_reports_every_half_minute_is_told_for_the_next_minute() -> None:
    assert _paces(30.0, 60.0, 90.0)[-1].held_s == pytest.approx(30.0 + HELD_POINT * 30.0)


def test_no_gap_is_taken_to_be_longer_than_ten_minutes() -> None:
    assert _paces(30.0, 9_000.0, 99_000.0)[-1].held_s == pytest.approx(600.0 + HELD_POINT * 600.0)


def test_a_job_first_seen_late_is_not_taken_to_have_been_silent_all_the_time() -> None:
    assert _paces(50_000.0)[0].gap_s == 30.0
    assert _paces(30.0, 30.0)[0] == _paces(30.0, 30.0)[1]
