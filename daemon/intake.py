"""Job reports on their way into the store: polled, chunked so that no backlog delays a round, and their flaws kept.

A report that was read is held here until it is on disk, also while the store is away; when too many are held, reading
stops and the files keep the rest. Nothing a job writes makes this raise; only a newer leader (`Fenced`) does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from slurmsia.cluster import Allocation, Job, JobId, JobState, Snapshot
from slurmsia.history import Report
from slurmsia.job.spool import SpoolBatch
from slurmsia.moves.channel import ReportedJobs
from slurmsia.moves.log import Fenced
from slurmsia.moves.move import Move, MoveKind
from slurmsia.moves.standings import StandingBook
from slurmsia.store import Fenced as StoreFenced
from slurmsia.store import ReportContext, Store, StoreError

from .log_tails import LogTails
from .metrics import Metrics

#: Reports stored in one transaction, and the time that storing may take of one round and of one tick.
CHUNK = 250
ROUND_BUDGET_S = 0.4
TICK_BUDGET_S = 0.2
#: While more reports than this wait to be stored, none are read.
MOST_HELD = 20_000
#: Sources that know samples per second and no batch size.
_THROUGHPUT_ONLY = ("shell", "log")


class ReportSource(Protocol):
    """Where job reports come from: the spool reader, or the demo's jobs."""

    def poll(self, known: Mapping[tuple[JobId, int], tuple[int, Allocation | None]]) -> SpoolBatch: ...


