"""Checkpoint files that are whole or not there: temporary name, fsync, rename, fsync of the folder.

Standard library only, Python 3.8, for any framework. Killed at any instant, the newest file with a final name is a
whole checkpoint.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import BinaryIO, Callable, List, Optional, Tuple

_NAME = re.compile(r"checkpoint-(\d{1,18})\.pt")


def write_whole(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Calls ``write`` with an open file and gives it the name ``path`` once all of it is on disk. Raises OSError."""
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def path_of(folder: str, step: int) -> str:
    """Where the checkpoint after so many steps stands."""
    return os.path.join(folder, f"checkpoint-{step}.pt")


def whole_ones(folder: str) -> List[Tuple[int, str]]:
    """(step, path) of every checkpoint in the folder, newest first; empty when there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    matches = [_NAME.fullmatch(name) for name in names]
    found = [(int(match.group(1)), os.path.join(folder, match.group(0))) for match in matches if match]
    return sorted(found, reverse=True)


def newest(folder: str) -> Optional[str]:
    """Path of the newest checkpoint, or None."""
    found = whole_ones(folder)
    return found[0][1] if found else None


def prune(folder: str, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints, and what killed writers left behind."""
    for _, path in whole_ones(folder)[keep:]:
        _remove(path)
    for name in os.listdir(folder):
        if ".pt.tmp-" in name and name.startswith("checkpoint-"):
            _remove(os.path.join(folder, name))


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
