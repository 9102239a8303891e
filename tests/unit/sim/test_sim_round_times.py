"""When a simulation decides: at the interval, and in between, as the daemon does, only where that is asked for."""

from __future__ import annotations

import math

from slurmsia.sim.round_times import RoundTimes


def test_rounds_come_at_the_interval_whatever_happens_in_between() -> None:
    times = RoundTimes(60.0, 0.0)
    assert times.next_s == 60.0
    assert times.due(60.0, (1, 0)) == "full"
    assert times.next_s == 120.0


def test_a_changed_queue_brings_a_round_of_starts_but_not_before_its_time() -> None:
    times = RoundTimes(60.0, 10.0)
    assert times.due(60.0, (1, 0)) == "full"
    assert times.next_s == 70.0, "no look at the queue sooner than asked for"
    assert times.due(70.0, (1, 0)) == "", "nothing came or ended"
    assert times.due(80.0, (2, 0)) == "starts"
    assert times.next_s == 90.0
    assert [times.due(at_s, (2, 0)) for at_s in (90.0, 100.0, 110.0)] == ["", "", ""]
    assert times.due(120.0, (2, 0)) == "full", "starts in between do not put off the round"
    assert times.due(130.0, (2, 0)) == "", "the round has seen what came before it"


def test_an_empty_cluster_is_passed_over_until_the_next_job() -> None:
    times = RoundTimes(60.0, 10.0)
    times.due(60.0, (1, 0))
    times.idle_until(1234.0)
    assert 1174.0 < times.next_s <= 1234.0
    times.idle_until(math.inf)
    assert 1174.0 < times.next_s <= 1234.0, "without another job there is nothing to pass over"
