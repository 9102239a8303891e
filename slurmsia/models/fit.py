"""Fit the seven step-time parameters of one job on one GPU type from sufficient statistics (SIA.md section 1).

The loss is Pollux's; it is minimised by a projected, damped Gauss-Newton method with the analytic Jacobian, because
a round may need thousands of warm refits and a general optimiser spends most of its time outside the loss. Never
raises on any input: what cannot be used is dropped, and how the fit ended is part of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..history import Observation
from .base import ThroughputParams

Floats = NDArray[np.float64]

#: Bounds of the paper: alphas and betas at least this many seconds, gamma within [1, 10].
LOWEST_S = 1e-8
GAMMA_MAX = 10.0
#: Times and batches beyond these are clipped before the fit (a step of 0.1 us or of 30 years is a broken clock).
TIME_RANGE_S = (1e-7, 1e9)
BATCH_RANGE = (1e-3, 1e12)
#: Relative error that remains however many steps are averaged: the model is not the machine.
MODEL_ERROR = 0.05
#: Relative spread of a single step when there is only one and its spread cannot be known.
SINGLE_STEP_SPREAD = 0.3
#: No group counts for less than this makes it (one step that varied by a factor of 100).
LARGEST_VARIANCE = 1e4
#: Above this relative spread the steps of a group are taken to contain one slow one (first step, paused node).
OUTLIER_SPREAD = 0.3
#: Groups whose log residual exceeds this (and so many times the median) are outvoted in a second pass.
OUTVOTED_LOG = 0.25
OUTVOTED_MEDIANS = 4.0
#: Slope of the all-reduce relative to its start where only two GPUs were seen: volume of a ring grows from 1 to 1.5
#: between 2 and 4 GPUs, latency threefold. The paper pins it at 0; that is kept for ``weights="unweighted"``.
UNSEEN_SLOPE = 0.35
#: Steps of the minimiser at most; a job's fit is mostly done after 7.
COLD_ITERATIONS = 60
WARM_ITERATIONS = 20
#: Done when two steps in a row gain less than this share of the loss.
COLD_TOLERANCE = 1e-5
WARM_TOLERANCE = 1e-4
#: Regularisation of the paper's loss.
GAMMA_PULL = 1e-3
RETROGRESSION_PULL = 1e-2
#: A warm start that ends with more loss than this may sit in the wrong valley: a cold one is tried beside it.
DOUBTFUL_LOSS = 3.0 * MODEL_ERROR

_ALPHA_C, _BETA_C, _ALPHA_N, _RHO_N, _ALPHA_R, _RHO_R, _GAMMA = range(7)


@dataclass(frozen=True, slots=True)
class Groups:
    """Observations pooled by (nodes, gpus, local batch, accumulation), as arrays of one length.

    ``step_s``: seconds of a full optimiser step; ``grad_s``: seconds of one micro-batch, NaN where synchronisation
    was not reported; ``weight`` sums to 1; ``count``: steps behind each group.
    """

    nodes: Floats
    gpus: Floats
    local_batch: Floats
    accumulation: Floats
    step_s: Floats
    grad_s: Floats
    weight: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.step_s)


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters with how good they are and how the fit ended.

    ``residual``: weighted RMS log error of full-step times; ``rel_error``: one standard deviation of the relative
    step-time error to expect inside the observed range; ``covariance`` of the seven parameters (zero rows for pinned
    ones); ``ended`` is "converged", "iteration-limit" or "no-data"; ``free``: names of the parameters fitted.
    """

    params: ThroughputParams
    residual: float
    rel_error: float
    covariance: Floats = field(compare=False)
    loss: float = 0.0
    ended: str = "converged"
    free: tuple[str, ...] = ()
    groups: int = 0
    count: float = 0.0
    iterations: int = 0


def usable(observation: Observation) -> bool:
    """Whether an observation can enter a fit: finite, positive, and a shape that can exist."""
    o = observation
    return (
        math.isfinite(o.count)
        and math.isfinite(o.step_sum_s)
        and math.isfinite(o.local_batch)
        and o.count > 0
        and o.step_sum_s > 0
        and o.local_batch > 0
        and o.gpus >= 1
        and 1 <= o.nodes <= o.gpus
        and o.accumulation >= 0
        and math.isfinite(o.step_sum_s / o.count)
    )


