"""Seats by hand: best fit, leaf switches, whole nodes, the cheapest victim."""

from __future__ import annotations

from slurmsia.cluster import Node, NodeState, Shape
from slurmsia.placement import Occupant, Wish, place
from slurmsia.reshape import PerGpu

PLAIN = PerGpu(1.0, None)


def node(name: str, gpus: int = 8, **change: object) -> Node:
    return Node(name, "a100", gpus, 64, 256_000, **change)  # type: ignore[arg-type]


def wish(job_id: str, gpus: int, nodes: int = 1, **change: object) -> Wish:
    return Wish(job_id, Shape("a100", nodes, gpus), PLAIN, **change)  # type: ignore[arg-type]


def kept(job_id: str, name: str, gpus: int, movable: bool = True) -> Wish:
    return wish(job_id, gpus, at=((name, gpus),), keep=True, movable=movable)


def test_a_small_job_goes_where_it_leaves_the_least_behind() -> None:
    crumbs = (Occupant("x", (("n1", 4),), PLAIN), Occupant("y", (("n2", 6),), PLAIN))
    placement = place((node("n0"), node("n1"), node("n2")), crumbs, (wish("7", 2),))
    assert placement.seats["7"] == (("n2", 2),)


def test_several_nodes_come_from_the_smallest_switch_that_suffices() -> None:
    machines = tuple(node(f"n{i}", leaf_switch=leaf) for i, leaf in enumerate(("s0", "s0", "s0", "s1", "s1", "s2")))
    placement = place(machines, (), (wish("7", 16, 2),))
    assert placement.seats["7"] == (("n3", 8), ("n4", 8))
    spread = place(machines, (), (wish("7", 32, 4),))
    assert [name for name, _ in spread.seats["7"]] == ["n0", "n1", "n2", "n5"]


def test_a_restart_avoids_the_node_it_just_left_where_another_is_as_good() -> None:
    placement = place((node("n0"), node("n1")), (), (wish("7", 4, at=(("n0", 2),)),))
    assert placement.seats["7"] == (("n1", 4),)


def test_whole_node_jobs_take_whole_nodes_of_their_own_size_only() -> None:
    machines = (node("n0", 4), node("n1", 8), node("n2", 4))
    assert place(machines, (), (wish("7", 8, 2),)).seats["7"] == (("n0", 4), ("n2", 4))
    busy = place(machines, (Occupant("x", (("n0", 1),), PLAIN),), (wish("7", 8, 2),))
    assert busy.conflicts[0].victims == ()


def test_the_cheapest_victim_is_named_with_its_new_place_and_moves_only_if_granted() -> None:
    machines = (node("n0"), node("n1"), node("n2"))
    jobs = (kept("a", "n0", 4), kept("b", "n1", 2), kept("c", "n2", 3), wish("7", 8))
    refused = place(machines, (), jobs)
    assert refused.conflicts[0].victims == ("b",)
    assert refused.conflicts[0].moves == (("b", (("n0", 2),)),)
    granted = place(machines, (), jobs, lambda conflict: True)
    assert granted.seats["7"] == (("n1", 8),)
    assert granted.moved == {"b"}
    assert granted.seats["a"] == (("n0", 4),)


def test_a_job_that_may_not_move_is_no_victim_even_if_it_is_the_cheapest() -> None:
    machines = (node("n0"), node("n1"), node("n2"))
    jobs = (kept("a", "n0", 4), kept("b", "n1", 2, movable=False), kept("c", "n2", 3), wish("7", 8))
    assert place(machines, (), jobs).conflicts[0].victims == ("c",)


def test_cpus_memory_and_state_close_nodes_that_have_gpus() -> None:
    machines = (node("n0", state=NodeState.DRAINED), node("n1", cpus_used_by_others=62), node("n2"))
    hungry = Wish("7", Shape("a100", 1, 4), PerGpu(4.0, 60_000.0))
    assert place(machines, (), (hungry,)).seats["7"] == (("n2", 4),)
    assert place(machines[:2], (), (hungry,)).conflicts[0].job_id == "7"


def test_only_one_multi_node_job_shares_a_node_unless_the_site_says_otherwise() -> None:
    machines = (node("n0"), node("n1"))
    jobs = (wish("7", 4, 2, exact=True), wish("8", 4, 2, exact=True))
    assert len(place(machines, (), jobs).conflicts) == 1
    assert place(machines, (), jobs, one_distributed_per_node=False).conflicts == ()
