"""Clears files out of ``reports/`` that belong to no run we know, beside the loop and a slice at a time.

The folder may hold millions of entries and lie on a file system that hangs: listing it runs on a thread of its own
which a poll never waits for, looks at a bounded number of entries a poll, and remembers where it stopped. Only names
inside the folder are unlinked: links are removed, never followed, and folders stay.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Protocol

from .names import parse_report_name

#: A name that no job of ours would ever use is removed after this long.
_FOREIGN_AGE_S = 3600.0
#: A younger file may be of a run that Slurm has not shown us yet; not even its user's crowd of files takes it along.
_NEWS_S = 120.0
#: So many entries, then a pause: the loop's thread keeps the interpreter for itself for most of the time.
_ENTRIES_AT_ONCE = 64
_PAUSE_S = 0.005
#: A poll's slice ends after this long.
_SLICE_S = 5.0


class SweepLimits(Protocol):
    """The part of the ``[jobs]`` section that clean-up needs."""

    @property
    def max_files_per_user(self) -> int: ...
    @property
    def stray_age_s(self) -> float: ...
    @property
    def cleanup_entries_per_poll(self) -> int: ...


class Sweeper:
    """One endless pass over the folder, in slices; starts no thread before the first one."""

    def __init__(self, folder: str, limits: SweepLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._entries: Iterator[os.DirEntry[str]] | None = None
        self._strays_by_user: Counter[int] = Counter()
        self._last_pass: Counter[int] = Counter()
        self._thread: threading.Thread | None = None
        self._crowds: dict[int, int] = {}
        self.looked_at = 0
        self.removed = 0

    @property
    def crowds(self) -> dict[int, int]:
        """User id -> files of no job seen in one pass, for users who left more than they may."""
        return self._crowds

    def begin(self, keep: Collection[str], now_s: float) -> None:
        """Begins the next slice unless one is going on; returns at once. Names in ``keep`` are never touched."""
        if self._thread is not None and self._thread.is_alive():
            return
        # a daemon thread: a hung file system must not keep the process from ending
        self._thread = threading.Thread(target=self._slice, args=(keep, now_s), name="spool-cleanup", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the slice under way is over: for tests and benches."""
        if self._thread is not None:
            self._thread.join()

    def _slice(self, keep: Collection[str], now_s: float) -> None:
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        end = time.monotonic() + _SLICE_S
        try:
            for number in range(1, self._limits.cleanup_entries_per_poll + 1):
                if not self._look_at_one(folder, keep, now_s):
                    break
                if number % _ENTRIES_AT_ONCE == 0:
                    self._count_crowds()
                    if time.monotonic() > end:
                        break
                    time.sleep(_PAUSE_S)
        finally:
            os.close(folder)
            self._count_crowds()

    def _count_crowds(self) -> None:
        seen = self._strays_by_user | self._last_pass
        self._crowds = {uid: count for uid, count in seen.items() if count > self._limits.max_files_per_user}

    def _look_at_one(self, folder: int, keep: Collection[str], now_s: float) -> bool:
        """Looks at the next entry; ``False`` at the end of a pass."""
        try:
            if self._entries is None:
                self._entries = os.scandir(folder)
            entry = next(self._entries)
        except (StopIteration, OSError):
            self._entries = None
            self._last_pass, self._strays_by_user = self._strays_by_user, Counter()
            return False
        self.looked_at += 1
        if entry.name not in keep and self._is_stray(folder, entry.name, now_s):
            with suppress(OSError):
                os.unlink(entry.name, dir_fd=folder)
                self.removed += 1
        return True

    def _is_stray(self, folder: int, name: str, now_s: float) -> bool:
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        age_s = now_s - max(status.st_mtime, status.st_ctime)
        self._strays_by_user[status.st_uid] += 1
        if self._strays_by_user[status.st_uid] > self._limits.max_files_per_user and age_s > _NEWS_S:
            return True
        limit_s = self._limits.stray_age_s if parse_report_name(name) else min(_FOREIGN_AGE_S, self._limits.stray_age_s)
        return age_s > limit_s
