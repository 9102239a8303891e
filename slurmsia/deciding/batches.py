"""The batch that each job is told: the best on what it is to hold, for the time for which it will hold it. Pure.

A running job changes its batch only for more than a few percent of goodput (`goodput.keep_or_change`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..declaration import Level
from ..models.goodput import BatchOption, keep_or_change
from ..models.held import Asked, tell
from ..models.noise import FIRST_HELD_S
from ..plan import BatchChoice, TargetKind
from .demand import Demand, Row

#: A batch counts for no longer ahead than this many times the age of the run: reports begin close together.
AHEAD_PER_AGE = 2.5
#: What is chosen for the time ahead follows no single report, so less than `goodput.BATCH_CHANGE_GAIN` is worth it.
CHANGE_GAIN = 0.02


def batches_of(demand: Demand, choice: NDArray[np.int64], kinds: Mapping[int, TargetKind]) -> dict[int, BatchChoice]:
    """By row, for the rows of ``kinds`` that are to hold a column and choose their batch. ``choice`` [jobs]."""
    found: dict[int, BatchChoice] = {}
    later: list[tuple[int, int, Asked]] = []
    for number, kind in kinds.items():
        row, column = demand.rows[number], int(choice[number])
        managed = row.managed
        if column < 0 or managed is None or managed.declaration.level is not Level.ADAPTIVE:
            continue
        if demand.problem.matrix.local_batch[number, column] < 1:
            continue
        if row.model.noise_ahead is None:
            found[number] = _valued(row, number, column, demand, kind)
            continue
        held_s = FIRST_HELD_S
        if kind is TargetKind.KEEP:
            aged_s = AHEAD_PER_AGE * demand.problem.candidates[number].run_s
            held_s = min(row.model.noise_ahead.held_s, max(aged_s, FIRST_HELD_S))
        later.append((number, column, Asked(row.model, demand.problem.shapes[column], held_s)))
    for (number, column, asked), told in zip(
        later, tell([asked for _, _, asked in later], demand.table.told), strict=True
    ):
        row = demand.rows[number]
        if told.best.local_batch < 1:
            found[number] = _valued(row, number, column, demand, kinds[number])
            continue
        best = BatchChoice(told.best.local_batch, told.best.accumulation)
        present = _present(row, kinds[number])
        if present is not None and present != best:
            held = told.option(row.model, asked.shape, present.local_batch, present.accumulation)
            best = present if keep_or_change(held, told.best, CHANGE_GAIN) is held else best
        found[number] = best
    return found


def _valued(row: Row, number: int, column: int, demand: Demand, kind: TargetKind) -> BatchChoice:
    """The batch that the configuration is valued with."""
    matrix = demand.problem.matrix
    local, extra = int(matrix.local_batch[number, column]), int(matrix.accumulation[number, column])
    best, present = BatchChoice(local, extra), _present(row, kind)
    if present is None or present == best:
        return best
    shape = demand.problem.shapes[column]
    held = demand.table.held(row.model, shape, present.local_batch, present.accumulation)
    offered = BatchOption(local, extra, float(matrix.throughput[number, column]), float(matrix.goodput[number, column]))
    return present if keep_or_change(held, offered) is held else best


def _present(row: Row, kind: TargetKind) -> BatchChoice | None:
    """The batch that a job keeps unless another is clearly better; ``None`` for one that starts anew anyway."""
    return row.managed.standing.batch if kind is TargetKind.KEEP and row.managed is not None else None
