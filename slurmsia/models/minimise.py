"""Minimises the loss of the step-time model: loss with analytic derivatives, and a projected, damped Gauss-Newton.

Works in coordinates in which the network's betas are ratios to their alphas. A round may need thousands of warm
refits and their arrays are short, so what counts here is the number of array operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
#: Regularisation of the coordinates: half of these times the square of the distance from where they are pulled to.
PULLS = 2.0 * np.array([0.0, 0.0, 0.0, RETROGRESSION_PULL, 0.0, RETROGRESSION_PULL, GAMMA_PULL, KAPPA_PULL])
PULLED_TO = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
#: A time below this is none; its logarithm is still finite.
LEAST_S = 1e-300
_NOTHING = np.zeros(0)


def _chain_of(terms: int, coordinates: int) -> Floats:
    """[coordinates, terms + 1]: what of `_chain` is the same at every point."""
    chain = np.zeros((coordinates, terms + 1))
    chain[ALPHA_C, 0] = chain[BETA_C, 1] = chain[ALPHA_N, 2] = chain[ALPHA_R, 4] = chain[GAMMA, terms] = 1.0
    return chain


#: Without and with ``kappa``.
CHAINS = (_chain_of(6, 7), _chain_of(8, 8))


@dataclass
class Problem:
    """One fit in the coordinates it is solved in: betas of the network as ratios ``rho = beta / alpha``.

    ``free`` [7 or 8]: with 8 the last coordinate is ``kappa`` (`throughput.sync_time`), without it that term is left
    out. Compute and synchronisation time are linear in ``terms``: ``alpha_c, beta_c, alpha_n, alpha_n rho_n, alpha_r,
    alpha_r rho_r`` and, where shared, ``kappa alpha_r, kappa alpha_r rho_r``. ``basis`` [terms, 2 groups]: those of
    compute in the first half, those of synchronisation in the second.
    """

    groups: Groups
    weight: Floats
    free: NDArray[np.bool_]
    accumulates: bool = field(init=False)
    is_across: Floats = field(init=False)
    is_within: Floats = field(init=False)
    log_step: Floats = field(init=False)
    has_grad: NDArray[np.bool_] = field(init=False)
    shares: bool = field(init=False)
    basis: Floats = field(init=False)
    of_compute: Floats = field(init=False)
    of_sync: Floats = field(init=False)
    logs: Floats = field(init=False)
    weights: Floats = field(init=False)
    low: Floats = field(init=False)
    high: Floats = field(init=False)
    bounds: tuple[list[float], list[float]] = field(init=False)

    def __post_init__(self) -> None:
        g = self.groups
        count, size = len(g), len(self.free)
        several, wide = g.gpus > 1, g.nodes > 1
        more = np.maximum(g.gpus - 2.0, 0.0)
        self.is_across = (several & wide).astype(np.float64)
        self.is_within = (several & ~wide).astype(np.float64)
        self.shares = size > KAPPA
        self.basis = basis = np.zeros((8 if self.shares else 6, 2 * count))
        self.of_compute, self.of_sync = basis[:2, :count], basis[2:, count:]
        basis[0, :count] = 1.0
        basis[1, :count] = g.local_batch
        sync = self.of_sync
        sync[0], sync[2] = self.is_across, self.is_within
        np.multiply(self.is_across, more, out=sync[1])
        np.multiply(self.is_within, more, out=sync[3])
        if self.shares:
            dense = g.gpus / g.nodes
            np.multiply(self.is_across, dense > 1.0, out=sync[4])
            np.multiply(self.is_across, np.maximum(dense - 2.0, 0.0), out=sync[5])
        self.has_grad = np.isfinite(g.grad_s)
        #: [2, groups]: logs of full steps and of micro-batches as measured, and their weights; each row sums to 1
        self.logs = np.log(np.stack((g.step_s, np.where(self.has_grad, g.grad_s, 1.0))))
        self.log_step = self.logs[0]
        grad_weight = self.weight * self.has_grad
        self.weights = np.stack((self.weight, grad_weight / max(float(grad_weight.sum()), 1e-300)))
        self.accumulates = bool(g.accumulation.any())
        self.low, self.high = LOWEST[:size], HIGHEST[:size]
        self.bounds = (self.low.tolist(), self.high.tolist())


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


def _log_times(problem: Problem, x: Sequence[float]) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Logs of compute and synchronisation [2, groups], of what both take together, of a full step, and (less, power).

    ``less``: log of the shorter of both less that of the longer; ``power``: the ratio itself to the ``gamma``.
    """
    alpha_c, beta_c, alpha_n, rho_n, alpha_r, rho_r, gamma, *rest = x
    terms = [alpha_c, beta_c, alpha_n, alpha_n * rho_n, alpha_r, alpha_r * rho_r]
    if problem.shares:
        terms += [rest[0] * alpha_r, rest[0] * alpha_r * rho_r]
    times = np.array(terms) @ problem.basis
    logs = np.log(np.maximum(times, LEAST_S, out=times)).reshape(2, -1)
    of_compute, of_sync = logs
    less = -np.abs(of_compute - of_sync)
    power = np.exp(gamma * less)
    both = np.log1p(power)
    both /= gamma
    both += np.maximum(of_compute, of_sync)
    step = both
    if problem.accumulates:
        step = np.log(problem.groups.accumulation * times[: len(both)] + np.exp(both))
    return logs, both, step, less, power


