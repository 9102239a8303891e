"""What the daemon does for itself beside rounds: pruning the store, watching its own memory, CPU and processes.

Pruning runs on a thread of its own in small transactions with pauses, so that no round waits for it. Nothing here
touches Slurm, and no process is ended: a stale one is named for the operator.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil

from slurmsia.config.store import StoreSection
from slurmsia.store import Store, StoreError
from slurmsia.store.settings import keep

_log = logging.getLogger("slurmsia.upkeep")

#: Pause after each batch of removed rows: writers of rounds and reports go between.
_PAUSE_S = 0.05
#: Caches are dropped at most this often; dropping them costs a slower round.
_DROP_EVERY_S = 600.0
#: Free memory inside the heap goes back to the kernel this often; it takes milliseconds.
_TRIM_EVERY_S = 600.0
#: Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
#: What the command lines of the daemon's helpers contain.
_HELPERS = ("slurmsia_daemon.api", os.path.join("slurmsia", "slurm", "worker.py"))


class Pruner:
    """Removes old rows every ``prune_every_s``, first one interval after the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._last = clock()
        self.removed = 0
        self.problem = ""

    def turn(self, store: Store, section: StoreSection, now_s: float) -> bool:
        """Start a pass when it is due and none is going on; returns whether one was started. Never waits."""
        if self._clock() - self._last < section.prune_every_s or (self._thread and self._thread.is_alive()):
            return False
        self._last = self._clock()
        self._stop.clear()
        self._thread = threading.Thread(target=self._prune, args=(store, section, now_s), name="prune", daemon=True)
        self._thread.start()
        return True

    def close(self) -> None:
        """Let the batch under way finish and stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)

    def _prune(self, store: Store, section: StoreSection, now_s: float) -> None:
        try:
            done = store.prune(keep(section), now_s, batch=section.prune_batch_rows, between=self._between)
        except _Stopped:
            return
        except StoreError as error:
            self.problem = f"Old rows could not be removed from the store: {error}"
            _log.warning(self.problem)
            return
        except Exception as error:  # a thread's traceback would be seen by nobody
            self.problem = f"Old rows could not be removed, by a mistake of slurmsia's own: {error!r}"
            _log.error(self.problem, exc_info=error)
            return
        self.problem = ""
        self.removed += sum(entry.rows for entry in done)
        said = ", ".join(f"{entry.rows} of {entry.table} ({entry.why})" for entry in done if entry.rows)
        if said:
            _log.info("removed old rows: %s", said)

    def _between(self) -> None:
        if self._stop.wait(_PAUSE_S):
            raise _Stopped


class _Stopped(Exception):
    pass


class Body:
    """This process and its children as psutil sees them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._clock = clock
        self._dropped = float("-inf")
        self._trimmed = clock()
        self._counted = float("-inf")
        self._children_bytes = 0

    @property
    def rss_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def cpu_share(self) -> float:
        """CPU used since the last call, 1.0 = one core."""
        return float(self._process.cpu_percent()) / 100.0

    def children_rss_bytes(self) -> int:
        """Memory of the worker, the API and the process for users' expressions; looked up once a minute."""
        if time.monotonic() - self._counted < 60.0:
            return self._children_bytes
        self._counted, total = time.monotonic(), 0
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += int(child.memory_info().rss)
        self._children_bytes = total
        return total

    def relieve(self, limit_mb: float, drop_caches: Callable[[], None]) -> str:
        """Drop caches when resident memory is above the limit; the sentence for the operator, empty below it."""
        before = self.rss_bytes
        if before <= limit_mb * 1e6:
            return ""
        if self._clock() - self._dropped >= _DROP_EVERY_S:
            self._dropped = self._clock()
            drop_caches()
            gc.collect()
            trim()
        after = self.rss_bytes
        return (
            f"Resident memory was {before / 1e6:.0f} MB, above daemon.memory_limit_mb = {limit_mb:g}; caches were "
            f"dropped and it is {after / 1e6:.0f} MB."
        )

    def tidy(self) -> None:
        """Between rounds: the garbage that `undisturbed` rounds left, and now and then all of it and free pages.

        What a round left is young; looking at every object of the process takes ten times as long.
        """
        gc.collect(1)
        if self._clock() - self._trimmed >= _TRIM_EVERY_S:
            self._trimmed = self._clock()
            gc.collect()
            trim()

    def stale(self) -> tuple[str, ...]:
        """Helpers that an earlier daemon of this user left behind, as sentences; they belong to no process any more."""
        found = []
        mine = os.getuid()
        for process in psutil.process_iter(["pid", "ppid", "uids", "cmdline"]):
            words = process.info["cmdline"] or []
            uids = process.info["uids"]
            if uids is None or uids.real != mine or process.info["ppid"] != 1:
                continue
            if any(word.endswith(helper) for word in words for helper in _HELPERS):
                found.append(f"process {process.info['pid']} was left by an earlier daemon: {' '.join(words)[:120]}")
        return tuple(found)


def keep_heap_whole() -> None:
    """Before threads start: one heap for all of them, and blocks from 128 KiB on outside it, for years of uptime.

    By default glibc gives each thread a heap of its own and learns to keep ever larger blocks inside, and rounds
    then leave holes. Nothing where the C library has no such call.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def trim() -> None:
    """Give free pages inside the heap back to the kernel; without it a heap that rounds fill and empty looks like a
    leak for days. Nothing where the C library has no such call."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps the cyclic garbage collector out of the block: a full collection takes a tenth of a large round's time.
    Whoever uses it collects afterwards (`Body.tidy`)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
