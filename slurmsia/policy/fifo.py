"""Policy `fifo`: first come, first served at the requested size; no solver. Also what a round falls back to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import Order, RoundProblem
from .queueing import in_order
from .rows import Rows


@dataclass(frozen=True, slots=True)
class Fifo:
    """Serve by time of submission."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "fifo"

    def terms(self, problem: RoundProblem) -> Order:
        """The oldest submission first."""
        rows = Rows(problem, self.options)
        return in_order(rows, np.zeros(len(problem.candidates)))
