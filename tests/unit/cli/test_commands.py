"""What users see: the same picture for the same answer, an example in every help, documented exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import golden
import pytest
from click.testing import CliRunner
from slurmsia_cli import client as api_client
from slurmsia_cli.cluster_views import described
from slurmsia_cli.embedded import embedded
from slurmsia_cli.main import cli
from slurmsia_cli.shell import pages


@pytest.fixture(scope="module")
def kept() -> dict[str, object]:
    return golden.answers()


@pytest.mark.parametrize(("view", "width", "style"), list(golden.cases()))
def test_the_picture_is_as_recorded(kept: dict[str, object], view: str, width: int, style: str) -> None:
    drawn = golden.drawn(kept, view, width, style)
    assert drawn == (golden.FOLDER / f"{view}-{width}-{style}.txt").read_text()


@pytest.mark.parametrize("view", golden.VIEWS)
def test_no_line_is_wider_than_the_terminal(kept: dict[str, object], view: str) -> None:
    for width in golden.WIDTHS:
        lines = golden.drawn(kept, view, width, "plain").splitlines()
        assert max(len(line) for line in lines if "#SBATCH" not in line) <= width


@pytest.mark.parametrize("view", golden.VIEWS)
def test_ascii_is_ascii_and_plain_has_no_colour(kept: dict[str, object], view: str) -> None:
    assert golden.drawn(kept, view, 80, "ascii").isascii()
    assert "\x1b" not in golden.drawn(kept, view, 80, "plain")


def commands(
    command: click.Command, context: click.Context, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if words:
        yield words, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, context, (*words, name))


EVERY_COMMAND = dict(commands(cli, click.Context(cli, info_name="slurmsia")))
#: Their help is printed by what they forward to.
FORWARDED = {("env",), ("report",), ("bench", "round")}


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_every_command_has_a_help_with_an_example(words: tuple[str, ...]) -> None:
    command = EVERY_COMMAND[words]
    assert command.help
    lines = [line.strip() for line in command.help.replace("\b", "").splitlines()]
    assert "Example:" in lines or "Examples:" in lines
    if words not in FORWARDED:
        shown = CliRunner().invoke(cli, [*words, "--help"])
        assert shown.exit_code == 0
        assert f"slurmsia {' '.join(words)}" in shown.output.partition("Example")[2]


@pytest.mark.parametrize("words", sorted(FORWARDED), ids=" ".join)
def test_forwarded_commands_show_their_options(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slurmsia_cli", *words, "--help"], capture_output=True, text=True, check=True
    )
    assert "--" in done.stdout
    assert words == ("bench", "round") or "Example: " in done.stdout


def test_there_is_a_man_page_of_every_command_and_of_the_policy_file() -> None:
    found = pages(cli)
    assert {"slurmsia-status.1", "slurmsia-jobs.1", "slurmsia-policy-diff.1", "slurmsia.toml.5"} <= set(found)
    assert all(text.startswith(".TH") and ".SH NAME" in text for text in found.values())
    assert {f"slurmsia-{'-'.join(words)}.1" for words in EVERY_COMMAND} < set(found)
    assert all(".SH EXAMPLE" in text for name, text in found.items() if name.count("-") and name.endswith(".1"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_every_shell(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert "_SLURMSIA_COMPLETE" in done.output


def test_the_address_is_the_option_then_the_environment_then_the_policy_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "slurmsia.toml"
    file.write_text('[api]\nsocket = ""\nlisten = "0.0.0.0:7000"\n')
    monkeypatch.setenv("SLURMSIA_CONFIG", str(file))
    monkeypatch.delenv("SLURMSIA_API", raising=False)
    assert api_client.address(None) == "http://localhost:7000"
    monkeypatch.setenv("SLURMSIA_API", "unix:/a")
    assert api_client.address(None) == "unix:/a"
    assert api_client.address("http://h:1") == "http://h:1"
    monkeypatch.delenv("SLURMSIA_API")
    file.write_text("")
    assert api_client.address(None) == "unix:/run/slurmsia/api.sock"


def test_a_script_is_described_by_its_sbatch_lines(tmp_path: Path) -> None:
    text = b"#!/bin/bash\n#SBATCH --nodes=2 --gres=gpu:a100:4\n#SBATCH --comment='sia: gpus=1-8'\n#SBATCH -J train\n"
    found = described(tmp_path / "x.sh", text)
    assert (found["gpus"], found["comment"], found["name"]) == (8, "sia: gpus=1-8", "train")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with embedded("--minutes", "12", "--requests-per-s", "1000") as (found, _):
        yield found


def slurmsia(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SLURMSIA_API": address, "LC_ALL": "C.UTF-8", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "slurmsia_cli", *words], env=environment, capture_output=True, text=True, check=False
    )


def test_status_does_not_import_what_only_deciding_needs(address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "slurmsia_cli", "status"],
        env={**os.environ, "SLURMSIA_API": address}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for heavy in ("numpy", "scipy", "ortools", "sqlalchemy", "pydantic", "httpx", "fastapi"):
        assert f" {heavy}\n" not in done.stderr, heavy


def test_json_is_the_answer_of_the_api_with_its_schema_version(address: str) -> None:
    for words in (("status",), ("jobs",), ("gpus",), ("plan",), ("rounds",), ("history",), ("models", "list")):
        done = slurmsia(address, *words, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["schema"] == 1


def test_squeues_format_letters_and_no_header(address: str) -> None:
    done = slurmsia(address, "jobs", "-h", "-o", "%i|%T")
    assert "JOBID" not in done.stdout
    with_header = slurmsia(address, "jobs", "-O", "jobid,state")
    assert with_header.stdout.splitlines()[0] == "JOBID STATE"
    assert slurmsia(address, "jobs", "-o", "%Z").returncode == 2


def in_a_terminal(address: str, *words: str, **variables: str) -> str:
    """What a terminal of 100 columns is sent."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "SLURMSIA_API": address, "LC_ALL": "C.UTF-8", "COLUMNS": "100", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "slurmsia_cli", *words], env={**environment, **variables}, stdout=theirs
    )
    os.close(theirs)
    sent = b""
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            sent += part
    os.close(ours)
    assert process.wait(20) == 0
    return sent.decode()


