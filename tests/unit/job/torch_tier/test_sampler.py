"""Every sample of every epoch exactly once, whatever the sequence of world sizes and batch settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from slurmsia.job.torch.sampler import EpochStream, StepPlan, StreamBatches, micro_batches

setting = st.tuples(st.integers(1, 40), st.integers(0, 3), st.integers(1, 6), st.integers(1, 7))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 120), st.integers(1, 3), st.lists(setting, min_size=1, max_size=6))
def test_no_sample_is_repeated_or_skipped_over_changing_world_sizes(
    length: int, epochs: int, runs: list[tuple[int, int, int, int]]
) -> None:
    stream, end, position = EpochStream(length, seed=3), length * epochs, 0
    seen: list[int] = []
    for total, accumulation, world, steps in itertools.chain(runs, itertools.repeat((7, 0, 2, 10**6))):
        if position >= end:
            break
        ranks = [
            list(micro_batches(StepPlan(total, accumulation, world, rank), position, end)) for rank in range(world)
        ]
        assert len({len(micros) for micros in ranks}) == 1
        step: list[int] = []
        weight, done = 0.0, 0
        for together in zip(*ranks, strict=True):
            for micro in together:
                weight += micro.weight / world
                if micro.weight > 0:
                    step += stream.indices(micro.begin, micro.size)
            if together[0].last:
                assert weight == pytest.approx(1.0)
                assert len(step) == together[0].step_total
                seen += step
                position += together[0].step_total
                step, weight, done = [], 0.0, done + 1
                if done == steps:
                    break
    assert position == end
    for epoch in range(epochs):
        assert sorted(seen[epoch * length : (epoch + 1) * length]) == list(range(length))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), setting, st.data())
def test_an_iterable_dataset_gives_the_same_samples_as_its_positions_say(
    length: int, epochs: int, run: tuple[int, int, int, int], data: st.DataObject
) -> None:
    total, accumulation, world, _ = run
    end = length * epochs
    position = data.draw(st.integers(0, end - 1))

    def make(epoch: int) -> Iterator[int]:
        return iter(range(epoch * length, (epoch + 1) * length))

    for rank in range(world):
        plan = StepPlan(total, accumulation, world, rank)
        batches = list(StreamBatches(make, length, plan, position, end))
        micros = list(micro_batches(plan, position, end))
        assert batches == [list(range(micro.begin, micro.begin + micro.size)) for micro in micros]


def test_epochs_have_different_orders_and_the_same_seed_the_same_ones() -> None:
    first, again, other = EpochStream(100, 1), EpochStream(100, 1), EpochStream(100, 2)
    assert first.indices(0, 200) == again.indices(0, 200)
    assert first.indices(0, 100) != first.indices(100, 100)
    assert first.indices(0, 100) != other.indices(0, 100)
