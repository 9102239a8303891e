"""Nobody is let in without proof, nobody is more than the proof says, and nobody asks more than his share."""

from __future__ import annotations

import dataclasses
import os
import pwd
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from api_door import OTHER_UID, Door, Munged, free_port
from slurmsia_daemon.api.app import Api, make_app
from slurmsia_daemon.api.callers import Caller, CallerCheck
from slurmsia_daemon.api.limits import RateLimit
from slurmsia_daemon.api.stage import Stage
from slurmsia_daemon.api.state import View

from slurmsia import credential

KEY = b"k" * 32
OPERATIONS = ("pause", "resume", "reconfigure")


class As(CallerCheck):
    """Every caller is one given user: what routes do once the proof is made."""

    def __init__(self, api: Api, caller: Caller) -> None:
        super().__init__(api.config.api)
        self._caller = caller

    def caller(self, client: str, method: str, target: str, body: bytes, headers: dict[str, str]) -> Caller:
        return self._caller


@pytest.fixture
def tcp(api: Api, munged: Munged, tmp_path: Path) -> Iterator[str]:
    """The API on TCP, with our munged and a token key."""
    (tmp_path / "key").write_bytes(KEY)
    section = api.config.api.model_copy(
        update={
            "socket": "", "listen": f"127.0.0.1:{free_port()}", "munge_socket": munged.socket,
            "jwt_key_file": str(tmp_path / "key"), "largest_request_kb": 64.0,
        }
    )  # fmt: skip
    api.check = CallerCheck(section)
    api.config = api.config.model_copy(update={"api": section})
    with Door(make_app(api), section):
        yield f"http://{section.listen}"


def munge(munged: Munged, method: str, target: str, body: bytes = b"") -> dict[str, str]:
    made = credential.encode(credential.digest(method, target, body), munged.socket)
    return {"Authorization": f"MUNGE {made}"}


def test_a_munge_credential_over_the_request_proves_the_caller(tcp: str, munged: Munged, me: str) -> None:
    answer = httpx.get(f"{tcp}/v1/status", headers=munge(munged, "GET", "/v1/status"))
    assert answer.status_code == 200
    assert answer.json()["caller"] == {"user": me, "user_id": os.getuid(), "operator": True, "by": "munge"}


def test_without_a_credential_tcp_lets_nobody_in(tcp: str) -> None:
    answer = httpx.get(f"{tcp}/v1/status")
    assert answer.status_code == 401
    assert "MUNGE" in answer.headers["WWW-Authenticate"]
    assert "MUNGE credential" in answer.json()["detail"]


@pytest.mark.parametrize("value", ["MUNGE nonsense", "MUNGE:AwQDAAC=:", "MUNGE x", "Basic cm9vdDo=", "Bearer abc"])
def test_a_forged_credential_is_refused(tcp: str, value: str) -> None:
    assert httpx.get(f"{tcp}/v1/status", headers={"Authorization": value}).status_code == 401


def test_a_replayed_credential_is_refused(tcp: str, munged: Munged) -> None:
    headers = munge(munged, "GET", "/v1/status")
    assert httpx.get(f"{tcp}/v1/status", headers=headers).status_code == 200
    again = httpx.get(f"{tcp}/v1/status", headers=headers)
    assert again.status_code == 401
    assert "eplayed" in again.json()["detail"]


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/v1/jobs", b""),
        ("POST", "/v1/status", b""),
        ("GET", "/v1/status", b"x"),
        ("GET", "/v1/status?a=1", b""),
    ],
)
def test_a_credential_for_another_request_is_refused(
    tcp: str, munged: Munged, method: str, target: str, body: bytes
) -> None:
    answer = httpx.get(f"{tcp}/v1/status", headers=munge(munged, method, target, body))
    assert answer.status_code == 401
    assert "another request" in answer.json()["detail"]


def test_the_body_is_part_of_what_is_proven(tcp: str, munged: Munged) -> None:
    headers = munge(munged, "POST", "/v1/pause", b'{"reason":"a"}')
    answer = httpx.post(f"{tcp}/v1/pause", content=b'{"reason":"b"}', headers=headers)
    assert answer.status_code == 401


def test_an_old_credential_is_refused(munged: Munged) -> None:
    made = credential.encode(credential.digest("GET", "/v1/status", b""), munged.socket)
    time.sleep(2.1)
    with pytest.raises(credential.MungeError, match="s old"):
        credential.check(made, "GET", "/v1/status", b"", 1.0, munged.socket)


def test_a_missing_munged_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(credential.MungeError, match="mung"):
        credential.encode(b"x", str(tmp_path / "no-socket"))


def token(user: str, key: bytes = KEY, **claims: object) -> dict[str, str]:
    body = {"sun": user, "exp": int(time.time()) + 60, **claims}
    return {"Authorization": f"Bearer {jwt.encode(body, key, 'HS256')}"}


def test_slurms_token_proves_the_caller(tcp: str) -> None:
    nobody = pwd.getpwuid(OTHER_UID).pw_name
    answer = httpx.get(f"{tcp}/v1/status", headers=token(nobody))
    assert answer.json()["caller"] == {"user": nobody, "user_id": OTHER_UID, "operator": False, "by": "jwt"}


def test_tokens_that_are_expired_of_another_key_or_unsigned_are_refused(tcp: str, me: str) -> None:
    unsigned = {"Authorization": f"Bearer {jwt.encode({'sun': me, 'exp': int(time.time()) + 60}, '', 'none')}"}
    for headers in (token(me, exp=int(time.time()) - 5), token(me, key=b"x" * 32), unsigned, token("no-such-user")):
        assert httpx.get(f"{tcp}/v1/status", headers=headers).status_code == 401


