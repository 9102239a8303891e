"""Measured deviations (`bias`) for many (job, configuration) pairs at once; the vectorised twin of `bias.log_factor`.

Every pull of a knot is spread over all configurations by two sparse products, once per table; a factor at a
micro-batch is then a short sum over the micro-batches that the job has measured on that type.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ..cluster import Shape
from . import bias
from .base import Knots

Floats = NDArray[np.float64]
Index = NDArray[np.intp]


class BiasColumns:
    """Log factors for rows (one per model and type that has knots) and columns (shapes).

    ``batches`` [rows, most distinct micro-batches]: the measured ones, NaN-padded.
    """

    def __init__(self, rows: Sequence[Knots], shapes: Sequence[Shape]) -> None:
        counts = np.array([len(knots) for knots in rows], dtype=np.intp)
        table = np.array([knot for knots in rows for knot in knots], dtype=np.float64).reshape(-1, 4)
        row = np.repeat(np.arange(len(rows)), counts)
        # distinct micro-batches of each row, numbered from 0
        example, pair = _distinct(row, table[:, 2])
        pair_row = row[example]
        first = np.searchsorted(pair_row, np.arange(len(rows)))
        place = np.arange(len(pair_row)) - first[pair_row]
        width = int(place.max()) + 1 if len(place) else 0
        self.batches = np.full((len(rows), width), np.nan)
        self.batches[pair_row, place] = table[example, 2]
        self._pull = np.zeros((len(rows), width))
        self._pull[pair_row, place] = np.bincount(pair, table[:, 3], minlength=len(pair_row))
        example, at = _distinct(table[:, 0], table[:, 1])
        seen = table[example]
        nodes = np.array([shape.nodes for shape in shapes], dtype=np.float64)
        gpus = np.array([shape.gpus for shape in shapes], dtype=np.float64)
        by_shape, likeness = bias.shape_kernels(seen[:, 0], seen[:, 1], nodes, gpus)
        self._shape_part = _spread(table[:, 3], at, counts, by_shape)
        self._pair_part = np.zeros((len(rows), width, len(shapes)))
        order = np.argsort(pair, kind="stable")
        of_pair = np.bincount(pair, minlength=len(pair_row))
        self._pair_part[pair_row, place] = bias.PAIR_SPREAD**2 * _spread(table[order, 3], at[order], of_pair, likeness)

        apart = np.log2(self.batches[:, :, None]) - np.log2(self.batches[:, None, :])
        by_batch, near = bias.batch_likeness(apart)
        real = ~np.isnan(apart)
        own = np.einsum("rpb,rb->rp", np.where(real, by_batch, 0.0), self._pull)
        #: [rows, micro-batches, columns]: log factor at each measured micro-batch
        self.at_measured = self._shape_part[:, None, :] + own[:, :, None] + np.where(real, near, 0.0) @ self._pair_part

    def log_factor(self, row: Index, column: Index, local_batch: Floats) -> Floats:
        """Log factor on step time for entries (row, column) at a micro-batch each."""
        result = self._shape_part[row, column]
        if self.batches.shape[1] == 0:
            return np.asarray(result)
        apart = np.log2(local_batch)[:, None] - np.log2(self.batches)[row]
        by_batch, near = bias.batch_likeness(apart)
        term = self._pull[row] * by_batch + self._pair_part[row, :, column] * near
        return np.asarray(result + np.where(np.isnan(apart), 0.0, term).sum(axis=1))


def _distinct(first: Floats | Index, second: Floats) -> tuple[Index, Index]:
    """Distinct pairs in ascending order: (index of one entry with each, number of each entry's pair)."""
    order = np.lexsort((second, first))
    one, two = first[order], second[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (one[1:] != one[:-1]) | (two[1:] != two[:-1])
    number = np.empty(len(order), dtype=np.intp)
    number[order] = np.cumsum(new) - 1
    return order[new], number


def _spread(pull: Floats, at: Index, counts: Index, onto: Floats) -> Floats:
    """[rows, columns]: sums of ``pull`` times rows ``at`` of ``onto``, ``counts`` of them a row, in order."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    return np.asarray(sparse.csr_matrix((pull, at, ends), shape=(len(counts), len(onto))) @ onto)
