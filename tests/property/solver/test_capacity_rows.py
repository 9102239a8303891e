"""Rows of a type with holes: necessary for any node sizes, sufficient for powers of two."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Shape
from slurmsia.solver.capacity import capacity_rows


def shapes_of(sizes: list[int], most_nodes: int) -> list[Shape]:
    """Single-node powers of two, every whole node, and whole nodes in numbers."""
    largest = max(sizes)
    single = {2**k for k in range(6) if 2**k <= largest} | set(sizes)
    found = [Shape("a", 1, gpus) for gpus in sorted(single)]
    return found + [Shape("a", n, n * size) for size in sorted(set(sizes)) for n in range(2, most_nodes + 1)]


def packs(jobs: list[Shape], nodes: list[tuple[int, int]]) -> bool:
    """Whether all jobs fit, by trying every node for every job, whole-node jobs first, largest first."""
    if not jobs:
        return True
    job, rest = jobs[0], jobs[1:]
    if job.nodes > 1:
        whole = [i for i, (free, size) in enumerate(nodes) if free == size == job.gpus_per_node]
        if len(whole) < job.nodes:
            return False
        taken = set(whole[: job.nodes])
        return packs(rest, [(0, size) if i in taken else (free, size) for i, (free, size) in enumerate(nodes)])
    for i, (free, size) in enumerate(nodes):
        if free >= job.gpus and (free, size) not in nodes[:i]:
            left = [*nodes[:i], (free - job.gpus, size), *nodes[i + 1 :]]
            if packs(rest, left):
                return True
    return False


def random_jobs(rng: np.random.Generator, shapes: list[Shape], rows, greedy_fill: bool) -> list[Shape]:
    """Shapes drawn until no further one keeps every row."""
    used = np.zeros(len(rows), dtype=np.int64)
    jobs = []
    for _ in range(40):
        c = int(rng.integers(0, len(shapes)))
        need = np.array([row.need[c] for row in rows])
        if all(used + need <= [row.limit for row in rows]):
            jobs.append(shapes[c])
            used += need
            if not greedy_fill and rng.random() < 0.2:
                break
    return sorted(jobs, key=lambda s: (s.nodes > 1, s.gpus_per_node), reverse=True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.booleans())
def test_any_choice_that_keeps_the_rows_can_be_placed_for_power_of_two_sizes(sizes, seed, fill):
    rng = np.random.default_rng(seed)
    nodes = [(int(rng.choice([size, rng.integers(0, size + 1)])), size) for size in sizes]
    shapes = shapes_of(sizes, len(sizes))
    jobs = random_jobs(rng, shapes, capacity_rows(shapes, {"a": nodes}), fill)
    assert packs(jobs, nodes)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_whatever_can_be_placed_keeps_the_rows_for_any_sizes(sizes, seed):
    rng = np.random.default_rng(seed)
    nodes = [(int(rng.integers(0, size + 1)) if rng.random() < 0.5 else size, size) for size in sizes]
    shapes = shapes_of(sizes, len(sizes))
    jobs: list[Shape] = []
    for _ in range(6):
        job = shapes[int(rng.integers(0, len(shapes)))]
        trial = sorted([*jobs, job], key=lambda s: (s.nodes > 1, s.gpus_per_node), reverse=True)
        if packs(trial, nodes):
            jobs = trial
    for row in capacity_rows(shapes, {"a": nodes}):
        assert sum(int(row.need[shapes.index(job)]) for job in jobs) <= row.limit, row.name


@given(st.integers(0, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_one_node_size_up_to_sixteen_makes_at_most_five_rows(power, count, seed):
    size = 2**power
    rng = np.random.default_rng(seed)
    nodes = [(int(rng.integers(0, size + 1)), size) for _ in range(count)]
    assert len(capacity_rows(shapes_of([size], count), {"a": nodes})) <= 5


def test_eight_crumbs_are_not_one_block_of_eight():
    shapes = [Shape("a", 1, 1), Shape("a", 1, 8)]
    rows = capacity_rows(shapes, {"a": [(1, 8)] * 8})
    assert [(row.need.tolist(), row.limit) for row in rows] == [([1, 8], 8), ([0, 1], 0)]


def test_a_type_without_usable_nodes_offers_nothing():
    rows = capacity_rows([Shape("a", 1, 1), Shape("a", 2, 16)], {})
    assert rows
    assert all(row.limit == 0 for row in rows)
