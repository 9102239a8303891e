"""Clears files out of ``reports/`` that belong to no run we know, a few directory entries at a time.

The folder may hold millions of entries; a poll looks at a bounded number and remembers where it stopped. Only names
inside the folder are unlinked: links are removed, never followed, and folders stay.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Protocol

from .names import parse_report_name

#: A name that no job of ours would ever use is removed after this long.
_FOREIGN_AGE_S = 3600.0


class SweepLimits(Protocol):
    """The part of the ``[jobs]`` section that clean-up needs."""

    @property
    def max_files_per_user(self) -> int: ...
    @property
    def stray_age_s(self) -> float: ...
    @property
    def cleanup_entries_per_poll(self) -> int: ...


class Sweeper:
    """One endless pass over the folder, in slices."""

    def __init__(self, limits: SweepLimits) -> None:
        self._limits = limits
        self._entries: Iterator[os.DirEntry[str]] | None = None
        self._strays_by_user: Counter[int] = Counter()

    def sweep(self, folder: int, keep: Collection[str], now_s: float, tally: Counter[str]) -> None:
        """Looks at the next slice of the folder (an open descriptor); names in ``keep`` are never touched."""
        for _ in range(self._limits.cleanup_entries_per_poll):
            try:
                if self._entries is None:
                    self._strays_by_user.clear()
                    self._entries = os.scandir(folder)
                entry = next(self._entries)
            except StopIteration:
                self._entries = None
                return
            except OSError:
                self._entries = None
                return
            tally["entries_looked_at"] += 1
            if entry.name not in keep and self._is_stray(folder, entry.name, now_s):
                with suppress(OSError):
                    os.unlink(entry.name, dir_fd=folder)
                    tally["files_removed"] += 1

    def _is_stray(self, folder: int, name: str, now_s: float) -> bool:
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        self._strays_by_user[status.st_uid] += 1
        if self._strays_by_user[status.st_uid] > self._limits.max_files_per_user:
            return True
        age_s = now_s - max(status.st_mtime, status.st_ctime)
        limit_s = self._limits.stray_age_s if parse_report_name(name) else min(_FOREIGN_AGE_S, self._limits.stray_age_s)
        return age_s > limit_s
