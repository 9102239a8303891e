"""`SlurmsiaCallback` for Hugging Face's Trainer: reports steps, saves when asked, waits to be requeued.

The Trainer's own checkpoints are used (``resume_from_checkpoint=True``), so the job is restartable at a fixed total
batch. Imports transformers, which must be there. Never changes training.
"""

from __future__ import annotations

import time
from typing import Any, Optional

import transformers

from .reporter import Reporter


class SlurmsiaCallback(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
    """``Trainer(callbacks=[SlurmsiaCallback()])``. The total batch must stay the same over restarts (user's own
    ``gradient_accumulation_steps``, see `accumulation_for`)."""

    def __init__(self, reporter: Optional[Reporter] = None, limit_s: float = 300.0) -> None:
        self._reporter = reporter
        self._limit_s = limit_s
        self._asked = False
        self._begun = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._reporter is None:
            self._reporter = Reporter(rank=args.process_index, gpus=args.world_size, signal=_signal())
        done = float(state.global_step * _total(args))
        self._reporter.start()
        self._reporter.progress(done, float(state.max_steps * _total(args)) if state.max_steps > 0 else None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._reporter is not None
        extra = args.gradient_accumulation_steps - 1
        self._reporter.step(local=args.per_device_train_batch_size, samples=_total(args), accum=extra)
        if self._reporter.stop_now(_share(args)):
            self._asked = True
            self._begun = time.perf_counter()
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._reporter is not None:
            self._reporter.pause()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._reporter is not None
        seconds = time.perf_counter() - self._begun if self._asked else 0.0
        self._reporter.checkpointed(seconds, state.global_step * _total(args))
        if self._asked:
            self._asked = False
            if args.process_index == 0:
                self._reporter.wait_for_requeue(self._limit_s)
            self._reporter.go_on()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._reporter is not None:
            self._reporter.close()


def accumulation_for(total_batch: int, per_device: int, world_size: int) -> int:
    """``gradient_accumulation_steps`` that keeps the total batch on so many GPUs. Raises ValueError if none does."""
    steps, rest = divmod(total_batch, per_device * world_size)
    if rest or steps < 1:
        raise ValueError(
            f"a total batch of {total_batch} is no multiple of {per_device} per device on {world_size} devices"
        )
    return steps


def _total(args: Any) -> int:
    return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)


def _share(args: Any) -> Any:
    if args.world_size == 1:
        return None
    from .torch.state import share

    return share


def _signal() -> Optional[str]:
    import os

    return None if "TORCHELASTIC_RUN_ID" in os.environ else "USR1"
