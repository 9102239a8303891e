"""What `slurmsia submit` and `slurmsia declare` hand to Slurm, seen through --dry-run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from slurmsia_cli.main import cli


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.sh"
    path.write_text("#!/bin/bash\n#SBATCH --nodes=1 --gres=gpu:2\ntrue\n")
    return path


def dry(*words: str) -> list[str]:
    result = CliRunner().invoke(cli, ["submit", "--dry-run", *words])
    assert result.exit_code == 0, result.output
    return shlex.split(result.output)


def test_the_words_become_a_comment_and_a_restartable_job_may_be_requeued(script: Path) -> None:
    command = dry("gpus=1-8", "signal=USR1@60", "--partition=gpu", str(script), "--epochs", "3")
    assert command == [
        "sbatch",
        "--comment=sia: gpus=1-8 signal=USR1@60",
        "--requeue",
        "--open-mode=append",
        "--partition=gpu",
        str(script),
        "--epochs",
        "3",
    ]


def test_a_moldable_job_needs_nothing_but_its_range(tmp_path: Path) -> None:
    script = tmp_path / "plain.sh"
    script.write_text("#!/bin/sh\n")
    assert dry("gpus=2-8", str(script)) == ["sbatch", "--comment=sia: gpus=2-8", "--gres=gpu:2", str(script)]


def test_quotes_that_the_shell_took_away_are_put_back(script: Path) -> None:
    command = dry("gpus=1-2", "progress=it's at ([0-9]+); ok", str(script))
    assert command[1] == "--comment=sia: gpus=1-2 progress='it''s at ([0-9]+); ok'"


def test_without_words_the_scripts_own_comment_is_checked(tmp_path: Path) -> None:
    script = tmp_path / "own.sh"
    script.write_text("#!/bin/sh\n#SBATCH --comment='sia: gpus=1-4 signal=USR1' --gres=gpu:1 --requeue\n")
    assert dry(str(script)) == ["sbatch", "--open-mode=append", str(script)]
    script.write_text("#!/bin/sh\n#SBATCH --comment='sia: gpu=1-4'\n")
    result = CliRunner().invoke(cli, ["submit", "--dry-run", str(script)])
    assert result.exit_code == 2
    assert "did you mean gpus=?" in result.output


def test_a_script_without_any_words_is_not_submitted(script: Path) -> None:
    result = CliRunner().invoke(cli, ["submit", "--dry-run", str(script)])
    assert result.exit_code == 2
    assert "use sbatch for plain jobs" in result.output


def test_declare_prints_the_scontrol_command() -> None:
    result = CliRunner().invoke(cli, ["declare", "--dry-run", "12_3", "gpus=1-8"])
    assert shlex.split(result.output) == ["scontrol", "update", "JobId=12_3", "Comment=sia: gpus=1-8"]
    result = CliRunner().invoke(cli, ["declare", "--dry-run", "12", "--clear"])
    assert shlex.split(result.output) == ["scontrol", "update", "JobId=12", "Comment="]
    assert CliRunner().invoke(cli, ["declare", "12"]).exit_code == 2


def test_the_reporter_bench_prints_its_keys() -> None:
    result = CliRunner().invoke(cli, ["bench", "reporter", "--steps", "2000", "--json"])
    assert {"p50_us", "p99_us", "rss_mb"} <= set(json.loads(result.output))


def test_hostile_files_are_named_and_no_honest_line_is_lost() -> None:
    result = CliRunner().invoke(cli, ["bench", "spool", "--jobs", "20", "--strays", "500", "--polls", "3", "--json"])
    figures = json.loads(result.output)
    assert figures["reports"] == figures["reports_expected"] == 60
    swapped_while_read = "900013"  # its problem is told only when a poll really met the link
    attacks = {str(900001 + number) for number in range(14)}
    assert set(figures["problems"]) | {swapped_while_read} == attacks
