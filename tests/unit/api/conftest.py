"""A real API on a Unix socket and on TCP over one embedded scene, and a munged of our own on a private socket."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_door import OTHER_UID, Door, Munged
from slurmsia_daemon.api.app import Api, make_app
from slurmsia_daemon.api.callers import CallerCheck
from slurmsia_daemon.api.stage import Stage


@pytest.fixture(scope="session")
def munged() -> Iterator[Munged]:
    """munged with a key of its own; skips where MUNGE is not installed."""
    program = shutil.which("munged") or "/usr/sbin/munged"
    if not os.path.exists(program):
        pytest.skip("munged is not installed (apt-get install munge)")
    folder = Path(tempfile.mkdtemp(prefix="munge-"))
    folder.chmod(0o755)
    key = folder / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    socket = folder / "socket"
    process = subprocess.Popen(
        [
            program, "--foreground", "--force", f"--socket={socket}", f"--key-file={key}",
            f"--pid-file={folder / 'pid'}", f"--log-file={folder / 'log'}", f"--seed-file={folder / 'seed'}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 10
    while not socket.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if not socket.exists():
        process.kill()
        pytest.skip("munged does not start here")
    yield Munged(str(socket))
    process.terminate()
    process.wait(timeout=5)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Twenty minutes of the embedded scene; half of the jobs belong to us, half to somebody else."""
    with tempfile.TemporaryDirectory(prefix="slurmsia-api-") as folder:
        made = Stage(Path(folder), users=(os.getuid(), OTHER_UID))
        made.play(4)
        made.neighbours(2)
        made.play(16)
        made.round()
        yield made
        made.close()


@pytest.fixture
def api(stage: Stage, tmp_path: Path) -> Api:
    """The API over the scene; a fresh object, so that limits and caches begin anew."""
    section = stage.config.api.model_copy(update={"socket": str(tmp_path / "api.sock"), "requests_per_s": 1000.0})
    daemon = stage.config.daemon.model_copy(update={"state_dir": str(tmp_path)})
    stage.wishes.clear()
    made = stage.api(CallerCheck(section, slurm_user_id=None))
    return Api(
        stage.config.model_copy(update={"api": section, "daemon": daemon}), made.holder, made.records, made.check,
        stage.wish, made.clock,
    )  # fmt: skip


@pytest.fixture
def door(api: Api) -> Iterator[Door]:
    """The API behind its Unix socket."""
    with Door(make_app(api), api.config.api) as opened:
        yield opened


@pytest.fixture
def client(door: Door) -> Iterator[httpx.Client]:
    """A client on the Unix socket: the kernel names the user of this process."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=door.socket), base_url="http://slurmsia") as made:
        yield made


@pytest.fixture(scope="session")
def me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def pytest_configure() -> None:
    threading.excepthook = threading.__excepthook__
