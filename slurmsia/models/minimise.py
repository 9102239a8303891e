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
#: A full step of which the local model expects no more than this (it expects half of gradient times step) is none.
NOTHING_TO_GAIN = 1e-6
#: A step damped by no more than this is a full one.
FULL_STEP = 1e-2

#: Pull of ``kappa`` towards 0, the published model.
KAPPA_PULL = 2e-3

ALPHA_C, BETA_C, ALPHA_N, RHO_N, ALPHA_R, RHO_R, GAMMA, KAPPA = range(8)

#: Bounds of the coordinates; a problem that does not tell ``kappa`` has only the first seven.
LOWEST = np.array([LOWEST_S, LOWEST_S, LOWEST_S, 0.0, LOWEST_S, 0.0, 1.0, 0.0])
HIGHEST = np.array([np.inf] * 6 + [GAMMA_MAX, np.inf])
_NOTHING = np.zeros(0)


@dataclass
class Problem:
    """One fit in the coordinates it is solved in: betas of the network as ratios ``rho = beta / alpha``.

    ``free`` [7 or 8]: with 8 the last coordinate is ``kappa`` (`throughput.sync_time`), without it that term is left
    out. ``is_shared``, ``more_shared``: as ``is_within``, ``more_within``, for one of several nodes.
    """

    groups: Groups
    weight: Floats
    free: NDArray[np.bool_]
    accumulates: bool = field(init=False)
    any_across: bool = field(init=False)
    any_within: bool = field(init=False)
    all_grad: bool = field(init=False)
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
    shares: bool = field(init=False)
    is_shared: Floats = field(init=False)
    more_shared: Floats = field(init=False)
    low: Floats = field(init=False)
    high: Floats = field(init=False)
    bounds: tuple[list[float], list[float]] = field(init=False)

    def __post_init__(self) -> None:
        g = self.groups
        several, wide = g.gpus > 1, g.nodes > 1
        self.more = np.maximum(g.gpus - 2.0, 0.0)
        self.is_across = (several & wide).astype(np.float64)
        self.is_within = (several & ~wide).astype(np.float64)
        self.log_step = np.log(g.step_s)
        self.has_grad = np.isfinite(g.grad_s)
        self.log_grad = np.log(np.where(self.has_grad, g.grad_s, 1.0))
        grad_weight = self.weight * self.has_grad
        self.grad_weight = grad_weight / max(float(grad_weight.sum()), 1e-300)
        self.more_across, self.more_within = self.is_across * self.more, self.is_within * self.more
        self.ones = np.ones(len(g))
        self.of_grad = np.stack((self.ones, g.local_batch))
        self.accumulates = bool(g.accumulation.any())
        self.any_across, self.any_within = bool(self.free[ALPHA_N]), bool(self.free[ALPHA_R])
        self.all_grad = bool(self.has_grad.all())
        size = len(self.free)
        self.low, self.high = LOWEST[:size], HIGHEST[:size]
        self.bounds = (self.low.tolist(), self.high.tolist())
        self.shares = size > KAPPA
        if self.shares:
            dense = g.gpus / g.nodes
            self.is_shared = self.is_across * (dense > 1.0)
            self.more_shared = self.is_across * np.maximum(dense - 2.0, 0.0)
        else:
            self.is_shared = self.more_shared = _NOTHING


def problem_of(groups: Groups, weight: Floats, published: bool = False) -> Problem:
    """The problem of some groups: what is not measured is not free.

    ``kappa`` is measured by several nodes with different numbers of GPUs each, beside several GPUs on one node; with
    ``published`` it is left out, as the paper does.
    """
    local = groups.local_batch
    # (GPUs, nodes) of what was measured: few distinct ones, so plain sets are quicker than arrays
    seen = set(zip(groups.gpus.tolist(), groups.nodes.tolist(), strict=True))
    across = any(gpus > 1 and nodes > 1 for gpus, nodes in seen)
    within = any(gpus > 1 and nodes <= 1 for gpus, nodes in seen)
    free = [
        bool(local.max() > local.min()),
        True,
        across,
        any(gpus > 2 and nodes > 1 for gpus, nodes in seen),
        within,
        any(gpus > 2 and nodes <= 1 for gpus, nodes in seen),
        across or within,
    ]
    if within and across and not published and len({gpus / nodes for gpus, nodes in seen if nodes > 1}) > 1:
        free.append(True)
    return Problem(groups, weight, np.array(free))


def log_step(problem: Problem, x: Floats) -> Floats:
    compute = x[ALPHA_C] + x[BETA_C] * problem.groups.local_batch
    sync = problem.is_across * x[ALPHA_N] * (1.0 + x[RHO_N] * problem.more) + problem.is_within * x[ALPHA_R] * (
        1.0 + x[RHO_R] * problem.more
    )
    if problem.shares:
        sync = sync + x[KAPPA] * x[ALPHA_R] * (problem.is_shared + x[RHO_R] * problem.more_shared)
    longer, shorter = np.maximum(compute, sync), np.minimum(compute, sync)
    full = longer * (1.0 + (shorter / longer) ** x[GAMMA]) ** (1.0 / x[GAMMA])
    return np.asarray(np.log(problem.groups.accumulation * compute + full))


