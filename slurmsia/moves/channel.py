"""The spool between jobs and the mover: what jobs said last, and the directives they read.

`ReportedJobs` folds reports into the few facts a move needs; the daemon adds the directive files, the simulator none.
Nothing here judges a report: checks come before (JOBS.md "Reports").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from ..cluster import JobId
from ..history import Report


@dataclass(frozen=True, slots=True)
class JobNews:
    """What a job's latest reports say: of run ``restart``; ``checkpointed_s``: when it last said "checkpointed".

    ``reads_directives``: the job library runs in it, so it hears a checkpoint directive without a signal.
    """

    restart: int
    handles_signal: bool = False
    reads_directives: bool = False
    checkpointed_s: float | None = None
    samples: float | None = None
    checkpoint_samples: float | None = None
    save_s: float | None = None
    checkpoint_bytes: float | None = None


class JobChannel(Protocol):
    """The spool between jobs and us: what they reported, and the directives they read."""

    def news(self, job_id: JobId) -> JobNews | None:
        """The job's latest reports in brief, ``None`` when it never reported."""
        ...

    def ask_checkpoint(self, job_id: JobId, deadline_s: float, cause: str) -> None:
        """Write the directive "checkpoint, then wait to be requeued"."""
        ...

    def carry_on(self, job_id: JobId, cause: str) -> None:
        """Write the directive "run": the move is off."""
        ...


class SilentJobs:
    """A channel to jobs that never report."""

    def news(self, job_id: JobId) -> JobNews | None:
        return None

    def ask_checkpoint(self, job_id: JobId, deadline_s: float, cause: str) -> None:
        """Nobody listens."""

    def carry_on(self, job_id: JobId, cause: str) -> None:
        """Nobody listens."""


class ReportedJobs(SilentJobs):
    """News from reports that are handed in, in memory."""

    def __init__(self) -> None:
        self._news: dict[JobId, JobNews] = {}

    def hear(self, report: Report) -> None:
        """Take one checked report in; reports of an older run than the last are ignored."""
        news = self._news.get(report.job_id)
        if news is None or report.restart > news.restart:
            saved = None if news is None else news.save_s
            safe = None if news is None else news.checkpoint_samples
            news = JobNews(report.restart, save_s=saved, checkpoint_samples=safe)
        elif report.restart < news.restart:
            return
        if report.event == "start":
            by_library = not any(key == "src" for key, _ in report.extra)
            news = replace(news, handles_signal=report.handles_signal, reads_directives=by_library)
        if report.progress is not None and (report.progress.samples > 0 or report.observations):
            # A job says 0 samples while it has not read its checkpoint yet; that is no lost progress.
            news = replace(news, samples=report.progress.samples)
        if report.progress is not None and report.progress.checkpoint_samples is not None:
            news = replace(news, checkpoint_samples=report.progress.checkpoint_samples)
        if report.event == "checkpointed":
            news = replace(news, checkpointed_s=report.t_s)
        if report.restart_sample is not None and report.restart_sample.save_s is not None:
            news = replace(news, save_s=report.restart_sample.save_s)
        self._news[report.job_id] = news

    def forget(self, job_id: JobId) -> None:
        """The job has ended for good."""
        self._news.pop(job_id, None)

    def news(self, job_id: JobId) -> JobNews | None:
        return self._news.get(job_id)
