"""The policy of the public Sia code, warts included (ARTIFACT.md section 1): for comparison, never for production.

Rows are normalised by their smallest goodput, discounted by the restart factor, raised to ``p`` and **rounded to two
decimals**; forbidden configurations cost 100; a job's age counts from submission; ``lambda_a`` is not used. The clean
published program is policy ``sia``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import RoundProblem, Terms

#: Goodput of a forbidden configuration in the public code; at p = -0.5 it costs 100, so it is never chosen.
ZERO_ALLOC_GAIN = 1e-4
#: Largest cost of one configuration in the public code.
LARGEST_COST = 3000.0


@dataclass(frozen=True, slots=True)
class SiaArtifact:
    """``p`` fairness exponent, ``lambda_n`` cost of leaving a job queued, ``decimals`` of the rounding.

    The restart cost S comes from the job's model (``models[id].restart.mean_s``).
    """

    p: float = -0.5
    lambda_n: float = 1.1
    decimals: int = 2
    name: str = "sia-artifact"

    def terms(self, problem: RoundProblem) -> Terms:
        """Gain of each configuration over staying queued; the reported objective is the public code's own."""
        jobs, configs = problem.valid.shape
        units = np.ones((jobs, configs))
        for i, candidate in enumerate(problem.candidates):
            model = problem.models.get(candidate.job_id)
            if model is not None and model.units:
                units[i] = [model.units.get(shape.gpu_type, 1) for shape in problem.shapes]
        goodput = normalised(problem.matrix.goodput, problem.valid, units)
        factor = np.array([self._restart_factor(problem, i) for i in range(jobs)]).reshape(-1, 1)
        discount = np.where(np.arange(configs) == _current(problem).reshape(-1, 1), 1.0, factor)
        cost = self.cost(np.where(problem.valid, goodput * discount, ZERO_ALLOC_GAIN))
        minimise = self.p < 0
        value = self.lambda_n - cost if minimise else cost - self.lambda_n
        offset = self.lambda_n * jobs
        return Terms(
            value=np.where(problem.valid, value, 0.0),
            sign=-1.0 if minimise else 1.0,
            offset=offset if minimise else -offset,
            why={"goodput": goodput, "restart": discount},
        )

    def cost(self, discounted: NDArray[np.float64]) -> NDArray[np.float64]:
        """``min(round(g^p, 2), 3000)`` of normalised, discounted goodputs."""
        with np.errstate(divide="ignore", invalid="ignore"):
            powered = np.nan_to_num(discounted**self.p, posinf=LARGEST_COST)
        return np.asarray(np.minimum(np.round(powered, self.decimals), LARGEST_COST))

    @staticmethod
    def _restart_factor(problem: RoundProblem, row: int) -> float:
        candidate = problem.candidates[row]
        model = problem.models.get(candidate.job_id)
        cost_s = 30.0 if model is None else model.restart.mean_s
        if candidate.current < 0 or candidate.age_s < cost_s:
            return 1.0
        return max(candidate.age_s - candidate.restarts * cost_s, 0.0) / (candidate.age_s + cost_s)


def normalised(
    goodput: NDArray[np.float64], valid: NDArray[np.bool_], units: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rows divided by their smallest valid goodput, times the GPUs per replica of the type that has it."""
    usable = valid & (goodput > 0)
    lowest = np.min(goodput, axis=1, initial=np.inf, where=usable).reshape(-1, 1)
    at = np.argmax(usable & (goodput == lowest), axis=1)
    unit = units[np.arange(len(units)), at].reshape(-1, 1) if len(units) else np.ones((0, 1))
    scaled = np.divide(goodput * unit, lowest, out=np.zeros_like(goodput), where=np.isfinite(lowest))
    return np.where(usable, scaled, 0.0)


def _current(problem: RoundProblem) -> NDArray[np.int64]:
    return np.array([candidate.current for candidate in problem.candidates], dtype=np.int64)
