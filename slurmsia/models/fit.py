"""Fit the step-time parameters of one job on one GPU type from sufficient statistics (SIA.md section 1).

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
from .groups import MODEL_ERROR, TIME_RANGE_S, Groups, group
from .minimise import (
    ALPHA_C,
    ALPHA_N,
    ALPHA_R,
    BETA_C,
    GAMMA,
    GAMMA_MAX,
    KAPPA,
    LOWEST_S,
    RHO_N,
    RHO_R,
    Ended,
    Problem,
    descend,
    evaluate,
    log_step,
    problem_of,
)

Floats = NDArray[np.float64]

#: Groups whose log residual exceeds this (and so many times the median) are outvoted in a second pass.
OUTVOTED_LOG = 0.25
OUTVOTED_MEDIANS = 4.0
#: Slope of the all-reduce relative to its start where only two GPUs were seen: volume of a ring grows from 1 to 1.5
#: between 2 and 4 GPUs, latency threefold. The paper pins it at 0; that is kept for ``weights="unweighted"``.
UNSEEN_SLOPE = 0.35
#: ``kappa`` at a cold start.
KAPPA_START = 0.3
#: Steps of the minimiser at most; a job's fit is mostly done after 7.
COLD_ITERATIONS = 60
WARM_ITERATIONS = 20
#: Done when a full step, or two steps in a row, gain less than this share of the loss.
COLD_TOLERANCE = 1e-5
WARM_TOLERANCE = 3e-4
#: A warm start that ends with more loss than this may sit in the wrong valley: a cold one is tried beside it.
DOUBTFUL_LOSS = 3.0 * MODEL_ERROR
#: A start that ends with less loss than this explains what was measured: no other is tried.
EXPLAINED_LOSS = 0.2 * MODEL_ERROR
#: A warm and a cold start whose losses differ by less than this share have met: no third is tried.
SAME_LOSS = 0.01


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters with how good they are and how the fit ended.

    ``residual``: weighted RMS log error of full-step times; ``rel_error``: one standard deviation of the relative
    step-time error to expect inside the observed range; ``curvature`` [n, n] of the loss in the coordinates it is
    minimised in (betas of the network as ratios to their alphas; n is 8 where ``kappa`` is measured, else 7);
    ``effective``: how many groups the weights amount to; ``ended`` is "converged", "iteration-limit" or "no-data";
    ``free``: names of the parameters fitted.
    """

    params: ThroughputParams
    residual: float
    rel_error: float
    curvature: Floats = field(compare=False)
    loss: float = 0.0
    ended: str = "converged"
    free: tuple[str, ...] = ()
    groups: int = 0
    count: float = 0.0
    iterations: int = 0
    effective: float = 1.0

    @property
    def covariance(self) -> Floats:
        """[n, n] of the parameters in the coordinates of ``curvature``; rows of pinned ones are 0."""
        found = np.zeros_like(self.curvature)
        index = np.flatnonzero([name in self.free for name in NAMES[: len(found)]])
        block = self.curvature[np.ix_(index, index)]
        if len(index) and np.all(np.isfinite(block)):
            inverse = np.linalg.pinv(block, rcond=1e-12, hermitian=True)
            found[np.ix_(index, index)] = inverse * max(self.residual, 1e-3) / max(self.effective, 1.0)
        return found


