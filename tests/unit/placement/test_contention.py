"""Contention by hand: the formula, who loads which uplink, and placements that avoid it."""

from __future__ import annotations

import pytest

from slurmsia.cluster import Node, Shape
from slurmsia.placement import Contention, Neighbourhood, Traffic, Uplinks, Wish, place, ratios
from slurmsia.reshape import PerGpu

EVEN = Traffic(1.0, 1.0, 1.0)


def machines(*leaves: str) -> tuple[Node, ...]:
    return tuple(Node(f"n{i}", "a100", 8, 64, 256_000, leaf_switch=leaf) for i, leaf in enumerate(leaves))


def wish(job_id: str, nodes: int, **change: object) -> Wish:
    return Wish(job_id, Shape("a100", nodes, 8 * nodes), PerGpu(1.0, None), **change)  # type: ignore[arg-type]


def test_a_job_half_of_whose_step_is_network_loses_a_third_when_links_are_twice_full() -> None:
    assert EVEN.sensitivity == 0.5
    assert EVEN.ratio(1.0) == 1.0
    assert EVEN.ratio(2.0) == pytest.approx(2 / 3)
    assert Traffic(3.0, 4.0, 2.0).ratio(2.0) == pytest.approx(((9 + 16) / (9 + 64)) ** 0.5)
    assert Traffic(1.0, 0.0).ratio(9.0) == 1.0


def test_only_jobs_that_cross_leaf_switches_load_uplinks() -> None:
    uplinks = Uplinks.of(machines("a", "a", "b", "b"), oversubscription=4.0)
    crossing, inside = (("n0", 8), ("n2", 8)), (("n1", 8), ("n0", 8))
    assert ratios(uplinks, {"1": (inside, EVEN)}) == {"1": 1.0}
    assert ratios(uplinks, {"1": (crossing, EVEN)}) == {"1": 1.0}
    both = ratios(uplinks, {"1": (crossing, Traffic(0.0, 1.0)), "2": ((("n1", 8), ("n3", 8)), Traffic(0.0, 1.0))})
    assert both == {"1": 0.25, "2": 0.25}


def test_new_jobs_are_placed_so_that_the_one_that_talks_crosses_no_switch() -> None:
    """Two and three nodes are free under two leaves; whoever crosses them should be the job that sends little."""
    nodes = machines("a", "a", "b", "b", "b")
    quiet, loud = Traffic(1.0, 0.01), Traffic(0.01, 1.0)
    wishes = (wish("quiet", 3), wish("loud", 2))
    other = (wish("loud", 3), wish("quiet", 2))
    for both in (wishes, other):
        limits = Neighbourhood(Uplinks.of(nodes, 4.0))
        placement = place(nodes, (), both, contention=Contention(limits, {"quiet": quiet, "loud": loud}))
        assert ratios(limits.uplinks, {"loud": (placement.seats["loud"], loud)})["loud"] == 1.0


def test_a_poor_greedy_choice_is_improved() -> None:
    """The greedy spreads the second job over what the first one left; swapping both keeps the loud one together."""
    nodes = machines("a", "a", "a", "b", "b", "c")
    limits = Neighbourhood(Uplinks.of(nodes, 3.0))
    quiet, loud = Traffic(1.0, 0.01), Traffic(0.01, 1.0)
    wishes = (wish("quiet", 3), wish("loud", 3))
    greedy = place(nodes, (), wishes)
    better = place(nodes, (), wishes, contention=Contention(limits, {"quiet": quiet, "loud": loud}))

    def total(placement) -> float:
        jobs = {"quiet": (placement.seats["quiet"], quiet), "loud": (placement.seats["loud"], loud)}
        return sum(ratios(limits.uplinks, jobs).values())

    assert total(greedy) < 1.9 < total(better)


def test_a_kept_job_stays_and_its_load_counts() -> None:
    nodes = machines("a", "a", "b", "b")
    kept = wish("old", 2, at=(("n0", 8), ("n2", 8)), keep=True)
    limits = Neighbourhood(Uplinks.of(nodes, 4.0))
    traffic = {"old": Traffic(0.1, 1.0), "new": Traffic(0.1, 1.0)}
    placement = place(nodes, (), (kept, wish("new", 2)), contention=Contention(limits, traffic))
    assert placement.seats == {"old": kept.at, "new": (("n1", 8), ("n3", 8))}
