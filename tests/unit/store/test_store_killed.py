"""kill -9 at random moments: nothing acknowledged is lost, nothing counted twice, no round torn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = os.environ.get("SLURMSIA_KILLS", "15")
"""How often each kind of writer is killed; 100 in a full run."""


@pytest.mark.parametrize("kind", ["ingest", "rounds"])
@pytest.mark.timeout(900)
def test_kill_9_loses_nothing_acknowledged_doubles_nothing_and_tears_no_round(url: str, kind: str) -> None:
    script = Path(__file__).with_name("kill_writers.py")
    done = subprocess.run(
        [sys.executable, str(script), "--url", url, "--kind", kind, "--kills", KILLS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    counts = json.loads(done.stdout)[kind]
    assert counts["kills"] == int(KILLS)
    assert counts["acknowledged"] >= int(KILLS)
    assert {name: counts[name] for name in ("lost", "doubled", "torn") if name in counts} == (
        {"lost": 0, "doubled": 0} | ({"torn": 0} if kind == "rounds" else {})
    )
