"""The submit plugin inside a real slurmctld: leases, mistakes told to the user, and doing nothing without a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from harness import ClusterHandle

PLUGIN = Path(__file__).parents[3] / "contrib" / "job_submit.lua"
INSTALLED = "/etc/slurm/job_submit.lua"
SCRIPT = "#!/bin/sh\nsleep 60\n"


@pytest.fixture
def site(cluster: ClusterHandle) -> Iterator[ClusterHandle]:
    """The cluster with this checkout's plugin, as Slurm reads it again when the file changes."""
    before = cluster.read(INSTALLED)
    cluster.write(INSTALLED, PLUGIN.read_text(), owner="root")
    yield cluster
    cluster.write(INSTALLED, before, owner="root")


def submit(cluster: ClusterHandle, comment: str) -> tuple[dict[str, str], str]:
    command = ["sbatch", "--parsable", "--partition=elastic", "--gres=gpu:1", f"--comment={comment}"]
    done = cluster.run(command, user="alice", input=SCRIPT)
    return cluster.show_job(done.stdout.split(";")[0].strip()), done.stderr


def test_a_declared_job_waits_on_a_lease_while_the_daemon_is_at_work(site: ClusterHandle) -> None:
    site.set_heartbeat(5)
    job, told = submit(site, "sia: gpus=1-4 signal=USR1@30")
    begin_s = datetime.fromisoformat(job["EligibleTime"]).timestamp()
    now_s = datetime.fromisoformat(job["SubmitTime"]).timestamp()
    assert 590 <= begin_s - now_s <= 610
    assert job["JobState"] == "PENDING"
    assert job["Priority"] != "0"
    assert "starts by itself in 10 min" in told


def test_without_a_daemon_a_declared_job_simply_starts(site: ClusterHandle) -> None:
    site.set_heartbeat(3600)
    job, told = submit(site, "sia: gpus=1-4")
    assert "slurmsia" not in told
    site.wait_for_state(job["JobId"], "RUNNING")


def test_a_mistake_is_told_to_the_user_and_the_job_starts_as_it_was_submitted(site: ClusterHandle) -> None:
    site.set_heartbeat(5)
    begun = time.monotonic()
    job, told = submit(site, "sia: gpu=1-4")
    assert "unknown key gpu=" in told
    site.wait_for_state(job["JobId"], "RUNNING")
    assert time.monotonic() - begun < 60


def test_a_job_without_words_is_not_touched(site: ClusterHandle) -> None:
    site.set_heartbeat(5)
    job, told = submit(site, "an ordinary job")
    assert "slurmsia" not in told
    site.wait_for_state(job["JobId"], "RUNNING")
