"""Minimises the loss of the step-time model: loss with analytic derivatives, and a projected, damped Gauss-Newton.

Works in coordinates in which the network's betas are ratios to their alphas. A round may need thousands of warm
refits and their arrays are short, so what counts here is the number of array operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dposv

from .groups import Groups

Floats = NDArray[np.float64]

#: Bounds of the paper: alphas and betas at least this many seconds, gamma within [1, 10].
LOWEST_S = 1e-8
GAMMA_MAX = 10.0
#: Regularisation of the paper's loss.
GAMMA_PULL = 1e-3
RETROGRESSION_PULL = 1e-2
#: A gain below this is none, however small the loss: it is a log error far below `groups.MODEL_ERROR`.
LEAST_GAIN = 1e-5
#: A step damped by no more than this is a full one.
FULL_STEP = 1e-2

ALPHA_C, BETA_C, ALPHA_N, RHO_N, ALPHA_R, RHO_R, GAMMA = range(7)


@dataclass
class Problem:
    """One fit in the coordinates it is solved in: betas of the network as ratios ``rho = beta / alpha``."""

    groups: Groups
    weight: Floats
    low: Floats
    high: Floats
    free: NDArray[np.bool_]
    more: Floats = field(init=False)
    is_across: Floats = field(init=False)
    is_within: Floats = field(init=False)
    log_step: Floats = field(init=False)
    log_grad: Floats = field(init=False)
    has_grad: NDArray[np.bool_] = field(init=False)
    grad_weight: Floats = field(init=False)
    more_across: Floats = field(init=False)
    more_within: Floats = field(init=False)
    ones: Floats = field(init=False)
    of_grad: Floats = field(init=False)

    def __post_init__(self) -> None:
        g = self.groups
        self.more = np.maximum(g.gpus - 2.0, 0.0)
        self.is_across = ((g.nodes > 1) & (g.gpus > 1)).astype(np.float64)
        self.is_within = ((g.nodes <= 1) & (g.gpus > 1)).astype(np.float64)
        self.log_step = np.log(g.step_s)
        self.has_grad = np.isfinite(g.grad_s)
        self.log_grad = np.log(np.where(self.has_grad, g.grad_s, 1.0))
        grad_weight = self.weight * self.has_grad
        self.grad_weight = grad_weight / max(float(grad_weight.sum()), 1e-300)
        self.more_across, self.more_within = self.is_across * self.more, self.is_within * self.more
        self.ones = np.ones(len(g))
        self.of_grad = np.stack((self.ones, g.local_batch))


def problem_of(groups: Groups, weight: Floats) -> Problem:
    low = np.array([LOWEST_S, LOWEST_S, LOWEST_S, 0.0, LOWEST_S, 0.0, 1.0])
    high = np.array([np.inf] * 6 + [GAMMA_MAX])
    free = np.ones(7, dtype=np.bool_)
    across = (groups.nodes > 1) & (groups.gpus > 1)
    within = (groups.nodes <= 1) & (groups.gpus > 1)
    free[ALPHA_C] = bool(np.ptp(groups.local_batch) > 0)
    free[ALPHA_N] = bool(across.any())
    free[ALPHA_R] = bool(within.any())
    free[RHO_N] = free[ALPHA_N] and bool((groups.gpus[across] > 2).any())
    free[RHO_R] = free[ALPHA_R] and bool((groups.gpus[within] > 2).any())
    free[GAMMA] = bool(free[ALPHA_N] or free[ALPHA_R])
    return Problem(groups, weight, low, high, free)


def log_step(problem: Problem, x: Floats) -> Floats:
    compute = x[ALPHA_C] + x[BETA_C] * problem.groups.local_batch
    sync = problem.is_across * x[ALPHA_N] * (1.0 + x[RHO_N] * problem.more) + problem.is_within * x[ALPHA_R] * (
        1.0 + x[RHO_R] * problem.more
    )
    longer, shorter = np.maximum(compute, sync), np.minimum(compute, sync)
    full = longer * (1.0 + (shorter / longer) ** x[GAMMA]) ** (1.0 / x[GAMMA])
    return np.asarray(np.log(problem.groups.accumulation * compute + full))


def evaluate(problem: Problem, x: Floats, below: float = math.inf) -> tuple[float, Floats, Floats]:
    """Loss, gradient [7] and Gauss-Newton curvature [7, 7] at ``x``; the latter two only with a loss ``below``.

    A root mean square has no useful second derivative of its own; ``rms(r) <= (mean(r^2) / rms0 + rms0) / 2`` is its
    tight quadratic majorant at ``rms0``, whose gradient agrees, so each step descends on the true loss.
    """
    groups, more, local = problem.groups, problem.more, problem.groups.local_batch
    alpha_c, beta_c, alpha_n, rho_n, alpha_r, rho_r, gamma = x.tolist()
    compute = alpha_c + beta_c * local
    across, within = problem.is_across * (1.0 + rho_n * more), problem.is_within * (1.0 + rho_r * more)
    sync = alpha_n * across + alpha_r * within
    longer = np.maximum(compute, sync)
    ratio = np.minimum(compute, sync) / longer
    power = ratio**gamma
    one_more = 1.0 + power
    full = longer * one_more ** (1.0 / gamma)
    step = groups.accumulation * compute + full
    off_step = np.log(step) - problem.log_step
    off_grad = (np.log(compute) - problem.log_grad) * problem.has_grad
    rms_step = math.sqrt(float(problem.weight @ (off_step * off_step)))
    rms_grad = math.sqrt(float(problem.grad_weight @ (off_grad * off_grad)))
    value = rms_step + rms_grad + GAMMA_PULL * (gamma - 1.0) ** 2 + RETROGRESSION_PULL * (rho_n * rho_n + rho_r * rho_r)
    if not value < below:
        return value, _NOTHING, _NOTHING
    # d full / d compute and d full / d sync: (c / full)^(gamma - 1) and (n / full)^(gamma - 1)
    compute_share = groups.accumulation + (compute / full) ** (gamma - 1.0)
    by_sync = (sync / full) ** (gamma - 1.0) if gamma > 1.0 else problem.ones
    jacobian = np.empty((7, len(full)))
    jacobian[ALPHA_C] = compute_share
    jacobian[BETA_C] = compute_share * local
    jacobian[ALPHA_N] = by_sync * across
    jacobian[RHO_N] = by_sync * (alpha_n * problem.more_across)
    jacobian[ALPHA_R] = by_sync * within
    jacobian[RHO_R] = by_sync * (alpha_r * problem.more_within)
    # d log full / d gamma; the terms with log(ratio) vanish with power as ratio goes to 0
    log_ratio = np.log(np.maximum(ratio, 1e-300))
    jacobian[GAMMA] = full * (power * log_ratio / (gamma * one_more) - np.log1p(power) / (gamma * gamma))
    jacobian /= step
    weighted = jacobian * (problem.weight / max(rms_step, 1e-7))
    gradient = weighted @ off_step
    curvature = weighted @ jacobian.T
    by_grad = problem.of_grad / compute
    weighted = by_grad * (problem.grad_weight / max(rms_grad, 1e-7))
    gradient[:2] += weighted @ off_grad
    curvature[:2, :2] += weighted @ by_grad.T
    gradient[GAMMA] += 2.0 * GAMMA_PULL * (gamma - 1.0)
    curvature[GAMMA, GAMMA] += 2.0 * GAMMA_PULL
    gradient[RHO_N] += 2.0 * RETROGRESSION_PULL * rho_n
    gradient[RHO_R] += 2.0 * RETROGRESSION_PULL * rho_r
    curvature[RHO_N, RHO_N] += 2.0 * RETROGRESSION_PULL
    curvature[RHO_R, RHO_R] += 2.0 * RETROGRESSION_PULL
    return value, gradient, curvature


_NOTHING = np.zeros(0)


@dataclass(frozen=True, slots=True)
class Ended:
    """Where a descent ended: the point, its loss and curvature, and how."""

    x: Floats
    value: float
    curvature: Floats
    iterations: int
    ended: str


def descend(problem: Problem, x: Floats, max_iterations: int, tolerance: float) -> Ended:
    damping, ended = 1e-3, "iteration-limit"
    value, gradient, curvature = evaluate(problem, x)
    small = 0
    iteration = 0
    for iteration in range(1, max_iterations + 1):  # noqa: B007
        free = problem.free & ~(((x <= problem.low) & (gradient > 0)) | ((x >= problem.high) & (gradient < 0)))
        if not free.any():
            ended = "converged"
            break
        step = _step(curvature, gradient, free, damping)
        if step is None:
            damping *= 10.0
            continue
        trial = np.minimum(np.maximum(x - step, problem.low), problem.high)
        trial_value, trial_gradient, trial_curvature = evaluate(problem, trial, value)
        if trial_value < value:
            gained = value - trial_value
            x, value, gradient, curvature = trial, trial_value, trial_gradient, trial_curvature
            full_step = damping <= FULL_STEP
            damping = max(damping * 0.2, 1e-9)
            small = small + 1 if gained <= max(tolerance * value, LEAST_GAIN) else 0
            if small >= (1 if full_step else 2) or value < 1e-9:
                ended = "converged"
                break
        else:
            damping *= 8.0
            if damping > 1e7 or not math.isfinite(trial_value):
                ended = "converged" if math.isfinite(value) else "iteration-limit"
                if damping > 1e7:
                    break
    return Ended(x, value, curvature, iteration, ended)


def _step(curvature: Floats, gradient: Floats, free: NDArray[np.bool_], damping: float) -> Floats | None:
    """Damped Newton step [7] of the free coordinates, 0 elsewhere; ``None`` where the curvature is not positive."""
    mask = free.astype(np.float64)
    damped = curvature * (mask[:, None] * mask)
    diagonal = damped.diagonal()
    damped.reshape(-1)[::8] += damping * diagonal + (1e-12 * float(diagonal.max()) + 1e-300) + (1.0 - mask)
    _, step, info = dposv(damped, gradient * mask)
    return np.asarray(step) if info == 0 else None