def evaluate(problem: Problem, x: Floats, below: float = math.inf) -> tuple[float, Floats, Floats]:
    """Loss, gradient [n] and Gauss-Newton curvature [n, n] at ``x`` [n]; the latter two only with a loss ``below``.

    A root mean square has no useful second derivative of its own; ``rms(r) <= (mean(r^2) / rms0 + rms0) / 2`` is its
    tight quadratic majorant at ``rms0``, whose gradient agrees, so each step descends on the true loss.
    """
    groups, local = problem.groups, problem.groups.local_batch
    alpha_c, beta_c, alpha_n, rho_n, alpha_r, rho_r, gamma, *rest = x.tolist()
    kappa = rest[0] if problem.shares else 0.0
    compute = alpha_c + beta_c * local
    sync: Floats | None = None  # parts of the network that no group has used are left out: their terms are 0
    if problem.any_within:
        within = problem.is_within + rho_r * problem.more_within
        if problem.shares:
            shared = problem.is_shared + rho_r * problem.more_shared
            within += kappa * shared
        sync = alpha_r * within
    if problem.any_across:
        across = problem.is_across + rho_n * problem.more_across
        sync = alpha_n * across if sync is None else alpha_n * across + sync
    if sync is None:
        full = compute
    else:
        longer = np.maximum(compute, sync)
        ratio = np.minimum(compute, sync) / longer
        power = ratio**gamma
        one_more = 1.0 + power
        full = longer * one_more ** (1.0 / gamma)
    step = groups.accumulation * compute + full if problem.accumulates else full
    off_step = np.log(step) - problem.log_step
    off_grad = np.log(compute) - problem.log_grad
    if not problem.all_grad:
        off_grad *= problem.has_grad
    rms_step = math.sqrt(float(problem.weight @ (off_step * off_step)))
    rms_grad = math.sqrt(float(problem.grad_weight @ (off_grad * off_grad)))
    value = rms_step + rms_grad + GAMMA_PULL * (gamma - 1.0) ** 2 + RETROGRESSION_PULL * (rho_n * rho_n + rho_r * rho_r)
    if problem.shares:
        value += KAPPA_PULL * kappa * kappa
    if not value < below:
        return value, _NOTHING, _NOTHING
    jacobian = np.zeros((len(x), len(full)))
    if sync is None:
        np.add(groups.accumulation, 1.0, out=jacobian[ALPHA_C])
    else:
        # d full / d compute and d full / d sync: (c / full)^(gamma - 1) and (n / full)^(gamma - 1)
        np.add(groups.accumulation, (compute / full) ** (gamma - 1.0), out=jacobian[ALPHA_C])
        by_sync = (sync / full) ** (gamma - 1.0) if gamma > 1.0 else problem.ones
        if problem.any_across:
            np.multiply(by_sync, across, out=jacobian[ALPHA_N])
            np.multiply(by_sync, alpha_n * problem.more_across, out=jacobian[RHO_N])
        if problem.any_within:
            np.multiply(by_sync, within, out=jacobian[ALPHA_R])
            more_within = problem.more_within
            if problem.shares:
                more_within = more_within + kappa * problem.more_shared
                np.multiply(by_sync, alpha_r * shared, out=jacobian[KAPPA])
            np.multiply(by_sync, alpha_r * more_within, out=jacobian[RHO_R])
        # d log full / d gamma; the terms with log(ratio) vanish with power as ratio goes to 0
        log_ratio = np.log(np.maximum(ratio, 1e-300))
        jacobian[GAMMA] = full * (power * log_ratio / (gamma * one_more) - np.log1p(power) / (gamma * gamma))
    np.multiply(jacobian[ALPHA_C], local, out=jacobian[BETA_C])
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
    if problem.shares:
        gradient[KAPPA] += 2.0 * KAPPA_PULL * kappa
        curvature[KAPPA, KAPPA] += 2.0 * KAPPA_PULL
    return value, gradient, curvature


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
    may_move = problem.free.tolist()
    held, mask = None, np.ones(len(x))
    for iteration in range(1, max_iterations + 1):  # noqa: B007
        free = [
            may and not ((at <= low and slope > 0) or (at >= high and slope < 0))
            for may, at, slope, low, high in zip(may_move, x.tolist(), gradient.tolist(), *problem.bounds, strict=True)
        ]
        if free != held:
            held, mask = free, np.array(free, dtype=np.float64)
        if True not in free:
            ended = "converged"
            break
        step = _step(curvature, gradient, mask, damping)
        if step is None:
            damping *= 10.0
            continue
        if damping <= FULL_STEP and float(gradient @ step) < NOTHING_TO_GAIN:
            ended = "converged"
            break
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


def _step(curvature: Floats, gradient: Floats, mask: Floats, damping: float) -> Floats | None:
    """Damped Newton step [n] where ``mask`` is 1, 0 elsewhere; ``None`` where the curvature is not positive."""
    damped = curvature * mask[:, None]
    damped *= mask
    flat = damped.reshape(-1)[:: len(damped) + 1]
    flat += damping * flat + (1e-12 * float(flat.max()) + 1e-300) + (1.0 - mask)
    _, step, info = dposv(damped, gradient * mask)
    return np.asarray(step) if info == 0 else None
