"""In CI a tier that skips itself is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
TESTS = """
import pytest

@pytest.mark.{marker}
def test_that_needs_something():
    pytest.skip("it is not here")
"""


def outcome(folder: Path, marker: str, required: str) -> str:
    shutil.copy(REPOSITORY / "tests" / "conftest.py", folder)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    (folder / "test_something.py").write_text(TESTS.format(marker=marker))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    environment = {**os.environ, "SLURMSIA_REQUIRE": required}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("marker", ["slurm", "postgresql", "torch"])
def test_a_tier_that_skips_itself_fails_where_every_tier_is_required(tmp_path: Path, marker: str) -> None:
    said = outcome(tmp_path, marker, "all")
    assert "1 failed" in said
    assert f"it is not here (SLURMSIA_REQUIRE=all makes {marker} required)" in said


def test_a_tier_may_skip_itself_elsewhere(tmp_path: Path) -> None:
    assert "1 skipped" in outcome(tmp_path, "slurm", "")


def test_an_ordinary_skip_stays_a_skip_where_every_tier_is_required(tmp_path: Path) -> None:
    assert "1 skipped" in outcome(tmp_path, "shared_data", "all")