def fit(
    observations: Iterable[Observation] | Groups,
    warm: ThroughputParams | None = None,
    weights: str = "count",
    max_iterations: int | None = None,
    tolerance: float | None = None,
) -> Fit:
    """Fit the parameters; ``warm`` starts from an earlier fit of the same job and type.

    Minimises ``RMS log error of micro-batch times + RMS log error of full-step times + 1e-3 (gamma - 1)^2 +
    1e-2 ((beta_n / alpha_n)^2 + (beta_r / alpha_r)^2) + 2e-3 kappa^2`` within the paper's bounds, ``kappa`` only where
    it is measured (`problem_of`) and not with ``weights="unweighted"``. Scales never seen are pinned
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
            prior_params(1.0, 1.0), residual=math.inf, rel_error=1.0, curvature=np.zeros((7, 7)), ended="no-data"
        )
    if tolerance is None:
        tolerance = COLD_TOLERANCE if warm is None else WARM_TOLERANCE
    if max_iterations is None:
        max_iterations = COLD_ITERATIONS if warm is None else WARM_ITERATIONS
    published = weights == "unweighted"
    problem = problem_of(groups, groups.weight, published)
    found = _solve(problem, warm, max_iterations, tolerance)
    iterations = found.iterations
    if not published and len(groups) >= 4:
        off = np.abs(log_step(problem, found.x) - problem.log_step)
        limit = OUTVOTED_LOG
        if bool(np.any(off > limit)):
            limit = max(limit, OUTVOTED_MEDIANS * float(np.median(off)))
        if bool(np.any(off > limit)):
            outvoted = groups.weight * np.minimum(1.0, (limit / np.maximum(off, 1e-12)) ** 2) ** 2
            problem = problem_of(groups, outvoted / float(outvoted.sum()))
            found = _solve(problem, _params(found.x), max_iterations, tolerance)
            iterations += found.iterations
    slope = 0.0 if published else UNSEEN_SLOPE
    return _result(problem, found, iterations, slope)


def loss(params: ThroughputParams, groups: Groups) -> float:
    """The paper's loss of given parameters on given groups (their weights applied); for checks and tests."""
    problem = problem_of(groups, groups.weight)
    if params.kappa and not problem.shares:
        problem = replace(problem, free=np.append(problem.free, False))
    x = _coordinates(params)
    for rho, beta in ((RHO_N, params.beta_n), (RHO_R, params.beta_r)):
        if beta <= LOWEST_S:  # stands for none; beside an alpha as small it would count as a slope
            x[rho] = 0.0
    return evaluate(problem, x[: len(problem.free)], below=-math.inf)[0]


def prior_params(step_s: float, local_batch: float) -> ThroughputParams:
    """Optimistic parameters from one step time alone: half of it per step, half per sample, perfect scaling."""
    step_s = min(max(step_s, TIME_RANGE_S[0]), TIME_RANGE_S[1])
    half = step_s / 2.0
    return ThroughputParams(half, half / max(local_batch, 1e-3), LOWEST_S, LOWEST_S, LOWEST_S, LOWEST_S, 1.0)


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
            params.kappa,
        ]
    )


def _params(x: Floats) -> ThroughputParams:
    return ThroughputParams(
        alpha_c=float(x[ALPHA_C]),
        beta_c=float(x[BETA_C]),
        alpha_n=float(x[ALPHA_N]),
        beta_n=max(float(x[ALPHA_N] * x[RHO_N]), LOWEST_S),
        alpha_r=float(x[ALPHA_R]),
        beta_r=max(float(x[ALPHA_R] * x[RHO_R]), LOWEST_S),
        gamma=float(x[GAMMA]),
        kappa=float(x[KAPPA]) if len(x) > KAPPA else 0.0,
    )


def _start(problem: Problem, warm: ThroughputParams | None) -> Floats:
    """Where to begin: the earlier fit, or sums read off the groups; parameters newly free always from the groups."""
    if warm is None:
        return np.asarray(np.clip(_cold(problem), problem.low, problem.high))
    x = _coordinates(warm)[: len(problem.free)]
    trusted = problem.free & (x > 2.0 * LOWEST_S)
    if trusted[ALPHA_C] or not problem.free[ALPHA_C]:
        trusted[BETA_C] = problem.free[ALPHA_C]
        x = x if bool(trusted.all()) else np.where(trusted, x, _cold(problem))
    else:
        x = _cold(problem)
    return np.minimum(np.maximum(x, problem.low), problem.high)