def test_a_token_without_an_end_is_refused(tcp: str, me: str) -> None:
    endless = jwt.encode({"sun": me}, KEY, "HS256")
    assert httpx.get(f"{tcp}/v1/status", headers={"Authorization": f"Bearer {endless}"}).status_code == 401


def test_the_peer_of_the_socket_is_named_by_the_kernel_and_no_header_changes_it(client: httpx.Client) -> None:
    headers = {"X-Forwarded-For": "peer-uid:65534", "Forwarded": "for=peer-uid:65534", "X-Real-IP": "peer-uid:65534"}
    caller = client.get("/v1/status", headers=headers).json()["caller"]
    assert (caller["user_id"], caller["by"]) == (os.getuid(), "peer")


def test_a_large_request_is_refused_before_it_is_read(tcp: str, munged: Munged) -> None:
    body = b"x" * 70_000
    answer = httpx.post(f"{tcp}/v1/estimate", content=body, headers=munge(munged, "POST", "/v1/estimate", body))
    assert answer.status_code == 413
    host, port = tcp.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as raw:
        raw.sendall(b"POST /v1/estimate HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        assert b"413" in raw.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operators_commands_are_refused_to_users_with_a_sentence(api: Api, stage: Stage, kind: str) -> None:
    api.check = As(api, Caller(OTHER_UID, "nobody", False, "munge"))
    with Door(make_app(api), api.config.api) as door, unix(door) as client:
        answer = client.post(f"/v1/{kind}")
        assert answer.status_code == 403
        assert answer.json()["detail"].startswith(f"{kind} is for operators")
    assert not stage.wishes


def test_an_operators_wish_reaches_the_loop_with_his_name_and_reason(
    client: httpx.Client, stage: Stage, me: str
) -> None:
    answer = client.post("/v1/pause", json={"reason": "maintenance"})
    client.post("/v1/resume")
    assert answer.status_code == 202
    wish = stage.wishes[0]
    assert (wish.kind, wish.who, wish.user_id, wish.reason) == ("pause", me, os.getuid(), "maintenance")


def unix(door: Door) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=door.socket), base_url="http://slurmsia")


def private(stage: Stage) -> View:
    """The scene's view with PrivateData=jobs."""
    state = stage.holder.view().state
    assert state.snapshot is not None
    site = dataclasses.replace(state.snapshot.site, private_data=frozenset({"jobs"}))
    return View.of(10**6, dataclasses.replace(state, snapshot=dataclasses.replace(state.snapshot, site=site)))


def test_with_private_data_no_answer_shows_anything_of_others_jobs(api: Api, stage: Stage) -> None:
    view = private(stage)
    others = [job for job in view.jobs.values() if job.user_id != OTHER_UID and job.state.value != "ended"]
    theirs = {job.id for job in others}
    assert theirs
    assert len(theirs) < len(view.jobs)
    api.check = As(api, Caller(OTHER_UID, "nobody", False, "munge"))
    api.holder = type("Held", (), {"view": staticmethod(lambda: view)})()
    with Door(make_app(api), api.config.api) as door, unix(door) as client:
        newest = client.get("/v1/rounds?limit=1").json()["rounds"][0]["round_id"]
        for path in ("status", "jobs", "gpus", "plan?all=true", "models", "history", f"rounds/{newest}"):
            shown = client.get(f"/v1/{path}")
            assert shown.status_code == 200
            assert not theirs & set(ids_in(shown.json())), path
        for job_id in sorted(theirs):
            for path in ("", "/why", "/estimate"):
                assert client.get(f"/v1/jobs/{job_id}{path}").status_code == 404
            assert client.get(f"/v1/history?job={job_id}").status_code == 404


def ids_in(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["job_id"]] if value.get("job_id") else []
        return own + [found for inner in value.values() for found in ids_in(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in ids_in(inner)]
    return []


def test_an_operator_sees_private_jobs(api: Api, stage: Stage) -> None:
    view = private(stage)
    api.check = As(api, Caller(0, "root", True, "munge"))
    api.holder = type("Held", (), {"view": staticmethod(lambda: view)})()
    with Door(make_app(api), api.config.api) as door, unix(door) as client:
        assert {row["user_id"] for row in client.get("/v1/jobs").json()["jobs"]} >= {os.getuid(), OTHER_UID}


def test_one_users_flood_is_refused_and_another_is_still_served() -> None:
    now = 0.0
    rate = RateLimit(2.0, clock=lambda: now)
    assert [rate.take("a") for _ in range(20)] == [0.0] * 20
    assert rate.take("a") == pytest.approx(0.5)
    assert rate.take("b") == 0.0
    now = 0.5
    assert rate.take("a") == 0.0
    assert rate.take("a") > 0.0


def test_a_flood_is_answered_429_with_the_seconds_to_wait(api: Api) -> None:
    section = api.config.api.model_copy(update={"requests_per_s": 0.5})
    api.config = api.config.model_copy(update={"api": section})
    with Door(make_app(api), section) as door, unix(door) as client:
        codes = [client.get("/v1/status").status_code for _ in range(8)]
        assert codes[:5] == [200] * 5
        assert codes[-1] == 429
        assert int(client.get("/v1/status").headers["Retry-After"]) >= 1
        assert client.get("/v1/healthz").status_code == 200
