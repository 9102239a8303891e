"""The API's process: ``python -m slurmsia_daemon.api FD CONFIG_FILE``, started by the daemon's bridge.

States come over the private socket ``FD``, wishes go back over it; when the daemon is gone, so is this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from slurmsia.config import ConfigError
from slurmsia.config.loader import load
from slurmsia.store import Store
from slurmsia.store.settings import open_configured

from .. import log
from ..api_bridge import receive_frame, send_frame
from ..control import Wish
from .app import Api, make_app
from .callers import CallerCheck
from .records import Records
from .serve import DoorError, doors, serve
from .state import Holder

_log = logging.getLogger("slurmsia.api")


class Daemon:
    """The loop at the other end of the private socket."""

    def __init__(self, channel: socket.socket, holder: Holder) -> None:
        self._channel = channel
        self._holder = holder
        self._sending = threading.Lock()

    def wish(self, wish: Wish) -> bool:
        try:
            with self._sending:
                send_frame(self._channel, json.dumps(asdict(wish)).encode())
        except OSError:
            return False
        return True

    def listen(self) -> None:
        """Take states until the daemon is gone, then end this process."""
        while True:
            try:
                body = receive_frame(self._channel)
            except OSError:
                body = None
            if body is None:
                os._exit(0)
            self._holder.put(pickle.loads(body))


def main(argv: list[str]) -> int:
    channel = socket.socket(fileno=int(argv[1]))
    try:
        config = load(Path(argv[2]))
    except ConfigError as error:
        print(f"slurmsia's API cannot start: {error.sentences[0]}", file=sys.stderr)
        return 1
    log.set_up(config.daemon.log_format, config.daemon.log_level)
    # It warns of every malformed request: strangers would fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    # Rounds come before answers.
    with contextlib.suppress(OSError):
        os.nice(5)
    holder = Holder()
    daemon = Daemon(channel, holder)
    threading.Thread(target=daemon.listen, name="states", daemon=True).start()

    def open_store() -> Store:
        cluster = holder.view().state.cluster or config.slurm.cluster or "cluster"
        return open_configured(config.store, cluster, auto_upgrade=False)

    api = Api(config, holder, Records(open_store), CallerCheck(config.api), daemon.wish)
    try:
        opened = doors(config.api)
    except (DoorError, ValueError) as error:
        _log.error("%s", error)
        return 1
    where = ", ".join(filter(None, (config.api.socket, config.api.listen)))
    asyncio.run(serve(make_app(api), config.api, opened, lambda: _log.info("the API answers at %s", where)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
