"""What slurmsia does to jobs that have nothing to do with it: their waiting time with and without it, same workload.

Both runs see the same mixture, the same requests and the same Slurm; only whether anybody manages the declared jobs
differs. Computes from results, runs nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .result import JobResult, RunResult

#: Promised: undeclared jobs wait at most this much longer (EVALUATION.md promise 7).
LONGER_AT_MOST = 0.05


@dataclass(frozen=True)
class Waiting:
    """Waiting seconds of the undeclared jobs of one workload: mean, median and 95th percentile, without and with."""

    workload: str
    policy: str
    jobs: int
    mean_without_s: float
    mean_with_s: float
    median_without_s: float
    median_with_s: float
    p95_without_s: float
    p95_with_s: float
    declared_jct_ratio: float

    @property
    def longer(self) -> float:
        """Relative change of the mean wait; an increase of under a second per job counts as none."""
        more_s = self.mean_with_s - self.mean_without_s
        return 0.0 if more_s < 1.0 else more_s / max(self.mean_without_s, 1.0)

    @property
    def holds(self) -> bool:
        return self.longer <= LONGER_AT_MOST


def waiting(without: RunResult, managed: RunResult) -> Waiting:
    """Compare two runs of the same mixed workload. Raises ValueError when they are not, or nothing is undeclared."""
    before, after = _undeclared(without.jobs), _undeclared(managed.jobs)
    if [job.name for job in before] != [job.name for job in after]:
        raise ValueError(f"{without.workload} and {managed.workload}: not the same undeclared jobs")
    if not before:
        raise ValueError(f"{without.workload}: has no undeclared jobs; give a share with --undeclared")
    one, two = [_wait(job) for job in before], [_wait(job) for job in after]
    return Waiting(
        workload=managed.workload,
        policy=managed.policy,
        jobs=len(before),
        mean_without_s=statistics.fmean(one),
        mean_with_s=statistics.fmean(two),
        median_without_s=statistics.median(one),
        median_with_s=statistics.median(two),
        p95_without_s=_p95(one),
        p95_with_s=_p95(two),
        declared_jct_ratio=_mean_jct(managed.jobs) / _mean_jct(without.jobs),
    )


def _undeclared(jobs: Sequence[JobResult]) -> list[JobResult]:
    return sorted((job for job in jobs if not job.declared), key=lambda job: job.name)


def _wait(job: JobResult) -> float:
    return job.start_s - job.submit_s


def _p95(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]


def _mean_jct(jobs: Sequence[JobResult]) -> float:
    times = [job.jct_s for job in jobs if job.declared]
    return statistics.fmean(times) if times else math.nan
