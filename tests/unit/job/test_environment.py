"""What `slurmsia env` mends after a reshape, and that the job library stands alone."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from slurmsia.job import environment
from slurmsia.job.zipapp import build

ROOT = Path(__file__).parents[3]

#: A job submitted with 2 nodes x 4 GPUs and a task per GPU that now holds one node with 8.
RESHAPED = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_TASKS_PER_NODE": "8",
    "SLURM_NTASKS": "2",
    "SLURM_NPROCS": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_GPUS_PER_NODE": "t4:4",
    "SLURM_GPUS": "8",
    "SLURM_MEM_PER_GPU": "1000",
    "SLURM_CPUS_PER_GPU": "4",
}


def test_submit_time_counts_become_those_of_the_real_allocation() -> None:
    mended = environment.mend(RESHAPED)
    assert mended == {
        "SLURM_NNODES": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NTASKS": "8",
        "SLURM_NPROCS": "8",
        "SLURM_NTASKS_PER_NODE": "8",
        "SLURM_GPUS": "8",
        "SLURM_GPUS_PER_NODE": "8",
        "SLURM_MEM_PER_GPU": None,
        "SLURM_CPUS_PER_GPU": None,
        "SLURMSIA_NODES": "1",
        "SLURMSIA_GPUS_PER_NODE": "8",
        "SLURMSIA_GPUS": "8",
    }


@pytest.mark.parametrize(
    ("tasks_per_node", "nodes", "tasks"), [("2(x3)", 3, 6), ("2,1", 2, 3), ("1", 4, 4), ("", 2, 2), ("x(x9)", 2, 2)]
)
def test_tasks_are_read_from_what_the_controller_wrote(tasks_per_node: str, nodes: int, tasks: int) -> None:
    env = {"SLURM_JOB_NUM_NODES": str(nodes), "SLURM_TASKS_PER_NODE": tasks_per_node}
    assert environment.total_tasks(env) == tasks


def test_outside_of_a_job_nothing_is_mended() -> None:
    assert environment.mend({"SLURM_NTASKS": "4"}) == {}


def test_an_array_task_is_known_by_its_own_id() -> None:
    assert environment.job_id({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}) == "7_3"


def test_the_exports_survive_a_shell() -> None:
    text = environment.shell_exports({"A": "it's $HOME", "SLURM_GPUS": None})
    script = f'SLURM_GPUS=1; {text} echo "$A|${{SLURM_GPUS-unset}}"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "it's $HOME|unset\n"


def oldest_python() -> str:
    """Python 3.8 where it really runs (a version manager's stub may only say that it would)."""
    for candidate in (shutil.which("python3.8"), *map(str, Path.home().glob(".pyenv/versions/3.8.*/bin/python"))):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return sys.executable


def test_the_zipapp_works_alone_on_the_oldest_python_there_is(tmp_path: Path) -> None:
    app = tmp_path / "slurmsia-job.pyz"
    build(app)
    (tmp_path / "reports").mkdir()
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "SLURMSIA_SPOOL": str(tmp_path), "SLURM_NTASKS": "4"}
    python = [oldest_python(), "-I", "-S"]
    reported = [*python, str(app), "report", "--samples", "4096", "--seconds", "1.2"]
    subprocess.run(reported, env=env, check=True, cwd=tmp_path)
    exports = subprocess.run([*python, str(app), "env"], env=env, check=True, capture_output=True, text=True).stdout
    assert "export SLURM_NTASKS='1'" in exports
    code = f"import sys; sys.path.insert(0, {str(app)!r})\nfrom slurmsia.job import Reporter\nwith Reporter(): pass"
    subprocess.run([*python, "-c", code], env=env, check=True, cwd=tmp_path)
    (file,) = (tmp_path / "reports").iterdir()
    assert len(file.read_text().splitlines()) == 3


def test_building_the_zipapp_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path / "a")
    build(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_file_of_the_zipapp_is_python_3_8(tmp_path: Path) -> None:
    build(tmp_path / "app")
    with zipfile.ZipFile(tmp_path / "app") as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        assert "slurmsia/job/torch/elastic.py" in names
        for name in names:
            ast.parse(archive.read(name), name, feature_version=(3, 8))


def test_a_training_process_is_not_made_to_carry_large_modules() -> None:
    code = "import sys; before = set(sys.modules); import slurmsia.job; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "slurmsia.job.reporter" in loaded
    assert not loaded & {"hashlib", "dataclasses", "subprocess", "asyncio", "numpy", "pydantic", "inspect"}


def test_the_age_of_a_process_is_not_made_up(tmp_path: Path) -> None:
    age_s = environment.process_age_s()
    assert age_s is not None
    assert 0.0 <= age_s < time.clock_gettime(time.CLOCK_BOOTTIME)
    (tmp_path / "stat").write_text("7 (a name) with) 3 fields")
    assert environment.process_age_s(str(tmp_path / "stat")) is None
    assert environment.process_age_s(str(tmp_path / "none")) is None
