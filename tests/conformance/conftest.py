"""Which client the suite checks: SLURMSIA_CONFORMANCE = emulator (default), command or pyslurm."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lab import Lab, make_lab


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    lab = make_lab(os.environ.get("SLURMSIA_CONFORMANCE", "emulator"))
    lab.client.snapshot()
    yield lab
    lab.client.close()


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """A laboratory without jobs of earlier tests."""
    yield shared_lab
    shared_lab.clean()