def group(observations: Iterable[Observation], weights: str = "count") -> Groups:
    """Pool observations and turn sums into step times and weights.

    ``weights="count"``: weight is the inverse variance of the log of the mean step, never finer than the model's own
    error, and one slow step among many is taken out of the mean: with variance ``v`` of ``n`` steps a single outlier
    shifts the mean by exactly ``sqrt(v / (n - 1))``. ``weights="unweighted"``: plain means, each group counts once,
    as the public artifact does (ARTIFACT.md section 2). Unusable observations are left out.
    """
    sums: dict[tuple[int, int, float, int], list[float]] = {}
    for o in observations:
        if not usable(o):
            continue
        key = (o.nodes, o.gpus, o.local_batch, o.accumulation)
        square = o.step_square_sum_s2
        if not (math.isfinite(square) and square > 0):
            square = o.step_sum_s * (o.step_sum_s / o.count)
        sync = o.sync_sum_s if math.isfinite(o.sync_sum_s) and 0 < o.sync_sum_s < o.step_sum_s else 0.0
        total = sums.get(key)
        if total is None:
            sums[key] = [o.count, o.step_sum_s, square, sync]
        else:
            total[0] += o.count
            total[1] += o.step_sum_s
            total[2] += square
            total[3] += sync
    keys = np.array(sorted(sums), dtype=np.float64).reshape(-1, 4)
    table = np.array([sums[key] for key in sorted(sums)], dtype=np.float64).reshape(-1, 4)
    count, step_sum, square_sum, sync_sum = table.T
    nodes, gpus, local_batch, accumulation = keys.T
    mean = step_sum / count
    sync_share = sync_sum / step_sum
    if weights == "unweighted":
        step = np.clip(mean, *TIME_RANGE_S)
        grad = np.clip(step * (1.0 - sync_share) / (accumulation + 1.0), *TIME_RANGE_S)
        weight = np.full(len(step), 1.0 / max(len(step), 1))
    else:
        # relative to the mean, so that neither 1e-200 nor 1e200 overflows when squared
        spread2 = np.maximum(square_sum / step_sum / mean - 1.0, 0.0)
        spread2 = np.where(np.isfinite(spread2), spread2, 0.0)
        several = count >= 2
        slow = several & (spread2 > OUTLIER_SPREAD**2)
        shift = np.sqrt(spread2 / np.maximum(count - 1.0, 1.0))
        step = mean * np.where(slow, 1.0 - np.minimum(shift, 0.95), 1.0)
        alone = gpus <= 1
        sync = np.minimum(sync_share * mean, 0.95 * step)
        grad = np.where(alone, step, step - sync) / (accumulation + 1.0)
        grad = np.where(alone | (sync_sum > 0), grad, np.nan)
        step, grad = np.clip(step, *TIME_RANGE_S), np.clip(grad, *TIME_RANGE_S)
        variance = np.where(several, spread2, SINGLE_STEP_SPREAD**2) / count
        weight = 1.0 / (MODEL_ERROR**2 + np.minimum(variance, LARGEST_VARIANCE))
        weight = weight / max(float(weight.sum()), 1e-300)
    return Groups(nodes, gpus, np.clip(local_batch, *BATCH_RANGE), accumulation, step, grad, weight, count)


@dataclass
class _Problem:
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


