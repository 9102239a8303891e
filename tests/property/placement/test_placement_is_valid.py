"""Placement on random clusters: odd node sizes, holes, drained nodes, neighbours, whole and part nodes."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Node, NodeState, Shape
from slurmsia.placement import Conflict, Occupant, Wish, place
from slurmsia.reshape import PerGpu

TYPES = ("a100", "t4")


@st.composite
def clusters(draw: st.DrawFn) -> tuple[tuple[Node, ...], tuple[Occupant, ...], tuple[Wish, ...]]:
    """Nodes, neighbours on them, kept jobs where they sit, and new wishes."""
    nodes = []
    for number in range(draw(st.integers(1, 8))):
        gpus = draw(st.sampled_from((1, 2, 3, 4, 6, 8, 16)))
        state = draw(st.sampled_from((NodeState.UP, NodeState.UP, NodeState.UP, NodeState.DRAINED)))
        nodes.append(
            Node(
                f"n{number}",
                draw(st.sampled_from(TYPES)),
                gpus,
                cpus=gpus * draw(st.sampled_from((2, 8))),
                memory_mb=gpus * 1000,
                state=state,
                leaf_switch=draw(st.sampled_from((None, "s0", "s1"))),
            )
        )
    free = {node.name: node.gpus for node in nodes}
    cpus = {node.name: node.cpus for node in nodes}
    occupants, wishes = [], []
    for number in range(draw(st.integers(0, 6))):
        node = draw(st.sampled_from(nodes))
        gpus = draw(st.integers(1, node.gpus))
        if gpus > free[node.name] or gpus > cpus[node.name]:
            continue
        free[node.name] -= gpus
        cpus[node.name] -= gpus
        seats = ((node.name, gpus),)
        if draw(st.booleans()):
            occupants.append(Occupant(f"o{number}", seats, PerGpu(1.0, 100.0)))
        else:
            shape = Shape(node.gpu_type or "", 1, gpus)
            movable = draw(st.booleans())
            wishes.append(Wish(f"k{number}", shape, PerGpu(1.0, 100.0), at=seats, keep=True, movable=movable))
    for number in range(draw(st.integers(1, 8))):
        count = draw(st.integers(1, 3))
        each = draw(st.sampled_from((1, 2, 3, 4, 8)))
        shape = Shape(draw(st.sampled_from(TYPES)), count, count * each)
        needs = PerGpu(
            draw(st.sampled_from((0.5, 1.0, 4.0))), draw(st.sampled_from((None, 500.0))), draw(st.booleans())
        )
        exact = draw(st.booleans())
        wishes.append(Wish(f"w{number}", shape, needs, exact=exact))
    return tuple(nodes), tuple(occupants), tuple(wishes)


def faults(
    nodes: tuple[Node, ...], occupants: tuple[Occupant, ...], wishes: tuple[Wish, ...], placement: object
) -> list:
    """Everything wrong with a placement, counted again from scratch."""
    by_name = {node.name: node for node in nodes}
    gpus = {node.name: 0 for node in nodes}
    cpus = {node.name: 0.0 for node in nodes}
    jobs: dict[str, list[str]] = {node.name: [] for node in nodes}
    alone: dict[str, str] = {}
    spread: dict[str, int] = {node.name: 0 for node in nodes}
    wrong = []
    everything = [(o.job_id, o.seats, o.per_gpu, None) for o in occupants]
    everything += [(w.job_id, placement.seats[w.job_id], w.per_gpu, w) for w in wishes if w.job_id in placement.seats]
    for job_id, seats, needs, wish in everything:
        for name, count in seats:
            gpus[name] += count
            cpus[name] += math.ceil(needs.cpus * count - 1e-9)
            jobs[name].append(job_id)
            if needs.whole_nodes:
                alone[name] = job_id
            if wish is not None and len(seats) > 1:
                spread[name] += 1
        if wish is None:
            continue
        if [count for _, count in seats] != [wish.shape.gpus_per_node] * wish.shape.nodes:
            wrong.append(f"{job_id} has the wrong shape {seats}")
        if wish.keep and job_id not in placement.moved:
            if seats != wish.at:
                wrong.append(f"{job_id} was to be kept at {wish.at} but sits at {seats}")
            continue
        for name, count in seats:
            node = by_name[name]
            if node.state is not NodeState.UP or node.gpu_type != wish.shape.gpu_type:
                wrong.append(f"{job_id} sits on {node}")
            if wish.shape.nodes > 1 and not wish.exact and count != node.gpus:
                wrong.append(f"{job_id} takes part of {name} on several nodes")
    for node in nodes:
        if gpus[node.name] > node.gpus or cpus[node.name] > node.cpus:
            wrong.append(f"{node.name} is over-full: {jobs[node.name]}")
        if node.name in alone and len(jobs[node.name]) > 1:
            wrong.append(f"{alone[node.name]} is not alone on {node.name}")
        if spread[node.name] > 1:
            wrong.append(f"{spread[node.name]} multi-node jobs on {node.name}")
    return wrong


@settings(max_examples=120, deadline=None)
@given(clusters(), st.booleans())
def test_a_placement_never_breaks_capacity_types_cpus_state_or_the_whole_node_rule(world, evict) -> None:
    nodes, occupants, wishes = world
    placement = place(nodes, occupants, wishes, lambda conflict: evict)
    assert faults(nodes, occupants, wishes, placement) == []


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_without_a_grant_no_kept_job_moves_and_every_wish_is_placed_or_named_as_a_conflict(world) -> None:
    nodes, occupants, wishes = world
    placement = place(nodes, occupants, wishes)
    assert placement.moved == frozenset()
    for wish in wishes:
        if wish.keep:
            assert placement.seats[wish.job_id] == wish.at
    named = {conflict.job_id for conflict in placement.conflicts}
    assert named | set(placement.seats) == {wish.job_id for wish in wishes}
    assert not named & set(placement.seats)


@settings(max_examples=80, deadline=None)
@given(clusters())
def test_only_movable_jobs_are_ever_named_as_victims(world) -> None:
    nodes, occupants, wishes = world
    movable = {wish.job_id for wish in wishes if wish.keep and wish.movable}
    asked: list[Conflict] = []

    def note(conflict: Conflict) -> bool:
        asked.append(conflict)
        return True

    placement = place(nodes, occupants, wishes, note)
    assert {victim for conflict in asked for victim in conflict.victims} <= movable
    assert placement.moved <= movable


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from((1, 2, 4, 8)), min_size=1, max_size=12),
    st.integers(1, 6),
)
def test_power_of_two_jobs_that_fit_by_count_are_always_placed_on_an_empty_cluster(sizes, count) -> None:
    nodes = tuple(Node(f"n{number}", "a100", 8, 64, 8000) for number in range(count))
    wishes, left = [], 8 * count
    for number, size in enumerate(sizes):
        if size <= left:
            left -= size
            wishes.append(Wish(f"w{number}", Shape("a100", 1, size), PerGpu(1.0, None)))
    placement = place(nodes, (), wishes)
    assert placement.conflicts == ()
