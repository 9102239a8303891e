"""Reads what jobs posted over HTTP beside what they wrote into the shared spool: two folders, one stream of reports.

Posted lines lie in the daemon's own folder and belong to the daemon; the API let only the owner of a job in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from slurmsia.cluster import Allocation, JobId
from slurmsia.config import Config
from slurmsia.job.spool import SpoolBatch, SpoolReader


def folder_of(config: Config) -> str:
    """Where posted reports wait for the loop."""
    return os.path.join(config.daemon.state_dir, "posted")


class BothSpools:
    """`cycle.ReportSource` over the shared spool and the posted reports."""

    def __init__(self, config: Config) -> None:
        self._shared = SpoolReader(config.jobs.spool_dir, config.jobs)
        self._posted = SpoolReader(folder_of(config), config.jobs)
        self._folder = os.path.join(folder_of(config), "reports")

    def poll(self, known: Mapping[tuple[JobId, int], tuple[int, Allocation | None]]) -> SpoolBatch:
        shared = self._shared.poll(known)
        if not os.path.isdir(self._folder):
            return shared
        mine = os.geteuid()
        posted = self._posted.poll({run: (mine, allocation) for run, (_, allocation) in known.items()})
        reports = sorted(
            (*shared.reports, *posted.reports), key=lambda report: (report.job_id, report.restart, report.seq)
        )
        problems = {
            job_id: (*shared.problems.get(job_id, ()), *posted.problems.get(job_id, ()))
            for job_id in {*shared.problems, *posted.problems}
        }
        return SpoolBatch(tuple(reports), problems, shared.counters, shared.folder_problem)