def fit(
    observations: Iterable[Observation] | Groups,
    warm: ThroughputParams | None = None,
    weights: str = "count",
    max_iterations: int | None = None,
    tolerance: float | None = None,
) -> Fit:
    """Fit the seven parameters; ``warm`` starts from an earlier fit of the same job and type.

    Minimises ``RMS log error of micro-batch times + RMS log error of full-step times + 1e-3 (gamma - 1)^2 +
    1e-2 ((beta_n / alpha_n)^2 + (beta_r / alpha_r)^2)`` within the paper's bounds. Scales never seen are pinned
    optimistic: perfect scaling, across nodes at least 1.1 times within a node (SIA.md 1, ARTIFACT.md 2), except that
    after runs on two GPUs the all-reduce is expected to grow on (`UNSEEN_SLOPE`).
    ``max_iterations`` defaults to `COLD_ITERATIONS` or, started warm, `WARM_ITERATIONS`: what is left to gain then is
    left to the next report. Groups that contradict all others are outvoted in a second pass (not with
    ``weights="unweighted"``). What cannot be used is left out: counts, times or batches that are not finite and
    positive, impossible shapes; with nothing left the prior comes back and ``ended`` is "no-data".
    """
    groups = observations if isinstance(observations, Groups) else group(observations, weights)
    if len(groups) == 0:
        return Fit(
            prior_params(1.0, 1.0), residual=math.inf, rel_error=1.0, covariance=np.zeros((7, 7)), ended="no-data"
        )
    if tolerance is None:
        tolerance = COLD_TOLERANCE if warm is None else WARM_TOLERANCE
    if max_iterations is None:
        max_iterations = COLD_ITERATIONS if warm is None else WARM_ITERATIONS
    problem = _problem(groups, groups.weight)
    x, value, iterations, ended = _solve(problem, warm, max_iterations, tolerance)
    if weights != "unweighted" and len(groups) >= 4:
        off = np.abs(_log_step(problem, x) - problem.log_step)
        limit = max(OUTVOTED_LOG, OUTVOTED_MEDIANS * float(np.median(off)))
        if bool(np.any(off > limit)):
            outvoted = groups.weight * np.minimum(1.0, (limit / np.maximum(off, 1e-12)) ** 2) ** 2
            problem = _problem(groups, outvoted / float(outvoted.sum()))
            x, value, more, ended = _solve(problem, _params(x), max_iterations, tolerance)
            iterations += more
    slope = 0.0 if weights == "unweighted" else UNSEEN_SLOPE
    return _result(problem, x, value, iterations, ended, slope)


def loss(params: ThroughputParams, groups: Groups) -> float:
    """The paper's loss of given parameters on given groups (their weights applied); for checks and tests."""
    problem = _problem(groups, groups.weight)
    x = _coordinates(params)
    return float(_evaluate(problem, x, derivatives=False)[0])


def prior_params(step_s: float, local_batch: float) -> ThroughputParams:
    """Optimistic parameters from one step time alone: half of it per step, half per sample, perfect scaling."""
    step_s = min(max(step_s, TIME_RANGE_S[0]), TIME_RANGE_S[1])
    half = step_s / 2.0
    return ThroughputParams(half, half / max(local_batch, 1e-3), LOWEST_S, LOWEST_S, LOWEST_S, LOWEST_S, 1.0)


def _problem(groups: Groups, weight: Floats) -> _Problem:
    low = np.array([LOWEST_S, LOWEST_S, LOWEST_S, 0.0, LOWEST_S, 0.0, 1.0])
    high = np.array([np.inf] * 6 + [GAMMA_MAX])
    free = np.ones(7, dtype=np.bool_)
    across = (groups.nodes > 1) & (groups.gpus > 1)
    within = (groups.nodes <= 1) & (groups.gpus > 1)
    free[_ALPHA_C] = bool(np.ptp(groups.local_batch) > 0)
    free[_ALPHA_N] = bool(across.any())
    free[_ALPHA_R] = bool(within.any())
    free[_RHO_N] = free[_ALPHA_N] and bool((groups.gpus[across] > 2).any())
    free[_RHO_R] = free[_ALPHA_R] and bool((groups.gpus[within] > 2).any())
    free[_GAMMA] = bool(free[_ALPHA_N] or free[_ALPHA_R])
    return _Problem(groups, weight, low, high, free)


def _coordinates(params: ThroughputParams) -> Floats:
    alpha_n, alpha_r = max(params.alpha_n, LOWEST_S), max(params.alpha_r, LOWEST_S)
    return np.array(
        [
            max(params.alpha_c, LOWEST_S),
            max(params.beta_c, LOWEST_S),
            alpha_n,
            params.beta_n / alpha_n,
            alpha_r,
            params.beta_r / alpha_r,
            min(max(params.gamma, 1.0), GAMMA_MAX),
        ]
    )


