"""Holds the pyslurm worker process: starts it, gives every call a deadline, kills and restarts it with back-off.

The daemon never blocks on pyslurm: a worker that hangs is killed when the call's time is up, one that crashed is
noticed at once, and either way the call raises `SlurmUnavailable`. Safe between threads (one call at a time).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .client import SlurmUnavailable

_LENGTH = struct.Struct(">Q")
_START_S = 20.0
_FIRST_BACK_OFF_S = 0.2
_LONGEST_BACK_OFF_S = 30.0
_LARGEST_FRAME = 1 << 30


class CallFailed(Exception):
    """pyslurm itself refused a call; ``code`` is Slurm's error number where there is one."""

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class WorkerHandle:
    """One worker process and the pipe to it."""

    def __init__(self, python: str = sys.executable, script: Path | None = None) -> None:
        self._python = python
        self._script = script or Path(__file__).with_name("worker.py")
        self._process: subprocess.Popen[bytes] | None = None
        self._to = self._from = -1
        self._lock = threading.Lock()
        self._next_id = 0
        self._back_off_s = 0.0
        self._not_before = 0.0
        self._hello: tuple[Any, ...] | None = None
        self.restarts = 0
        self.calls = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def greet(self, *args: Any) -> None:
        """Arguments of the ``hello`` call that every new worker gets first."""
        self._hello = args

    def call(self, op: str, *args: Any, deadline_s: float) -> Any:
        """The value of one operation.

        Raises `SlurmUnavailable` when the worker hangs, died or cannot start, `CallFailed` when pyslurm refused.
        """
        if not self._lock.acquire(timeout=deadline_s):
            raise SlurmUnavailable(f"pyslurm is busy with another call (waited {deadline_s:g} s)")
        try:
            end = time.monotonic() + deadline_s
            self._ensure_started(end)
            return self._exchange(op, args, end)
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the worker; it also ends by itself when this process does."""
        with self._lock:
            self._stop()

    def _ensure_started(self, end: float) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            self._failed("the pyslurm worker ended by itself")
        wait = self._not_before - time.monotonic()
        if wait > 0:
            raise SlurmUnavailable(f"the pyslurm worker failed and is started again in {wait:.1f} s")
        self._start(max(end, time.monotonic() + 0.1))
        if self._hello is not None:
            self._exchange("hello", self._hello, end)

    def _start(self, end: float) -> None:
        request_out, self._to = os.pipe()
        self._from, answer_in = os.pipe()
        try:
            self._process = subprocess.Popen(
                [self._python, "-B", str(self._script), str(request_out), str(answer_in)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(request_out, answer_in),
            )
        except OSError as error:
            self._failed(str(error))
            raise SlurmUnavailable(f"the pyslurm worker cannot be started: {error}") from None
        finally:
            os.close(request_out)
            os.close(answer_in)
        self.restarts += 1
        ready = self._receive(max(end, time.monotonic() + _START_S))
        if not ready.get("ok"):
            self._failed(str(ready.get("text")))
            raise SlurmUnavailable(f"pyslurm cannot be used: {ready.get('text')}")

    def _exchange(self, op: str, args: tuple[Any, ...], end: float) -> Any:
        self._next_id += 1
        self.calls += 1
        raw = json.dumps({"id": self._next_id, "op": op, "args": list(args)}).encode()
        try:
            os.write(self._to, _LENGTH.pack(len(raw)) + raw)
        except OSError:
            self._failed("the pyslurm worker is gone")
            raise SlurmUnavailable("the pyslurm worker died; it is started again") from None
        pieces: list[Any] = []
        while True:
            answer = self._receive(end)
            if answer.get("id") != self._next_id:
                self._failed("answers out of order")
                raise SlurmUnavailable("the pyslurm worker answered out of order; it is started again")
            self._back_off_s = 0.0
            if not answer.get("ok"):
                raise CallFailed(answer.get("code"), str(answer.get("text")))
            if answer.get("more"):
                pieces += answer["value"]
            else:
                return [*pieces, *answer["value"]] if pieces else answer.get("value")

    def _receive(self, end: float) -> dict[str, Any]:
        size = _LENGTH.unpack(self._read(_LENGTH.size, end))[0]
        if size > _LARGEST_FRAME:
            self._failed("a frame too large")
            raise SlurmUnavailable(f"the pyslurm worker answered {size} bytes; it is started again")
        answer = json.loads(self._read(size, end))
        assert isinstance(answer, dict)
        return answer

    def _read(self, size: int, end: float) -> bytes:
        parts: list[bytes] = []
        while size:
            readable, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            if not readable:
                self._failed("no answer in time")
                raise SlurmUnavailable("pyslurm gave no answer in time; its worker was ended and is started again")
            part = os.read(self._from, min(size, 1 << 20))
            if not part:
                self._failed("it crashed")
                raise SlurmUnavailable("the pyslurm worker crashed; it is started again")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _failed(self, why: str) -> None:
        self._stop()
        self._back_off_s = min(_LONGEST_BACK_OFF_S, max(_FIRST_BACK_OFF_S, self._back_off_s * 2))
        self._not_before = time.monotonic() + self._back_off_s
        self.last_failure = why

    def _stop(self) -> None:
        for fd in (self._to, self._from):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._to = self._from = -1
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None
