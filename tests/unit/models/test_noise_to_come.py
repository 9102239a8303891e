"""Gradient noise to come: batches are chosen for it, so both what a job says and what its kind went through count."""

from __future__ import annotations

import math

import pytest

from slurmsia.history import Gradient, JobHistory, NoiseCell, Observation, Progress, Report, noise_cell
from slurmsia.models.base import EfficiencyModel
from slurmsia.models.efficiency import UNKNOWN
from slurmsia.models.noise import GROWTH, NoiseMap, ahead

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
