"""The job's side of its report file: opened safely, appended to line by line, rotated. Standard library, Python 3.8.

A full disk, a missing spool or a foreign file in the way never raises and never blocks longer than one write: the
caller hears False and tries again later.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Dict, Optional

from .names import MAX_LINE_BYTES, REPORTS, ROTATE_BYTES, ROTATED, report_name

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_TAIL_BYTES = 64 * 1024


class ReportFile:
    """Appends lines to ``<spool>/reports/<job>.<restart>.<uid>.jsonl`` and numbers them. Not thread-safe."""

    def __init__(self, spool: str, job_id: str, restart: int) -> None:
        self._folder = os.path.join(spool, REPORTS)
        self._job_id = job_id
        self._restart = restart
        self.path = os.path.join(self._folder, report_name(job_id, restart, os.getuid()))
        self._next_seq: Optional[int] = None
        self.problem = ""

    def append(self, record: Dict[str, Any]) -> bool:
        """Writes one line (``v``, ``job``, ``restart`` and ``seq`` are added). False: not written, see ``problem``."""
        try:
            handle = os.open(self.path, _FLAGS, 0o644)
        except OSError as error:
            self.problem = f"{self.path} cannot be opened: {error.strerror}"
            return False
        try:
            return self._append(handle, record)
        except (OSError, ValueError) as error:
            self.problem = f"{self.path} cannot be written: {error}"
            return False
        finally:
            os.close(handle)

    def _append(self, handle: int, record: Dict[str, Any]) -> bool:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            self.problem = f"{self.path} is not a plain file of ours"
            return False
        if status.st_mode & 0o444 != 0o444:
            os.fchmod(handle, 0o644)
        tail = b""
        if status.st_size:
            window = _TAIL_BYTES if self._next_seq is None else 1
            tail = os.pread(handle, window, max(status.st_size - window, 0))
        if self._next_seq is None:
            self._next_seq = _last_seq(tail) + 1
        full = {"v": 1, "job": _id(self._job_id), "restart": self._restart, "seq": self._next_seq}
        full.update(record)
        text = json.dumps(full, separators=(",", ":"), allow_nan=False).encode()
        if len(text) >= MAX_LINE_BYTES:
            raise ValueError(f"a line of {len(text)} bytes is too long")
        torn = tail and not tail.endswith(b"\n")
        line = (b"\n" if torn else b"") + text + b"\n"
        if os.write(handle, line) != len(line):
            self.problem = f"{self.path}: the disk is full"
            return False
        self._next_seq += 1
        self.problem = ""
        if status.st_size + len(line) > ROTATE_BYTES:
            os.rename(self.path, self.path + ROTATED)
        return True


def _id(job_id: str) -> Any:
    return int(job_id) if job_id.isdigit() else job_id


def _last_seq(tail: bytes) -> int:
    """The highest seq in the last lines of a file that an earlier process of this run wrote, -1 for none."""
    highest = -1
    for line in tail.split(b"\n"):
        try:
            record = json.loads(line.decode("utf-8"))
            highest = max(highest, int(record["seq"]))
        except (ValueError, KeyError, TypeError):
            continue
    return highest
