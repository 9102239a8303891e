"""One daemon acts on a cluster at a time: a lock file, and on PostgreSQL a lease row with a fencing generation.

The lock file guards daemons on one host (and any that share the state folder); the store's lease guards hosts.
Whoever does not lead stands by, reads nothing from Slurm and writes nothing, and looks again every few seconds.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

import psutil

from slurmsia.moves.log import Fenced
from slurmsia.store import Store

#: A lease not renewed for this long is free to take: the second daemon takes over within 30 s.
LEASE_S = 20.0


class Leadership:
    """Whether this process may act, and with which fencing generation."""

    def __init__(self, state_dir: str) -> None:
        self._lock_path = Path(state_dir) / "leader.lock"
        self._lock_fd: int | None = None
        self._renewed = float("-inf")
        self._predecessor = ""
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.generation: int | None = None

    @property
    def leads(self) -> bool:
        return self._lock_fd is not None and self.generation is not None

    def seek(self, store: Store) -> str | None:
        """Try to lead. ``None`` when this process leads now, else the sentence that says who does.

        Raises a `StoreError` when the store is away.
        """
        if self._lock_fd is None and not self._lock():
            return f"another daemon on this host holds {self._lock_path}; standing by"
        lease = store.lease()
        # who held this very lock file before us has ended: nothing else could have given it to us
        if lease is not None and (lease.holder == self._predecessor or self._is_dead(lease.holder)):
            store.release_lease(lease.holder, lease.generation)
        self.generation = store.acquire_lease(self.holder, LEASE_S)
        self._renewed = time.monotonic()
        if self.generation is None:
            lease = store.lease()
            return f"{lease.holder if lease is not None else 'another daemon'} holds the lease; standing by"
        return None

    def renew(self, store: Store) -> None:
        """Keep the lease, at most every few seconds. Raises `Fenced` when another daemon has taken it."""
        if self.generation is None or time.monotonic() - self._renewed < LEASE_S / 4:
            return
        if not store.renew_lease(self.holder, self.generation, LEASE_S):
            raise Fenced("another daemon has taken the lease")
        self._renewed = time.monotonic()

    def lose(self) -> None:
        """Another daemon leads: forget the lease, keep the lock file for the next try."""
        self.generation = None

    def resign(self, store: Store | None) -> None:
        """Give lock and lease back."""
        if store is not None and self.generation is not None:
            store.release_lease(self.holder, self.generation)
        self.generation = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    @staticmethod
    def _is_dead(holder: str) -> bool:
        """Whether a lease belongs to a process of this host that is gone: its successor need not wait for the end."""
        host, _, pid = holder.rpartition(":")
        return host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid))

    def _lock(self) -> bool:
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._predecessor = os.pread(fd, 300, 0).decode("utf-8", "replace").strip()
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{self.holder}\n".encode(), 0)
        self._lock_fd = fd
        return True
