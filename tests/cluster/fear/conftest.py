"""Counts, for every fear and release, how often it was made true and how often something went wrong; prints both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import ClusterHandle
from judge import Site

_TABLE: dict[tuple[str, str], tuple[int, list[str]]] = {}


@pytest.fixture
def site(request: pytest.FixtureRequest, cluster: ClusterHandle) -> Iterator[Site]:
    """A clean cluster with a daemon that stops where it is told; stopped and judged at the end."""
    place = Site(cluster)
    place.daemon.prepare()
    try:
        yield place
    finally:
        place.close()
        name = request.node.originalname.removeprefix("test_").replace("_", " ")
        runs, violations = _TABLE.get((cluster.suite.name, name), (0, []))
        _TABLE[cluster.suite.name, name] = (runs + place.runs, violations + place.violations)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _TABLE:
        return
    terminalreporter.section("fears: runs and violations")
    for (suite, name), (runs, violations) in sorted(_TABLE.items()):
        terminalreporter.write_line(f"{suite:<9} {runs:>4} runs {len(violations):>3} violations  {name}")
        for sentence in violations:
            terminalreporter.write_line(f"{'':>30}{sentence}")
    runs = sum(runs for runs, _ in _TABLE.values())
    violations = sum(len(violations) for _, violations in _TABLE.values())
    terminalreporter.write_line(f"in all: {runs} live faults, {violations} violations")
