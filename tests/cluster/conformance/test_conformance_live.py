"""The conformance suite against live Slurm: the command client on every release, the pyslurm client where it fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness import _TEST_CONF_HEAD as TEST_CONF_HEAD
from harness import NODES_BY_CONTAINER, ClusterHandle

PLUGIN = "/etc/slurm/job_submit.lua"
#: The site's submit plugin also rewrites edits, of jobs and with features that a test names in a file.
REWRITES = """
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    local file = io.open("/tmp/slurmsia-rewrites")
    if file ~= nil then
        local name, features = file:read("*l"), file:read("*l")
        file:close()
        if job_rec.name == name and job_desc.features ~= nil then
            job_desc.features = features
        end
    end
    return slurm.SUCCESS
end

return slurm.SUCCESS
"""


PROLOG = "/etc/slurm/prolog"


@contextmanager
def the_tests_own_plugin_and_prolog(cluster: ClusterHandle) -> Iterator[None]:
    """Tests may have edits rewritten, and launches fail on their node, each for as long as a file of theirs exists."""
    plugin = cluster.read(PLUGIN)
    cluster.write(PLUGIN, plugin.rstrip().removesuffix("return slurm.SUCCESS") + REWRITES)
    cluster.write(PROLOG, "#!/bin/bash\n[ ! -e /home/slurm/launches-fail ]\n", mode="755")
    try:
        set_slurmd_config(cluster, f"Prolog={PROLOG}\n")
        yield
    finally:
        cluster.write(PLUGIN, plugin)
        set_slurmd_config(cluster, "")


def set_slurmd_config(cluster: ClusterHandle, lines: str) -> None:
    """Lines of slurm.conf that only the nodes need to read; the controller goes on as it is."""
    cluster.write("/etc/slurm/test.conf", f"{TEST_CONF_HEAD}{lines}")
    for container in NODES_BY_CONTAINER:
        cluster.run(["pkill", "-HUP", "-f", "^slurmd -N"], container=container)
    cluster.wait_for(lambda: set(cluster.nodes().values()) == {"idle"}, 60, "idle nodes")


def conforms(cluster: ClusterHandle, client: str) -> None:
    cluster.set_heartbeat(None)
    cluster.run(["install", "-d", "-o", "alice", "-m", "755", "/home/alice"])
    words = ["-q", "--maxfail=8", "--timeout=120", "--durations=5", "tests/conformance"]
    with the_tests_own_plugin_and_prolog(cluster):
        done = cluster.pytest_inside(*words, user="slurm", env={"SLURMSIA_CONFORMANCE": client}, timeout=900)
    print(done.stdout[-6000:])
    assert done.returncode == 0, f"{client} client on {cluster.suite.name}: {done.stdout[-6000:]}{done.stderr[-2000:]}"


@pytest.mark.conformance
@pytest.mark.timeout(1000)
@pytest.mark.slurm("forky", "trixie", "bookworm")
def test_the_command_client_does_what_the_protocol_promises(cluster: ClusterHandle) -> None:
    conforms(cluster, "command")


@pytest.mark.conformance
@pytest.mark.timeout(1000)
@pytest.mark.slurm("forky")
def test_the_pyslurm_client_does_what_the_protocol_promises(cluster: ClusterHandle) -> None:
    conforms(cluster, "pyslurm")


@pytest.mark.conformance
@pytest.mark.timeout(1000)
@pytest.mark.slurm("bookworm")
def test_the_command_client_does_so_too_where_slurm_prints_no_json(cluster: ClusterHandle) -> None:
    conforms(cluster, "command-text")
