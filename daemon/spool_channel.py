"""What jobs said last, and the directives they read: the daemon's `JobChannel` over the spool.

A spool that cannot be written never stops a round: the job then hears of a checkpoint by signal alone.
"""

from __future__ import annotations

import logging
import time

from slurmsia.cluster import JobId
from slurmsia.job.directive import CHECKPOINT, RUN, Directive
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.moves.channel import ReportedJobs
from slurmsia.plan import BatchChoice

_log = logging.getLogger("slurmsia.spool")


class SpoolChannel(ReportedJobs):
    """Reports folded into news, directives written as files."""

    def __init__(self, writer: DirectiveWriter) -> None:
        super().__init__()
        self._writer = writer
        self._batches: dict[JobId, BatchChoice] = {}
        self._last: dict[JobId, Directive] = {}
        self._complained = False

    def ask_checkpoint(self, job_id: JobId, deadline_s: float, cause: str) -> None:
        self._write(job_id, CHECKPOINT, f"move {cause}", deadline_s)

    def carry_on(self, job_id: JobId, cause: str) -> None:
        self._write(job_id, RUN, f"move {cause} is off", None)

    def advise(self, job_id: JobId, batch: BatchChoice | None, reason: str) -> None:
        """Tell a job which batch to use; nothing is written while that does not change."""
        if batch is None or self._batches.get(job_id) == batch:
            return
        self._batches[job_id] = batch
        self._write(job_id, RUN, reason, None)

    def batch_of(self, job_id: JobId) -> BatchChoice | None:
        """The batch that the job was told to use last."""
        return self._batches.get(job_id)

    def forget(self, job_id: JobId) -> None:
        super().forget(job_id)
        self._batches.pop(job_id, None)
        if self._last.pop(job_id, None) is not None:
            try:
                self._writer.remove(job_id)
            except OSError as error:
                _log.debug("directive of job %s stays: %s", job_id, error)

    def jobs_told(self) -> tuple[JobId, ...]:
        """Jobs with a directive on disk."""
        return tuple(self._last)

    def _write(self, job_id: JobId, action: str, reason: str, deadline_s: float | None) -> None:
        batch = self._batches.get(job_id)
        # jobs ignore a lower seq than they have read, also from an earlier daemon: seconds grow over our restarts
        last = self._last[job_id].seq if job_id in self._last else 0
        seq = max(last + 1, int(time.time()))
        directive = Directive(
            seq=seq,
            action=action,
            deadline_s=deadline_s,
            reason=reason,
            local_batch=batch.local_batch if batch is not None else None,
            accumulation=batch.accumulation if batch is not None else 0,
        )
        self._last[job_id] = directive
        try:
            self._writer.write(job_id, directive)
        except OSError as error:
            if not self._complained:
                self._complained = True
                _log.warning("directives cannot be written (%s): jobs are asked by signal alone", error)
        else:
            self._complained = False
