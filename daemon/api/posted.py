"""Reports that jobs post over HTTP, on sites without a shared file system: checked, then queued for the loop.

The queue is a spool folder of the daemon's own, with the same file names and the same reader as the shared one, so
a posted line passes the same parser and the same limits twice. Only the owner of a running job gets this far.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict
from pathlib import Path

from slurmsia.cluster import Job
from slurmsia.config import Config
from slurmsia.job.names import REPORTS, report_name
from slurmsia.job.report_line import BadLine, parse_line

from ..posted_reports import folder_of
from .problems import Problem

_REMEMBERED = 50_000
#: What is wrong with a line that is well-formed but disagrees with Slurm, the clock or the line before.
_CONTRADICTS = frozenset({"job", "restart", "seq", "clock", "alloc", "steps", "nesting", "size", "facts"})


class Posted:
    """Takes one line at a time; thread-safe."""

    def __init__(self, config: Config) -> None:
        self._folder = Path(folder_of(config)) / REPORTS
        self._limits = config.jobs
        self._lock = threading.Lock()
        self._seqs: OrderedDict[tuple[str, int], int] = OrderedDict()

    def take(self, job: Job, line: bytes, now_s: float) -> None:
        """Append the line to the queue. Raises `Problem` with what is wrong with it."""
        line = line.strip()
        if len(line) > self._limits.max_line_bytes:
            raise Problem(413, f"The report has {len(line)} bytes; at most {self._limits.max_line_bytes} are read.")
        if b"\n" in line or b"\r" in line:
            raise Problem(422, "A report is one JSON object on one line.")
        run = (job.id, job.restarts)
        with self._lock:
            try:
                report = parse_line(line, job.id, job.restarts, job.allocation, self._seqs.get(run, -1), now_s)
            except BadLine as bad:
                status = 409 if bad.kind in _CONTRADICTS else 422
                raise Problem(status, f"The report of job {job.id} is not taken: {bad.sentence}.") from None
            self._append(report_name(job.id, job.restarts, os.geteuid()), line + b"\n", job.id)
            self._seqs[run] = report.seq
            self._seqs.move_to_end(run)
            if len(self._seqs) > _REMEMBERED:
                self._seqs.popitem(last=False)

    def _append(self, name: str, line: bytes, job_id: str) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._folder / name, flags, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if os.fstat(handle).st_size + len(line) > self._limits.max_file_mb * 1e6:
                    raise Problem(429, f"The queue of job {job_id} is full; report less often.")
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise Problem(503, f"The report could not be kept ({error.strerror}); send it again later.") from None
