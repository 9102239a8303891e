"""When a simulation decides: at the interval, and early, as the daemon does, only where that is asked for."""

from __future__ import annotations

import math

from slurmsia.sim.round_times import RoundTimes


def test_rounds_come_at_the_interval_whatever_happens_in_between() -> None:
    times = RoundTimes(60.0, 0.0)
    assert times.next_s == 60.0
    assert times.due(60.0, (1, 0), flying=False, next_look_s=math.inf)
    assert times.next_s == 120.0


def test_a_changed_queue_brings_the_next_round_forward_but_not_before_its_time() -> None:
    times = RoundTimes(60.0, 10.0)
    assert times.due(60.0, (1, 0), flying=False, next_look_s=math.inf)
    assert times.next_s == 70.0, "no look at the queue sooner than asked for"
    assert not times.due(70.0, (1, 0), flying=False, next_look_s=math.inf), "nothing came or ended"
    assert times.due(80.0, (2, 0), flying=False, next_look_s=math.inf)
    assert times.next_s == 90.0
    for at_s in (90.0, 100.0, 110.0, 120.0, 130.0):
        assert not times.due(at_s, (2, 0), flying=False, next_look_s=math.inf)
    assert times.due(140.0, (2, 0), flying=False, next_look_s=math.inf), "the interval counts from the early round"


def test_no_early_round_while_a_move_flies() -> None:
    times = RoundTimes(60.0, 10.0)
    times.due(60.0, (1, 0), flying=False, next_look_s=math.inf)
    assert not times.due(70.0, (2, 0), flying=True, next_look_s=95.0)
    assert times.next_s == 95.0
    assert times.due(95.0, (2, 0), flying=False, next_look_s=math.inf)


def test_an_empty_cluster_is_passed_over_until_the_next_job() -> None:
    times = RoundTimes(60.0, 10.0)
    times.due(60.0, (1, 0), flying=False, next_look_s=math.inf)
    times.idle_until(1234.0)
    assert 1174.0 < times.next_s <= 1234.0
    times.idle_until(math.inf)
    assert 1174.0 < times.next_s <= 1234.0, "without another job there is nothing to pass over"
