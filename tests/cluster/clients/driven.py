"""Starts ``drive.py`` in a test cluster's controller and judges what it found."""

from __future__ import annotations

import json
from typing import Any

from harness import PROJECT, VENV_PYTHON, ClusterHandle, Process

#: What the scheduler of a busy machine may add to a call's deadline (seconds), and how late a beat may be.
_SLACK_S = 1.5
_LATE_MS = 100.0


def driven(
    cluster: ClusterHandle, client: str, seconds: float, kills: int = 0, deadline_s: float = 2.0
) -> Process:  # fmt: skip
    """The client at work in a process of the controller; returns when it has begun."""
    argv = ["env", "-C", PROJECT, VENV_PYTHON, "tests/cluster/clients/drive.py", client]
    argv += [str(seconds), str(kills), str(deadline_s)]
    process = cluster.spawn(argv, user="slurm")
    cluster.wait_for(lambda: "ready" in process.output(), 60, f"the client to be ready ({process.log})")
    return process


def outcome(cluster: ClusterHandle, process: Process, timeout: float) -> dict[str, Any]:
    """What it found, once it has ended, with what must hold whatever happened meanwhile."""
    cluster.wait_for(lambda: not process.is_alive(), timeout, f"the client to finish ({process.log})")
    said = process.output()
    print(said)
    found = json.loads(said.strip().splitlines()[-1])
    assert isinstance(found, dict)
    assert found["strange"] == [], "only named errors"
    assert found["recovered"], "everything recovers without help"
    assert found["worst_beyond_deadline_s"] <= _SLACK_S, "unavailability is said within the deadline"
    late_ms = found["heartbeat_worst_late_without_waiting_for_a_processor_ms"]
    idle_ms = found["idle_process_worst_late_ms"]
    assert late_ms <= _LATE_MS + idle_ms, "the calling process is never blocked (beyond what an idle process sees)"
    return found
