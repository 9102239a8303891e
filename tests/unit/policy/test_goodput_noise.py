"""The gradient noise that policy `goodput` reckons with while a choice lasts."""

from __future__ import annotations

from slurmsia.config.policy import PolicySection
from slurmsia.models.base import EfficiencyModel, JobModel
from slurmsia.policy.goodput_noise import with_noise_ahead

GOODPUT = PolicySection.model_validate({"name": "goodput", "goodput": {"noise_ahead": 3}})
REPORTED = JobModel("1", efficiency=EfficiencyModel(0.4, 0.6), work_done=1e4)


def test_noise_that_a_job_reported_is_expected_to_grow_and_the_signal_is_not():
    assert with_noise_ahead({"1": REPORTED}, GOODPUT)["1"].efficiency.square == 0.4
    assert abs(with_noise_ahead({"1": REPORTED}, GOODPUT)["1"].efficiency.variance - 1.8) < 1e-12


def test_a_job_that_did_no_work_yet_keeps_what_is_known_of_similar_ones():
    new = JobModel("1", efficiency=EfficiencyModel(0.4, 0.6), work_done=0.0)
    assert with_noise_ahead({"1": new}, GOODPUT)["1"] is new


def test_a_job_that_reports_no_gradient_stays_as_it_is():
    silent = JobModel("1", work_done=1e4)
    assert with_noise_ahead({"1": silent}, GOODPUT)["1"] is silent


def test_other_policies_use_the_noise_as_it_was_reported():
    models = {"1": REPORTED}
    assert with_noise_ahead(models, PolicySection(name="sia")) is models
    as_reported = PolicySection.model_validate({"name": "goodput", "goodput": {"noise_ahead": 1}})
    assert with_noise_ahead(models, as_reported) is models
