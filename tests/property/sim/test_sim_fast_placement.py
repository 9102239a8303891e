"""The public simulator's placement: everything that fits in sum is placed, and nothing twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slurmsia.sim.artifact_placement import gpus_on_nodes, place_fast
from slurmsia.sim.clusters import TypeNodes


@st.composite
def wishes(draw: st.DrawFn) -> tuple[TypeNodes, list[tuple[str, int]]]:
    group = TypeNodes("t", draw(st.integers(1, 8)), draw(st.sampled_from([4, 8])))
    sizes = [size for size in (1, 2, 4, 8) if size <= group.gpus_per_node]
    sizes += [count * group.gpus_per_node for count in range(2, group.nodes + 1)]
    left, wanted = group.gpus, []
    for number in range(draw(st.integers(0, 20))):
        size = draw(st.sampled_from(sizes))
        if size <= left:
            left -= size
            wanted.append((f"j{number}", size))
    return group, wanted


@given(wishes())
def test_every_job_gets_its_gpus_and_no_node_gives_more_than_it_has(
    given: tuple[TypeNodes, list[tuple[str, int]]],
) -> None:
    group, wanted = given
    placed = place_fast(group, wanted)
    used: Counter[int] = Counter()
    for job, gpus in wanted:
        assert len(placed[job]) == gpus
        used.update(placed[job])
    assert all(count <= group.gpus_per_node for count in used.values())


@given(wishes())
def test_power_of_two_jobs_never_straddle_and_bigger_ones_take_whole_nodes(
    given: tuple[TypeNodes, list[tuple[str, int]]],
) -> None:
    group, wanted = given
    placed = place_fast(group, wanted)
    for job, gpus in wanted:
        shape = gpus_on_nodes(placed[job])
        if gpus <= group.gpus_per_node:
            assert shape == (gpus,)
        else:
            assert shape == (group.gpus_per_node,) * (gpus // group.gpus_per_node)
