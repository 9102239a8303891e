"""Workload files: what is submitted when. Parsing and scaling only; never looks at profiles or policies.

A workload is a CSV file with ``name,time,application,num_replicas,batch_size`` and optionally ``category``
(adaptive, scale-gpus, rigid) and ``declared`` (0 = the job carries no declaration and is never managed).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

#: How a job may be treated: batch and size free, size free at a fixed batch, or exactly as asked.
CATEGORIES = ("adaptive", "scale-gpus", "rigid")


class WorkloadError(ValueError):
    """A workload file that cannot be used; the text names file and line."""


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One submission. ``gpus`` and ``batch_size`` are what its user would ask of a plain scheduler.

    ``declared`` False: an ordinary job without ``sia:`` words. ``run_s``: fixed run time of a job without a profile
    (from accounting records); ``None`` when the profiles decide.
    """

    name: str
    submit_s: float
    application: str
    gpus: int
    batch_size: int
    category: str = "adaptive"
    declared: bool = True
    gpu_type: str | None = None
    run_s: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """A named list of submissions, sorted by time and then by place in the file."""

    name: str
    jobs: tuple[TraceJob, ...]


def load_workload(file: Path, scale: int = 1) -> Workload:
    """Read one workload file; every job ``scale`` times (same second, names suffixed).

    Raises `WorkloadError` with file and line on anything that is not a workload.
    """
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            jobs = [_job(file, number, row) for number, row in enumerate(reader, start=2)]
    except OSError as error:
        raise WorkloadError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise WorkloadError(f"{file}: is not UTF-8 text") from None
    if not jobs:
        raise WorkloadError(f"{file}: has no jobs")
    if scale > 1:
        jobs = [replace(job, name=f"{job.name}.{copy}") for job in jobs for copy in range(scale)]
    if len({job.name for job in jobs}) != len(jobs):
        jobs = [replace(job, name=f"{job.name}@{number}") for number, job in enumerate(jobs)]
    return Workload(label(file), tuple(sorted(jobs, key=lambda job: job.submit_s)))


def label(file: Path) -> str:
    """``saturn/1`` for ``.../saturn/workload-1.csv``, else the file's stem."""
    stem = file.stem
    if stem.startswith("workload-"):
        return f"{file.resolve().parent.name}/{stem.removeprefix('workload-')}"
    return stem


def _job(file: Path, line: int, row: dict[str, str]) -> TraceJob:
    try:
        category = (row.get("category") or "adaptive").strip()
        if category not in CATEGORIES:
            raise ValueError(f"category `{category}` is none of {', '.join(CATEGORIES)}")
        job = TraceJob(
            name=row["name"],
            submit_s=float(row["time"]),
            application=row["application"],
            gpus=int(float(row["num_replicas"])),
            batch_size=int(float(row["batch_size"])),
            category=category,
            declared=(row.get("declared") or "1").strip() not in ("0", "no", "false"),
        )
        if job.gpus < 1 or job.batch_size < 1 or not 0 <= job.submit_s < 1e12:
            raise ValueError("num_replicas, batch_size and time must be positive")
    except KeyError as error:
        raise WorkloadError(
            f"{file}:{line}: column {error} is missing; needed: name,time,application,num_replicas,batch_size"
        ) from None
    except (TypeError, ValueError) as error:
        raise WorkloadError(f"{file}:{line}: {error}") from None
    return job


def mixed(workload: Workload, share: float, seed: int) -> Workload:
    """The same workload with a share of its jobs undeclared: ordinary rigid jobs that slurmsia never manages.

    Which jobs is drawn from ``seed`` alone, so every policy sees the same mixture.
    """
    import random

    draw = random.Random(seed)
    jobs = tuple(
        replace(job, declared=False, category="rigid") if draw.random() < share else job for job in workload.jobs
    )
    return Workload(f"{workload.name}+{share:g} undeclared", jobs)
