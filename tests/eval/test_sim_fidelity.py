"""Fidelity to the published simulator on the reference data (skipped where the data is absent)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slurmsia.sim.fidelity import MEAN_JCT_WITHIN, compare, recorded_programs, references
from slurmsia.sim.runner import run_one

pytestmark = [pytest.mark.shared_data, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def data() -> Path:
    """The folder with the reference data, by `SLURMSIA_SHARED_DATA` or beside the checkout."""
    named = os.environ.get("SLURMSIA_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "sia" / "profiles").is_dir():
        pytest.skip("no reference data; name its folder in SLURMSIA_SHARED_DATA")
    return folder


def test_every_recorded_program_has_the_recorded_optimum(data: Path) -> None:
    optima = recorded_programs(data / "sia-ilp" / "instances.json")
    assert len(optima) >= 32
    assert [optimum for optimum in optima if not optimum.holds] == []


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["saturn/1", "philly/1"])
def test_a_workload_comes_out_as_in_the_published_simulator_and_beats_gavel(data: Path, workload: str) -> None:
    wanted = [
        reference
        for reference in references()
        if reference.workload == workload and reference.cluster == "hetero64" and not reference.options
    ]
    rows, verdicts = compare(wanted, [run_one(reference.spec(data / "sia")) for reference in wanted])
    mine = next(row for row in rows if row.policy == "sia-artifact")
    assert abs(mine.off["avg_jct_h"]) <= MEAN_JCT_WITHIN
    assert all(verdict.holds for verdict in verdicts), [verdict.sentence for verdict in verdicts if not verdict.holds]
