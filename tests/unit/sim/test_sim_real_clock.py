"""A simulated job also ends at real epoch times, where a double has no room below a tenth of a microsecond."""

from __future__ import annotations

import pytest

from slurmsia.cluster import Allocation
from slurmsia.sim.honest_job import HonestJob, HonestSettings
from slurmsia.sim.shipped_truth import NAMES, shipped_truth
from slurmsia.sim.workloads import TraceJob
from slurmsia.slurm.emulator import RunStart


def seconds_to_the_end(application: str, start_s: float) -> float:
    truth = shipped_truth(application, 700.0)
    job = HonestJob(TraceJob(f"{application}-1", 0.0, application, 1, truth.initial_batch), truth, HonestSettings())
    job.start(RunStart("1", start_s, Allocation("t4", (("t4-1", 1),)), 0, lambda _: None))
    now_s = start_s
    for _ in range(5_000):
        at_s = job.next_s()
        assert at_s is not None
        now_s = max(now_s, at_s)
        if job.wake(now_s) is not None:
            return now_s - start_s
    raise AssertionError(f"{application} did not end; it is at {job.progress} of {job.work}")


@pytest.mark.parametrize("application", NAMES)
def test_a_job_takes_as_long_at_real_times_as_at_zero(application: str) -> None:
    assert seconds_to_the_end(application, 1.79e9) == pytest.approx(seconds_to_the_end(application, 0.0), rel=1e-6)
