"""What a simulation says: one record per job, one per round, and the summary whose keys every report uses.

Values and arithmetic only. Times are seconds from the first second of the workload unless the name says otherwise.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SUMMARY_KEYS = (
    "workload",
    "policy",
    "jobs",
    "avg_jct_h",
    "median_jct_h",
    "p99_jct_h",
    "makespan_h",
    "gpu_h_per_job",
    "restarts_per_job",
    "moves_uncharged",
    "contention_mean",
    "contention_max",
    "worst_rho",
    "unfair_fraction",
    "rounds",
    "solve_ms_median",
    "solve_ms_p95",
    "wall_s",
    "peak_rss_mb",
)

#: Keys that depend on the machine or the moment, not on the input and the seed.
TIMING_KEYS = ("solve_ms_median", "solve_ms_p95", "wall_s", "peak_rss_mb")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time during which a job held one allocation."""

    start_s: float
    end_s: float
    gpu_type: str
    nodes: int
    gpus: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """One job's fate. ``contention``: mean number of jobs in the system per GPU wanted, over its life (SIA.md 5).

    ``gpu_s_by_type``: GPU-seconds allocated per type; ``waited_s``: time without GPUs; ``rho``: finish-time fairness,
    ``None`` when it was not computed; ``alone_s``: run time alone on a fair share.
    """

    name: str
    application: str
    submit_s: float
    start_s: float
    end_s: float
    restarts: int
    gpu_s: float
    gpu_s_by_type: tuple[tuple[str, float], ...] = ()
    contention: float = 0.0
    waited_s: float = 0.0
    declared: bool = True
    alone_s: float | None = None
    rho: float | None = None
    segments: tuple[Segment, ...] = ()

    @property
    def jct_s(self) -> float:
        return self.end_s - self.submit_s


@dataclass(frozen=True)
class RunResult:
    """One workload under one policy. ``settings`` says how it was run, so that a result explains itself."""

    workload: str
    policy: str
    settings: Mapping[str, Any]
    jobs: tuple[JobResult, ...]
    rounds: int
    solve_ms: tuple[float, ...]
    moves_uncharged: int
    contention: tuple[int, ...]
    wall_s: float
    peak_rss_mb: float
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cpu_s: float = 0.0
    """Processor time, which other work on the machine lengthens less than ``wall_s``; in no file."""


def summary(result: RunResult) -> dict[str, Any]:
    """The summary of one run; keys and order are `SUMMARY_KEYS`.

    p99 is element int(0.99 n) of the sorted completion times; GPU-hours count allocated GPUs; makespan runs from the
    first submission to the last completion.
    """
    jobs = result.jobs
    times_h = sorted(job.jct_s / 3600.0 for job in jobs)
    count = len(times_h)
    rhos = [job.rho for job in jobs if job.rho is not None]
    solves = sorted(result.solve_ms)
    values: dict[str, Any] = {
        "workload": result.workload,
        "policy": result.policy,
        "jobs": count,
        "avg_jct_h": statistics.fmean(times_h) if times_h else 0.0,
        "median_jct_h": statistics.median(times_h) if times_h else 0.0,
        "p99_jct_h": times_h[min(int(0.99 * count), count - 1)] if times_h else 0.0,
        "makespan_h": (max(j.end_s for j in jobs) - min(j.submit_s for j in jobs)) / 3600.0 if jobs else 0.0,
        "gpu_h_per_job": sum(job.gpu_s for job in jobs) / 3600.0 / max(count, 1),
        "restarts_per_job": sum(job.restarts for job in jobs) / max(count, 1),
        "moves_uncharged": result.moves_uncharged,
        "contention_mean": statistics.fmean(result.contention) if result.contention else 0.0,
        "contention_max": max(result.contention, default=0),
        "worst_rho": max(rhos) if rhos else None,
        "unfair_fraction": sum(rho > 1.0 for rho in rhos) / len(rhos) if rhos else None,
        "rounds": result.rounds,
        "solve_ms_median": statistics.median(solves) if solves else 0.0,
        "solve_ms_p95": solves[int(0.95 * (len(solves) - 1))] if solves else 0.0,
        "wall_s": result.wall_s,
        "peak_rss_mb": result.peak_rss_mb,
    }
    assert tuple(values) == SUMMARY_KEYS
    return values


def as_json(results: Sequence[RunResult], segments: bool = True) -> dict[str, Any]:
    """Results as plain data for ``--json``: a list of runs with settings, summary and per-job table."""
    return {
        "schema": 1,
        "runs": [
            {
                "settings": dict(result.settings),
                "summary": summary(result),
                "assumptions": list(result.assumptions),
                "notes": list(result.notes),
                "jobs": [_job_json(job, segments) for job in result.jobs],
            }
            for result in results
        ],
    }


def _job_json(job: JobResult, segments: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": job.name,
        "application": job.application,
        "declared": job.declared,
        "submit_s": job.submit_s,
        "start_s": job.start_s,
        "end_s": job.end_s,
        "jct_s": job.jct_s,
        "waited_s": job.waited_s,
        "restarts": job.restarts,
        "gpu_s": job.gpu_s,
        "gpu_s_by_type": dict(job.gpu_s_by_type),
        "contention": job.contention,
        "alone_s": job.alone_s,
        "rho": job.rho,
    }
    if segments:
        values["segments"] = [[s.start_s, s.end_s, s.gpu_type, s.nodes, s.gpus] for s in job.segments]
    return values
