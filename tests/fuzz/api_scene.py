"""The rounds that `tests.fuzz.api` watches: the embedded cluster, a round at a fixed rhythm, the API beside it.

``python -m tests.fuzz.api_scene FOLDER MINUTES EVERY_S`` prints the API's address, then a JSON line for each round.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import FrameType

from slurmsia_daemon.api.stage import Stage
from slurmsia_daemon.api_bridge import ApiBridge
from slurmsia_daemon.published import Published

from slurmsia.plan import Plan
from slurmsia.store import codec
from tests.fuzz.api import USER_ID


def _ended(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def _today(state: Published) -> Published:
    """The scene has a clock of its own; the API's process has the wall's."""
    return replace(state, published_s=time.time(), next_round_s=time.time() + 60.0)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main(folder: Path, minutes: float, every_s: float) -> None:
    signal.signal(signal.SIGTERM, _ended)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    stage = Stage(folder, users=(os.getuid(), os.getuid(), USER_ID))
    stage.play(minutes)
    stage.neighbours(3)
    section = stage.config.api.model_copy(update={"socket": "", "listen": listen, "requests_per_s": 1e6})
    stage.config = stage.config.model_copy(update={"api": section})
    file = folder / "slurmsia.toml"
    file.write_text(
        f'[api]\nsocket = ""\nlisten = "{listen}"\nrequests_per_s = 1000000\njwt_key_file = "{folder / "key"}"\n'
        f'[store]\nurl = "{stage.config.store.url}"\n[daemon]\nstate_dir = "{folder}"\nlog_level = "warning"\n'
    )
    bridge = ApiBridge(stage.config, file)
    bridge.start()
    bridge.publish(_today(stage.round()))
    deadline = time.monotonic() + 60
    while not _answers(f"http://{listen}/v1/healthz") and time.monotonic() < deadline:
        time.sleep(0.1)
    print(f"http://{listen}", flush=True)
    due = time.monotonic()
    try:
        while True:
            begun = time.monotonic()
            wishes = bridge.take_wishes()
            for wish in wishes:
                stage.wish(wish)
            state = stage.play(1.0)
            bridge.publish(_today(state))
            plan = json.loads(codec.to_json(Plan, state.plan)) if state.plan is not None else None
            took_s = time.monotonic() - begun
            row = {"plan": plan, "begun_s": begun, "took_s": took_s, "wishes": [wish.kind for wish in wishes]}
            print(json.dumps(row), flush=True)
            due = max(due + every_s, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    finally:
        bridge.close()
        stage.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
