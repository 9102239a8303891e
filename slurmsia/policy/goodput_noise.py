"""Gradient noise as policy `goodput` expects it while a choice lasts, from the noise that jobs last reported.

Noise grows while a model trains (McCandlish et al. 2018, section 2.3), and a batch is held until the job's next
report, whose distance doubles: by then the last number is about half of what is true. So goodput, and with it the
best batch, is reckoned with more noise than was reported. Must never touch a job that reported none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..cluster import JobId
from ..config.policy import PolicySection
from ..models.base import EfficiencyModel, JobModel


def with_noise_ahead(models: Mapping[JobId, JobModel], options: PolicySection) -> Mapping[JobId, JobModel]:
    """The models that a round is to use: as they are, or with ``noise_ahead`` times the noise for policy `goodput`."""
    times = options.goodput.noise_ahead
    if options.name != "goodput" or times == 1.0:
        return models
    return {job_id: _noisier(model, times) for job_id, model in models.items()}


def _noisier(model: JobModel, times: float) -> JobModel:
    """A job that did no work yet has at most the last moments of similar jobs, which are late enough as it is."""
    moments = model.efficiency
    if not model.work_done or moments.square <= 0:
        return model
    return replace(model, efficiency=EfficiencyModel(moments.square, times * moments.variance))
