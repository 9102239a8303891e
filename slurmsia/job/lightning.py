"""`SlurmsiaCallback` for Lightning: reports steps, saves when asked, waits to be requeued.

Restores through ``trainer.fit(..., ckpt_path=callback.newest())``, so the job is restartable at a fixed total batch.
Imports lightning, which must be there. Never changes training.
"""

from __future__ import annotations

import os
import time
from typing import Any, Optional

import lightning

from .checkpoint_file import newest, path_of, prune
from .reporter import Reporter


class SlurmsiaCallback(lightning.Callback):  # type: ignore[misc, unused-ignore]
    """``Trainer(callbacks=[SlurmsiaCallback("ckpt", local=32)])``; ``local``: samples per GPU and micro-batch."""

    def __init__(
        self, folder: str, local: int, reporter: Optional[Reporter] = None, keep: int = 2, limit_s: float = 300.0
    ) -> None:
        self._folder = folder
        self._local = local
        self._reporter = reporter
        self._keep = keep
        self._limit_s = limit_s
        self._steps = 0

    def newest(self) -> Optional[str]:
        """Path of the newest whole checkpoint for ``ckpt_path=``, or None."""
        return newest(self._folder)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if self._reporter is None:
            signal = None if "TORCHELASTIC_RUN_ID" in os.environ else "USR1"
            self._reporter = Reporter(rank=trainer.global_rank, gpus=trainer.world_size, signal=signal)
        self._steps = trainer.global_step
        self._reporter.start()
        self._reporter.progress(float(trainer.global_step * self._total(trainer)))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._reporter is not None
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        extra = trainer.accumulate_grad_batches - 1
        self._reporter.step(local=self._local, samples=self._total(trainer), accum=extra)
        share = None
        if trainer.world_size > 1:
            from .torch.state import share as share_over_ranks

            share = share_over_ranks
        if self._reporter.stop_now(share):
            self._stop(trainer)

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        if self._reporter is not None:
            self._reporter.pause()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if self._reporter is not None:
            self._reporter.close()

    def _stop(self, trainer: Any) -> None:
        assert self._reporter is not None
        begun = time.perf_counter()
        path = path_of(self._folder, trainer.global_step)
        trainer.save_checkpoint(path + ".tmp-lightning")
        if trainer.is_global_zero:
            with open(path + ".tmp-lightning", "rb") as file:
                os.fsync(file.fileno())
            os.replace(path + ".tmp-lightning", path)
            prune(self._folder, self._keep)
        self._reporter.checkpointed(time.perf_counter() - begun)
        if trainer.is_global_zero:
            self._reporter.wait_for_requeue(self._limit_s)
        self._reporter.go_on()
        trainer.strategy.barrier()

    def _total(self, trainer: Any) -> int:
        return int(self._local * trainer.accumulate_grad_batches * trainer.world_size)
