"""A rehearsed script is known as proven from the user's memory through its own job to what the daemon decides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from slurmsia_daemon.intake import Intake
from slurmsia_daemon.metrics import Metrics

from slurmsia.cluster import Allocation, GpuType, Job, JobState, Node, Request, Snapshot
from slurmsia.config import JobsSection, ScopeSection
from slurmsia.deciding.eligibility import Managed, split_queue
from slurmsia.job import proof
from slurmsia.job.spool import SpoolReader
from slurmsia.moves.channel import ReportedJobs
from slurmsia.moves.standings import StandingBook
from slurmsia.store import Store

JOB_ID = "7"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(proof.VARIABLE, raising=False)


def slurmd_script(folder: Path, remark: str = "") -> Path:
    """A batch script where and as slurmd keeps it."""
    command = f"{sys.executable} -m slurmsia.job"
    path = folder / "slurm_script"
    path.write_text(
        f'#!/bin/bash\n# {remark}\nset -eu\neval "$({command} env)"\n'
        f'{command} report --event start --handles USR1\necho "proven=${{SLURMSIA_PROVEN-never}}"\n'
    )
    return path


def run(script: Path, spool: Path) -> str:
    (spool / "reports").mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "SLURM_JOB_ID": JOB_ID, "SLURMSIA_SPOOL": str(spool), "SLURM_GPUS_ON_NODE": "1"}
    done = subprocess.run(["/bin/bash", str(script)], env=env, capture_output=True, text=True, check=True)
    return done.stdout


def test_scripts_are_remembered_by_content_and_a_broken_memory_is_an_empty_one(tmp_path: Path) -> None:
    assert proof.proven_scripts() == {}
    proof.remember(b"one")
    proof.remember(b"one")
    proof.remember(b"two")
    assert len(proof.proven_scripts()) == 2
    Path(proof.memory_path()).write_text("[1, 2")
    assert proof.proven_scripts() == {}
    Path(proof.memory_path()).write_text('["a"]')
    assert proof.proven_scripts() == {}


def test_a_script_learns_from_its_own_content_that_it_was_rehearsed(tmp_path: Path) -> None:
    script = slurmd_script(tmp_path)
    assert run(script, tmp_path / "spool") == "proven=never\n"
    proof.remember(script.read_bytes())
    assert abs(float(run(script, tmp_path / "spool").partition("=")[2]) - time.time()) < 60
    slurmd_script(tmp_path, "changed since")
    assert run(script, tmp_path / "spool") == "proven=never\n"


def test_an_exported_proof_of_another_job_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(proof.VARIABLE, "1790000000")
    assert run(slurmd_script(tmp_path), tmp_path / "spool") == "proven=never\n"


def decided(tmp_path: Path, only_proven: bool) -> Managed:
    """The job as a round would see it after the daemon has read its spool."""
    now = time.time()
    job = Job(
        JOB_ID,
        os.getuid(),
        JobState.RUNNING,
        now - 5000.0,
        comment="sia: gpus=1-4 signal=USR1@60",
        start_s=now - 4000.0,
        request=Request(gpus=1),
        allocation=Allocation("t4", (("n1", 1),)),
    )
    snapshot = Snapshot(now, (Node("n1", "t4", 4, 32, 128_000),), (job,), (GpuType("t4"),))
    store = Store.open(f"sqlite:///{tmp_path / 's.db'}", "c", auto_upgrade=True)
    book = StandingBook(600.0)
    reader = SpoolReader(tmp_path / "spool", JobsSection())
    intake = Intake(store, reader, ReportedJobs(), book, Metrics())
    assert intake.round(snapshot, [])
    book.observe(snapshot)
    book.reported(JOB_ID)  # it is back at work
    standings = book.observe(snapshot)
    queue = split_queue(snapshot, standings, ScopeSection(), 600.0, only_proven=only_proven)
    return queue.managed[0]


def test_where_only_proven_scripts_are_moved_an_unproven_job_keeps_what_it_has_and_is_told(tmp_path: Path) -> None:
    script = slurmd_script(tmp_path)
    run(script, tmp_path / "spool")
    found = decided(tmp_path, only_proven=True)
    assert found.stays_code == "unproven"
    assert "slurmsia rehearse" in found.stays
    assert decided(tmp_path, only_proven=False).stays_code == ""


def test_where_only_proven_scripts_are_moved_a_rehearsed_one_may_be(tmp_path: Path) -> None:
    script = slurmd_script(tmp_path)
    proof.remember(script.read_bytes())
    run(script, tmp_path / "spool")
    found = decided(tmp_path, only_proven=True)
    assert found.standing.script_proven
    assert found.stays_code == ""


def test_a_proof_outlives_the_daemon_and_comes_before_or_after_the_first_sight(tmp_path: Path) -> None:
    now = time.time()
    job = Job(JOB_ID, 1, JobState.RUNNING, now, comment="sia: gpus=1-4", allocation=Allocation("t4", (("n1", 1),)))
    snapshot = Snapshot(now, (), (job,), (GpuType("t4"),))
    early, late = StandingBook(600.0), StandingBook(600.0)
    early.proven(JOB_ID)
    early.observe(snapshot)
    late.observe(snapshot)
    late.take_changed()
    late.proven(JOB_ID)
    assert early.get(JOB_ID) == late.get(JOB_ID)
    assert late.take_changed()[JOB_ID].script_proven
    later = StandingBook(600.0)
    later.restore(early.standings())
    later.observe(replace(snapshot, taken_s=now + 60))
    assert later.standings()[JOB_ID].script_proven
