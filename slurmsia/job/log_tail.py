"""Throughput from a job's own log by the user's regular expression (``progress='regex'``): no library, no code.

The log is opened like a report file: a plain file of the job's user, never through a link, never waiting. The user's
expression runs in a process of its own with limits on time and memory, over a bounded tail; only numbers come back.
"""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
import sys
from dataclasses import dataclass

from ..cluster import Allocation, JobId
from ..history import Observation, Progress, Report

_TAIL_BYTES = 64 * 1024
_LONGEST_LINE = 2000
#: One expression over one tail may take this long before its process is ended.
MATCH_LIMIT_S = 1.0
_MEMORY_BYTES = 512 * 1024 * 1024

_MATCHER = r"""
import json, re, resource, sys
memory_bytes, longest_line = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
for request in sys.stdin:
    pattern, text = json.loads(request)
    found = []
    try:
        compiled = re.compile(pattern)
        kind = "rate" if "rate" in compiled.groupindex else "samples"
        group = kind if kind in compiled.groupindex else 1
        for line in text.split("\n"):
            match = compiled.search(line[:longest_line])
            if match and match.group(group):
                try:
                    found.append([kind, float(match.group(group))])
                except ValueError:
                    pass
    except (re.error, MemoryError, RecursionError, OverflowError):
        pass
    print(json.dumps(found[-1:]), flush=True)
"""


class Matcher:
    """The process that runs users' expressions; ended and started anew when one takes too long."""

    def __init__(self, limit_s: float = MATCH_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def last_match(self, pattern: str, text: str) -> tuple[str, float] | None:
        """("samples" or "rate", number) of the last matching line, or ``None``. Raises TimeoutError past the limit."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _MATCHER, str(_MEMORY_BYTES), str(_LONGEST_LINE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
            )
            self._wait_until_started(10.0)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([pattern, text]).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            self.close()
            return None
        if not select.select([process.stdout], [], [], self._limit_s)[0]:
            self.close()
            raise TimeoutError
        answer = process.stdout.readline()
        found = json.loads(answer) if answer.strip() else []
        return (str(found[0][0]), float(found[0][1])) if found else None

    def _wait_until_started(self, limit_s: float) -> None:
        """Starting Python is not the expression's fault: an empty request is answered first."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'["(a)", ""]\n')
        process.stdin.flush()
        if select.select([process.stdout], [], [], limit_s)[0]:
            process.stdout.readline()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@dataclass(frozen=True, slots=True)
class _Point:
    t_s: float
    samples: float


class LogTail:
    """One run's log. ``uid``: the job's user; ``pattern``: the declaration's ``progress=``."""

    def __init__(self, path: str, uid: int, pattern: str, job_id: JobId, restart: int, matcher: Matcher) -> None:
        self._path = path
        self._uid = uid
        self._pattern = pattern
        self._job_id = job_id
        self._restart = restart
        self._matcher = matcher
        self._last: _Point | None = None
        self._gave_up = False
        self.problem = ""

    def poll(self, allocation: Allocation | None, now_s: float, seq: int) -> Report | None:
        """A report from what the log says now, ``None`` when it says nothing new; ``problem`` says what is wrong."""
        if self._gave_up:
            return None
        try:
            text = self._tail()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problem = f"the log {self._path} cannot be read: {error.strerror}"
            return None
        try:
            found = self._matcher.last_match(self._pattern, text)
        except TimeoutError:
            self._gave_up = True
            self.problem = f"progress={self._pattern!r} took longer than {MATCH_LIMIT_S:g} s on the log; it is given up"
            return None
        if found is None or not 0 <= found[1] < 1e18:
            return None
        return self._report(found, allocation, now_s, seq)

    def _report(self, found: tuple[str, float], allocation: Allocation | None, now_s: float, seq: int) -> Report | None:
        last, kind = self._last, found[0]
        if kind == "rate":
            seconds = now_s - last.t_s if last is not None else 0.0
            samples = (last.samples if last is not None else 0.0) + found[1] * seconds
        else:
            samples = found[1]
        if last is not None and samples <= last.samples:
            return None
        self._last = _Point(now_s, samples)
        if last is None:
            return None
        shape = allocation.shape if allocation is not None else None
        observations: tuple[Observation, ...] = ()
        if shape is not None:
            seconds, done = now_s - last.t_s, samples - last.samples
            step = Observation(
                shape.gpu_type, shape.nodes, shape.gpus, done / shape.gpus, 0, 1.0, seconds, seconds * seconds
            )
            observations = (step,)
        return Report(
            self._job_id,
            self._restart,
            seq,
            now_s,
            "progress",
            observations=observations,
            progress=None if kind == "rate" else Progress(now_s, samples),
            extra=(("src", "log"),),
        )

    def _tail(self) -> str:
        handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != self._uid:
                raise PermissionError(1, "it is not a plain file of the job's user")
            data = os.pread(handle, _TAIL_BYTES, max(status.st_size - _TAIL_BYTES, 0))
        finally:
            os.close(handle)
        return data.decode("utf-8", errors="replace")


def default_log(job_id: JobId, work_dir: str) -> str:
    """Where Slurm writes the log of a job that names none."""
    return os.path.join(work_dir, f"slurm-{job_id}.out")