def _params(x: Floats) -> ThroughputParams:
    return ThroughputParams(
        alpha_c=float(x[_ALPHA_C]),
        beta_c=float(x[_BETA_C]),
        alpha_n=float(x[_ALPHA_N]),
        beta_n=max(float(x[_ALPHA_N] * x[_RHO_N]), LOWEST_S),
        alpha_r=float(x[_ALPHA_R]),
        beta_r=max(float(x[_ALPHA_R] * x[_RHO_R]), LOWEST_S),
        gamma=float(x[_GAMMA]),
    )


def _start(problem: _Problem, warm: ThroughputParams | None) -> Floats:
    """Where to begin: the earlier fit, or sums read off the groups; parameters newly free always from the groups."""
    g = problem.groups
    grad = np.where(problem.has_grad, g.grad_s, g.step_s / (g.accumulation + 1.0))
    x = np.array([LOWEST_S, LOWEST_S, LOWEST_S, 0.0, LOWEST_S, 0.0, 1.0])
    mean_grad = float(np.average(grad, weights=problem.weight))
    mean_batch = float(np.average(g.local_batch, weights=problem.weight))
    x[_ALPHA_C] = 0.5 * mean_grad
    if problem.free[_ALPHA_C]:
        centred = g.local_batch - mean_batch
        spread = float(np.dot(problem.weight, centred**2))
        slope = float(np.dot(problem.weight * centred, grad)) / spread if spread > 0 else 0.0
        slope = min(max(slope, 0.05 * mean_grad / mean_batch), 0.95 * mean_grad / mean_batch)
        x[_ALPHA_C] = mean_grad - slope * mean_batch
    x[_BETA_C] = (mean_grad - x[_ALPHA_C]) / mean_batch
    exposed = np.maximum(g.step_s - (g.accumulation + 1.0) * grad, 0.01 * grad)
    for alpha, rho, mask in ((_ALPHA_N, _RHO_N, problem.is_across), (_ALPHA_R, _RHO_R, problem.is_within)):
        if problem.free[alpha]:
            x[alpha] = float(np.dot(exposed, mask) / mask.sum())
            x[rho] = 0.01 if problem.free[rho] else 0.0
    x[_GAMMA] = 1.3 if problem.free[_GAMMA] else 1.0
    if warm is not None:
        known = _coordinates(warm)
        trusted = problem.free & (known > 2.0 * LOWEST_S)
        if trusted[_ALPHA_C] or not problem.free[_ALPHA_C]:
            trusted[_BETA_C] = problem.free[_ALPHA_C]
            x = np.where(trusted, known, x)
    return np.asarray(np.clip(x, problem.low, problem.high))


def _log_step(problem: _Problem, x: Floats) -> Floats:
    compute = x[_ALPHA_C] + x[_BETA_C] * problem.groups.local_batch
    sync = problem.is_across * x[_ALPHA_N] * (1.0 + x[_RHO_N] * problem.more) + problem.is_within * x[_ALPHA_R] * (
        1.0 + x[_RHO_R] * problem.more
    )
    longer, shorter = np.maximum(compute, sync), np.minimum(compute, sync)
    full = longer * (1.0 + (shorter / longer) ** x[_GAMMA]) ** (1.0 / x[_GAMMA])
    return np.asarray(np.log(problem.groups.accumulation * compute + full))


