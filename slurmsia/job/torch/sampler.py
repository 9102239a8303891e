"""Which samples a rank trains in a step, from nothing but the position in the stream of epochs.

The stream is every epoch's permutation one after the other; a step takes the next ``total`` samples of it and parts
them among ranks and micro-batches. So any world size continues at any position, and no sample is repeated or skipped.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional

import torch
from torch.utils.data import IterableDataset


class StepPlan(NamedTuple):
    """How a step of ``total`` samples is parted: ``accumulation`` extra micro-batches on each of ``world`` ranks."""

    total: int
    accumulation: int
    world: int
    rank: int


class MicroBatch(NamedTuple):
    """One micro-batch of this rank: ``begin`` and ``size`` in the stream, and its part of the step.

    ``weight``: factor on the mean loss of the micro-batch so that the average over ranks is the mean over the step;
    0 for a rank that has no sample left (it computes on one foreign sample that counts for nothing).
    ``step_total``: samples of the step over all ranks; ``last``: the step ends with it.
    """

    begin: int
    size: int
    weight: float
    step_total: int
    last: bool


class EpochStream:
    """The endless stream of sample indices: epoch after epoch of ``length`` samples, each in its own order."""

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True) -> None:
        if length < 1:
            raise ValueError(f"a dataset of {length} samples cannot be trained on")
        self.length = length
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = -1
        self._order: Optional[torch.Tensor] = None

    def indices(self, begin: int, count: int) -> List[int]:
        """Dataset indices at stream positions ``begin`` .. ``begin + count``; may cross epochs."""
        found: List[int] = []
        while count > 0:
            epoch, at = divmod(begin, self.length)
            take = min(count, self.length - at)
            if not self._shuffle:
                found += range(at, at + take)
            else:
                found += self._permutation(epoch)[at : at + take].tolist()
            begin += take
            count -= take
        return found

    def _permutation(self, epoch: int) -> torch.Tensor:
        if self._order is None or epoch != self._epoch:
            generator = torch.Generator()
            generator.manual_seed(self._seed * 1_000_003 + epoch)
            self._order = torch.randperm(self.length, generator=generator)
            self._epoch = epoch
        return self._order


def micro_batches(plan: StepPlan, position: int, end: int) -> Iterator[MicroBatch]:
    """This rank's micro-batches from a position to the end of the stream; the last step may be short."""
    nominal = -(-plan.total // (plan.world * (plan.accumulation + 1)))
    while position < end:
        total = min(plan.total, end - position)
        per_rank = max(1, -(-total // (plan.world * nominal)))
        parts = per_rank * plan.world
        base, longer = divmod(total, parts)
        for micro in range(per_rank):
            part = micro * plan.world + plan.rank
            count = base + (1 if part < longer else 0)
            begin = position + part * base + min(part, longer)
            last = micro == per_rank - 1
            if count:
                yield MicroBatch(begin, count, count * plan.world / total, total, last)
            else:
                yield MicroBatch(position, 1, 0.0, total, last)
        position += total


class IndexBatches:
    """Batch sampler of a map-style dataset for this rank."""

    def __init__(self, stream: EpochStream, plan: StepPlan, position: int, end: int) -> None:
        self._stream = stream
        self._plan = plan
        self._position = position
        self._end = end

    def __iter__(self) -> Iterator[List[int]]:
        for micro in micro_batches(self._plan, self._position, self._end):
            yield self._stream.indices(micro.begin, micro.size)


class StreamBatches(IterableDataset):  # type: ignore[misc, unused-ignore]
    """Micro-batches of an iterable dataset for this rank: lists of samples, read in order, foreign ones passed over.

    ``make`` returns a fresh iterator over one epoch; all ranks must read the same order. Each rank reads everything,
    so reading must be cheap beside training; at most one loader worker.
    """

    def __init__(self, make: Callable[[int], Iterable[Any]], length: int, plan: StepPlan, position: int, end: int):
        super().__init__()
        self._make = make
        self._length = length
        self._plan = plan
        self._position = position
        self._end = end

    def __iter__(self) -> Iterator[List[Any]]:
        source = self._from(self._position - self._position % self._length)
        at = self._position - self._position % self._length
        kept: List[Any] = []
        kept_at = at
        for micro in micro_batches(self._plan, self._position, self._end):
            stop = micro.begin + micro.size
            while at < stop:
                kept.append(next(source))
                at += 1
            offset = micro.begin - kept_at
            yield kept[offset : offset + micro.size]
            # A rank without a sample of its own borrows the step's first one, so nothing is dropped before its end.
            if micro.last:
                kept = []
                kept_at = at

    def _from(self, position: int) -> Iterator[Any]:
        epoch = position // self._length
        while True:
            count = 0
            for item in self._make(epoch):
                yield item
                count += 1
                if count == self._length:
                    break
            if count < self._length:
                raise ValueError(
                    f"the iterable dataset ended after {count} samples of epoch {epoch}, length= says {self._length}"
                )
            epoch += 1
