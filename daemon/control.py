"""Operators' wishes on their way to the loop: pause, resume, reconfigure, pin, unpin, release. Thread-safe.

A pause outlives the daemon (a mark in its state folder). Wishes are carried out between rounds by the loop alone.
"""

from __future__ import annotations

import json
import queue
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wish:
    """One wish. ``kind``: pause, resume, reconfigure, pin, unpin or release; ``who`` as proven by the API."""

    kind: str
    who: str
    user_id: int | None = None
    job_id: str = ""
    reason: str = ""


KINDS = ("pause", "resume", "reconfigure", "pin", "unpin", "release")


class Wishes:
    """A queue of wishes; `put` never blocks, a full queue refuses."""

    def __init__(self, most: int = 100) -> None:
        self._queue: queue.Queue[Wish] = queue.Queue(most)

    def put(self, wish: Wish) -> bool:
        """``False`` when too many wait already."""
        try:
            self._queue.put_nowait(wish)
        except queue.Full:
            return False
        return True

    def take_all(self) -> list[Wish]:
        taken = []
        while True:
            try:
                taken.append(self._queue.get_nowait())
            except queue.Empty:
                return taken


class PauseMark:
    """The file that says that slurmsia is paused, by whom and why."""

    def __init__(self, state_dir: str, freeze_file: str) -> None:
        self._path = Path(state_dir) / "paused.json"
        self._freeze = Path(freeze_file)

    def why(self) -> str:
        """Why nothing may be written to Slurm now; empty when it may."""
        try:
            frozen = self._freeze.exists()
        except OSError as error:  # a folder that may not be looked into: doubt ends with nothing changed
            return f"frozen, since {self._freeze} cannot be looked at ({error.strerror})"
        if frozen:
            try:
                text = self._freeze.read_text(encoding="utf-8", errors="replace")[:200].strip()
            except OSError:
                text = ""
            return f"frozen by {self._freeze}" + (f": {text}" if text else "")
        if not self._path.exists():
            return ""
        try:
            wish = json.loads(self._path.read_text(encoding="utf-8"))
            reason = f": {wish['reason']}" if wish.get("reason") else ""
            return f"paused by {wish['who']}{reason}"
        except (OSError, ValueError, KeyError, TypeError):
            return f"paused ({self._path} cannot be read; `slurmsia resume` removes it)"

    def pause(self, wish: Wish) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(wish)), encoding="utf-8")
        temporary.replace(self._path)

    def resume(self) -> None:
        self._path.unlink(missing_ok=True)
