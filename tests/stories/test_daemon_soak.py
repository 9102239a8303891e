"""The whole daemon for a virtual hour under random faults, deaths and deeds; a day is in `daemon_soak`."""

from __future__ import annotations

import pytest

from .daemon_soak import run


def test_an_hour_of_the_whole_daemon_under_faults_breaks_no_promise() -> None:
    seen, _ = run(1.0, seed=3)
    assert seen.violations == []
    assert seen.faults > 5
    assert sum(count for kind, count in seen.moves.items() if kind.endswith("verified")) > 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_day_of_the_whole_daemon_leaks_nothing() -> None:
    seen, _ = run(24.0, seed=1)
    assert seen.violations == []
    assert seen.rss_mb[-1] <= 1.05 * seen.rss_mb[0]
