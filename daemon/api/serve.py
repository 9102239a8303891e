"""Opens the doors and serves: the Unix socket, and TCP (with TLS where the policy file names a certificate).

A Unix socket's client is named by the kernel (SO_PEERCRED); headers never say who a client is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from slurmsia.config.api import ApiSection

from .callers import PEER_PREFIX

_CREDENTIALS = struct.Struct("3i")


class DoorError(Exception):
    """A door cannot be opened; the text says which and why."""


class PeerProtocol(H11Protocol):
    """HTTP/1.1 whose client address on a Unix socket is the user id of the process at the other end."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family == socket.AF_UNIX:
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, user_id, _ = _CREDENTIALS.unpack(raw)
            self.client = (f"{PEER_PREFIX}{user_id}", pid)


class _Server(uvicorn.Server):
    """Leaves signals to `serve`, which closes all doors together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def doors(section: ApiSection) -> list[tuple[socket.socket, bool]]:
    """Listening sockets and whether each speaks TLS. Raises `DoorError`."""
    opened: list[tuple[socket.socket, bool]] = []
    try:
        if section.socket:
            opened.append((_unix(Path(section.socket)), False))
        if section.listen:
            opened.append((_tcp(section.listen), bool(section.tls_certificate)))
    except OSError as error:
        raise DoorError(f"the API cannot listen ({error}); see [api] socket and listen in the policy file") from None
    return opened


def _unix(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(path))
    os.chmod(path, 0o666)
    door.listen(1024)
    return door


def _tcp(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind((host or "0.0.0.0", int(port)))
    door.listen(1024)
    return door


async def serve(app: Any, section: ApiSection, opened: list[tuple[socket.socket, bool]], ready: Any = None) -> None:
    """Serve until SIGTERM or SIGINT. ``ready``: called once the doors answer."""
    servers = []
    for _, tls in opened:
        settings = uvicorn.Config(
            app,
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            # X-Forwarded-For must never name a client: on a Unix socket that would be a user id.
            proxy_headers=False,
            server_header=False,
            limit_concurrency=section.most_connections,
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=64 * 1024,
            timeout_graceful_shutdown=2,
            ssl_certfile=section.tls_certificate or None if tls else None,
            ssl_keyfile=section.tls_key or None if tls else None,
        )
        servers.append(_Server(settings))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, stop)
    tasks = [
        asyncio.create_task(server.serve(sockets=[door])) for server, (door, _) in zip(servers, opened, strict=True)
    ]
    if ready is not None:
        while not all(server.started or task.done() for server, task in zip(servers, tasks, strict=True)):
            await asyncio.sleep(0.01)
        ready()
    await asyncio.gather(*tasks)
