"""Statistical efficiency: how much a sample is worth when the total batch grows (AdaScale, Pollux section 3.1).

Moments are estimated from per-replica or accumulated gradients, smoothed, and turned into a gain. Pure functions and
values; must never touch tensors of a framework nor decide a batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..history import Gradient
from .base import EfficiencyModel

Floats = NDArray[np.float64]

#: Weight that one step at batch scale 1 leaves to the past; at scale S it is this to the power S (ARTIFACT.md 2).
SMOOTHING = 0.999
#: Before any data: no gradient, all noise, so that a bigger batch costs nothing (optimistic, as in Pollux).
UNKNOWN = EfficiencyModel(0.0, 1.0)


def sane(moments: EfficiencyModel) -> EfficiencyModel:
    """The moments scaled to sum to 1; `UNKNOWN` where they are not finite, the variance is negative, or both are 0."""
    square, variance = moments.square, moments.variance
    if not (math.isfinite(square) and math.isfinite(variance)) or variance < 0:
        return UNKNOWN
    square = max(square, 0.0)
    largest = max(square, variance)
    if largest <= 0:
        return UNKNOWN
    square, variance = square / largest, variance / largest
    return EfficiencyModel(square / (square + variance), variance / (square + variance))


def gain(moments: EfficiencyModel, scale: Any) -> Floats:
    """AdaScale gain at batch scale ``M / M0``: progress of one step in steps at M0; between 1 and ``scale``."""
    scale = np.maximum(np.asarray(scale, dtype=np.float64), 1.0)
    top = moments.variance + moments.square
    bottom = moments.variance / scale + moments.square
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), scale)


def efficiency(moments: EfficiencyModel, total_batch: Any, initial_batch: float) -> Floats:
    """``gain / scale``: worth of one sample relative to training at M0; 1 at M0, never above 1 (SIA.md section 1).

    A total batch below M0 counts as M0: nothing was measured there.
    """
    scale = np.maximum(np.asarray(total_batch, dtype=np.float64) / max(initial_batch, 1e-12), 1.0)
    return np.minimum(gain(moments, scale) / scale, 1.0)


def from_gradient(gradient: Gradient | None) -> EfficiencyModel:
    """The moments of a report; `UNKNOWN` when there are none or when they are not finite, negative or both zero.

    Moments are divided by their sum (only their ratio matters), so that absurd magnitudes cannot overflow later.
    """
    return UNKNOWN if gradient is None else sane(EfficiencyModel(gradient.square, gradient.variance))


def from_local_squares(local_squares: Sequence[float], mean_square: float, scale: float) -> tuple[float, float]:
    """Unbiased (|gradient|^2, trace of covariance at M0) from one step's micro-gradients (AdaScale, appendix B).

    ``local_squares``: |g_k|^2 of each of the n >= 2 micro-gradients (one per replica, or per accumulated micro-batch
    on each replica); ``mean_square``: |mean of g_k|^2; ``scale`` = M / M0. The first may come out negative from
    one noisy step: smooth before use. Raises ValueError for fewer than two micro-gradients: noise needs two.
    """
    n = len(local_squares)
    if n < 2:
        raise ValueError("gradient noise needs at least two micro-gradients: use two GPUs or accumulate once")
    local = math.fsum(local_squares) / n
    square = (n * mean_square - local) / (n - 1)
    variance = (local - mean_square) * scale / (n - 1)
    return square, max(variance, 0.0)


def from_consecutive(previous: Floats, current: Floats, scale: float) -> tuple[float, float]:
    """Moments from the gradients of two steps in a row, for one replica without accumulation.

    Half the squared difference of two equal-sized batches is the covariance of one; the noise of the pair is taken
    out of their mean. Less trustworthy than `from_local_squares` (the model moved in between): a last resort.
    """
    difference = current - previous
    spread = 0.5 * float(np.dot(difference, difference))
    mean = 0.5 * (current + previous)
    return float(np.dot(mean, mean)) - 0.5 * spread, spread * scale


def adam_preconditioner(second_moment: Floats, step: int, beta2: float = 0.999, epsilon: float = 1e-8) -> Floats:
    """What gradients are to be divided by before squares are taken, when the optimiser is Adam.

    Adam moves along ``g / (sqrt(v_hat) + epsilon)``, so its noise is that of the preconditioned gradient; raw norms
    would be ruled by a few large coordinates that Adam scales away. ``v_hat`` has Adam's own bias correction. Before
    the first step (``step < 1``) the preconditioner is one.
    """
    if step < 1:
        return np.ones_like(np.asarray(second_moment, dtype=np.float64))
    corrected = np.asarray(second_moment, dtype=np.float64) / (1.0 - beta2**step)
    return np.asarray(np.sqrt(np.maximum(corrected, 0.0)) + epsilon)


@dataclass(frozen=True, slots=True)
class SmoothedMoments:
    """Exponential averages with their own weight, so that the first value is not biased towards zero.

    Each update at batch scale S counts like S updates at scale 1 (Pollux: ``0.999^scale``).
    """

    square_sum: float = 0.0
    variance_sum: float = 0.0
    weight: float = 0.0

    def update(self, square: float, variance: float, scale: float) -> SmoothedMoments:
        """One more step's moments; anything not finite leaves the average as it was."""
        if not (math.isfinite(square) and math.isfinite(variance) and math.isfinite(scale)) or scale <= 0:
            return self
        keep = SMOOTHING ** min(scale, 1e4)
        return SmoothedMoments(
            keep * self.square_sum + (1.0 - keep) * square,
            keep * self.variance_sum + (1.0 - keep) * variance,
            keep * self.weight + (1.0 - keep),
        )

    @property
    def model(self) -> EfficiencyModel:
        """The moments as a model; `UNKNOWN` before the first update. A negative square counts as zero."""
        if self.weight <= 0:
            return UNKNOWN
        return from_gradient(Gradient(0.0, self.square_sum / self.weight, self.variance_sum / self.weight, 1.0))
