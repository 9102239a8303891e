"""Every route answers with what its published schema says, from the last state and the store alone."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import jsonschema
import pytest
from slurmsia_daemon.api.app import Api
from slurmsia_daemon.api.rows import known_rate
from slurmsia_daemon.api.stage import Stage
from slurmsia_daemon.posted_reports import BothSpools

from slurmsia.job.names import report_name
from slurmsia.models.base import JobModel

READS = ("status", "jobs", "gpus", "plan?all=true", "rounds", "history", "models", "policy", "healthz")


def document(client: httpx.Client) -> dict[str, object]:
    return dict(client.get("/v1/openapi.json").json())


def validate(client: httpx.Client, path: str, method: str, answer: httpx.Response) -> None:
    described = document(client)
    route = described["paths"][path][method]["responses"][str(answer.status_code)]  # type: ignore[index]
    kind = next(iter(route["content"]))
    assert answer.headers["content-type"].startswith(kind)
    schema = {**route["content"][kind]["schema"], "components": described["components"]}
    jsonschema.validate(answer.json(), schema)


@pytest.mark.parametrize("path", READS)
def test_an_answer_is_what_the_published_schema_says(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/v1/{path}")
    assert answer.status_code == 200, answer.text
    validate(client, f"/v1/{path.partition('?')[0]}", "get", answer)


def a_managed_job(client: httpx.Client, mine: bool = True) -> dict[str, object]:
    me = client.get("/v1/status").json()["caller"]["user_id"]
    rows = client.get("/v1/jobs?managed=true&state=running").json()["jobs"]
    return next(row for row in rows if (row["user_id"] == me) is mine)


def test_a_job_has_a_curve_for_each_type_with_its_uncertainty(client: httpx.Client) -> None:
    row = a_managed_job(client)
    answer = client.get(f"/v1/jobs/{row['job_id']}")
    validate(client, "/v1/jobs/{job_id}", "get", answer)
    curves = answer.json()["curves"]
    assert {curve["gpu_type"] for curve in curves} == {"a100", "rtx", "t4"}
    for curve in curves:
        assert all(point["low"] < point["goodput"] < point["high"] for point in curve["points"])
        gpus = [point["gpus"] for point in curve["points"]]
        assert gpus == sorted(set(gpus))


def test_a_speed_that_is_only_assumed_is_not_told_as_a_rate(client: httpx.Client) -> None:
    assert known_rate({"1": JobModel("1")}, "1", 65536.0) == 0.0
    assert known_rate({"1": JobModel("1", known=True)}, "1", 250.0) == 250.0
    for row in client.get("/v1/plan?all=true").json()["decisions"]:
        assert not row["expected_goodput"] or "speed not yet known" not in row["sentence"]


def test_why_names_the_sentence_and_what_else_was_considered(client: httpx.Client) -> None:
    row = a_managed_job(client)
    answer = client.get(f"/v1/jobs/{row['job_id']}/why")
    validate(client, "/v1/jobs/{job_id}/why", "get", answer)
    assert answer.json()["sentence"] == row["sentence"]
    assert answer.json()["before"], "the store remembers what was said in earlier rounds"


def test_an_undeclared_job_is_told_the_exact_line_that_would_let_it_be_managed(client: httpx.Client) -> None:
    rows = client.get("/v1/jobs?managed=false").json()["jobs"]
    advice = client.get(f"/v1/jobs/{rows[0]['job_id']}").json()["advice"]
    assert advice[0]["line"] == "#SBATCH --comment='sia: gpus=1-4 signal=USR1@60'"


def test_every_line_of_advice_is_a_declaration_that_parses(client: httpx.Client) -> None:
    from slurmsia.declaration import parse

    lines = [
        advice["line"]
        for row in client.get("/v1/jobs").json()["jobs"]
        for advice in client.get(f"/v1/jobs/{row['job_id']}").json()["advice"]
        if advice["line"].startswith("#SBATCH --comment=")
    ]
    assert lines
    for line in lines:
        assert parse(line.removeprefix("#SBATCH --comment=")[1:-1]) is not None


def test_an_estimate_is_a_range_and_a_job_that_runs_starts_at_once_where_it_is(client: httpx.Client) -> None:
    row = a_managed_job(client)
    answer = client.get(f"/v1/jobs/{row['job_id']}/estimate")
    validate(client, "/v1/jobs/{job_id}/estimate", "get", answer)
    options = answer.json()["options"]
    for option in options:
        if option["end_high_s"] is not None:
            assert option["end_low_s"] <= option["end_high_s"]
        if option["run_high_s"] is not None:
            assert option["run_low_s"] < option["run_high_s"]
    here = [o for o in options if (o["shape"]["gpu_type"], o["shape"]["gpus"]) == (row["gpu_type"], row["gpus"])]
    assert here[0]["start_high_s"] == 0.0


def test_a_script_that_was_not_submitted_gets_an_estimate_too(client: httpx.Client) -> None:
    answer = client.post("/v1/estimate", json={"comment": "sia: gpus=1-4", "name": "new"})
    assert answer.status_code == 200, answer.text
    validate(client, "/v1/estimate", "post", answer)
    assert {option["shape"]["gpus"] for option in answer.json()["options"]} <= {1, 2, 4}


def test_filters_are_squeues(client: httpx.Client, me: str) -> None:
    rows = client.get("/v1/jobs").json()["jobs"]
    mine = client.get("/v1/jobs", params={"user": me}).json()["jobs"]
    assert 0 < len(mine) < len(rows)
    assert client.get("/v1/jobs?state=PD").json()["jobs"] == [r for r in rows if r["state"] == "pending"]
    one = client.get("/v1/jobs", params={"job": rows[0]["job_id"]}).json()["jobs"]
    assert [row["job_id"] for row in one] == [rows[0]["job_id"]]


def test_gpus_of_the_map_add_up_to_those_of_the_types(client: httpx.Client) -> None:
    answer = client.get("/v1/gpus").json()
    for use in answer["types"]:
        nodes = [node for node in answer["nodes"] if node["gpu_type"] == use["gpu_type"]]
        assert sum(node["gpus"] for node in nodes) == use["total"]
        assert sum(held["gpus"] for node in nodes for held in node["held"] if held["managed"]) == use["managed"]
        assert sum(node["free"] for node in nodes) == use["free"]


def test_a_round_of_the_store_shows_what_it_decided(client: httpx.Client) -> None:
    newest = client.get("/v1/rounds?limit=1").json()["rounds"][0]["round_id"]
    answer = client.get(f"/v1/rounds/{newest}")
    validate(client, "/v1/rounds/{round_id}", "get", answer)
    assert answer.json()["decisions"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("jobs/99999999", 404), ("jobs/abc", 422), ("rounds/987654", 404), ("nowhere", 404), ("jobs?limit=0", 422)],
)
def test_errors_are_problem_documents_with_a_sentence(client: httpx.Client, path: str, status: int) -> None:
    answer = client.get(f"/v1/{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["detail"].endswith(".")


def test_a_report_posted_by_the_owner_reaches_the_loop(client: httpx.Client, api: Api, stage: Stage) -> None:
    row = a_managed_job(client)
    job = stage.holder.view().jobs[str(row["job_id"])]
    line = {"v": 1, "job": int(job.id), "restart": job.restarts, "seq": 900, "t": api.clock(), "ev": "progress",
            "progress": {"samples": 12.0}}  # fmt: skip
    answer = client.post(f"/v1/jobs/{job.id}/reports", json=line)
    assert answer.status_code == 202, answer.text
    batch = BothSpools(api.config).poll({(job.id, job.restarts): (job.user_id, job.allocation)})
    assert [(report.job_id, report.seq) for report in batch.reports] == [(job.id, 900)]
    again = client.post(f"/v1/jobs/{job.id}/reports", json=line)
    assert again.status_code == 409
    name = report_name(job.id, job.restarts, __import__("os").geteuid())
    assert len((Path(api.config.daemon.state_dir) / "posted" / "reports" / name).read_text().splitlines()) == 1


def test_a_report_for_somebody_elses_job_is_refused(client: httpx.Client) -> None:
    other = a_managed_job(client, mine=False)
    answer = client.post(f"/v1/jobs/{other['job_id']}/reports", json={"v": 1})
    assert answer.status_code == 403
    assert "owner" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"nonsense", b'{"v":1}\n{"v":1}'])
def test_a_bad_report_is_refused_with_a_sentence(client: httpx.Client, body: bytes) -> None:
    row = a_managed_job(client)
    answer = client.post(f"/v1/jobs/{row['job_id']}/reports", content=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_metrics_name_no_job_and_no_user(client: httpx.Client, me: str) -> None:
    text = client.get("/v1/metrics").text
    assert "slurmsia_rounds_total" in text
    names = {
        word.split("=")[0] for line in text.splitlines() for word in line.partition("{")[2].split(",") if "=" in word
    }
    assert not names & {"job", "job_id", "user", "name"}
    assert json.dumps(me) not in text
