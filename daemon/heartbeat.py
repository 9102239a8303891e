"""The heartbeat file: an epoch second and the lease in seconds, read by job_submit.lua before it leases a new job.

Written in enforce mode only, by rename, so that a reader never sees half a number; removed when the daemon stops or
stops enforcing. A file that cannot be written is said once and never stops a round.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

_log = logging.getLogger("slurmsia.heartbeat")

#: The submit plugin takes a heartbeat of some minutes as fresh; writing more often than this tells nobody anything.
EVERY_S = 5.0


class Heartbeat:
    """The file at ``path``."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._complained = False
        self._written: tuple[float, float] | None = None

    def beat(self, now_s: float, lease_s: float) -> None:
        """Write the time and the lease, at most every few seconds; readable by everybody."""
        if self._written is not None and lease_s == self._written[1] and 0 <= now_s - self._written[0] < EVERY_S:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_text(f"{int(now_s)} {int(lease_s)}\n", encoding="ascii")
            temporary.chmod(0o644)
            temporary.replace(self._path)
        except OSError as error:
            if not self._complained:
                self._complained = True
                _log.warning(
                    "heartbeat %s cannot be written (%s): new jobs start without a lease", self._path, error.strerror
                )
        else:
            self._complained = False
            self._written = (now_s, lease_s)

    def stop(self) -> None:
        """Remove the file: from now on new jobs start as if slurmsia did not exist."""
        self._written = None
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("heartbeat %s cannot be removed: %s", self._path, error.strerror)