def _cold(problem: Problem) -> Floats:
    """Sums read off the groups; may be out of bounds."""
    g = problem.groups
    grad = np.where(problem.has_grad, g.grad_s, g.step_s / (g.accumulation + 1.0))
    x = np.array([LOWEST_S, LOWEST_S, LOWEST_S, 0.0, LOWEST_S, 0.0, 1.0, KAPPA_START])[: len(problem.free)]
    total = problem.weight.sum()
    mean_grad = float((grad * problem.weight).sum() / total)
    mean_batch = float((g.local_batch * problem.weight).sum() / total)
    x[ALPHA_C] = 0.5 * mean_grad
    if problem.free[ALPHA_C]:
        centred = g.local_batch - mean_batch
        spread = float(np.dot(problem.weight, centred**2))
        slope = float(np.dot(problem.weight * centred, grad)) / spread if spread > 0 else 0.0
        slope = min(max(slope, 0.05 * mean_grad / mean_batch), 0.95 * mean_grad / mean_batch)
        x[ALPHA_C] = mean_grad - slope * mean_batch
    x[BETA_C] = (mean_grad - x[ALPHA_C]) / mean_batch
    exposed = np.maximum(g.step_s - (g.accumulation + 1.0) * grad, 0.01 * grad)
    for alpha, rho, mask in ((ALPHA_N, RHO_N, problem.is_across), (ALPHA_R, RHO_R, problem.is_within)):
        if problem.free[alpha]:
            x[alpha] = float(np.dot(exposed, mask) / mask.sum())
            x[rho] = 0.01 if problem.free[rho] else 0.0
    x[GAMMA] = 1.3 if problem.free[GAMMA] else 1.0
    return x


def _solve(problem: Problem, warm: ThroughputParams | None, max_iterations: int, tolerance: float) -> Ended:
    """The best of several starts: cold ones and warm ones that end badly try others, until two meet."""
    start = _start(problem, warm)
    best = descend(problem, start, max_iterations, tolerance)
    if warm is not None:
        if best.value <= DOUBTFUL_LOSS:
            return best
        start = _start(problem, None)
        cold = descend(problem, start, max_iterations, tolerance)
        if abs(cold.value - best.value) <= SAME_LOSS * best.value:
            return min(best, cold, key=_loss_of)
        best = min(best, cold, key=_loss_of)
    if problem.free[GAMMA] and best.value > EXPLAINED_LOSS:
        start[GAMMA] = 4.0
        best = min(best, descend(problem, start, max_iterations, tolerance), key=_loss_of)
    return best


def _loss_of(ended: Ended) -> float:
    return ended.value


def _result(problem: Problem, found: Ended, iterations: int, unseen_slope: float) -> Fit:
    groups, x = problem.groups, found.x
    off = log_step(problem, x) - problem.log_step
    mean_square = float(np.dot(problem.weight, off * off))
    residual = math.sqrt(mean_square)
    free = problem.free
    fitted = int(free.sum())
    # effective number of groups: outvoted and barely measured ones count less
    effective = 1.0 / max(float(np.dot(problem.weight, problem.weight)), 1e-12)
    spare = max(effective - fitted, 1.0)
    rel_error = math.sqrt(mean_square * max(effective, 1.0) / spare + (MODEL_ERROR**2) * fitted / max(effective, 1.0))
    params = _with_priors(_params(x), free, unseen_slope)
    return Fit(
        params=params,
        residual=residual,
        rel_error=min(rel_error, 1.0),
        curvature=found.curvature,
        loss=found.value,
        ended=found.ended,
        free=tuple(name for name, is_free in zip(NAMES, free, strict=False) if is_free),
        groups=len(groups),
        count=float(groups.count.sum()),
        iterations=iterations,
        effective=effective,
    )


def _with_priors(params: ThroughputParams, free: NDArray[np.bool_], unseen_slope: float) -> ThroughputParams:
    """Put the priors in place of what was pinned: slopes after one size only, and a network across nodes not seen."""
    alpha_n, beta_n, beta_r = params.alpha_n, params.beta_n, params.beta_r
    if free[ALPHA_R] and not free[RHO_R]:
        beta_r = max(beta_r, unseen_slope * params.alpha_r)
    if free[ALPHA_N] and not free[RHO_N]:
        beta_n = max(beta_n, unseen_slope * alpha_n)
    if not free[ALPHA_N]:
        alpha_n, beta_n = max(alpha_n, 1.1 * params.alpha_r), max(beta_n, 1.1 * beta_r)
    return replace(params, alpha_n=alpha_n, beta_n=beta_n, beta_r=beta_r)


NAMES: Sequence[str] = ("alpha_c", "beta_c", "alpha_n", "beta_n", "alpha_r", "beta_r", "gamma", "kappa")
