"""``slurmsia doctor`` on a live cluster of every release."""

from __future__ import annotations

import json

import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import LiveDaemon


@pytest.mark.conformance
@pytest.mark.timeout(120)
def test_the_preflight_check_finds_nothing_to_mend_on_a_prepared_site(cluster: ClusterHandle) -> None:
    LiveDaemon(cluster).prepare()
    doctor = ["env", "-C", "/tmp", f"PYTHONPATH={PROJECT}", VENV_PYTHON, "-m", "slurmsia_cli", "doctor"]
    upgraded = ["env", "-C", "/tmp", f"PYTHONPATH={PROJECT}", VENV_PYTHON, "-m", "slurmsia_cli", "db", "upgrade"]
    cluster.run([*upgraded, "--config", "/etc/slurmsia/slurmsia.toml"], user="slurm")
    done = cluster.run([*doctor, "--config", "/etc/slurmsia/slurmsia.toml", "--json"], user="slurm", check=False)
    found = json.loads(done.stdout)
    by_check = {one["check"]: one for one in found["findings"]}
    for one in found["findings"]:
        print(one["level"], one["check"], one["what"])
    assert [one for one in found["findings"] if one["level"] == "fail"] == []
    assert done.returncode == found["exit_code"] <= 1
    assert cluster.suite.slurm in by_check["slurm-version"]["what"]
    assert {"permissions", "clock", "munge", "gpu-types", "spool", "spool-directives", "store"} <= by_check.keys()
    assert "SlurmUser" in by_check["permissions"]["what"]


@pytest.mark.conformance
@pytest.mark.timeout(120)
@pytest.mark.slurm("forky")
def test_an_ordinary_user_and_a_missing_spool_are_failures_that_say_what_to_change(cluster: ClusterHandle) -> None:
    LiveDaemon(cluster, settings={"jobs.spool_dir": "/nonexistent"}).prepare()
    doctor = ["env", "-C", "/tmp", f"PYTHONPATH={PROJECT}", VENV_PYTHON, "-m", "slurmsia_cli", "doctor"]
    done = cluster.run([*doctor, "--config", "/etc/slurmsia/slurmsia.toml", "--json"], user="alice", check=False)
    failed = {one["check"]: one for one in json.loads(done.stdout)["findings"] if one["level"] == "fail"}
    assert done.returncode == 2
    assert {"permissions", "spool", "spool-directives"} <= failed.keys()
    assert all(one["mend"] for one in failed.values())