def _evaluate(problem: _Problem, x: Floats, derivatives: bool = True) -> tuple[float, Floats, Floats]:
    """Loss, gradient [7] and Gauss-Newton curvature [7, 7] at ``x``.

    A root mean square has no useful second derivative of its own; ``rms(r) <= (mean(r^2) / rms0 + rms0) / 2`` is its
    tight quadratic majorant at ``rms0``, whose gradient agrees, so each step descends on the true loss.
    """
    groups, more = problem.groups, problem.more
    gamma = float(x[_GAMMA])
    compute = x[_ALPHA_C] + x[_BETA_C] * groups.local_batch
    scale_n, scale_r = 1.0 + x[_RHO_N] * more, 1.0 + x[_RHO_R] * more
    sync = problem.is_across * (x[_ALPHA_N] * scale_n) + problem.is_within * (x[_ALPHA_R] * scale_r)
    longer = np.maximum(compute, sync)
    ratio = np.minimum(compute, sync) / longer
    power = ratio**gamma
    full = longer * (1.0 + power) ** (1.0 / gamma)
    step = groups.accumulation * compute + full
    off_step = np.log(step) - problem.log_step
    off_grad = (np.log(compute) - problem.log_grad) * problem.has_grad
    rms_step = math.sqrt(float(np.dot(problem.weight, off_step * off_step)))
    rms_grad = math.sqrt(float(np.dot(problem.grad_weight, off_grad * off_grad)))
    value = (
        rms_step
        + rms_grad
        + GAMMA_PULL * (gamma - 1.0) ** 2
        + RETROGRESSION_PULL * float(x[_RHO_N] ** 2 + x[_RHO_R] ** 2)
    )
    if not derivatives:
        return value, _NOTHING, _NOTHING
    # d full / d compute and d full / d sync: (c / full)^(gamma - 1) and (n / full)^(gamma - 1)
    by_compute = (compute / full) ** (gamma - 1.0)
    by_sync = (sync / full) ** (gamma - 1.0) if gamma > 1.0 else np.ones(len(full))
    # d log full / d gamma; the terms with log(ratio) vanish with power as ratio goes to 0
    log_ratio = np.log(np.maximum(ratio, 1e-300))
    by_gamma = full * (power * log_ratio / (gamma * (1.0 + power)) - np.log1p(power) / (gamma * gamma))
    jacobian = np.empty((7, len(full)))
    compute_share = groups.accumulation + by_compute
    jacobian[_ALPHA_C] = compute_share
    jacobian[_BETA_C] = compute_share * groups.local_batch
    sync_n, sync_r = by_sync * problem.is_across, by_sync * problem.is_within
    jacobian[_ALPHA_N] = sync_n * scale_n
    jacobian[_RHO_N] = sync_n * (x[_ALPHA_N] * more)
    jacobian[_ALPHA_R] = sync_r * scale_r
    jacobian[_RHO_R] = sync_r * (x[_ALPHA_R] * more)
    jacobian[_GAMMA] = by_gamma
    jacobian /= step
    pull_step = problem.weight / max(rms_step, 1e-7)
    pull_grad = problem.grad_weight / max(rms_grad, 1e-7)
    weighted = jacobian * pull_step
    gradient = weighted @ off_step
    curvature = weighted @ jacobian.T
    grad_jacobian = np.stack((1.0 / compute, groups.local_batch / compute))
    weighted = grad_jacobian * pull_grad
    gradient[:2] += weighted @ off_grad
    curvature[:2, :2] += weighted @ grad_jacobian.T
    gradient[_GAMMA] += 2.0 * GAMMA_PULL * (gamma - 1.0)
    curvature[_GAMMA, _GAMMA] += 2.0 * GAMMA_PULL
    for rho in (_RHO_N, _RHO_R):
        gradient[rho] += 2.0 * RETROGRESSION_PULL * x[rho]
        curvature[rho, rho] += 2.0 * RETROGRESSION_PULL
    return value, gradient, curvature


_NOTHING = np.zeros(0)


def _solve(
    problem: _Problem, warm: ThroughputParams | None, max_iterations: int, tolerance: float
) -> tuple[Floats, float, int, str]:
    """Projected Levenberg-Marquardt; cold starts, and warm ones that end badly, try other starts and keep the best."""
    start = _start(problem, warm)
    best = _descend(problem, start, max_iterations, tolerance)
    if warm is not None:
        if best[1] <= DOUBTFUL_LOSS:
            return best
        start = _start(problem, None)
        best = min(best, _descend(problem, start, max_iterations, tolerance), key=_loss_of)
    if problem.free[_GAMMA]:
        start[_GAMMA] = 4.0
        best = min(best, _descend(problem, start, max_iterations, tolerance), key=_loss_of)
    return best


def _loss_of(ended: tuple[Floats, float, int, str]) -> float:
    return ended[1]