def test_colour_is_for_terminals_and_never_with_no_color(address: str) -> None:
    assert "\x1b[" in in_a_terminal(address, "status")
    assert "\x1b" not in in_a_terminal(address, "status", NO_COLOR="1")
    assert "\x1b" not in in_a_terminal(address, "status", TERM="dumb")
    assert "\x1b" not in slurmsia(address, "status").stdout


def test_a_locale_without_utf8_gets_plain_ascii(address: str) -> None:
    assert not in_a_terminal(address, "gpus").isascii()
    assert in_a_terminal(address, "gpus", LC_ALL="C").isascii()


def test_watching_shows_again_until_ctrl_c_and_ends_well(address: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "slurmsia_cli", "jobs", "-o", "%i", "-i", "0.5"],
        env={**os.environ, "SLURMSIA_API": address},
        stdout=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and what the tests start would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    heads = 0
    while heads < 3:
        heads += process.stdout.readline().strip() == "JOBID"
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(20) == 0


def test_exit_codes_are_as_documented(address: str, tmp_path: Path) -> None:
    assert slurmsia(address, "why", "99999").returncode == 5
    assert slurmsia(address, "why", "not-a-job").returncode == 2
    gone = slurmsia(f"unix:{tmp_path}/none", "status")
    assert gone.returncode == 3
    assert "does not answer" in gone.stderr
    assert "SLURMSIA_API" in gone.stderr


def test_an_operator_pauses_and_the_next_round_says_so(address: str) -> None:
    assert slurmsia(address, "pause", "a", "test").returncode == 0
    assert slurmsia(address, "resume").returncode == 0


def test_a_plot_is_written(address: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("map.svg", "map.png"):
        assert slurmsia(address, "gpus", "--plot", str(tmp_path / name)).returncode == 0
        assert (tmp_path / name).stat().st_size > 1000


def test_status_without_a_daemon_shows_the_stores_last_round_and_its_age(tmp_path: Path) -> None:
    from slurmsia.cluster import Snapshot
    from slurmsia.plan import Plan
    from slurmsia.store import RoundRecord, Store

    url = f"sqlite:///{tmp_path / 's.db'}"
    plan = Plan((), (), "sia", 0.0, 0.0, 0.0, "core", "Nothing to do today.")
    with Store.open(url, "c1", auto_upgrade=True) as store:
        store.save_round(RoundRecord(1000.0, "observe", Snapshot(1000.0, (), (), ()), plan, {}, {}, "{}"))
    file = tmp_path / "slurmsia.toml"
    file.write_text(f'[slurm]\ncluster = "c1"\n[store]\nurl = "{url}"\n[api]\nsocket = "{tmp_path}/no.sock"\n')
    environment = {**os.environ, "SLURMSIA_CONFIG": str(file)}
    environment.pop("SLURMSIA_API", None)
    done = subprocess.run(
        [sys.executable, "-m", "slurmsia_cli", "status"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "Last known," in done.stdout
    assert "Nothing to do today." in done.stdout
