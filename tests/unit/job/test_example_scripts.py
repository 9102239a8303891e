"""Every example is a script that Slurm and slurmsia accept as it stands; running them is tests/cluster/jobside's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from slurmsia_cli.submit import sbatch_command

from slurmsia.declaration import Level, parse

EXAMPLES = sorted((Path(__file__).parents[3] / "contrib" / "examples").glob("*/*.sbatch"))


def test_there_is_an_example_of_each_kind() -> None:
    assert {path.parent.name for path in EXAMPLES} == {"pytorch-ddp", "huggingface", "shell-loop", "mpi"}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_mends_its_environment_before_anything_reads_it(script: Path) -> None:
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    commands = [line for line in text.splitlines() if line and not line.startswith(("#", "set ", "trap "))]
    assert commands[0] == 'eval "$(slurmsia env)"'
    assert "SLURM_NTASKS" not in text
    assert "SLURM_GPUS" not in text.replace("SLURM_GPUS_ON_NODE", "")


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_declares_itself_and_needs_no_further_option(script: Path) -> None:
    found = re.search(r"^#SBATCH --comment='(.*)'$", script.read_text(), re.MULTILINE)
    assert found is not None
    declared = parse(found.group(1))
    assert declared is not None
    assert declared.level is Level.RESTARTABLE
    assert sbatch_command([], [str(script)]) == ["sbatch", str(script)]