def _descend(problem: _Problem, x: Floats, max_iterations: int, tolerance: float) -> tuple[Floats, float, int, str]:
    damping, ended = 1e-3, "iteration-limit"
    value, gradient, curvature = _evaluate(problem, x)
    small = 0
    iteration = 0
    for iteration in range(1, max_iterations + 1):  # noqa: B007
        free = problem.free & ~(((x <= problem.low) & (gradient > 0)) | ((x >= problem.high) & (gradient < 0)))
        index = np.flatnonzero(free)
        if len(index) == 0:
            ended = "converged"
            break
        block = curvature[np.ix_(index, index)]
        diagonal = np.diag(block)
        step = np.zeros(7)
        damped = block + np.diag(damping * diagonal + 1e-12 * float(diagonal.max()) + 1e-300)
        try:
            step[index] = np.linalg.solve(damped, gradient[index])
        except np.linalg.LinAlgError:
            damping *= 10.0
            continue
        trial = np.clip(x - step, problem.low, problem.high)
        trial_value, trial_gradient, trial_curvature = _evaluate(problem, trial)
        if trial_value < value:
            gained = value - trial_value
            x, value, gradient, curvature = trial, trial_value, trial_gradient, trial_curvature
            damping = max(damping * 0.2, 1e-9)
            small = small + 1 if gained <= tolerance * value else 0
            if small >= 2 or value < 1e-9:
                ended = "converged"
                break
        else:
            damping *= 8.0
            if damping > 1e7 or not math.isfinite(trial_value):
                ended = "converged" if math.isfinite(value) else "iteration-limit"
                if damping > 1e7:
                    break
    return x, value, iteration, ended


def _result(problem: _Problem, x: Floats, value: float, iterations: int, ended: str, unseen_slope: float) -> Fit:
    groups = problem.groups
    off = _log_step(problem, x) - problem.log_step
    mean_square = float(np.dot(problem.weight, off * off))
    residual = math.sqrt(mean_square)
    free = problem.free
    fitted = int(free.sum())
    # effective number of groups: outvoted and barely measured ones count less
    effective = 1.0 / max(float(np.dot(problem.weight, problem.weight)), 1e-12)
    spare = max(effective - fitted, 1.0)
    rel_error = math.sqrt(mean_square * max(effective, 1.0) / spare + (MODEL_ERROR**2) * fitted / max(effective, 1.0))
    _, _, curvature = _evaluate(problem, x)
    covariance = np.zeros((7, 7))
    index = np.flatnonzero(free)
    if len(index):
        block = curvature[np.ix_(index, index)]
        inverse = np.linalg.pinv(block, rcond=1e-12, hermitian=True) if np.all(np.isfinite(block)) else None
        if inverse is not None:
            covariance[np.ix_(index, index)] = inverse * max(residual, 1e-3) / max(effective, 1.0)
    params = _with_priors(_params(x), free, unseen_slope)
    return Fit(
        params=params,
        residual=residual,
        rel_error=min(rel_error, 1.0),
        covariance=covariance,
        loss=value,
        ended=ended,
        free=tuple(name for name, is_free in zip(NAMES, free, strict=True) if is_free),
        groups=len(groups),
        count=float(groups.count.sum()),
        iterations=iterations,
    )


def _with_priors(params: ThroughputParams, free: NDArray[np.bool_], unseen_slope: float) -> ThroughputParams:
    """Put the priors in place of what was pinned: slopes after one size only, and a network across nodes not seen."""
    alpha_n, beta_n, beta_r = params.alpha_n, params.beta_n, params.beta_r
    if free[_ALPHA_R] and not free[_RHO_R]:
        beta_r = max(beta_r, unseen_slope * params.alpha_r)
    if free[_ALPHA_N] and not free[_RHO_N]:
        beta_n = max(beta_n, unseen_slope * alpha_n)
    if not free[_ALPHA_N]:
        alpha_n, beta_n = max(alpha_n, 1.1 * params.alpha_r), max(beta_n, 1.1 * beta_r)
    return replace(params, alpha_n=alpha_n, beta_n=beta_n, beta_r=beta_r)


NAMES: Sequence[str] = ("alpha_c", "beta_c", "alpha_n", "beta_n", "alpha_r", "beta_r", "gamma")
