"""Policy `throughput`: the largest total of normalised goodput, optionally per price; Sia's program at p = 1.

No fairness at all: a job that scales badly may wait for as long as better ones come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Rows
from .worth import finished


@dataclass(frozen=True, slots=True)
class Throughput:
    """maximise  sum r x (G / min G) / (price of the type / cheapest price)^price_weight."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "throughput"

    def terms(self, problem: RoundProblem) -> Terms:
        """Normalised goodput per relative price, discounted by restarts; staying queued is worth 0."""
        rows = Rows(problem, self.options)
        discount = rows.moved(by_paper=True)
        listed = self.options.throughput.price_per_gpu_h
        known = [price for price in listed.values() if price > 0]
        prices = np.array([listed.get(shape.gpu_type, 0.0) for shape in problem.shapes])
        relative = np.where(prices > 0, prices / min(known, default=1.0), 1.0)
        price = (relative**self.options.throughput.price_weight)[None, :]
        return finished(
            rows,
            gain=rows.normalised * discount / price,
            queue=1.0,
            why={"goodput": rows.normalised, "restart-cost": discount, "price": price},
        )
