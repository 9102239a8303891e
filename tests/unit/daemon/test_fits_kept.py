"""Which of a job's models are written down: what it has measured itself, however the model was put together."""

from __future__ import annotations

from collections.abc import Sequence

from slurmsia_daemon.learning import Learner
from slurmsia_daemon.metrics import Metrics
from slurmsia_daemon.mishaps import Mishaps

from slurmsia.models.base import JobModel, ThroughputParams, TypeModel
from slurmsia.store import FitRecord

PARAMS = ThroughputParams(0.2, 0.004, 0.2, 0.01, 0.06, 0.002, 1.5)


class Kept:
    """Takes the records that a store would."""

    def __init__(self) -> None:
        self.fits: list[FitRecord] = []

    def save_fits(self, fitted: Sequence[FitRecord]) -> int:
        self.fits += fitted
        return len(fitted)


def test_what_a_job_measured_is_kept_for_the_ratios_of_types_even_where_similar_jobs_have_the_wider_fit() -> None:
    types = {
        "t4": TypeModel("t4", PARAMS, "similar:user+script", 0.1, observations=120.0),
        "rtx": TypeModel("rtx", PARAMS, "fit", 0.1, observations=80.0),
        "a100": TypeModel("a100", PARAMS, "similar:user+script", 0.1),
        "h100": TypeModel("h100", PARAMS, "ratio:t4", 0.3),
    }
    store = Kept()
    Learner(Mishaps(Metrics())).store_fits({"7": JobModel("7", types=types)}, store, 5.0)  # type: ignore[arg-type]
    assert sorted(fit.gpu_type for fit in store.fits) == ["rtx", "t4"]
    assert all(fit.one_gpu_samples_per_s for fit in store.fits)
