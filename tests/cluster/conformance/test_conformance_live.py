"""The conformance suite against live Slurm: the command client on every release, the pyslurm client where it fits."""

from __future__ import annotations

import pytest
from harness import ClusterHandle

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


def conforms(cluster: ClusterHandle, client: str) -> None:
    cluster.set_heartbeat(None)
    cluster.run(["install", "-d", "-o", "alice", "-m", "755", "/home/alice"])
    plugin = cluster.read(PLUGIN)
    words = ["-q", "--maxfail=8", "--timeout=120", "--durations=5", "tests/conformance"]
    try:
        cluster.write(PLUGIN, plugin.rstrip().removesuffix("return slurm.SUCCESS") + REWRITES)
        done = cluster.pytest_inside(*words, user="slurm", env={"SLURMSIA_CONFORMANCE": client}, timeout=900)
    finally:
        cluster.write(PLUGIN, plugin)
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
