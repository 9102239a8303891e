"""`Elastic`: a PyTorch training loop that stops at a step, saves all of itself, and goes on with any number of GPUs.

It wraps model, optimiser and dataset; the loop stays the user's. The total batch stays M0 unless a larger one is
allowed and the daemon's model says that it pays; gradients themselves are never changed.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, default_collate

from .. import environment
from ..batch import Batch, choose
from ..reporter import Reporter
from . import state as states
from .noise import GradientNoise
from .rules import learning_rate_factor
from .sampler import EpochStream, IndexBatches, MicroBatch, StepPlan, StreamBatches, micro_batches
from .sync import SyncTime

#: Ranks agree about stopping and batch size about this often; in between steps carry no extra traffic.
_AGREE_EVERY_S = 0.5
_MAX_STEPS_BETWEEN = 200


class Elastic:
    """Trains ``epochs`` passes over a dataset at total batch ``batch`` (M0), restartable at any size.

    ``model``: on its device, compiled or FSDP2-sharded by the user where wanted; DDP is put around it when there are
    several ranks. ``dataset``: map-style, or a function epoch -> iterable with ``length=`` samples. ``batch_max``:
    largest total batch (default M0: never changed); ``local``: (smallest, largest) micro-batch per GPU;
    ``rule``: "adascale", "sqrt", "linear" or "none", default by optimiser; ``scheduler``: stepped once per optimiser
    step; ``scaler``: AMP's GradScaler; ``checkpoint``: folder; ``save_every_s``: checkpoints without being asked;
    ``loader``: keyword arguments of DataLoader. Raises ValueError for a dataset without samples, and for an FSDP2
    model with a scaler.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        dataset: Any,
        *,
        batch: int,
        epochs: int,
        checkpoint: str,
        batch_max: Optional[int] = None,
        local: Tuple[int, Optional[int]] = (1, None),
        length: Optional[int] = None,
        scheduler: Any = None,
        scaler: Any = None,
        rule: Optional[str] = None,
        shuffle: bool = True,
        seed: int = 0,
        loader: Optional[Dict[str, Any]] = None,
        save_every_s: Optional[float] = None,
        keep: int = 2,
        noise_every: int = 20,
        reporter: Optional[Reporter] = None,
        extra: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scaler = scaler
        self._user_model = model
        self.model = model
        self._dataset = dataset
        self._batch = batch
        self._batch_max = batch_max or batch
        self._local_max = local[1]
        self._folder = checkpoint
        self._seed = seed
        self._loader = dict(loader or {})
        self._save_every_s = save_every_s
        self._keep = keep
        self._extra = dict(extra or {})
        self.stream = EpochStream(length if length is not None else len(dataset), seed, shuffle)
        self._streams = callable(dataset) and not hasattr(dataset, "__getitem__")
        self._end = epochs * self.stream.length
        adaptive_step = any("betas" in group for group in optimizer.param_groups)
        self._rule = rule or ("sqrt" if adaptive_step else "adascale")
        self.noise = GradientNoise(optimizer, batch, noise_every)
        self._measures = not states.is_sharded(states.bare(model))
        if not self._measures:
            if scaler is not None:
                raise ValueError("an FSDP2 model takes no scaler: train it in bfloat16 (MixedPrecisionPolicy) instead")
            self._batch_max = batch  # without gradient noise nothing says what a larger batch is worth
        self._reporter = reporter
        self._own_group = False
        self.position = 0
        self.steps = 0
        self._choice = Batch(0, 0)
        self._micro: Optional[MicroBatch] = None
        self._measuring = False
        self._sync: Optional[SyncTime] = None
        self._replan = False
        self._next_agreement = 0
        self._saved_at = time.monotonic()
        self._step_begun = time.perf_counter()

    @property
    def epoch(self) -> int:
        """Epoch of the next sample."""
        return self.position // self.stream.length

    @property
    def total_batch(self) -> int:
        """Samples of a full step over all ranks."""
        return self._plan.total

    @property
    def counts(self) -> bool:
        """Whether the current micro-batch counts; False for the borrowed sample of a rank that has none left."""
        return self._micro is not None and self._micro.weight > 0

    @property
    def reporter(self) -> Reporter:
        """The reporter in use; only inside of the ``with`` block."""
        assert self._reporter is not None
        return self._reporter

    def __enter__(self) -> Elastic:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if _on_gpu(self._user_model) else "gloo")
            self._own_group = True
        rank, size = states.world()
        if self._reporter is None:
            # torchrun itself dies of a signal that it does not handle; under it only directives ask for checkpoints.
            signal = None if "TORCHELASTIC_RUN_ID" in os.environ else "USR1"
            self._reporter = Reporter(rank=rank, gpus=size, target=float(self._end), signal=signal)
        self._reporter.start()
        self._choose_fixed()
        self._restore()
        if size > 1 and not isinstance(self.model, torch.nn.parallel.DistributedDataParallel) and self._measures:
            device_ids = [torch.cuda.current_device()] if _on_gpu(self._user_model) else None
            self.model = torch.nn.parallel.DistributedDataParallel(self.model, device_ids=device_ids)
        if isinstance(self.model, torch.nn.parallel.DistributedDataParallel):
            self._sync = SyncTime(self.model)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.position >= self._end:
            self.save()
        self.reporter.close()
        if self._own_group and kind is None:
            dist.destroy_process_group()
            self._own_group = False

    def __iter__(self) -> Iterator[Any]:
        """Micro-batches of this rank until all epochs are done; call `backward` and `step` for each."""
        self._step_begun = time.perf_counter()
        while self.position < self._end:
            self._replan = False
            plan = self._plan
            micros = micro_batches(plan, self.position, self._end)
            for micro, data in zip(micros, self._batches(plan)):  # noqa: B905
                self._prepare(micro)
                yield data
                if self._replan:
                    break

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass for the **mean** loss of the current micro-batch."""
        micro = self._micro
        assert micro is not None, "backward() belongs inside of the loop over this object"
        if self._measuring:
            self.noise.part(micro.weight)
        scaled = loss if micro.weight == 1.0 else loss * micro.weight
        watched = self._sync if micro.last else None
        if watched is not None:
            watched.begin()
        (scaled if self.scaler is None else self.scaler.scale(scaled)).backward()
        if watched is not None:
            watched.end()

    def step(self) -> bool:
        """Ends the micro-batch; at the end of a step updates the model. True when the model was updated.

        When a checkpoint is wanted, saves it and waits to be requeued; returns only if the job is to go on.
        """
        micro = self._micro
        assert micro is not None, "step() belongs inside of the loop over this object"
        if not micro.last:
            return False
        self._measure(micro)
        factor = learning_rate_factor(self._rule, micro.step_total / self._batch, self.noise.measured)
        self._update(factor)
        self.position += micro.step_total
        self.steps += 1
        now = time.perf_counter()
        plan = self._plan
        self.reporter.step(
            local=micro.step_total / plan.world / (plan.accumulation + 1),
            samples=micro.step_total,
            accum=plan.accumulation,
            sync=0.0 if self._sync is None else self._sync.take_s(),
        )
        last_s, self._step_begun = now - self._step_begun, now
        if self.steps >= self._next_agreement:
            self._agree(last_s)
        return True

    def save(self) -> float:
        """Writes a checkpoint of everything; seconds that it took. Every rank calls it."""
        model, optimizer = states.collect(self.model, self.optimizer)
        whole: Dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "position": self.position,
            "steps": self.steps,
            "choice": tuple(self._choice),
            "noise": self.noise.state_dict(),
            "random": states.random_states(),
            "extra": {name: part.state_dict() for name, part in self._extra.items()},
        }
        for name, part in (("scheduler", self.scheduler), ("scaler", self.scaler)):
            if part is not None:
                whole[name] = part.state_dict()
        seconds = states.save(self._folder, self.steps, whole, self._keep)
        self._saved_at = time.monotonic()
        self.reporter.checkpointed(seconds, self.position)
        return seconds

    @property
    def _plan(self) -> StepPlan:
        rank, size = states.world()
        if self._choice.local == 0:
            return StepPlan(self._batch, self._choice.accumulation, size, rank)
        total = min(max(self._choice.total(size), self._batch), self._batch_max)
        return StepPlan(total, self._choice.accumulation, size, rank)

    def _choose_fixed(self) -> None:
        """Exactly M0, with as much accumulation as the largest micro-batch needs. Local 0 stands for M0's share."""
        _, size = states.world()
        share = -(-self._batch // size)
        accumulation = 0 if not self._local_max else -(-share // self._local_max) - 1
        self._choice = Batch(0, accumulation)

    def _batches(self, plan: StepPlan) -> Any:
        if not self._streams:
            indices: Any = IndexBatches(self.stream, plan, self.position, self._end)
            return DataLoader(self._dataset, batch_sampler=indices, **self._loader)
        collate: Callable[..., Any] = self._loader.get("collate_fn") or default_collate
        options = {key: value for key, value in self._loader.items() if key != "collate_fn"}
        if options.get("num_workers", 0) > 1:
            raise ValueError("an iterable dataset is read in order: num_workers must be 0 or 1")
        source = StreamBatches(self._dataset, self.stream.length, plan, self.position, self._end)
        return DataLoader(source, batch_size=None, collate_fn=collate, **options)

    def _prepare(self, micro: MicroBatch) -> None:
        first = self._micro is None or self._micro.last
        self._micro = micro
        if isinstance(self.model, torch.nn.parallel.DistributedDataParallel):
            self.model.require_backward_grad_sync = micro.last
        if first:
            plan = self._plan
            whole = micro.step_total == plan.total and plan.total >= plan.world * (plan.accumulation + 1)
            parts = plan.world * (plan.accumulation + 1)
            self._measuring = self._measures and whole and self.noise.is_measured(self.steps, parts)
            if self._measuring:
                self.noise.begin()

    def _measure(self, micro: MicroBatch) -> None:
        if not self._measuring:
            return
        self._measuring = False
        plan = self._plan
        scale = 1.0 if self.scaler is None else float(self.scaler.get_scale())
        self.noise.end(plan.total / (plan.world * (plan.accumulation + 1)), scale)
        found = self.noise.measured
        if found is not None:
            self.reporter.gradient(found[0], found[1], plan.total / self._batch)

    def _update(self, factor: float) -> None:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * factor
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        for index, group in enumerate(self.optimizer.param_groups):
            group["lr"] = rates[index]
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None:
            self.scheduler.step()

    def _agree(self, last_step_s: float) -> None:
        """Rank 0 tells all ranks whether to stop here, with which batch to go on, and when to talk again."""
        rank, size = states.world()
        wanted = [0, *self._choice, 1]
        if rank == 0:
            due = self._save_every_s is not None and time.monotonic() - self._saved_at > self._save_every_s
            stop = self._wish() if self.reporter.checkpoint_wanted else int(due)
            between = int(_AGREE_EVERY_S / max(last_step_s, 1e-6))
            wanted = [stop, *self._wanted_choice(), max(1, min(between, _MAX_STEPS_BETWEEN))]
            self._note_memory()
        if size > 1:
            device = "cuda" if dist.get_backend() == "nccl" else "cpu"
            told = torch.tensor(wanted, dtype=torch.int64, device=device)
            dist.broadcast(told, src=0)
            wanted = told.tolist()
        stop, local, accumulation, between = wanted
        self._next_agreement = self.steps + between
        if stop:
            self._stop(stop)
        choice = Batch(local, accumulation)
        if choice != self._choice:
            self._choice = choice
            self._replan = True
        if stop or self._replan:
            self.reporter.pause()
            self._step_begun = time.perf_counter()

    def _wish(self) -> int:
        """2 = save and wait to be requeued; 3 + code = save and leave with that exit code."""
        directive = self.reporter.directive
        return 2 if directive is None or directive.exit_code is None else 3 + directive.exit_code

    def _stop(self, wish: int) -> None:
        self.save()
        if wish == 1:
            return
        rank, size = states.world()
        if wish > 2:
            self.reporter.close()
            if size > 1:
                dist.barrier()
            sys.exit(wish - 3)
        if rank == 0:
            self.reporter.wait_for_requeue()
        self.reporter.go_on()
        if size > 1:
            # The other ranks wait here, for hours if need be, until Slurm ends the run or rank 0 goes on.
            dist.barrier()

    def _wanted_choice(self) -> Batch:
        """The batch to use from the daemon's directive; the current one when it says nothing or may not change."""
        directive = self.reporter.directive
        if directive is None or self._batch_max <= self._batch:
            return self._choice
        _, size = states.world()
        if directive.model is not None:
            limits = directive.model._replace(batch_min=self._batch, batch_max=self._batch_max)
            if self._local_max:
                limits = limits._replace(local_max=min(limits.local_max, self._local_max))
            share = -(-self._batch // (size * (self._choice.accumulation + 1)))
            current = self._choice if self._choice.local else Batch(share, self._choice.accumulation)
            chosen = choose(limits, environment.nodes(), size, current)
            return self._choice if chosen is None or chosen == current else chosen
        if directive.local_batch is not None:
            return Batch(directive.local_batch, directive.accumulation)
        return self._choice

    def _note_memory(self) -> None:
        if not _on_gpu(self._user_model):
            return
        plan = self._plan
        total = float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
        local = plan.total / plan.world / (plan.accumulation + 1)
        self.reporter.memory(float(torch.cuda.max_memory_allocated()), total, local)

    def _restore(self) -> None:
        begun = time.perf_counter()
        found = states.load(self._folder)
        if found is None:
            return
        states.apply(self.model, self.optimizer, found["model"], found["optimizer"])
        self.position = found["position"]
        self.steps = found["steps"]
        self._next_agreement = self.steps
        self.noise.load_state_dict(found["noise"])
        for name, part in (("scheduler", self.scheduler), ("scaler", self.scaler), *self._extra.items()):
            saved = found.get(name) if name in ("scheduler", "scaler") else found["extra"].get(name)
            if part is not None and saved is not None:
                part.load_state_dict(saved)
        states.restore_random(found["random"], self._seed + self.position)
        _, size = states.world()
        if self._batch_max > self._batch and found["choice"][0] and len(found["random"]) == size:
            self._choice = Batch(*found["choice"])
        self.reporter.restored(self.position, time.perf_counter() - begun)


def _on_gpu(model: Any) -> bool:
    return next((bool(parameter.is_cuda) for parameter in model.parameters()), False)
