"""Real output of every supported release, hostile names and comments included, through the parsers of the clients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slurmsia.cluster import GpuForm, Job, JobState, NodeState
from slurmsia.slurm import json_form, json_stream
from slurmsia.slurm import normalise as n
from slurmsia.slurm.limits import qos_limits
from slurmsia.slurm.sitefacts import parse_config, requeue_delay_s, version_of

CORPUS = Path(__file__).parent / "corpus"
RELEASES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
TYPES = json_form.NodeTypes({}, {}, {})


def nodes_of(release: str) -> dict[str, str | None]:
    records = json_stream.records((CORPUS / release / "nodes.json").read_bytes(), "nodes")
    return {node.name: node.gpu_type for node in json_form.nodes(records, TYPES)}


def jobs_of(release: str) -> tuple[Job, ...]:
    records = json_stream.records((CORPUS / release / "jobs.json").read_bytes(), "jobs")
    found, unreadable = json_form.jobs(records, nodes_of(release))
    assert unreadable == 0
    return found


def test_the_corpus_has_every_supported_release() -> None:
    assert {tuple(name.split(".")[:2]) for name in RELEASES} >= {("22", "05"), ("24", "11"), ("26", "05")}


@pytest.mark.parametrize("release", RELEASES)
def test_nodes_gpus_types_and_a_drained_node_are_read(release: str) -> None:
    records = json_stream.records((CORPUS / release / "nodes.json").read_bytes(), "nodes")
    nodes = {node.name: node for node in json_form.nodes(records, TYPES)}
    assert {name: (node.gpu_type, node.gpus) for name, node in nodes.items()} == {
        "a100-1": ("a100", 8),
        "rtx-1": ("rtx", 8),
        "rtx-2": ("rtx", 8),
        "t4-1": ("t4", 4),
        "t4-2": ("t4", 4),
        "t4-3": ("t4", 4),
    }
    assert nodes["rtx-2"].state is NodeState.DRAINED
    assert nodes["rtx-2"].reason == "broken fan = loud"
    assert nodes["a100-1"].state in (NodeState.UP, NodeState.RESERVED)


@pytest.mark.parametrize("release", RELEASES)
def test_hostile_names_and_comments_stay_text_and_make_no_jobs_or_fields(release: str) -> None:
    jobs = jobs_of(release)
    hostile = [job for job in jobs if job.hold == "user"]
    assert len(hostile) == 6
    assert all(job.user_id >= 1000 and job.state is JobState.PENDING for job in hostile)
    assert "line1\nJobId=1 JobName=x UserId=root(0)" in {job.comment for job in hostile}
    assert "x UserId=root(0) JobState=FAILED" in {job.name for job in hostile}
    assert len({job.id for job in jobs}) == len(jobs)


@pytest.mark.parametrize("release", RELEASES)
def test_gpus_held_are_exact_by_node_and_type(release: str) -> None:
    running = [job for job in jobs_of(release) if job.state is JobState.RUNNING and job.allocation is not None]
    held = {(job.allocation.gpu_type, job.allocation.gpus_by_node) for job in running if job.allocation}
    assert ("rtx", (("rtx-1", 3),)) in held
    assert ("a100", (("a100-1", 3),)) in held
    two = [job for job in running if job.request.nodes == 2]
    assert [[gpus for _, gpus in job.allocation.gpus_by_node] for job in two if job.allocation] == [[2, 2]]


@pytest.mark.parametrize("release", RELEASES)
def test_kinds_of_jobs_that_are_never_ours_say_why(release: str) -> None:
    reasons = {job.unmanageable for job in jobs_of(release) if job.unmanageable}
    said = " / ".join(sorted(reasons))
    for words in ("--no-requeue", "per task", "heterogeneous", "not split"):
        assert words in said, said


@pytest.mark.parametrize("release", RELEASES)
def test_the_form_of_a_gpu_request_is_kept(release: str) -> None:
    forms = {job.request.gpu_form for job in jobs_of(release)}
    assert {GpuForm.PER_NODE_UNTYPED, GpuForm.PER_NODE_TYPED, GpuForm.TOTAL} <= forms


@pytest.mark.parametrize("release", RELEASES)
def test_partitions_reservations_and_configuration_are_read(release: str) -> None:
    folder = CORPUS / release
    partitions = json_form.partitions((folder / "partitions.txt").read_text().splitlines())
    batch = next(part for part in partitions if part.name == "batch")
    assert batch.up
    assert {"t4-2", "t4-3", "rtx-2"} <= batch.nodes
    (reservation,) = json_form.reservation_lines((folder / "reservations.txt").read_text().splitlines())
    assert reservation.nodes == {"t4-1"}
    assert reservation.end_s - reservation.start_s == 3600
    config = parse_config((folder / "config.txt").read_text())
    assert version_of(config["SLURM_VERSION"])[:2] == tuple(int(part) for part in release.split(".")[:2])
    assert requeue_delay_s(config) == 121.0
    rows = [line.split("|") for line in (folder / "qos.txt").read_text().splitlines()]
    assert qos_limits(rows) == []


def test_limits_of_a_qos_become_linear_limits_on_gpus() -> None:
    rules = qos_limits([["gpu", "gres/gpu=16", "gres/gpu:a100=2,cpu=8", "gres/gpu=4", ""]])
    told = {(rule.limit.max_gpus, rule.limit.gpu_type, rule.limit.per_job, rule.each) for rule in rules}
    assert told == {(16, None, False, ""), (2, "a100", True, ""), (4, None, False, "user")}


@pytest.mark.parametrize(
    ("text", "gpus", "kind"),
    [
        ("gpu:a100:2", 2, "a100"),
        ("gres:gpu:2", 2, None),
        ("gres/gpu:a100:2", 2, "a100"),
        ("gres/gpu=2,gres/gpu:t4=2", 2, "t4"),
        ("cpu=1,mem=100M,node=1,billing=1,gres/gpu=8", 8, None),
        ("gpu:t4:2(IDX:0,3)", 2, "t4"),
        ("gpu:rtx:8(S:0-1)", 8, "rtx"),
        ("gpu:a100:2,gpu:v100:2", 4, None),
        ("gpu", 1, None),
        ("shard:t4:2(0/4,2/4)", 0, None),
        ("", 0, None),
        ("(null)", 0, None),
        ("gpu:a100:x", 1, "a100"),
    ],
)
def test_every_spelling_of_gpus_is_read(text: str, gpus: int, kind: str | None) -> None:
    assert n.gpus_in(text) == (gpus, kind)


@pytest.mark.parametrize(
    ("state", "good"),
    [
        (["IDLE"], NodeState.UP),
        (["MIXED"], NodeState.UP),
        ("MIXED+DRAIN", NodeState.DRAINED),
        (["ALLOCATED", "DRAIN"], NodeState.DRAINED),
        ("IDLE+PLANNED", NodeState.PROMISED),
        (["IDLE", "MAINTENANCE", "RESERVED"], NodeState.RESERVED),
        ("down*", NodeState.UNUSABLE),
        (["IDLE", "NOT_RESPONDING"], NodeState.UNUSABLE),
        (["IDLE", "A_WORD_OF_THE_FUTURE"], NodeState.UNUSABLE),
        (["IDLE", "CLOUD", "POWERED_DOWN"], NodeState.UNUSABLE),
        ([], NodeState.UNUSABLE),
    ],
)
def test_a_node_state_with_any_unknown_word_is_unusable(state: object, good: NodeState) -> None:
    assert n.node_state(state)[0] is good


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ({"return_code": {"set": True, "number": 7}, "signal": {"id": {"set": False, "number": 0}}}, 7),
        ({"return_code": {"set": False, "number": 0}, "signal": {"id": {"set": True, "number": 10}}}, 138),
        ({"return_code": 0, "signal": {"signal_id": 10, "name": "USR1"}}, 138),
        ({"return_code": "0", "signal": {"id": "10"}}, 138),
        ({"return_code": 0, "signal": {"id": None}}, 0),
        (0x0700, 7),
        (10, 138),
        (0, 0),
        (None, None),
    ],
)
def test_a_batch_script_that_a_signal_ended_has_its_exit_code_in_every_releases_words(
    written: object, code: int | None
) -> None:
    raw = json.loads((CORPUS / RELEASES[-1] / "jobs.json").read_bytes())
    record = {**raw["jobs"][0], "job_state": ["FAILED"], "exit_code": written}
    found, _ = json_form.jobs([record], {})
    assert found[0].exit_code == code


def test_array_task_zero_has_an_id() -> None:
    assert n.job_id(7, 7, 0) == "7_0"
    assert n.job_id(7, {"set": True, "number": 5}, {"set": True, "number": 0}) == "5_0"
    assert n.job_id(7, 0, None) == "7"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"jobs": 3}', b"[" * 100_000, b'{"jobs": [1, null, {}]}'])
def test_an_answer_that_is_no_answer_is_refused_or_empty(raw: bytes) -> None:
    try:
        records = list(json_stream.records(raw, "jobs"))
    except json_stream.UnreadableAnswer:
        return
    assert json_form.jobs(records, {}) == ((), len(records))


def test_a_record_with_any_single_field_missing_or_broken_never_raises() -> None:
    raw = json.loads((CORPUS / RELEASES[-1] / "jobs.json").read_bytes())
    record = next(job for job in raw["jobs"] if job["gres_detail"])
    for key in record:
        for value in (None, "", [], {}, -1, 10**30, "x" * 1000, [[[]]], {"set": True, "number": "nan"}):
            broken = {**record, key: value}
            found, unreadable = json_form.jobs([broken], {})
            assert len(found) + unreadable == 1
