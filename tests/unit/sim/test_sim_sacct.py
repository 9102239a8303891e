"""Accounting records of several releases become jobs; every run of a requeued job counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slurmsia.sim.clusters import load_cluster
from slurmsia.sim.runner import RunSpec, run_one
from slurmsia.sim.sacct_records import SacctError, gpus_of, read_sacct
from slurmsia.sim.sacct_replay import replay_of, speed

#: What sacct of three clusters said, whole records: requeued, cancelled, failed and lost runs among them.
ACCOUNTING = Path(__file__).parent / "accounting"
#: The same with every column that sacct has.
EVERY_COLUMN = Path(__file__).parents[1] / "slurm" / "corpus"
RELEASES = ("22.05.8", "24.11.5", "26.05.5")

ROWS = """\
JobID|JobName|User|Account|Partition|State|Submit|Eligible|Start|End|ElapsedRaw|ReqTRES|AllocTRES|NNodes|Comment
101|train|al|ml|gpu|REQUEUED|2026-11-20T08:00:00|x|2026-11-20T08:01:00|2026-11-20T08:31:00|1800|gres/gpu=4|cpu=8,gres/gpu=4,gres/gpu:t4=4|1|
101|train|al|ml|gpu|COMPLETED|2026-11-20T08:31:00|x|2026-11-20T08:33:10|2026-11-20T09:33:10|3600|gres/gpu=4|cpu=8,gres/gpu=4,gres/gpu:t4=4|1|
101.batch|batch||ml||COMPLETED|2026-11-20T08:31:00|x|2026-11-20T08:33:10|2026-11-20T09:33:10|3600||cpu=8|1|
102|cpuonly|bob|ml|cpu|COMPLETED|2026-11-20T08:05:00|x|2026-11-20T08:05:10|2026-11-20T09:00:10|3300|cpu=8|cpu=8|1|
103_4|sweep|bob|ml|gpu|COMPLETED|2026-11-20T08:10:00|x|2026-11-20T08:10:10|2026-11-20T08:13:10|180|gres/gpu=1|gres/gpu:h100=1,gres/gpu=1|1|
104|pend|bob|ml|gpu|PENDING|2026-11-20T08:10:00|Unknown|Unknown|Unknown|0|gres/gpu=1||1|
"""


def json_job(new: bool) -> dict[str, object]:
    """One record as 26.05 writes it, or as 22.05 does."""
    number = (lambda n: {"set": True, "infinite": False, "number": n}) if new else (lambda n: n)
    return {
        "job_id": 7,
        "name": "t",
        "user": "al",
        "account": "ml",
        "partition": "gpu",
        "array": {"job_id": 0, "task_id": {"set": False, "infinite": False, "number": 0} if new else None},
        "state": {"current": ["COMPLETED"] if new else "COMPLETED", "reason": "None"},
        "time": {
            "submission": number(1000) if new else 1000,
            "start": number(1060) if new else 1060,
            "end": number(1660) if new else 1660,
            "elapsed": number(600) if new else 600,
        },
        "tres": {
            "allocated": [
                {"type": "cpu", "name": "", "id": 1, "count": 8},
                {"type": "gres", "name": "gpu", "id": 1001, "count": 2},
                {"type": "gres", "name": "gpu:a100", "id": 1002, "count": 2},
            ],
            "requested": [],
        },
        "allocation_nodes": 1,
        "comment": {"job": "sia: gpus=1-4", "system": ""},
    }


@pytest.mark.parametrize("new", [True, False])
def test_json_of_old_and_new_releases_reads_alike(tmp_path: Path, new: bool) -> None:
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps({"meta": {}, "jobs": [json_job(new), {"broken": True}]}))
    read = read_sacct(file)
    (run,) = read.runs
    assert (run.gpus, run.gpu_type, run.elapsed_s, run.state) == (2, "a100", 600.0, "COMPLETED")
    assert run.comment == "sia: gpus=1-4"
    assert "1 records could not be read" in read.left_out[0]


def test_parsable_rows_keep_every_run_and_leave_steps_out(tmp_path: Path) -> None:
    file = tmp_path / "jobs.txt"
    file.write_text(ROWS)
    read = read_sacct(file)
    assert [run.job_id for run in read.runs] == ["101", "102", "104", "103_4", "101"]
    assert "1 lines are job steps" in read.left_out[0]


def test_the_runs_of_a_requeued_job_add_up_to_its_work(tmp_path: Path) -> None:
    file = tmp_path / "jobs.txt"
    file.write_text(ROWS)
    replay = replay_of(read_sacct(file).runs, load_cluster("hetero64"), "x")
    jobs = {job.name: job for job in replay.workload.jobs}
    assert set(jobs) == {"101", "103_4"}
    assert replay.work["101"] == pytest.approx(5400.0 * speed("t4", 4))
    assert jobs["101"].declared
    assert not jobs["103_4"].declared
    assert any("h100" in note for note in replay.notes)
    assert all(sentence.startswith("assumed") for sentence in replay.assumptions)


@pytest.mark.parametrize(
    ("tres", "found"),
    [
        ("cpu=8,gres/gpu=4,gres/gpu:a100=4", (4, "a100")),
        ("gres:gpu:t4=2", (2, "t4")),
        ("gres/gpu=3", (3, None)),
        ("cpu=1", (0, None)),
    ],
)
def test_gpus_are_read_from_any_spelling_of_tres(tres: str, found: tuple[int, str | None]) -> None:
    assert gpus_of(tres) == found


@pytest.mark.parametrize("text", ["", "{", "a|b\n1|2\n", "JobID|Submit|Start|End\n"])
def test_what_is_not_sacct_output_says_what_to_run(tmp_path: Path, text: str) -> None:
    file = tmp_path / "odd"
    file.write_text(text)
    with pytest.raises(SacctError, match="sacct"):
        replay_of(read_sacct(file).runs, load_cluster("hetero64"), "x")


@pytest.mark.parametrize("policy", ["slurm", "sia"])
def test_a_sites_records_replay_to_the_end_and_say_what_was_assumed(tmp_path: Path, policy: str) -> None:
    file = tmp_path / "jobs.txt"
    file.write_text(ROWS)
    result = run_one(RunSpec(policy, sacct_file=file))
    assert {job.name for job in result.jobs} == {"101", "103_4"}
    assert all(job.end_s > job.start_s >= job.submit_s for job in result.jobs)
    assert len(result.assumptions) == 3
    if policy == "slurm":
        train = next(job for job in result.jobs if job.name == "101")
        assert train.segments[0].gpus == 4
        assert train.end_s - train.start_s == pytest.approx(5400.0, rel=0.01)


@pytest.mark.parametrize("release", RELEASES)
def test_both_forms_of_a_real_clusters_records_say_the_same(release: str) -> None:
    table, document = (read_sacct(ACCOUNTING / f"{release}.{form}") for form in ("txt", "json"))
    assert table.left_out == document.left_out == ()
    assert len(table.runs) >= 14
    told = [
        [
            (run.job_id, run.name, run.user, run.partition, run.submit_s, run.start_s, run.elapsed_s, run.gpus)
            for run in sorted(read.runs, key=lambda run: (run.job_id, run.submit_s))
        ]
        for read in (table, document)
    ]
    assert told[0] == told[1]
    assert max(len([run for run in table.runs if run.job_id == one.job_id]) for one in table.runs) > 1


@pytest.mark.parametrize("policy", ["slurm", "sia"])
@pytest.mark.parametrize("name", [*(f"{of}.{form}" for of in RELEASES for form in ("txt", "json")), *RELEASES])
def test_a_real_clusters_records_replay_whatever_release_and_form(name: str, policy: str) -> None:
    file = ACCOUNTING / name if name not in RELEASES else EVERY_COLUMN / name / "sacct.txt"
    ran = {run.job_id for run in read_sacct(file).runs if run.gpus and run.elapsed_s > 0}
    result = run_one(RunSpec(policy, sacct_file=file))
    assert {job.name for job in result.jobs} == ran
    assert all(job.end_s > job.start_s >= job.submit_s for job in result.jobs)


def test_a_run_that_had_not_ended_counts_as_far_as_it_went(tmp_path: Path) -> None:
    file = tmp_path / "jobs.txt"
    file.write_text(
        "JobID|JobName|User|State|Submit|Start|End|ElapsedRaw|AllocTRES\n"
        "7|train|al|RUNNING|2026-11-20T08:00:00|2026-11-20T08:01:00|Unknown|1800|gres/gpu=2\n"
    )
    read = read_sacct(file)
    assert read.runs[0].elapsed_s == 1800.0
    replay = replay_of(read.runs, load_cluster("hetero64"), "x")
    assert replay.work["7"] == pytest.approx(1800.0 * speed(None, 2))
    assert any("had not ended" in note for note in replay.notes)
