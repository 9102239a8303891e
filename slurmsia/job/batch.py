"""Chooses batch size and accumulation from the directive's model (SIA.md section 1). Pure, standard library, 3.8.

goodput = throughput x efficiency over [max(M0, m_min*K), M_max]; a change must gain more than 5 %.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional

from .directive import SpeedModel

#: A new batch size must promise this much more goodput than the current one.
MIN_GAIN = 1.05


class Batch(NamedTuple):
    """Samples per GPU and micro-batch, and extra micro-batches per step."""

    local: int
    accumulation: int

    def total(self, gpus: int) -> int:
        """Samples per optimiser step over all GPUs."""
        return self.local * (self.accumulation + 1) * gpus


def gain(square: float, variance: float, scale: float) -> float:
    """AdaScale's gain of a step at ``scale`` times M0 over one at M0: 1 at scale 1, ``scale`` for pure noise."""
    if square <= 0 and variance <= 0:
        return 1.0
    return (variance + square) / (variance / scale + square)


def step_time_s(model: SpeedModel, batch: Batch, nodes: int, gpus: int) -> float:
    """Seconds of one optimiser step: s*T_grad + (T_grad^gamma + T_sync^gamma)^(1/gamma)."""
    grad_s = model.alpha_c + model.beta_c * batch.local
    if gpus <= 1:
        sync_s = 0.0
    elif nodes <= 1:
        sync_s = model.alpha_r + model.beta_r * (gpus - 2)
    else:
        sync_s = model.alpha_n + model.beta_n * (gpus - 2)
    # Scaled by the larger term so that high powers neither overflow nor vanish.
    largest = max(grad_s, sync_s)
    if largest <= 0:
        return 1e-9
    powers = (grad_s / largest) ** model.gamma + (sync_s / largest) ** model.gamma
    return batch.accumulation * grad_s + float(largest * powers ** (1.0 / model.gamma))


def goodput(model: SpeedModel, batch: Batch, nodes: int, gpus: int) -> float:
    """M0-efficient samples per second."""
    total = batch.total(gpus)
    scale = max(total / model.batch_min, 1e-9)
    efficiency = gain(model.square, model.variance, scale) / scale if scale > 1 else 1.0
    return total / step_time_s(model, batch, nodes, gpus) * efficiency


def choose(model: SpeedModel, nodes: int, gpus: int, current: Optional[Batch] = None) -> Optional[Batch]:
    """The best batch on so many nodes and GPUs; ``current`` stays unless another gains more than 5 %.

    None when no legal batch exists.
    """
    best: Optional[Batch] = None
    best_goodput = 0.0
    for batch in _candidates(model, gpus):
        value = goodput(model, batch, nodes, gpus)
        if value > best_goodput * (1 + 1e-12):
            best, best_goodput = batch, value
    if best is None or current is None or not _is_legal(model, current, gpus):
        return best
    return best if best_goodput > MIN_GAIN * goodput(model, current, nodes, gpus) else current


def _is_legal(model: SpeedModel, batch: Batch, gpus: int) -> bool:
    total_is = model.batch_min <= batch.total(gpus) <= model.batch_max
    return total_is and model.local_min <= batch.local <= model.local_max


def _candidates(model: SpeedModel, gpus: int) -> Iterator[Batch]:
    """For every accumulation up to 64 local batches in geometric steps between the bounds, ends included."""
    for accumulation in range(model.accumulation_max + 1):
        micro = gpus * (accumulation + 1)
        low = max(model.local_min, -(-model.batch_min // micro))
        high = min(model.local_max, model.batch_max // micro)
        if low > high:
            continue
        ratio = (high / low) ** (1 / 63)
        previous = 0
        for index in range(64):
            local = min(high, max(low, round(low * ratio**index)))
            if local != previous:
                yield Batch(local, accumulation)
                previous = local
