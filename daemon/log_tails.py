"""Progress of jobs that only declare a regular expression (``progress='...'``): their logs, read beside the loop.

Logs lie on users' file systems, which may hang: reading runs on a thread of its own, one pass at a time, and a round
takes what the last pass found. A pass stops after its time limit; the rest of the logs come first next time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from slurmsia.cluster import Job, JobId
from slurmsia.declaration import DeclarationError, parse
from slurmsia.history import Report
from slurmsia.job.log_tail import LogTail, Matcher, default_log

#: One pass over all logs takes no longer than this (a single stuck read can), and is called stuck after that.
PASS_S = 5.0
STUCK_S = 180.0


@dataclass(frozen=True, slots=True)
class _Pass:
    reports: tuple[Report, ...]
    problems: Mapping[JobId, tuple[str, ...]]


class LogTails:
    """The logs of running jobs with a declared expression. Starts no thread and no process before the first one."""

    def __init__(self, pass_s: float = PASS_S) -> None:
        self._pass_s = pass_s
        self._tails: dict[tuple[JobId, int], LogTail] = {}
        self._matcher: Matcher | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._going: Future[_Pass] | None = None
        self._since = 0.0
        self.problems: Mapping[JobId, tuple[str, ...]] = {}
        self.stuck = ""

    def poll(self, running: Sequence[Job], now_s: float) -> tuple[Report, ...]:
        """What the last pass found; starts the next one. Never waits."""
        reports: tuple[Report, ...] = ()
        if self._going is not None:
            if not self._going.done():
                waited = time.monotonic() - self._since
                self.stuck = "" if waited < STUCK_S else f"Reading users' logs has hung for {waited:.0f} s."
                return ()
            done, self._going = self._going.result(), None
            self.stuck, self.problems, reports = "", done.problems, done.reports
        jobs = [(job, pattern) for job in running if (pattern := _pattern(job))]
        if jobs or self._tails:
            self._pool = self._pool or ThreadPoolExecutor(max_workers=1, thread_name_prefix="logs")
            self._since = time.monotonic()
            self._going = self._pool.submit(self._read, jobs, now_s)
        return reports

    def wait(self) -> None:
        """Until the pass under way is over: for tests."""
        if self._going is not None:
            self._going.result()

    def close(self) -> None:
        """End the process that runs users' expressions; a hung read is left behind."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._matcher is not None and (self._going is None or self._going.done()):
            self._matcher.close()

    def _read(self, jobs: Sequence[tuple[Job, str]], now_s: float) -> _Pass:
        self._matcher = self._matcher or Matcher()
        alive = {(job.id, job.restarts) for job, _ in jobs}
        for gone in [key for key in self._tails if key not in alive]:
            del self._tails[gone]
        end = time.monotonic() + self._pass_s
        reports: list[Report] = []
        # who was read longest ago goes first, so that a pass that runs out of time starves nobody
        rank = {key: number for number, key in enumerate(self._tails)}
        order = sorted(jobs, key=lambda one: rank.get((one[0].id, one[0].restarts), -1))
        for job, pattern in order:
            key = (job.id, job.restarts)
            tail = self._tails.pop(key, None)
            if tail is None:
                path = job.stdout_path or default_log(job.id, job.work_dir)
                tail = LogTail(path, job.user_id, pattern, job.id, job.restarts, self._matcher)
            self._tails[key] = tail
            # seq must grow over restarts of this daemon too, hence the second
            report = tail.poll(job.allocation, now_s, int(now_s))
            if report is not None:
                reports.append(report)
            if time.monotonic() > end:
                break
        problems = {key[0]: (tail.problem,) for key, tail in self._tails.items() if tail.problem}
        return _Pass(tuple(reports), problems)


def _pattern(job: Job) -> str:
    try:
        declaration = parse(job.comment)
    except DeclarationError:
        return ""
    return "" if declaration is None else declaration.progress_regex or ""
