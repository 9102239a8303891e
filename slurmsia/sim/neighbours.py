"""What slurmsia does to jobs that have nothing to do with it: their waiting time with and without it, same workload.

Both runs see the same mixture, the same requests and the same Slurm; only whether anybody manages the declared jobs
differs. Computes from results, runs nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .result import JobResult, RunResult

#: Promised: undeclared jobs wait at most this much longer (EVALUATION.md promise 7).
LONGER_AT_MOST = 0.05
_RESAMPLES = 2000


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
    seed: int = 0

    @property
    def longer(self) -> float:
        """Relative change of the mean wait; an increase of under a second per job counts as none."""
        return _longer(self.mean_without_s, self.mean_with_s)

    @property
    def holds(self) -> bool:
        return self.longer <= LONGER_AT_MOST


@dataclass(frozen=True)
class PooledWaiting:
    """Mean waiting seconds of all undeclared jobs of several runs (workloads and seeds), without and with slurmsia.

    ``low`` and ``high``: of ``longer``, a 95 % percentile bootstrap over the runs (fixed seed); ``None`` under three.
    """

    policy: str
    runs: int
    jobs: int
    mean_without_s: float
    mean_with_s: float
    low: float | None
    high: float | None
    runs_that_hold: int

    @property
    def longer(self) -> float:
        """Relative change of the mean wait; an increase of under a second per job counts as none."""
        return _longer(self.mean_without_s, self.mean_with_s)

    @property
    def holds(self) -> bool:
        """Whether the promise holds even at the upper end of the interval."""
        return max(self.longer, self.longer if self.high is None else self.high) <= LONGER_AT_MOST


def pooled(rows: Sequence[Waiting]) -> PooledWaiting:
    """All runs of one policy together; each undeclared job counts once. Raises ValueError without any."""
    if not rows:
        raise ValueError("no runs to pool")
    sums = np.array([(row.jobs, row.jobs * row.mean_without_s, row.jobs * row.mean_with_s) for row in rows])
    jobs, without_s, with_s = sums.sum(axis=0).tolist()
    low = high = None
    if len(rows) >= 3:
        drawn = np.random.default_rng(0).integers(len(rows), size=(_RESAMPLES, len(rows)))
        draws = [_longer(b / a, c / a) for a, b, c in sums[drawn].sum(axis=1).tolist()]
        low, high = (float(value) for value in np.percentile(draws, (2.5, 97.5)))
    return PooledWaiting(
        policy=rows[0].policy,
        runs=len(rows),
        jobs=int(jobs),
        mean_without_s=without_s / jobs,
        mean_with_s=with_s / jobs,
        low=low,
        high=high,
        runs_that_hold=sum(row.holds for row in rows),
    )


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
        seed=int(managed.settings.get("seed", 0)),
    )


def _longer(without_s: float, with_s: float) -> float:
    more_s = with_s - without_s
    return 0.0 if 0.0 <= more_s < 1.0 else more_s / max(without_s, 1.0)


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
