"""The API of a real daemon on a real cluster, asked by ordinary users from a node over TCP with MUNGE."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest
from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import LiveDaemon
from slurmsia_cli.schema import schema_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

PORT = 7843
NODE = "compute-t4"
DECLARED = "--comment=sia: gpus=1-4 signal=USR1@20"
SLURMSIA = ["env", "-C", PROJECT, VENV_PYTHON, "-m", "slurmsia_cli"]
#: Asks once with a credential made by the caller: argv = host, how. Prints status and sentence.
ASK = """
import http.client, json, sys, time
from slurmsia import credential
host, how = sys.argv[1:3]
made = credential.encode(credential.digest("GET", "/v1/status", b""))
headers = {} if how == "none" else {"Authorization": "MUNGE " + made}
if how == "forged":
    middle = len(made) // 2
    headers["Authorization"] = "MUNGE " + made[:middle] + ("A" if made[middle] != "A" else "B") + made[middle + 1:]
if how == "expired":
    time.sleep(5)
for turn in range(2 if how == "replayed" else 1):
    connection = http.client.HTTPConnection(host, int(sys.argv[3]), timeout=10)
    connection.request("GET", "/v1/status", headers=headers)
    answer = connection.getresponse()
    body = json.loads(answer.read())
print(json.dumps([answer.status, body.get("detail", "")]))
"""


@pytest.fixture
def daemon(cluster: ClusterHandle) -> Iterator[LiveDaemon]:
    """A daemon with its API on TCP; jobs are private."""
    cluster.set_extra_config("PrivateData=jobs\n")
    made = LiveDaemon(cluster, {"api.socket": "", "api.listen": f"0.0.0.0:{PORT}", "api.credential_age_s": 4.0})
    try:
        made.prepare()
        made.start()
        cluster.wait_for(lambda: ask(cluster, "good")[0] == 200, 20, "the API to answer on TCP")
        yield made
    finally:
        made.stop()
        cluster.set_extra_config("")


def ask(cluster: ClusterHandle, how: str, user: str = "alice") -> tuple[int, str]:
    done = cluster.run(
        ["env", "-C", PROJECT, VENV_PYTHON, "-c", ASK, "controller", how, str(PORT)],
        user=user,
        container=NODE,
        check=False,
    )
    if done.returncode != 0:
        return 0, done.stderr
    status, sentence = json.loads(done.stdout)
    return int(status), str(sentence)


def slurmsia(cluster: ClusterHandle, *words: str, user: str = "alice") -> tuple[int, str, str]:
    done = cluster.run(
        [*SLURMSIA, *words], user=user, container=NODE, check=False,
        env={"SLURMSIA_API": f"http://controller:{PORT}", "LANG": "C.UTF-8"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_user_on_a_node_can_use_every_command_and_nothing_that_is_not_his(
    cluster: ClusterHandle, daemon: LiveDaemon
) -> None:
    mine = cluster.sbatch("-p", "elastic", "--gres=gpu:1", "--requeue", DECLARED, wrap="sleep 200", user="alice")
    others = cluster.sbatch("-p", "elastic", "--gres=gpu:1", "--requeue", DECLARED, wrap="sleep 200", user="bob")

    def decided() -> bool:
        code, out, _ = slurmsia(cluster, "jobs", "--json")
        return code == 0 and any(row["verdict"] for row in json.loads(out)["jobs"] if row["job_id"] == str(mine))

    cluster.wait_for(decided, 60, "a verdict on alice's job", every=1.0)
    newest = json.loads(slurmsia(cluster, "rounds", "-n", "1", "--json")[1])["rounds"][0]["round_id"]
    for words in (
        ("status",), ("jobs",), ("jobs", "--me"), ("job", str(mine)), ("why", str(mine)), ("gpus",), ("plan", "--all"),
        ("estimate", str(mine)), ("history",), ("history", "-j", str(mine)), ("rounds", "-n", "3"),
        ("rounds", str(newest)), ("models", "list"), ("policy", "show"),
    ):  # fmt: skip
        code, out, err = slurmsia(cluster, *words)
        assert code == 0, f"{words}: {err}"
        assert out.strip(), words
        assert "bob" not in out, f"{words} shows bob's job"
        code, out, err = slurmsia(cluster, *words, "--json")
        assert code == 0, f"{words}: {err}"
        command = " ".join(words[:2]) if words[0] in ("models", "policy") else words[0]
        jsonschema.validate(json.loads(out), schema_of(command))
        assert f'"{others}"' not in out, f"{words} --json shows bob's job"
        assert "bob" not in out, f"{words} --json shows bob's job"
    assert slurmsia(cluster, "jobs", "-h", "-o", "%i")[1].split() == [str(mine)]
    code, out, _ = slurmsia(cluster, "models")
    assert (code, "bob" in out) == (0, False)
    for words in (
        ("job", str(others)),
        ("why", str(others)),
        ("estimate", str(others)),
        ("history", "-j", str(others)),
    ):
        code, out, err = slurmsia(cluster, *words)
        assert code == 5, f"{words}: {out}"
        assert "that you may see" in err

    for words in (("pause",), ("resume",), ("reconfigure",), ("pin", str(mine)), ("release", str(mine))):
        code, _, err = slurmsia(cluster, *words)
        assert code == 4, words
        assert "is for operators" in err
        assert "alice" in err

    code, out, err = slurmsia(cluster, "pause", "a", "test", user="slurm")
    assert code == 0, err
    cluster.wait_for(lambda: "paused" in slurmsia(cluster, "status")[1], 20, "the pause to be shown", every=1.0)
    assert "paused by slurm: a test" in slurmsia(cluster, "status")[1]
    assert slurmsia(cluster, "resume", user="slurm")[0] == 0
    rows = daemon.query("select who, what from operator_actions order by t_s")
    assert ["slurm", "pause"] in rows
    assert all(row[0] != "alice" for row in rows)


def test_a_user_submits_declares_and_reports_from_a_node(cluster: ClusterHandle, daemon: LiveDaemon) -> None:
    command = " ".join(SLURMSIA)
    script = (
        "#!/bin/bash\n#SBATCH --partition=elastic --output=/home/alice/%j.out\n"
        f"{command} report --event start\n{command} report --samples 4096 --seconds 1.2\nsleep 200\n"
    )
    cluster.write("/home/alice/train.sh", script, container=NODE, owner="alice")
    code, out, err = slurmsia(cluster, "submit", "gpus=1-2", "signal=USR1@20", "/home/alice/train.sh")
    assert code == 0, err
    job = out.split()[-1]
    cluster.wait_for(lambda: daemon.query("select 1 from observations limit 1"), 25, "the report of the job", every=1.0)
    code, out, err = slurmsia(cluster, "estimate", "/home/alice/train.sh")
    assert code == 0, err
    waiting = cluster.sbatch("-p", "elastic", "--gres=gpu:1", "--begin=now+10", wrap="sleep 300", user="alice")
    assert slurmsia(cluster, "declare", str(waiting), "gpus=1-4", "signal=USR1@20")[0] == 0
    cluster.wait_for(
        lambda: any(
            row["managed"] for row in json.loads(slurmsia(cluster, "jobs", "-j", str(waiting), "--json")[1])["jobs"]
        ),
        40, "the declared job to be managed", every=1.0,
    )  # fmt: skip
    assert job in slurmsia(cluster, "status")[1].split()


def test_no_forged_expired_or_replayed_credential_is_let_in(cluster: ClusterHandle, daemon: LiveDaemon) -> None:
    assert ask(cluster, "good") == (200, "")
    status, sentence = ask(cluster, "none")
    assert (status, "MUNGE credential" in sentence) == (401, True)
    assert ask(cluster, "forged")[0] == 401
    status, sentence = ask(cluster, "expired")
    assert (status, "s old" in sentence) == (401, True)
    status, sentence = ask(cluster, "replayed")
    assert (status, "replayed" in sentence.lower()) == (401, True)


def test_a_daemon_that_is_gone_is_said_with_what_to_do(cluster: ClusterHandle, daemon: LiveDaemon) -> None:
    daemon.stop()
    code, _, err = slurmsia(cluster, "status")
    assert code == 3
    assert "does not answer" in err
    assert "SLURMSIA_API" in err
    code, _, err = slurmsia(cluster, "release-all")
    assert (code, err.strip() != "") == (2, True), "no policy file on a node: a sentence"
    job = cluster.sbatch("-p", "elastic", "--gres=gpu:1", "--requeue", DECLARED, wrap="sleep 100", user="alice")
    done = cluster.run([*SLURMSIA, "release-all", "--json"], user="slurm", check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    jsonschema.validate(found, schema_of("release-all"))
    assert str(job) not in found["left"]


def test_prometheus_scrapes_the_rounds_of_the_daemon_without_a_credential(
    cluster: ClusterHandle, daemon: LiveDaemon
) -> None:
    def scraped() -> str:
        ask_for = f"import urllib.request as u; print(u.urlopen('http://controller:{PORT}/v1/metrics').read().decode())"
        return cluster.run([VENV_PYTHON, "-c", ask_for], user="alice", container=NODE, check=False).stdout

    cluster.wait_for(lambda: "slurmsia_rounds_total{" in scraped(), 30, "a round to be among the metrics")
    assert "slurmsia_leader 1.0" in scraped().splitlines()
