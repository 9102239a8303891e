"""What every policy reads off a round in the same way: current columns, units, usable goodput, restart factor.

Vectorised over jobs x configurations; nothing here values anything and nothing here raises on odd numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..config.policy import PolicySection
from ..models.base import JobModel
from .base import RoundProblem
from .permitted import permitted

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: A job of which no model is known restarts in this time (the default of `RestartCost`).
_NO_MODEL = JobModel(job_id="")


@dataclass(frozen=True)
class Rows:
    """One round as arrays. ``goodput`` [jobs, C] with the energy term, 0 where not ``usable``."""

    problem: RoundProblem
    options: PolicySection

    @cached_property
    def models(self) -> tuple[JobModel, ...]:
        return tuple(self.problem.models.get(c.job_id, _NO_MODEL) for c in self.problem.candidates)

    @cached_property
    def managed(self) -> Flags:
        return np.array([c.managed for c in self.problem.candidates], dtype=bool)

    @cached_property
    def current(self) -> NDArray[np.int64]:
        columns = len(self.problem.shapes)
        return np.array(
            [c.current if 0 <= c.current < columns else -1 for c in self.problem.candidates], dtype=np.int64
        )

    @cached_property
    def is_current(self) -> Flags:
        """[jobs, C]: the column that the job holds now."""
        return np.asarray(self.current[:, None] == np.arange(len(self.problem.shapes))[None, :])

    @cached_property
    def gpus(self) -> Floats:
        return np.array([shape.gpus for shape in self.problem.shapes], dtype=np.float64)

    @cached_property
    def usable(self) -> Flags:
        """[jobs, C]: valid, with a goodput that is a number above 0, and permitted by the job's limits."""
        goodput = self.problem.matrix.goodput
        sound = np.isfinite(goodput) & (goodput > 0)
        return np.asarray(self.problem.valid & sound & permitted(self.problem, self.options))

    @cached_property
    def goodput(self) -> Floats:
        return np.where(self.usable, self.problem.matrix.goodput * energy_factor(self.problem, self.options), 0.0)

    @cached_property
    def units(self) -> Floats:
        """[jobs, C]: GPUs per replica of the job on the column's type."""
        units = np.ones((len(self.models), len(self.problem.shapes)))
        for row, model in enumerate(self.models):
            if model.units:
                units[row] = [model.units.get(shape.gpu_type, 1) for shape in self.problem.shapes]
        return units

    @cached_property
    def normalised(self) -> Floats:
        """Goodput over the row's smallest usable one, times the GPUs per replica of the type that has it (Sia 3.4)."""
        usable = self.goodput > 0
        lowest = np.min(self.goodput, axis=1, initial=np.inf, where=usable)[:, None]
        unit = np.take_along_axis(self.units, np.where(usable, self.goodput, np.inf).argmin(axis=1)[:, None], axis=1)
        found = np.isfinite(lowest) & usable
        return np.asarray(np.divide(self.goodput * unit, lowest, out=np.zeros_like(self.goodput), where=found))

    @cached_property
    def requested(self) -> Flags:
        """[jobs, C]: usable columns of the requested size; all usable ones where nothing was requested."""
        wanted = np.array([0 if c.requested is None else c.requested.gpus for c in self.problem.candidates])
        return np.asarray(self.usable & ((wanted == 0)[:, None] | (wanted[:, None] == self.gpus[None, :])))

    @cached_property
    def done_work(self) -> Floats:
        """[jobs]: samples done so far; where unknown, the service so far at the goodput of one slowest GPU."""
        known = [model.work_done for model in self.models]
        service = np.array([max(c.service_gpu_s, 0.0) for c in self.problem.candidates])
        guess = service * self.least_per_gpu
        return np.array([guess[i] if done is None else max(done, 0.0) for i, done in enumerate(known)])

    @cached_property
    def remaining_work(self) -> Floats:
        """[jobs]: samples left; where unknown, as much as was done so far and at least an hour of one slowest GPU."""
        known = [model.work_remaining for model in self.models]
        guess = np.maximum(self.done_work, 3600.0 * self.least_per_gpu)
        return np.array([guess[i] if left is None else max(left, 0.0) for i, left in enumerate(known)])

    @cached_property
    def least_per_gpu(self) -> Floats:
        """[jobs]: smallest goodput per GPU over the usable columns, 0 where there is none."""
        per_gpu = np.min(self.goodput / self.gpus, axis=1, initial=np.inf, where=self.goodput > 0)
        return np.where(np.isfinite(per_gpu), per_gpu, 0.0)

    @cached_property
    def share_served(self) -> Floats:
        """[jobs]: GPU-seconds attained over requested GPUs x age; 1 = always had what it asked for."""
        candidates = self.problem.candidates
        wanted = np.array(
            [c.requested.gpus if c.requested is not None else c.min_gpus for c in candidates], dtype=float
        )
        age = np.array([max(c.age_s, self.problem.round_s) for c in candidates])
        service = np.array([max(c.service_gpu_s, 0.0) for c in candidates])
        return np.asarray(service / np.maximum(age * np.maximum(wanted, 1.0), 1e-9))

    @cached_property
    def restart_s(self) -> Floats:
        """[jobs]: learnt seconds without progress of one move."""
        return np.array([max(model.restart.mean_s, 0.0) for model in self.models], dtype=np.float64)

    @cached_property
    def restart_factor(self) -> Floats:
        """[jobs, C]: 1 for the current column, for holders of nothing and while age < S; else Sia's r (section 3.4)."""
        age = np.array([c.age_s for c in self.problem.candidates], dtype=np.float64)
        restarts = np.array([c.restarts for c in self.problem.candidates], dtype=np.float64)
        cost = self.restart_s
        factor = np.maximum(age - restarts * cost, 0.0) / np.maximum(age + cost, 1e-9)
        factor = np.where((self.current < 0) | (age < cost) | (age + cost <= 0), 1.0, factor)
        return np.where(self.is_current, 1.0, factor[:, None])

    @cached_property
    def move_factor(self) -> Floats:
        """[jobs, C]: 1 - cost/horizon for every column but the current one, 1 for holders of nothing.

        (horizon - cost) x new goodput > horizon x old goodput says that a move earns its cost within the horizon.
        """
        cost = self.restart_s.copy()
        if self.options.count_lost_work:
            cost += [c.since_checkpoint_s or 0.0 for c in self.problem.candidates]
        factor = np.maximum(1.0 - cost / np.maximum(self.horizon_s, 1e-9), 0.0)
        factor = np.where(self.current < 0, 1.0, factor)
        return np.where(self.is_current, 1.0, factor[:, None])

    @cached_property
    def horizon_s(self) -> Floats:
        """[jobs]: min(expected remaining time at the current goodput, the horizon option, walltime left)."""
        horizon = np.full(len(self.models), self.options.horizon_s)
        for row, (model, candidate) in enumerate(zip(self.models, self.problem.candidates, strict=True)):
            now = self.problem.matrix.goodput[row, self.current[row]] if self.current[row] >= 0 else 0.0
            if model.work_remaining is not None and now > 0:
                horizon[row] = min(horizon[row], max(model.work_remaining, 0.0) / now)
            if candidate.walltime_left_s is not None:
                horizon[row] = min(horizon[row], max(candidate.walltime_left_s, 0.0))
        return horizon

    def moved(self, by_paper: bool) -> Floats:
        """[jobs, C]: the discount of moving that the options ask for; ``by_paper``: the policy's own rule has r."""
        factor = np.ones((len(self.models), len(self.problem.shapes)))
        if self.options.restart_factor == "on" or (self.options.restart_factor == "auto" and by_paper):
            factor = factor * self.restart_factor
        if self.options.hysteresis:
            factor = factor * self.move_factor
        return factor


def energy_factor(problem: RoundProblem, options: PolicySection) -> Floats:
    """[1 or jobs, C]: g Pmax / (eta (P - g Pidle) + (1 - eta) g Pmax) (Zeus, section 3); 1 where power is unknown.

    P is the measured draw of the whole configuration in watts; without one it is g Pmax, so that types are told
    apart by their idle share only.
    """
    columns = len(problem.shapes)
    if options.energy_eta == 0.0:
        return np.ones((1, columns))
    gpus = np.array([shape.gpus for shape in problem.shapes], dtype=np.float64)
    kinds = [problem.gpu_types.get(shape.gpu_type) for shape in problem.shapes]
    top = gpus * np.array([np.nan if k is None or not k.power_max_w else k.power_max_w for k in kinds])
    idle = gpus * np.array([0.0 if k is None or not k.power_idle_w else k.power_idle_w for k in kinds])
    draw = top[None, :] if problem.power_w is None else np.where(problem.power_w > 0, problem.power_w, top[None, :])
    eta = options.energy_eta
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = top / (eta * np.maximum(draw - idle, 0.05 * top) + (1.0 - eta) * top)
    return np.where(np.isfinite(factor), factor, 1.0)
