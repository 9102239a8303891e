"""What ``--json`` prints is what its published schema says: every command that has one, run for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from slurmsia_cli import schema
from slurmsia_cli.client import Client
from slurmsia_cli.embedded import embedded
from slurmsia_cli.main import cli

ROOT = Path(__file__).parents[3]
#: Their JSON holds measurements of this machine; no schema promises which.
WITHOUT_SCHEMA = "bench"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with embedded("--minutes", "12", "--requests-per-s", "1000") as (found, _):
        yield found


@pytest.fixture(scope="module")
def job(address: str) -> str:
    rows = Client(address).get("/v1/jobs", managed=True)["jobs"]
    return str(max(rows, key=lambda row: (row["gpus"] > 0, row["moves"]))["job_id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy file with an empty store, and a script."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "slurmsia.toml").write_text(
        f'[slurm]\ncluster = "embedded"\n[store]\nurl = "sqlite:///{folder / "s.db"}"\n'
        f'[api]\nsocket = "{folder}/no.sock"\n'
    )
    (folder / "train.sh").write_text("#!/bin/bash\n#SBATCH --gres=gpu:1\n#SBATCH --comment='sia: gpus=1-4'\n")
    return folder


def printed(words: list[str], address: str, site: Path, *codes: int) -> Any:
    environment = {**os.environ, "SLURMSIA_API": address, "SLURMSIA_CONFIG": str(site / "slurmsia.toml")}
    done = subprocess.run(
        [sys.executable, "-m", "slurmsia_cli", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (codes or (0,)), done.stderr
    return json.loads(done.stdout)


def validate(command: str, value: Any) -> None:
    jsonschema.validate(value, schema.schema_of(command), cls=jsonschema.Draft202012Validator)


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from leaves(inner, (*words, name))


def test_every_command_with_json_has_a_published_schema_and_no_schema_is_of_nothing() -> None:
    with_json = {
        name
        for name, command in leaves(cli)
        if any("--json" in parameter.opts for parameter in command.params) and not name.startswith(WITHOUT_SCHEMA)
    }
    assert with_json == set(schema.commands())


def test_the_copied_schemas_are_those_that_the_daemon_publishes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import json, schemas; print(json.dumps(schemas.definitions()))"],
        cwd=ROOT / "contrib", capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept = json.loads((ROOT / "cli" / schema.API_FILE).read_text())
    assert json.loads(done.stdout) == kept, "run python contrib/schemas.py"


@pytest.mark.parametrize("command", schema.commands())
def test_a_schema_is_a_schema(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema.schema_of(command))


@pytest.mark.parametrize(
    "words",
    ["status", "jobs", "jobs --me -t R", "job {job}", "why {job}", "gpus", "plan", "plan --all", "estimate {job}",
     "estimate {site}/train.sh", "history", "history -j {job}", "rounds", "rounds 3", "models list", "policy show",
     "pause a test", "resume", "reconfigure", "pin {job} a test", "unpin {job}", "release {job}"],
)  # fmt: skip
def test_an_answer_of_the_daemon_is_printed_as_its_schema_says(address: str, job: str, site: Path, words: str) -> None:
    given = words.format(job=job, site=site).split()
    command = next(name for name in schema.commands() if words.split()[: len(name.split())] == name.split())
    validate(command, printed([*given, "--json"], address, site))


def test_status_without_a_daemon_is_what_its_schema_says(site: Path) -> None:
    validate("status", printed(["status", "--json"], f"unix:{site}/none", site, 3))


def test_commands_that_need_no_daemon_print_what_their_schemas_say(address: str, site: Path) -> None:
    file, url = str(site / "slurmsia.toml"), f"sqlite:///{site / 's.db'}"
    subprocess.run([sys.executable, "-m", "slurmsia_cli", "db", "upgrade", "--url", url], check=True)
    for command, options in (
        ("db current", ["--url", url]),
        ("db check", ["--url", url]),
        ("db prune", ["--url", url]),
    ):
        validate(command, printed([*command.split(), *options, "--json"], address, site))
    validate("policy diff", printed(["policy", "diff", file, "--json"], address, site, 1))
    validate("config check", printed(["config", "check", file, "--json"], address, site))
    (site / "wrong.toml").write_text("[polcy]\n")
    validate("config check", printed(["config", "check", str(site / "wrong.toml"), "--json"], address, site, 1, 2))
    validate("doctor", printed(["doctor", "--config", file, "--json"], address, site, 0, 1, 2))


def test_a_replay_and_a_simulation_print_what_their_schemas_say(address: str, site: Path, tmp_path: Path) -> None:
    from slurmsia_daemon.api.stage import Stage

    stage = Stage(tmp_path)
    stage.play(3)
    stage.close()
    shutil.copy(tmp_path / "stage.db", tmp_path / "copy.db")
    words = ["replay", "2", "--cluster", "embedded", "--url", f"sqlite:///{tmp_path / 'copy.db'}", "--json"]
    validate("replay", printed(words, address, site))
    validate("replay", printed([*words, "--policy", "srtf"], address, site))


def test_a_command_without_a_schema_is_named() -> None:
    from click.testing import CliRunner

    assert "status" in CliRunner().invoke(cli, ["schema"]).output.splitlines()
    wrong = CliRunner().invoke(cli, ["schema", "nothing"])
    assert wrong.exit_code == 2
    assert "slurmsia schema" in wrong.output