class Intake:
    """Reads reports of declared jobs and stores them. One per daemon; not thread-safe."""

    def __init__(
        self,
        store: Store,
        spool: ReportSource,
        channel: ReportedJobs,
        book: StandingBook,
        metrics: Metrics,
        tails: LogTails | None = None,
    ) -> None:
        self._store = store
        self._spool = spool
        self._channel = channel
        self._book = book
        self._metrics = metrics
        self._tails = tails or LogTails()
        self._held: deque[Report] = deque()
        self._jobs: dict[JobId, Job] = {}
        self._problems: Mapping[JobId, tuple[str, ...]] = {}
        self._refused: dict[JobId, str] = {}
        self._heard: list[Report] = []
        self._speaks_itself: set[tuple[JobId, int]] = set()

    @property
    def held(self) -> int:
        """Reports read and not yet stored."""
        return len(self._held)

    @property
    def backlog(self) -> bool:
        """Whether more wait to be stored than the next round should have to."""
        return len(self._held) >= CHUNK

    def problems(self) -> dict[JobId, tuple[str, ...]]:
        """By job, what is wrong with what it reports: its file, its log, reports the store refused."""
        logs = self._tails.problems
        found: dict[JobId, tuple[str, ...]] = {}
        for job_id in {*self._problems, *logs, *self._refused}:
            refused = (self._refused[job_id],) if job_id in self._refused else ()
            found[job_id] = (*self._problems.get(job_id, ()), *logs.get(job_id, ()), *refused)
        return found

    def take_heard(self) -> tuple[Report, ...]:
        """Reports stored since the last call: what the round measures predictions against."""
        taken, self._heard = tuple(self._heard), []
        return taken

    def round(self, snapshot: Snapshot, warnings: list[str]) -> bool:
        """Read and store what declared jobs reported; ``False`` when the store is away (reports wait)."""
        self._jobs = {job.id: job for job in snapshot.jobs if job.state is not JobState.ENDED and "sia:" in job.comment}
        for gone in [job_id for job_id in self._refused if job_id not in self._jobs]:
            del self._refused[gone]
        running = {job.id: job for job in self._jobs.values() if job.state is JobState.RUNNING}
        self._speaks_itself &= {(job.id, job.restarts) for job in running.values()}
        try:
            self._store.ping()
        except StoreError as error:
            warnings.append(f"The store is away, so nothing is changed: {error}")
            return False
        self._poll({(job.id, job.restarts): (job.user_id, job.allocation) for job in running.values()}, warnings)
        silent = [job for job in running.values() if (job.id, job.restarts) not in self._speaks_itself]
        self._hold(self._tails.poll(silent, snapshot.taken_s))
        if self._tails.stuck:
            warnings.append(self._tails.stuck)
        try:
            self._drain(ROUND_BUDGET_S)
        except StoreError as error:
            warnings.append(f"Reports could not be stored: {error}")
            return False
        if self._held:
            warnings.append(f"{len(self._held)} job reports are still to be stored; models lag behind by as much.")
        return True

    def between(self, flights: Mapping[JobId, Move], seen: Mapping[JobId, Job]) -> None:
        """Between rounds: work off a backlog, and hear the jobs that a move waits for, old run and new.

        A few reports are stored with the next round: each transaction is a write to the disk that the tick waits for.

        ``seen``: jobs in flight as the last read of the queue showed them. Raises a `StoreError` when the store is
        away, `Fenced` when somebody else leads.
        """
        known: dict[tuple[JobId, int], tuple[int, Allocation | None]] = {}
        for job_id, move in flights.items():
            if move.phase.final:
                continue
            if move.kind is not MoveKind.START:
                known[job_id, move.run] = (move.user_id, None)
            job = seen.get(job_id)
            # a beginning run's steps need its allocation: without it they would be read and lost
            if job is not None and job.state is JobState.RUNNING and job.allocation is not None:
                known[job_id, job.restarts] = (job.user_id, job.allocation)
        if known:
            self._poll(known, [])
        if self.backlog:
            self._drain(TICK_BUDGET_S, whole_chunks=True)

    def store_held(self, budget_s: float = ROUND_BUDGET_S) -> None:
        """Store what was read since the last round, before the jobs it is from are forgotten or the daemon ends.

        Nobody reads the files of a run again that has ended. Raises as `between`.
        """
        self._drain(budget_s)

    def close(self) -> None:
        self._tails.close()

    def _poll(self, known: Mapping[tuple[JobId, int], tuple[int, Allocation | None]], warnings: list[str]) -> None:
        if len(self._held) >= MOST_HELD:
            return
        batch = self._spool.poll(known)
        if batch.folder_problem:
            warnings.append(batch.folder_problem)
        self._problems = batch.problems
        self._metrics.reports.labels("dropped").inc(batch.counters.lines_dropped)
        self._speaks_itself |= {(report.job_id, report.restart) for report in batch.reports}
        self._hold(batch.reports)

    def _hold(self, reports: tuple[Report, ...]) -> None:
        """What moves wait for is heard at once; the store follows."""
        self._held.extend(reports)
        for report in reports:
            self._channel.hear(report)
            self._book.reported(report.job_id)
            if report.script_proven:
                self._book.proven(report.job_id)

    def _drain(self, budget_s: float, whole_chunks: bool = False) -> None:
        """Store what is held, a chunk a transaction, until the budget is spent."""
        end = time.monotonic() + budget_s
        while self.backlog if whole_chunks else self._held:
            chunk = [self._held[index] for index in range(min(CHUNK, len(self._held)))]
            try:
                result = self._store.ingest([(report, self._context(report)) for report in chunk])
            except StoreFenced as error:
                raise Fenced(str(error)) from error
            for _ in chunk:
                self._held.popleft()
            self._heard += chunk
            self._metrics.reports.labels("accepted").inc(result.accepted)
            self._metrics.reports.labels("duplicate").inc(result.duplicates)
            self._metrics.reports.labels("rejected").inc(len(result.rejected))
            for one in result.rejected:
                self._refused[one.job_id] = f"report {one.seq} of run {one.restart} was not stored: {one.why}"
            if time.monotonic() >= end:
                break

    def _context(self, report: Report) -> ReportContext | None:
        job = self._jobs.get(report.job_id)
        if job is None:
            return None
        return ReportContext.of(job, throughput_only=dict(report.extra).get("src") in _THROUGHPUT_ONLY)
