"""GPU limits that a site sets with sacctmgr are read, and a shape beyond them would not start."""

from __future__ import annotations

import json

import pytest
from harness import ClusterHandle

_READ = """
import json, sys
sys.path.insert(0, "tests/cluster/clients")
from dataclasses import replace
from drive import SITE
from slurmsia.cluster import Shape
from slurmsia.reshape import Reshape
from slurmsia.slurm.command import CommandClient
client = CommandClient(SITE)
snapshot = client.snapshot()
job = next(job for job in snapshot.jobs if job.id == "%s")
say = lambda gpus: client.would_start(job, Reshape(Shape("t4", 1, gpus), 1, 1, features="t4"), snapshot)
print(json.dumps({"limits": [limit.what for limit in snapshot.limits], "two": say(2), "four": say(4),
                  "exclusive": job.request.exclusive}))
"""


def sacctmgr(cluster: ClusterHandle, *words: str, check: bool = True) -> str:
    return cluster.run(["sacctmgr", "-i", "-Q", *words], user="root", check=check).stdout


def told(cluster: ClusterHandle, job: int) -> dict[str, object]:
    from harness import PROJECT, VENV_PYTHON

    argv = ["env", "-C", PROJECT, VENV_PYTHON, "-c", _READ % job]
    found = json.loads(cluster.run(argv, user="slurm").stdout.strip().splitlines()[-1])
    print(found)
    assert isinstance(found, dict)
    return found


@pytest.mark.conformance
@pytest.mark.timeout(180)
@pytest.mark.slurm("forky", "trixie", "bookworm")
def test_limits_of_a_parent_account_and_of_a_qos_refuse_a_shape_that_slurm_would_not_start(
    cluster: ClusterHandle,
) -> None:
    account = cluster.run(
        ["sacctmgr", "-n", "-P", "show", "user", "alice", "format=DefaultAccount"], user="root"
    ).stdout.strip()
    before = sacctmgr(cluster, "-n", "-P", "show", "account", account, "withassoc", "format=ParentName", check=False)
    parent = next((line for line in before.splitlines() if line), "root")
    try:
        sacctmgr(cluster, "add", "account", "faculty", "parent=root", check=False)
        sacctmgr(cluster, "modify", "account", account, "set", "parent=faculty")
        sacctmgr(cluster, "modify", "account", "faculty", "set", "GrpTRES=gres/gpu=3")
        job = cluster.sbatch("-p", "batch", "--gres=gpu:1", "--begin=now+1hour", "--exclusive", wrap="sleep 300")
        found = told(cluster, job)
        assert found["two"] is None
        assert "account faculty" in str(found["four"])
        assert found["exclusive"] is True
        sacctmgr(cluster, "modify", "account", "faculty", "set", "GrpTRES=gres/gpu=-1")
        sacctmgr(cluster, "modify", "qos", "normal", "set", "MaxTRESPerUser=gres/gpu=3")
        found = told(cluster, job)
        assert found["two"] is None
        assert "QOS normal" in str(found["four"])
    finally:
        sacctmgr(cluster, "modify", "account", "faculty", "set", "GrpTRES=gres/gpu=-1", check=False)
        sacctmgr(cluster, "modify", "qos", "normal", "set", "MaxTRESPerUser=gres/gpu=-1", check=False)
        sacctmgr(cluster, "modify", "account", account, "set", f"parent={parent}", check=False)
        sacctmgr(cluster, "delete", "account", "faculty", check=False)
