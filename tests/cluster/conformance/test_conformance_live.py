"""The conformance suite against live Slurm: the command client on every release, the pyslurm client where it fits."""

from __future__ import annotations

import pytest
from harness import ClusterHandle


def conforms(cluster: ClusterHandle, client: str) -> None:
    cluster.set_heartbeat(None)
    cluster.run(["install", "-d", "-o", "alice", "-m", "755", "/home/alice"])
    done = cluster.pytest_inside(
        "-q", "-x", "--timeout=120", "tests/conformance", user="slurm", env={"SLURMSIA_CONFORMANCE": client}
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0, f"{client} client on {cluster.suite.name}: {done.stdout[-6000:]}{done.stderr[-2000:]}"


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.slurm("forky", "trixie", "bookworm")
def test_the_command_client_does_what_the_protocol_promises(cluster: ClusterHandle) -> None:
    conforms(cluster, "command")


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.slurm("forky")
def test_the_pyslurm_client_does_what_the_protocol_promises(cluster: ClusterHandle) -> None:
    conforms(cluster, "pyslurm")


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.slurm("bookworm")
def test_the_command_client_does_so_too_where_slurm_prints_no_json(cluster: ClusterHandle) -> None:
    conforms(cluster, "command-text")
