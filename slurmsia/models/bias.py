"""What the seven parameters cannot say of one machine: factors per shape and micro-batch, learnt from residuals.

Kernels run at odd speeds for odd batches and networks at odd speeds for odd shapes; near what was measured, its own
residual is better than the smooth model alone. The log factor is the posterior mean of a Gaussian process with one
part per shape, one per micro-batch and one for the pair, so it shrinks to none where little was measured and fades
with distance. A group that all others contradict counts less. Pure functions; must never change the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import Knots, ThroughputParams
from .groups import MODEL_ERROR, Groups
from .throughput import step_time

Floats = NDArray[np.float64]

#: Prior standard deviation of the log factor of a shape, of a micro-batch, and of a pair of both.
SHAPE_SPREAD = 0.3
BATCH_SPREAD = 0.2
PAIR_SPREAD = 0.1
#: Share of the factor that neighbouring shapes (micro-batches) have in common; the rest is its own alone.
SHAPE_SHARED = 0.8
BATCH_SHARED = 0.5
#: Distance in doublings at which neighbours still have 60 % of the shared part in common: GPUs in all, GPUs per node,
#: micro-batch, and shapes within a pair.
GPUS_REACH = 2.0
DENSITY_REACH = 1.0
BATCH_REACH = 1.0
PAIR_SHAPE_REACH = 0.7
#: Standard deviation of one well measured group around its factors.
SCATTER = 0.06
#: A group further than this many standard deviations from what all others say of it is taken to be noisier: its
#: standard deviation grows until it is no further (Huber's weights, once).
CONTRADICTED = 1.5
#: At most this many groups enter, which bounds the cost of a refit; every shape has the same share of them.
MOST_GROUPS = 256
#: At most this many micro-batches enter, those with most weight: a round compares them for every configuration.
MOST_BATCHES = 24
#: No residual counts for more than this: the model is then wrong altogether and its ``rel_error`` says so.
LARGEST_LOG = 1.0
#: From this many groups on, leaving one out says how far predictions are off.
ENOUGH_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Bias:
    """``knots``: (nodes, gpus, micro-batch, pull) per measured group; ``rel_error``: RMS of leave-one-out log errors.

    ``rel_error`` is ``None`` with too few groups to say.
    """

    knots: Knots = ()
    rel_error: float | None = None


def learn(groups: Groups, params: ThroughputParams) -> Bias:
    """Knots from the residuals of ``params`` on ``groups``; none with fewer than two groups."""
    if len(groups) < 2:
        return Bias()
    order = _entering(groups)
    nodes, gpus, local = groups.nodes[order], groups.gpus[order], groups.local_batch[order]
    predicted = step_time(params, nodes, gpus, local, groups.accumulation[order])
    off = np.clip(np.log(groups.step_s[order]) - np.log(predicted), -LARGEST_LOG, LARGEST_LOG)
    # weights are inverse variances up to a factor; the largest stands for a well measured group
    noise = SCATTER**2 + MODEL_ERROR**2 * np.minimum(groups.weight.max() / groups.weight[order] - 1.0, 1e6)
    prior = kernel(nodes, gpus, local, nodes, gpus, local)
    pull, precision = _posterior(prior, noise, off)
    # how far each group is from what all others say of it, in standard deviations of that difference
    off_by = np.abs(pull) / np.sqrt(precision)
    if bool(np.any(off_by > CONTRADICTED)):
        noise = noise * np.maximum(off_by / CONTRADICTED, 1.0) ** 2
        pull, precision = _posterior(prior, noise, off)
    knots = tuple(
        (int(n), int(k), m, round(value, 9))
        for n, k, m, value in zip(nodes.tolist(), gpus.tolist(), local.tolist(), pull.tolist(), strict=True)
    )
    if len(order) < ENOUGH_GROUPS:
        return Bias(knots)
    weight = groups.weight[order] / groups.weight[order].sum()
    left_out = pull / precision
    return Bias(knots, math.sqrt(float(np.dot(weight, left_out * left_out))))


def _posterior(prior: Floats, noise: Floats, off: Floats) -> tuple[Floats, Floats]:
    """(pull of each group, precision [groups] of its own residual given all others)."""
    covariance = prior.copy()
    covariance.reshape(-1)[:: len(covariance) + 1] += noise
    # positive definite, as no noise is below `SCATTER`; LAPACK's own inverse of such a matrix wakes threads that
    # cost many times what it saves
    inverse = np.linalg.inv(covariance)
    return np.asarray(inverse @ off), np.diagonal(inverse)


def _entering(groups: Groups) -> NDArray[np.intp]:
    """Indices, ascending, of the groups that enter (`MOST_GROUPS`, `MOST_BATCHES`).

    Of more than may enter, every shape gives the same number: those with most weight, and of those that weigh about
    the same some from everywhere among its micro-batches.
    """
    if len(groups) <= MOST_BATCHES:
        return np.arange(len(groups))
    weight = groups.weight
    batches, which = np.unique(groups.local_batch, return_inverse=True)
    entering = np.arange(len(groups))
    if len(batches) > MOST_BATCHES:
        kept = np.argsort(-np.bincount(which, weight), kind="stable")[:MOST_BATCHES]
        entering = np.flatnonzero(np.isin(which, kept))
    if len(entering) <= MOST_GROUPS:
        return entering
    halvings = np.round(np.log2(weight.max() / weight[entering]))
    shapes = np.stack((groups.nodes[entering], groups.gpus[entering]))
    shape = np.unique(shapes, axis=1, return_inverse=True)[1].reshape(-1)
    # number of each within its shape by micro-batch, then by weight and, at equal weight, far apart first
    order = np.lexsort((groups.local_batch[entering], shape))
    order = order[np.lexsort((_far_apart(_number(shape[order])), halvings[order], shape[order]))]
    number = np.empty(len(order), dtype=np.intp)
    number[order] = _number(shape[order])
    return np.sort(entering[np.lexsort((shape, halvings, number))[:MOST_GROUPS]])


def _number(ascending: NDArray[np.intp]) -> NDArray[np.intp]:
    """0, 1, 2, ... within each run of equal values."""
    return np.asarray(np.arange(len(ascending)) - np.searchsorted(ascending, ascending))


def _far_apart(number: NDArray[np.intp]) -> Floats:
    """Whole numbers mirrored at the binary point: ascending, they come as 0, ..., 2, ..., 1, 3 do, halving the gaps."""
    mirrored, place = np.zeros(len(number)), 0.5
    while number.any():
        mirrored += place * (number & 1)
        number, place = number >> 1, place / 2.0
    return mirrored


def log_factor(knots: Knots, nodes: Floats, gpus: Floats, local_batch: Floats) -> Floats:
    """Log factor on step time at points given by arrays of one length."""
    if not knots:
        return np.zeros(np.shape(gpus))
    at = np.array(knots)
    return np.asarray(kernel(nodes, gpus, local_batch, at[:, 0], at[:, 1], at[:, 2]) @ at[:, 3])


def kernel(
    nodes: Floats, gpus: Floats, local: Floats, other_nodes: Floats, other_gpus: Floats, other_local: Floats
) -> Floats:
    """Prior covariance [a, b] of the log factors of two lists of points."""
    by_shape, by_pair_shape = shape_kernels(nodes, gpus, other_nodes, other_gpus)
    by_batch, near = batch_kernels(local, other_local)
    return np.asarray(by_shape + by_batch + PAIR_SPREAD**2 * by_pair_shape * near)


def shape_kernels(nodes: Floats, gpus: Floats, other_nodes: Floats, other_gpus: Floats) -> tuple[Floats, Floats]:
    """(covariance of the shape part, likeness of shapes in pairs); one GPU, one node and several never mix."""
    nodes, gpus = np.asarray(nodes, dtype=np.float64), np.asarray(gpus, dtype=np.float64)
    other_nodes, other_gpus = np.asarray(other_nodes, dtype=np.float64), np.asarray(other_gpus, dtype=np.float64)
    kind = np.where(gpus <= 1, 0, np.where(nodes > 1, 2, 1))
    other_kind = np.where(other_gpus <= 1, 0, np.where(other_nodes > 1, 2, 1))
    wide = np.log2(gpus)[:, None] - np.log2(other_gpus)[None, :]
    dense = np.log2(gpus / nodes)[:, None] - np.log2(other_gpus / other_nodes)[None, :]
    apart = wide**2 + dense**2
    alike = kind[:, None] == other_kind[None, :]
    near = np.exp(-0.5 * ((wide / GPUS_REACH) ** 2 + (dense / DENSITY_REACH) ** 2))
    own = SHAPE_SPREAD**2 * alike * (SHAPE_SHARED * near + (1.0 - SHAPE_SHARED) * (apart == 0.0))
    return own, alike * np.exp(-0.5 * apart / PAIR_SHAPE_REACH**2)


def batch_kernels(local: Floats, other: Floats) -> tuple[Floats, Floats]:
    """(covariance of the micro-batch part, likeness of micro-batches)."""
    apart = (
        np.log2(np.asarray(local, dtype=np.float64))[:, None] - np.log2(np.asarray(other, dtype=np.float64))[None, :]
    )
    return batch_likeness(apart)


def batch_likeness(doublings: Floats) -> tuple[Floats, Floats]:
    """As `batch_kernels`, from the distances of micro-batches in doublings."""
    near = np.exp(-0.5 * (doublings / BATCH_REACH) ** 2)
    return BATCH_SPREAD**2 * (BATCH_SHARED * near + (1.0 - BATCH_SHARED) * (doublings == 0.0)), near
