"""Runs one of Slurm's commands: argument lists only, a deadline, a bounded answer, a clean environment.

No shell is ever involved, so user text in an argument is only ever text. The child is killed when its time is up.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .client import SlurmUnavailable

LARGEST_ANSWER_BYTES = 512 << 20

#: Words in Slurm's error texts that mean "ask again later", not "refused".
_AWAY = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "communication connection failure",
    "zero bytes were transmitted",
    "transport endpoint",
    "unexpected message received",
    "slurm backup controller",
    "munge encode failed",
    "protocol authentication error",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said. ``code`` is its exit status."""

    code: int
    out: bytes
    err: str


class Commands:
    """Slurm's commands in one folder (or on PATH), run with a fixed environment."""

    def __init__(self, bin_dir: str | None = None, slurm_conf: str | None = None) -> None:
        self._bin_dir = bin_dir
        kept = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "SLURM_CONF", "LD_LIBRARY_PATH", "SLURM_JWT", "USER", "LOGNAME")
        self._env = {name: os.environ[name] for name in kept if name in os.environ}
        self._env["SLURM_TIME_FORMAT"] = "%s"
        if slurm_conf is not None:
            self._env["SLURM_CONF"] = slurm_conf
        self.calls = 0

    def path(self, name: str) -> str:
        """Full path of a command; raises `SlurmUnavailable` naming what is missing."""
        found = shutil.which(name, path=self._bin_dir or self._env.get("PATH"))
        if found is None:
            where = self._bin_dir or "PATH"
            raise SlurmUnavailable(f"{name} is not in {where}: install Slurm's commands or set slurm.bin_dir")
        return found

    def run(self, name: str, arguments: Sequence[str], deadline_s: float) -> Answer:
        """Run to the end. Raises `SlurmUnavailable` when time is up or the controller cannot be reached."""
        self.calls += 1
        argv = [self.path(name), *arguments]
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, env=self._env, timeout=deadline_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise SlurmUnavailable(f"{name} gave no answer within {deadline_s:g} s") from None
        except (OSError, ValueError) as error:
            raise SlurmUnavailable(f"{name} could not be run: {error}") from None
        err = done.stderr.decode("utf-8", "replace")
        if len(done.stdout) > LARGEST_ANSWER_BYTES:
            raise SlurmUnavailable(
                f"{name} answered {len(done.stdout)} bytes; more than {LARGEST_ANSWER_BYTES} is refused"
            )
        if done.returncode != 0 and any(word in err.lower() for word in _AWAY):
            raise SlurmUnavailable(f"{name}: {last_line(err)}")
        return Answer(done.returncode, done.stdout, err)


def last_line(text: str) -> str:
    """The last non-empty line, shortened: what a person needs of an error text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
