"""Contention on random clusters: valid seats, kept jobs untouched, never worse than the greedy, and repeatable."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Node, Shape
from slurmsia.placement import Contention, Neighbourhood, Traffic, Uplinks, Wish, place, ratios
from slurmsia.reshape import PerGpu


@st.composite
def worlds(draw: st.DrawFn) -> tuple[tuple[Node, ...], tuple[Wish, ...], Contention]:
    """Nodes under leaf switches, kept and new jobs on several nodes with traffic of every kind."""
    nodes = tuple(
        Node(f"n{number:02d}", "a100", 4, 64, 8000, leaf_switch=draw(st.sampled_from(("s0", "s1", "s2", None))))
        for number in range(draw(st.integers(2, 10)))
    )
    names = [node.name for node in nodes]
    wishes, traffic = [], {}
    for number in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 4))
        kept = draw(st.booleans()) and len(names) >= count
        at = tuple((names.pop(draw(st.integers(0, len(names) - 1))), 4) for _ in range(count)) if kept else ()
        allowed = draw(st.sampled_from((None, frozenset(node.name for node in nodes[::2]))))
        shape = Shape("a100", count, 4 * count)
        wishes.append(Wish(f"w{number}", shape, PerGpu(1.0, None), allowed, at=tuple(sorted(at)), keep=bool(at)))
        if count > 1:
            amounts = st.floats(0.0, 10.0)
            traffic[f"w{number}"] = Traffic(draw(amounts), draw(amounts), draw(st.floats(1.0, 10.0)))
    limits = Neighbourhood(Uplinks.of(nodes, draw(st.floats(1.0, 16.0))), draw(st.sampled_from((4, 32))))
    return nodes, tuple(wishes), Contention(limits, traffic)


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_no_placement_is_invalid_or_worse_than_the_greedy_one_and_equal_input_gives_equal_seats(world) -> None:
    nodes, wishes, contention = world
    greedy, better = place(nodes, (), wishes), place(nodes, (), wishes, contention=contention)
    assert better == place(nodes, (), wishes, contention=contention)
    assert set(better.seats) == set(greedy.seats)
    taken: set[str] = set()
    for wish in wishes:
        if wish.job_id not in better.seats:
            continue
        seats = better.seats[wish.job_id]
        assert seats == tuple(sorted(seats))
        assert [gpus for _, gpus in seats] == [4] * wish.shape.nodes
        if wish.keep:
            assert seats == wish.at
        elif wish.nodes is not None:
            assert {name for name, _ in seats} <= wish.nodes
        assert not taken & {name for name, _ in seats}
        taken |= {name for name, _ in seats}

    def total(placement) -> float:
        seats = placement.seats
        jobs = {job_id: (seats[job_id], own) for job_id, own in contention.traffic.items() if job_id in seats}
        return sum(ratios(contention.limits.uplinks, jobs).values())

    assert total(better) >= total(greedy) - 1e-12


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 10), st.floats(0, 10), st.floats(1, 10), st.floats(1, 50), st.floats(1, 50))
def test_more_load_never_makes_a_job_faster(compute_s, network_s, gamma, one, other) -> None:
    own = Traffic(compute_s, network_s, gamma)
    assert 0.0 < own.ratio(max(one, other)) <= own.ratio(min(one, other)) + 1e-12
    assert own.ratio(1.0) <= 1.0 + 1e-12
