"""The loop's end of the API: hands each published state to the API's own process and brings operators' wishes back.

The API runs in a process of its own so that no client, however slow or hostile, can delay a round. States travel over
a private socket pair; when the API process is behind, older states are dropped, and when it dies it is started again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from slurmsia.config import Config

from .control import KINDS, Wish
from .metrics import Metrics
from .published import Published

_log = logging.getLogger("slurmsia.api")
_LENGTH = struct.Struct(">Q")
_RESTART_AFTER_S = 5.0
_LARGEST_WISH = 1 << 16


def send_frame(channel: socket.socket, body: bytes) -> None:
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive_frame(channel: socket.socket) -> bytes | None:
    """One frame; ``None`` when the other side is gone."""
    header = _receive(channel, _LENGTH.size)
    return None if header is None else _receive(channel, _LENGTH.unpack(header)[0])


def _receive(channel: socket.socket, size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class ApiBridge:
    """`loop.Audience` for the API process. Nothing here blocks the loop."""

    def __init__(self, config: Config, config_file: Path, metrics: Metrics | None = None) -> None:
        self._config = config
        self._metrics = metrics
        self._config_file = config_file
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._latest: bytes | None = None
        self._wanted = threading.Condition()
        self._closed = False
        self._started = float("-inf")
        self._sender: threading.Thread | None = None

    def start(self) -> None:
        """Start the API process, unless the policy file names no door for it."""
        if not (self._config.api.socket or self._config.api.listen):
            return
        self._spawn()
        self._sender = threading.Thread(target=self._send_states, name="api-sender", daemon=True)
        self._sender.start()

    def publish(self, state: Published) -> None:
        if self._process is None:
            return
        self._restart_if_dead()
        if self._metrics is not None:
            state = replace(state, metrics=self._metrics.text())
        with self._wanted:
            self._latest = pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)
            self._wanted.notify()

    def take_wishes(self) -> list[Wish]:
        wishes: list[Wish] = []
        channel = self._channel
        while channel is not None:
            readable, _, _ = select.select([channel], [], [], 0)
            if not readable:
                break
            try:
                body = receive_frame(channel)
            except OSError:
                body = None
            if body is None:
                self._channel = None
                break
            wish = _wish(body)
            if wish is not None:
                wishes.append(wish)
        return wishes

    def close(self) -> None:
        """End the API process."""
        with self._wanted:
            self._closed = True
            self._wanted.notify()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5.0)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._started = time.monotonic()
        argv = [sys.executable, "-m", "slurmsia_daemon.api", str(theirs.fileno()), str(self._config_file)]
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        except OSError as error:
            _log.error("the API process cannot be started: %s", error)
            ours.close()
        else:
            self._channel = ours
        finally:
            theirs.close()

    def _restart_if_dead(self) -> None:
        process = self._process
        if process is None or process.poll() is None or time.monotonic() - self._started < _RESTART_AFTER_S:
            return
        _log.error("the API process ended with status %s; it is started again", process.returncode)
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._spawn()

    def _send_states(self) -> None:
        while True:
            with self._wanted:
                while self._latest is None and not self._closed:
                    self._wanted.wait()
                if self._closed:
                    return
                body, self._latest = self._latest, None
            channel = self._channel
            if channel is None or body is None:
                continue
            with contextlib.suppress(OSError):
                send_frame(channel, body)


def _wish(body: bytes) -> Wish | None:
    """A wish from the API process, checked again: it is JSON of plain fields."""
    import json

    if len(body) > _LARGEST_WISH:
        return None
    try:
        fields = json.loads(body)
        wish = Wish(
            kind=str(fields["kind"]),
            who=str(fields["who"])[:100],
            user_id=None if fields.get("user_id") is None else int(fields["user_id"]),
            job_id=str(fields.get("job_id", ""))[:40],
            reason=str(fields.get("reason", ""))[:300],
        )
    except (ValueError, KeyError, TypeError):
        return None
    return wish if wish.kind in KINDS else None
