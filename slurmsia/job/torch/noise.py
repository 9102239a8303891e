"""Gradient noise: |gradient|^2 and the trace of its covariance, from gradients of parts of a step (SIA.md section 1).

Parts are micro-batches on all ranks (data-parallel replicas, accumulation, or both); with one part in a step two
steps in a row take their place. For Adam the gradient is seen through Adam's own preconditioner, as in Pollux.
It only looks: gradients are never changed, and nothing is computed in steps that are not measured.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.distributed as dist


def moments(small: float, big: float, parts: int) -> Tuple[float, float]:
    """Unbiased (|G|^2, variance of one part's gradient) from the mean square of ``parts`` gradients and their mean's.

    E[small] = |G|^2 + v and E[big] = |G|^2 + v / parts.
    """
    variance = (small - big) * parts / (parts - 1)
    return (parts * big - small) / (parts - 1), variance


class GradientNoise:
    """Running moments at M0 of one model under one optimiser.

    ``batch_initial``: M0; ``every``: measured once in so many steps; ``memory``: measurements that the running mean
    spans. ``square``/``variance`` are at M0.
    """

    def __init__(self, optimizer: Any, batch_initial: int, every: int = 20, memory: int = 50) -> None:
        self._optimizer = optimizer
        self._batch_initial = batch_initial
        self._every = max(every, 1)
        self._memory = memory
        self._sum = [0.0, 0.0, 0.0]
        self._handles: List[Any] = []
        self._squares: Optional[torch.Tensor] = None
        self._weight = 1.0
        self._parts = 0
        self._previous: Optional[List[torch.Tensor]] = None

    @property
    def measured(self) -> Optional[Tuple[float, float]]:
        """(|gradient|^2, variance) at M0, or None before the first measurement."""
        weight = self._sum[2]
        if weight == 0:
            return None
        return max(self._sum[0] / weight, 0.0), max(self._sum[1] / weight, 1e-300)

    def state_dict(self) -> Dict[str, Any]:
        """For checkpoints."""
        return {"sum": list(self._sum)}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """From a checkpoint."""
        self._sum = list(state["sum"])

    def is_measured(self, step: int, parts: int) -> bool:
        """Whether step number ``step``, in ``parts`` parts over all ranks, is looked at."""
        if parts > 1:
            return step % self._every == 0
        return step % self._every in (0, 1)

    def begin(self) -> None:
        """Before the first backward pass of a measured step: looks at the local gradient of every pass."""
        self._squares = None
        self._parts = 0
        for parameter, scale in self._preconditioned():
            self._handles.append(parameter.register_hook(self._hook(scale)))

    def part(self, weight: float) -> None:
        """Before each backward pass: the factor on its loss, so that the gradient itself can be told."""
        self._weight = weight
        self._parts += 1

    def abandon(self) -> None:
        """The step is not measured after all (a short or overflown step)."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def end(self, part_batch: float, loss_scale: float = 1.0) -> None:
        """After the last backward pass: ``part_batch`` samples in each part; ``loss_scale`` of an AMP scaler."""
        self.abandon()
        if self._squares is None:
            return
        squares = self._squares.detach().to(torch.float64)
        parts = float(self._parts)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            both = torch.stack([squares, torch.full_like(squares, parts)])
            if dist.get_backend() == "nccl" and not both.is_cuda:
                both = both.cuda()
            dist.all_reduce(both)
            squares, parts = both[0], float(both[1])
        if parts > 1:
            big = self._gradient_square()
            self._take(float(squares) / parts / loss_scale**2, float(big) / loss_scale**2, int(parts), part_batch)
            return
        self._pair(part_batch, loss_scale)

    def _pair(self, part_batch: float, loss_scale: float) -> None:
        """Two whole steps in a row as the two parts of one."""
        now = [
            parameter.grad.detach().to(torch.float32) * (scale if scale is not None else 1.0) / loss_scale
            for parameter, scale in self._preconditioned()
            if parameter.grad is not None
        ]
        before, self._previous = self._previous, None
        if before is None or len(before) != len(now):
            self._previous = now
            return
        small = (_square(now) + _square(before)) / 2
        big = _square([(a + b) / 2 for a, b in zip(now, before)])  # noqa: B905
        self._take(float(small), float(big), 2, part_batch)

    def _take(self, small: float, big: float, parts: int, part_batch: float) -> None:
        if not (math.isfinite(small) and math.isfinite(big)):
            return
        square, variance = moments(small, big, parts)
        keep = 1.0 - 1.0 / self._memory
        at_m0 = variance * part_batch / self._batch_initial
        for index, value in enumerate((square, at_m0, 1.0)):
            self._sum[index] = keep * self._sum[index] + (1.0 - keep) * value

    def _hook(self, scale: Optional[torch.Tensor]) -> Any:
        def look(gradient: torch.Tensor) -> None:
            seen = gradient.detach().to(torch.float32)
            if scale is not None:
                seen = seen * scale
            square = seen.square().sum(dtype=torch.float64) / (self._weight * self._weight)
            self._squares = square if self._squares is None else self._squares + square.to(self._squares.device)

        return look

    def _gradient_square(self) -> torch.Tensor:
        seen = []
        for parameter, scale in self._preconditioned():
            if parameter.grad is not None:
                gradient = parameter.grad.detach().to(torch.float32)
                seen.append(gradient if scale is None else gradient * scale)
        return _square(seen)

    def _preconditioned(self) -> List[Tuple[Any, Optional[torch.Tensor]]]:
        """Every trained parameter and what its optimiser multiplies its gradient by (None: nothing, as in SGD)."""
        found: List[Tuple[Any, Optional[torch.Tensor]]] = []
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    continue
                state = self._optimizer.state.get(parameter, {})
                second = state.get("exp_avg_sq")
                if second is None:
                    found.append((parameter, None))
                    continue
                step = float(state.get("step", 1))
                corrected = second.detach().to(torch.float32) / (1.0 - group["betas"][1] ** max(step, 1.0))
                found.append((parameter, 1.0 / (corrected.sqrt() + group["eps"])))
        return found


def _square(tensors: List[torch.Tensor]) -> torch.Tensor:
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    total = tensors[0].square().sum(dtype=torch.float64)
    for tensor in tensors[1:]:
        total = total + tensor.square().sum(dtype=torch.float64)
    return total
