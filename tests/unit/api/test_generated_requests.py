"""Requests made from the published OpenAPI: no server error and no answer that the document does not describe.

Short; ``python -m tests.fuzz.api --cases 10000`` is the long form and watches the daemon's rounds as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
from api_door import Door, free_port
from slurmsia_daemon.api.app import Api, make_app
from slurmsia_daemon.api.callers import CallerCheck

pytest.importorskip("schemathesis", exc_type=ImportError)
from tests.fuzz.api import ask

KEY = b"k" * 32


def test_generated_requests_are_answered_as_the_published_document_says(api: Api, me: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    section = api.config.api.model_copy(
        update={
            "socket": "", "listen": f"127.0.0.1:{free_port()}", "jwt_key_file": str(tmp_path / "key"),
            "requests_per_s": 1e6,
        }
    )  # fmt: skip
    api.check = CallerCheck(section)
    api.config = api.config.model_copy(update={"api": section})
    token = jwt.encode({"sun": me, "exp": int(time.time()) + 600}, KEY, "HS256")
    with Door(make_app(api), section):
        asked = ask(f"http://{section.listen}", token, 4, 7, "fuzzing", tmp_path)
    assert asked.cases > 50
    assert (asked.failures, asked.errors) == ({}, 0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_generated_request_of_a_user_changes_a_plan_or_delays_a_round() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.api", "--cases", "2000", "--json"],
        cwd=root, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["compared"] > 20
    assert found["wishes"]["user"] == 0
    assert found["wishes"]["operator"] > 0
