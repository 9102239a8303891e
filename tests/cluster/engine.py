"""Finds a Docker engine, or installs and starts one where that is allowed; knows how compose is called.

An engine that was already running is used and never stopped; one that we started is stopped by ``stop_engine``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = CHECKOUT / ".cluster"
"""What the cluster keeps on this machine: locks, logs, the process id of an engine that we started."""
_ENGINE_PID = STATE / "dockerd.pid"
_ENGINE_LOG = STATE / "dockerd.log"


class ClusterError(Exception):
    """Something a person has to do; the text says what happened and what to do."""


def quiet(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command with its output captured as text; never raises for its exit status."""
    return subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def docker(*args: str, timeout: float | None = None) -> str:
    """Run ``docker ARGS`` and return its output; :class:`ClusterError` with Docker's words if it fails."""
    result = quiet(["docker", *args], timeout=timeout)
    if result.returncode != 0:
        raise ClusterError(f"docker {' '.join(args[:3])} failed: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def _engine_answer() -> str | None:
    """Return None when an engine answers, else why not."""
    if shutil.which("docker") is None:
        return "no docker command"
    result = quiet(["docker", "version", "--format", "{{.Server.Version}}"])
    return None if result.returncode == 0 else result.stderr.strip()


def ensure_engine() -> None:
    """Make sure that an engine answers; installs and starts one as root on Debian and Ubuntu."""
    problem = _engine_answer()
    if problem and "permission denied" in problem.lower():
        raise ClusterError(
            "a Docker engine runs, but you may not use it: 'sudo usermod -aG docker $USER' and log in again, "
            "or run this as root"
        )
    subprocess.run([str(CHECKOUT / ".ci" / "packages"), *_packages(need_engine=problem is not None)], check=True)
    if problem:
        _start_engine()


def _packages(need_engine: bool) -> list[str]:
    """Return the words for ``.ci/packages``: command=package[|package]."""
    words = []
    if need_engine:
        words += ["dockerd=docker.io", "docker=docker-cli|docker.io", "iptables=iptables"]
    if quiet(["docker", "compose", "version"]).returncode != 0:
        words.append("docker-compose=docker-compose|docker-compose-v2")
    return words


def _start_engine() -> None:
    if os.geteuid() != 0:
        raise ClusterError("no Docker engine answers: start it with 'sudo systemctl start docker'")
    STATE.mkdir(exist_ok=True)
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "start", "docker"], check=False)
    else:
        with _ENGINE_LOG.open("ab") as log:
            engine = subprocess.Popen(
                ["dockerd"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        _ENGINE_PID.write_text(f"{engine.pid}\n")
    deadline = time.monotonic() + 60
    while _engine_answer():
        if time.monotonic() > deadline:
            raise ClusterError(f"the Docker engine does not answer after 60 s; its log: {_ENGINE_LOG}")
        time.sleep(0.5)


def stop_engine() -> str:
    """Stop the engine if we started it and nothing of anybody runs in it; return one sentence."""
    if not _ENGINE_PID.exists():
        return "the Docker engine was not started from here and is left running"
    pid = int(_ENGINE_PID.read_text())
    if _command_of(pid) != "dockerd":
        _ENGINE_PID.unlink()
        return "the Docker engine that was started from here is gone already"
    if docker("ps", "-q").strip():
        return "the Docker engine started from here still runs containers and is left running"
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while _command_of(pid) == "dockerd":
        if time.monotonic() > deadline:
            raise ClusterError(f"dockerd (process {pid}) does not stop; its log: {_ENGINE_LOG}")
        time.sleep(0.2)
    _ENGINE_PID.unlink()
    return "stopped the Docker engine that was started from here"


def _command_of(pid: int) -> str | None:
    """Return the name of a live process, None for one that is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    return None if stat[stat.rindex(")") + 2] == "Z" else name


def compose_command() -> list[str]:
    """Return how compose is called here: the plugin, or the older program."""
    if quiet(["docker", "compose", "version"]).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise ClusterError("docker compose is missing: install the package docker-compose")
