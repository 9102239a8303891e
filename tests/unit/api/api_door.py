"""A real uvicorn in a thread, serving what it is given on the doors of an ``[api]`` section."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Any

from slurmsia_daemon.api.serve import doors, serve

from slurmsia.config.api import ApiSection


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


#: Somebody who owns no job here: nobody's uid.
OTHER_UID = 65534


@dataclass(frozen=True)
class Munged:
    """A munged of the tests' own."""

    socket: str


class Door:
    """``with Door(app, section) as door``: the app answers inside the block."""

    def __init__(self, app: Any, section: ApiSection) -> None:
        self.app, self.section = app, section
        self.socket = section.socket
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(serve(self.app, self.section, doors(self.section), self._ready.set))
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    def __enter__(self) -> Door:
        self._thread.start()
        assert self._ready.wait(10), "the API did not open its doors"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
