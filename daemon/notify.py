"""Tells systemd how the service does: READY after the first good snapshot, STATUS each round, WATCHDOG from progress.

Outside systemd every call does nothing. The watchdog is fed only when the loop really went on, never by a timer.
"""

from __future__ import annotations

import os
import time

import sdnotify


class ServiceManager:
    """The service manager's side of the daemon."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        watchdog_us = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() else None
        self._ready = False
        self._fed_s = float("-inf")

    def ready(self) -> None:
        """Once, after the first snapshot that could be read."""
        if not self._ready:
            self._ready = True
            self._notifier.notify("READY=1")

    def status(self, sentence: str) -> None:
        """The round's sentence, shown by ``systemctl status``."""
        self._notifier.notify(f"STATUS={sentence[:400]}")

    def progress(self) -> None:
        """The loop went on: feeds the watchdog, and asks for time while Slurm cannot be read yet."""
        now = time.monotonic()
        if not self._ready and now - self._fed_s >= 10.0:
            self._fed_s = now
            self._notifier.notify("EXTEND_TIMEOUT_USEC=120000000")
        if self.watchdog_s is not None and now - self._fed_s >= self.watchdog_s / 4:
            self._fed_s = now
            self._notifier.notify("WATCHDOG=1")

    def reloading(self) -> None:
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        self._notifier.notify("READY=1")

    def stopping(self) -> None:
        self._notifier.notify("STOPPING=1")
