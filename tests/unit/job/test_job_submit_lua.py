"""The submit plugin, run by a real Lua interpreter with Slurm's table stubbed: the same words as the daemon's parser,
leases only while the heartbeat is fresh, and nobody is ever kept from submitting."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from slurmsia.declaration import DeclarationError, parse

PLUGIN = Path(__file__).parents[3] / "contrib" / "job_submit.lua"
LUAS = [path for name in ("lua5.1", "lua5.3", "lua5.4") if (path := shutil.which(name))]

_STUB = r"""
slurm = { SUCCESS = 0, ERROR = -1, log_info = function() end,
  log_error = function(...) print("ERROR " .. string.format(...)) end,
  log_user = function(...) print("USER " .. string.format(...)) end }
local plugin, field = arg[1], nil
local file = io.open(plugin); local text = file:read("*a"); file:close()
text = string.gsub(text, '"/var/spool/slurmsia/heartbeat"', string.format("%q", arg[2]))
if arg[3] == "refuse" then text = string.gsub(text, "REFUSE_MISTAKES = false", "REFUSE_MISTAKES = true") end
local load_text = loadstring or load
assert(load_text(text))()
local job = {}
for index = 4, #arg, 2 do
  local value = arg[index + 1]
  job[arg[index]] = tonumber(value) or value
end
print("ANSWER " .. tostring(slurm_job_submit(job, {}, 1000)))
print("BEGIN " .. tostring(job.begin_time))
"""

pytestmark = pytest.mark.skipif(not LUAS, reason="no Lua interpreter (apt install lua5.4)")


@pytest.fixture(params=LUAS, ids=lambda path: Path(path).name)
def submit(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    stub, beat = tmp_path / "stub.lua", tmp_path / "heartbeat"
    stub.write_text(_STUB)

    def call(age_s: float | None = 0.0, refuse: bool = False, **job: Any) -> dict[str, str]:
        beat.unlink(missing_ok=True)
        if age_s is not None:
            beat.write_text(f"{time.time() - age_s:.3f}\n")
        words = [text for key, value in {"script": "#!/bin/sh", **job}.items() for text in (key, str(value))]
        command = [request.param, str(stub), str(PLUGIN), str(beat), "refuse" if refuse else "accept", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answer: dict[str, str] = {}
        for line in done.stdout.splitlines():
            key, _, rest = line.partition(" ")
            answer[key] = answer.get(key, "") + rest
        return answer

    return call


def test_a_declared_job_is_leased_while_the_daemon_is_at_work_and_its_owner_is_told(submit: Any) -> None:
    answer = submit(comment="sia: gpus=1-8")
    assert answer["ANSWER"] == "0"
    assert float(answer["BEGIN"]) == pytest.approx(time.time() + 600, abs=5)
    assert "starts by itself in 10 min" in answer["USER"]


@pytest.mark.parametrize("age_s", [None, 1000.0, -1000.0])
def test_without_a_fresh_heartbeat_a_job_is_submitted_as_if_slurmsia_did_not_exist(submit: Any, age_s: float) -> None:
    answer = submit(age_s, comment="sia: gpus=1-8")
    assert answer == {"ANSWER": "0", "BEGIN": "nil"}


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"comment": "my job"},
        {"comment": "fantasia: gpus=1-8"},
        {"comment": "sia: gpus=1-8", "script": ""},
        {"comment": "sia: gpus=1-8", "array_inx": "0-3"},
        {"comment": "sia: gpus=1-8", "reservation": "maint"},
        {"comment": "sia: gpus=1-8", "requeue": 0},
    ],
)
def test_jobs_that_are_not_managed_are_not_touched(submit: Any, job: dict[str, Any]) -> None:
    assert submit(**job) == {"ANSWER": "0", "BEGIN": "nil"}


def test_a_users_own_later_begin_is_respected(submit: Any) -> None:
    begin = int(time.time()) + 7200
    assert float(submit(comment="sia: gpus=1-8", begin_time=begin)["BEGIN"]) == begin


def test_a_mistake_is_told_and_the_job_goes_through_without_a_lease(submit: Any) -> None:
    answer = submit(comment="sia: gpu=1-8")
    assert answer["ANSWER"] == "0"
    assert answer["BEGIN"] == "nil"
    assert "unknown key gpu=" in answer["USER"]
    assert "not managed" in answer["USER"]


def test_a_site_may_refuse_mistakes(submit: Any) -> None:
    answer = submit(refuse=True, comment="sia: gpus=8-1")
    assert answer["ANSWER"] == "-1"
    assert "was not submitted" in answer["USER"]


def test_a_fault_in_the_plugin_keeps_nobody_from_submitting(submit: Any) -> None:
    answer = submit(comment=42)
    assert answer["ANSWER"] == "0"


COMMENTS = [
    "sia:",
    "sia: gpus=1-16 types=a100,rtx batch=256:4096 local=16:128 signal=USR1@60",
    "x; sia: gpus=4; other",
    "SIA: gpus=2",
    "sia: gpus=1-8 level=restartable unit=a100:2,rtx:8 target=12e6 cpus=6 mem=48G time=total max_gpu_h=1.5",
    "sia: gpus=1-8 min_efficiency=.5 weight=1 progress='it''s (\\d+); done'",
    'sia: gpus=1-8 progress="n=([0-9]+)"',
    "sia: batch=2:4 level=rigid",
    "sia: gpu=1",
    "sia: gpus=0-1",
    "sia: gpus=8-1",
    "sia: gpus=1-8 gpus=2",
    "sia: gpus=",
    "sia: please",
    "sia: signal=USR1",
    "sia: gpus=1 signal=KILL@5",
    "sia: gpus=1 signal=USR1@",
    "sia: gpus=1 signal=sigusr2@5.5",
    "sia: gpus=1 level=fast",
    "sia: gpus=1 level=adaptive",
    "sia: gpus=1 level=adaptive batch=4",
    "sia: gpus=1 weight=1.5",
    "sia: gpus=1 weight=0",
    "sia: gpus=1 weight=1e",
    "sia: gpus=1 mem=0",
    "sia: gpus=1 mem=1X",
    "sia: gpus=1 time=ever",
    "sia: gpus=1 unit=a:b",
    "sia: gpus=1 progress='x(",
    "sia: gpus=1 progress='n=(1)'x",
    "sia: gpus=1 cpus=0",
    "sia: gpus=1 " + "x" * 3000,
]


@pytest.mark.parametrize("comment", COMMENTS, ids=lambda comment: json.dumps(comment[:40]))
def test_the_plugin_and_the_daemon_agree_on_what_is_a_mistake(submit: Any, comment: str) -> None:
    try:
        good = parse(comment) is not None
    except DeclarationError:
        good = False
    assert (submit(comment=comment)["BEGIN"] != "nil") == good
