"""The stage of the stories serves here too: the whole daemon on an emulated cluster and a virtual clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "stories"))

from daemon_stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes a stage in a folder of its own; its last daemon is closed at the end."""
    made: list[Stage] = []

    def make(**options: Any) -> Stage:
        made.append(Stage(tmp_path / f"stage{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.daemon.kill()
