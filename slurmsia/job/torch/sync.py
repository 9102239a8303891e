"""Seconds of a step in which this rank only waits for gradients of others: from its own last one to DDP's mean of all.

That is the part of the reduction that the backward pass does not hide, waiting for slower ranks included; what a
report calls ``sync``. It only looks: DDP's own reduction stays in charge, and most steps carry one hook on one
parameter. Nothing is measured for FSDP2, whose traffic is spread over the whole step.
"""

from __future__ import annotations

import time
from typing import Any, List, Optional, Tuple

import torch

#: Which parameter's gradient comes last is found anew after so many steps, in case the model's graph changes.
_LEARN_EVERY = 100


class SyncTime:
    """Waiting time of one rank under DDP. ``model``: the module whose backward pass is looked at."""

    def __init__(self, model: Any) -> None:
        self._parameters = list(model.parameters())
        self._gpu = any(bool(parameter.is_cuda) for parameter in self._parameters)
        self._last: Any = None
        self._steps = 0
        self._handles: List[Any] = []
        self._mark: Any = None
        self._pending: List[Tuple[Any, Any]] = []
        self._waited_s = 0.0

    def begin(self) -> None:
        """Before the backward pass after which DDP averages."""
        if self._last is None or self._steps % _LEARN_EVERY == 0:
            self._release()
            self._last = None
            trained = [parameter for parameter in self._parameters if parameter.requires_grad]
            self._handles = [parameter.register_hook(self._hook(parameter)) for parameter in trained]
        self._steps += 1
        self._mark = None

    def end(self) -> None:
        """After that pass."""
        mark, self._mark = self._mark, None
        if len(self._handles) > 1:
            self._release()
            if self._last is not None:
                self._handles = [self._last.register_hook(self._hook(self._last))]
        if mark is None:
            # the parameter got no gradient this time: look for the last one again
            self._release()
            self._last = None
        elif self._gpu:
            done = torch.cuda.Event(enable_timing=True)
            done.record()
            self._pending.append((mark, done))
        else:
            self._waited_s += time.perf_counter() - mark

    def take_s(self) -> float:
        """Seconds waited since the last call; on a GPU without the passes that its stream has not finished."""
        while self._pending and self._pending[0][1].query():
            begun, done = self._pending.pop(0)
            self._waited_s += begun.elapsed_time(done) / 1e3
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s

    def _hook(self, parameter: Any) -> Any:
        def look(_: torch.Tensor) -> Optional[torch.Tensor]:
            self._last = parameter
            if self._gpu:
                self._mark = torch.cuda.Event(enable_timing=True)
                self._mark.record()
            else:
                self._mark = time.perf_counter()
            return None

        return look

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