def log_step(problem: Problem, x: Floats) -> Floats:
    """Logs of full steps [groups] as the model has them."""
    _, _, step, _, _ = _log_times(problem, x.tolist())
    return step


def evaluate(problem: Problem, x: Floats, below: float = math.inf) -> tuple[float, Floats, Floats]:
    """Loss, gradient [n] and Gauss-Newton curvature [n, n] at ``x`` [n]; the latter two only with a loss ``below``.

    A root mean square has no useful second derivative of its own; ``rms(r) <= (mean(r^2) / rms0 + rms0) / 2`` is its
    tight quadratic majorant at ``rms0``, whose gradient agrees, so each step descends on the true loss.
    """
    at = x.tolist()
    logs, both, step, less, power = _log_times(problem, at)
    _, _, alpha_n, rho_n, alpha_r, rho_r, gamma, *rest = at
    kappa = rest[0] if rest else 0.0
    count = len(step)
    off = np.empty((2, count))
    off[0], off[1] = step, logs[0]
    off -= problem.logs
    weighted_off = problem.weights * off
    square_step, square_grad = (weighted_off * off).sum(axis=1).tolist()
    rms_step, rms_grad = math.sqrt(square_step), math.sqrt(square_grad)
    value = rms_step + rms_grad + GAMMA_PULL * (gamma - 1.0) ** 2 + RETROGRESSION_PULL * (rho_n * rho_n + rho_r * rho_r)
    if problem.shares:
        value += KAPPA_PULL * kappa * kappa
    if not value < below:
        return value, _NOTHING, _NOTHING
    # d log step / d compute and / d sync: (c / both)^(gamma - 1) and (n / both)^(gamma - 1), over the step
    less_one = gamma - 1.0
    slopes = np.exp(less_one * logs - (less_one * both + step))
    if problem.accumulates:
        slopes[0] += problem.groups.accumulation * np.exp(-step)
    # by term and by gamma, where the term with ``less`` vanishes with ``power``
    by_term = np.empty((len(problem.basis) + 1, count))
    np.multiply(problem.of_compute, slopes[0], out=by_term[:2])
    np.multiply(problem.of_sync, slopes[1], out=by_term[2:-1])
    by_gamma = by_term[-1]
    np.divide(power * less, gamma * (1.0 + power), out=by_gamma)
    by_gamma -= np.log1p(power) / (gamma * gamma)
    if problem.accumulates:
        by_gamma *= np.exp(both - step)
    # by coordinate: residuals of full steps in the first half, of micro-batches in the second
    jacobian = np.zeros((len(x), 2 * count))
    np.matmul(_chain(alpha_n, rho_n, alpha_r, rho_r, rest), by_term, out=jacobian[:, :count])
    np.divide(problem.of_compute, np.exp(logs[0]), out=jacobian[:2, count:])
    weights = np.array(((1.0 / max(rms_step, 1e-7),), (1.0 / max(rms_grad, 1e-7),))) * problem.weights
    weighted = jacobian * weights.reshape(-1)
    gradient = weighted @ off.reshape(-1)
    curvature = weighted @ jacobian.T
    pulls = PULLS[: len(x)]
    gradient += pulls * (x - PULLED_TO[: len(x)])
    curvature.reshape(-1)[:: len(x) + 1] += pulls
    return value, gradient, curvature


def _chain(alpha_n: float, rho_n: float, alpha_r: float, rho_r: float, kappa: Sequence[float]) -> Floats:
    """[coordinates, terms and gamma]: derivatives of the terms by the coordinates."""
    chain: Floats = CHAINS[len(kappa)].copy()
    chain[ALPHA_N, 3], chain[RHO_N, 3] = rho_n, alpha_n
    chain[ALPHA_R, 5], chain[RHO_R, 5] = rho_r, alpha_r
    if kappa:
        share = kappa[0]
        chain[ALPHA_R, 6], chain[ALPHA_R, 7] = share, share * rho_r
        chain[RHO_R, 7] = share * alpha_r
        chain[KAPPA, 6], chain[KAPPA, 7] = alpha_r, alpha_r * rho_r
    return chain


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
    held, mask, both_free, is_held = None, _NOTHING, _NOTHING, _NOTHING
    for iteration in range(1, max_iterations + 1):  # noqa: B007
        free = [
            may and not ((at <= low and slope > 0) or (at >= high and slope < 0))
            for may, at, slope, low, high in zip(may_move, x.tolist(), gradient.tolist(), *problem.bounds, strict=True)
        ]
        if free != held:
            held, mask = free, np.array(free, dtype=np.float64)
            both_free, is_held = np.multiply.outer(mask, mask), 1.0 - mask
        if True not in free:
            ended = "converged"
            break
        step = _step(curvature * both_free, gradient * mask, is_held, damping)
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


def _step(curvature: Floats, gradient: Floats, is_held: Floats, damping: float) -> Floats | None:
    """Damped Newton step [n]; ``None`` where the curvature is not positive.

    ``curvature``, overwritten, and ``gradient`` are 0 where ``is_held`` is 1: the step stays 0 there.
    """
    flat = curvature.reshape(-1)[:: len(curvature) + 1]
    least = 1e-12 * float(flat.max()) + 1e-300
    flat *= 1.0 + damping
    flat += is_held + least
    _, step, info = dposv(curvature, gradient)
    return np.asarray(step) if info == 0 else None
