"""Turns a skipped tier into a failure where every tier is required (``SLURMSIA_REQUIRE=all``, as in CI).

A test that needs a cluster, PostgreSQL or PyTorch may skip on a developer's machine, never in CI.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A machine with other work takes longer over an example; that says nothing about the example.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_TIERS = ("slurm", "postgresql", "torch")
_REQUIRED = os.environ.get("SLURMSIA_REQUIRE") == "all"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if _REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        tiers = [tier for tier in _TIERS if item.get_closest_marker(tier)]
        if tiers:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"{why} (SLURMSIA_REQUIRE=all makes {', '.join(tiers)} required)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    if _REQUIRED and report.skipped:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if any(word in why for word in ("torch", "psycopg", "sqlalchemy", "cluster")):
            report.outcome = "failed"
            report.longrepr = f"{why} (SLURMSIA_REQUIRE=all makes its tier required)"
    return report
