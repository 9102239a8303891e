"""Gives cluster tests their cluster, and keeps its state when one fails.

A test that takes the fixture ``cluster`` runs once for every suite that its ``slurm`` marker names (all three without
arguments), limited by ``--suite``. A suite that is not up skips its tests, or fails them where the tier is required
(``SLURMSIA_REQUIRE=all``).
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine import STATE
from harness import SLACK, ClusterHandle
from suites import SUITES

_ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts" / "cluster"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--suite",
        action="append",
        choices=sorted(SUITES),
        help="Slurm release to test on (repeatable; default: every suite that a test names)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("slurm")
    named = marker.args if marker and marker.args else tuple(SUITES)
    chosen = metafunc.config.getoption("--suite") or list(SUITES)
    suites = [suite for suite in named if suite in chosen]
    params = [pytest.param(suite, marks=pytest.mark.slurm(suite)) for suite in suites]
    metafunc.parametrize("cluster", params, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop tests that no chosen suite is meant for, and run suite by suite; a busy machine gets more time."""

    def suite_of(item: pytest.Item) -> object:
        callspec = getattr(item, "callspec", None)
        return callspec.params.get("cluster", "") if callspec else ""

    meant = [item for item in items if suite_of(item) in ("", *SUITES)]
    if len(meant) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in meant])
    for item in meant:
        limit = item.get_closest_marker("timeout")
        if limit is not None and suite_of(item):
            item.add_marker(pytest.mark.timeout(SLACK * limit.args[0]), append=False)
    items[:] = sorted(meant, key=lambda item: str(suite_of(item)))


@pytest.fixture(scope="session")
def _handles() -> dict[str, ClusterHandle]:
    return {}


@pytest.fixture
def cluster(request: pytest.FixtureRequest, _handles: dict[str, ClusterHandle]) -> Iterator[ClusterHandle]:
    """The running cluster of one suite, idle and as new, for this test alone (others of this checkout wait)."""
    name = request.param
    handle = _handles.setdefault(name, ClusterHandle(name))
    if not handle.is_up():
        sentence = f"cluster {name} is not up: make cluster-up SUITE={name}"
        if os.environ.get("SLURMSIA_REQUIRE") == "all":
            pytest.fail(f"{sentence} (SLURMSIA_REQUIRE=all makes this tier required)")
        pytest.skip(sentence)
    with (STATE / name / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        handle.clean()
        yield handle


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    handle = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and isinstance(handle, ClusterHandle):
        name = re.sub(r"[^\w.-]+", "-", item.name).strip("-")
        folder = handle.keep_evidence(_ARTIFACTS / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
        report.sections.append(("cluster", f"queue, nodes, jobs and all logs of this moment: {folder}"))
        print(f"\ncluster state kept in {folder}")
    return report
