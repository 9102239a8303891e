"""A training job on honest physics: measured speeds with noise, checkpoints and starts that take drawn times.

Plugs into the emulator as a `JobPhysics`. It tells the world only what a real job would: reports with sums of step
times, gradient moments, memory, progress and restart parts. The constants below are frozen and documented in
docs/simulator.md; no policy may read this module.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ..cluster import Allocation
from ..history import Gradient, MemoryPoint, Observation, Progress, Report, RestartSample
from ..plan import BatchChoice
from ..slurm.emulator.physics import Exit, RunStart
from .applications import facts
from .profiles import ApplicationTruth, Placement, fold
from .workloads import TraceJob

#: Share of an application's restart time that is the save; the rest is start, load and first step.
SAVE_SHARE = 0.25
#: Spread (sigma of the log) of restart times between jobs of one application, and between restarts of one job.
RESTART_SPREAD_JOB = 0.2
RESTART_SPREAD_RUN = 0.15
#: Spread of single steps around their mean, and of reported gradient moments.
STEP_SPREAD = 0.1
GRADIENT_SPREAD = 0.1
#: Seconds between progress reports: the first, how it grows, the longest.
FIRST_REPORT_S = 30.0
REPORT_GROWTH = 2.0
LONGEST_REPORT_S = 600.0
#: Seconds a job waits after its checkpoint before it goes on by itself.
PATIENCE_S = 150.0
#: Seconds a job takes to die after SIGTERM: uniform between these.
DIE_S = (0.5, 3.0)
#: Share of a GPU's memory that the model takes before the first sample.
MEMORY_BASE = 0.08
MEMORY_FULL = 0.95
#: GPU memory by type, bytes.
MEMORY_BYTES = {"t4": 16e9, "rtx": 11e9, "a100": 40e9, "quad": 24e9, "v100": 32e9}


@dataclass(frozen=True, slots=True)
class HonestSettings:
    """What is frozen for a simulation: ``noise`` is the spread of step times between runs (nodes differ).

    ``target_off`` and ``target_lies``: how wrong the targets are that jobs report (`honest.HonestOptions`).
    """

    noise: float = 0.05
    checkpoint_every_s: float = 600.0
    seed: int = 0
    target_off: float = 1.0
    target_lies: float = 1.0


@dataclass
class HonestJob:
    """One job over all its runs. ``fixed_batch``: total batch of jobs that do not adapt it.

    ``batch`` is the last directive's choice, written by the simulation when the daemon would write the directive file.
    """

    trace: TraceJob
    truth: ApplicationTruth
    settings: HonestSettings
    fixed_batch: int | None = None
    batch: BatchChoice | None = None
    progress: float = 0.0
    epoch: int = 0
    safe_progress: float = 0.0
    safe_epoch: int = 0
    safe_t_s: float = 0.0
    runs: int = 0
    silent: bool = False
    """True for an undeclared job: it reports nothing and traps no signal."""
    _random: random.Random = field(init=False, repr=False)
    _says: float = field(init=False)
    _save_s: float = field(init=False)
    _load_s: float = field(init=False)
    _run: RunStart | None = None
    _type: str = ""
    _placement: Placement = ()
    _noise: float = 1.0
    _local: int = 1
    _accumulation: int = 0
    _at_s: float = 0.0
    _busy_until_s: float = 0.0
    _saving: bool = False
    _waiting: bool = False
    _saved_now_s: float | None = None
    _seq: int = 0
    _report_s: float = math.inf
    _report_gap_s: float = FIRST_REPORT_S
    _epoch_s: float = math.inf
    _checkpoint_s: float = math.inf
    _speed: float = 0.0
    _step_s: float = 0.0
    _sync_s: float = 0.0
    _total: int = 1
    _timed: bool = False
    """Whether `_step_s`, `_sync_s` and `_total` are those of the present allocation and batch."""
    _window_steps: float = 0.0
    _loaded_s: float | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.settings.seed}/{self.trace.name}")
        restart_s = facts(self.truth.name).restart_s * self._spread(RESTART_SPREAD_JOB)
        lie = random.Random(f"{self.settings.seed}/target/{self.trace.name}").choice((-1, 1))
        self._says = self.settings.target_off * self.settings.target_lies**lie
        self._save_s, self._load_s = SAVE_SHARE * restart_s, (1.0 - SAVE_SHARE) * restart_s

    def _spread(self, sigma: float) -> float:
        """A factor with median 1."""
        return math.exp(self._random.gauss(0.0, sigma))

    @property
    def work(self) -> float:
        return self.truth.work

    # what the emulator calls

    def start(self, run: RunStart) -> None:
        self._run = run
        self.runs += 1
        self._seq = 0
        self.progress, self.epoch = self.safe_progress, self.safe_epoch
        self.safe_t_s = run.now_s
        self._noise = self._spread(self.settings.noise)
        self._saving = self._waiting = False
        self._saved_now_s = None
        self._loaded_s = self._load_s * self._spread(RESTART_SPREAD_RUN)
        self._busy_until_s = self._at_s = run.now_s + self._loaded_s
        self._report_gap_s = FIRST_REPORT_S
        self._report_s = math.inf if self.silent else self._busy_until_s + self._report_gap_s
        self._checkpoint_s = self._busy_until_s + self.settings.checkpoint_every_s
        self._window_steps = 0.0
        self._take(run.allocation)
        self._emit("start", run.now_s)

    def resize(self, allocation: Allocation, now_s: float) -> None:
        self._accrue(now_s)
        self._take(allocation)

    def next_s(self) -> float | None:
        if self._run is None:
            return None
        if self._saving or self._waiting:
            return self._busy_until_s
        return min(self._epoch_s, self._report_s, self._checkpoint_s)

    def wake(self, now_s: float) -> Exit | None:
        if self._saving:
            self._saving, self._waiting = False, True
            self._keep(now_s)
            self._emit("checkpointed", now_s)
            self._at_s = self._busy_until_s = now_s + PATIENCE_S
            return None
        if self._waiting:
            self._waiting = False
            self._at_s = now_s
            self._aim()
            return None
        self._accrue(now_s)
        if self.epoch >= self.truth.epochs:
            self._emit("end", now_s)
            self._run = None
            return Exit(0)
        if now_s >= self._checkpoint_s - 1e-6:
            self._keep(now_s)
            self._checkpoint_s = now_s + self.settings.checkpoint_every_s
        if now_s >= self._report_s - 1e-6:
            self._emit("progress", now_s)
            self._report_gap_s = min(self._report_gap_s * REPORT_GROWTH, LONGEST_REPORT_S)
            self._report_s = now_s + self._report_gap_s
            self._choose_batch()
        self._aim()
        return None

    def signal(self, name: str, now_s: float) -> Exit | None:
        if self.silent:
            self._run = None
            return Exit(138, name)
        if not self._saving and not self._waiting:
            self._accrue(now_s)
            self._saved_now_s = self._save_s * self._spread(RESTART_SPREAD_RUN)
            self._saving = True
            self._busy_until_s = max(now_s, self._at_s) + self._saved_now_s
        return None

    def stop(self, now_s: float) -> float:
        if not self._saving and not self._waiting:
            self._accrue(now_s)
        self._run = None
        return self._random.uniform(*DIE_S)

    # inside

    def _take(self, allocation: Allocation) -> None:
        self._type = allocation.gpu_type or ""
        self._placement = fold([count for _, count in allocation.gpus_by_node], self._type)
        self._choose_batch(force=True)

    def _choose_batch(self, force: bool = False) -> None:
        """What the job library does: follow the directive within the card's memory, else the initial batch."""
        profile = self.truth.on(self._type)
        gpus = sum(self._placement)
        most = profile.placement_local_max(self._placement)
        if self.fixed_batch is None and self.batch is not None:
            total = gpus * self.batch.local_batch * (self.batch.accumulation + 1)
            splits = self.batch.accumulation + 1
        else:
            total = self.fixed_batch or max(self.truth.initial_batch, profile.local_min * gpus)
            splits = 1
        total = min(max(total, self.truth.initial_batch), self.truth.largest_batch)
        each = max(math.ceil(total / gpus), 1)
        splits = min(max(splits, math.ceil(each / most)), each)
        local, accumulation = math.ceil(each / splits), splits - 1
        if gpus * local * splits > self.truth.largest_batch:
            local = max(self.truth.largest_batch // (gpus * splits), 1)
        if force or (local, accumulation) != (self._local, self._accumulation):
            self._local, self._accumulation = local, accumulation
            self._window_steps = 0.0
            self._timed = False
        self._aim()

    def _aim(self) -> None:
        """Speed on this epoch (scale-invariant iterations per second) and when the epoch ends."""
        truth = self.truth
        if self.epoch >= truth.epochs:
            self._epoch_s = self._at_s
            return
        if not self._timed:
            self._time()
        square, variance = truth.moments(self._total, self.epoch)
        scale = self._total / truth.initial_batch
        gain = (variance + square) / (variance / scale + square)
        self._speed = gain / self._step_s
        self._epoch_s = self._at_s + (truth.progress[self.epoch] - self.progress) / self._speed

    def _time(self) -> None:
        """Seconds of a step on the present allocation and batch."""
        truth = self.truth
        self._total = sum(self._placement) * self._local * (self._accumulation + 1)
        step_s, sync_s = truth.on(self._type).step_and_sync_s(self._placement, self._local)
        slow = facts(truth.name).slowdown * self._noise
        self._step_s = (step_s + (step_s - sync_s) * self._accumulation) * slow
        self._sync_s = sync_s * slow
        self._timed = True

    def _accrue(self, now_s: float) -> None:
        seconds = now_s - self._at_s
        due = now_s >= self._epoch_s and self.epoch < self.truth.epochs
        if seconds <= 0 and not due:
            return
        if seconds > 0:
            self._window_steps += seconds / self._step_s
            self._at_s = now_s
            self.progress += self._speed * seconds
        target = self.truth.progress[self.epoch]
        if due or self.progress >= target - 1e-9 * target:
            self.progress = target
            self.epoch += 1

    def _keep(self, now_s: float) -> None:
        self.safe_progress, self.safe_epoch, self.safe_t_s = self.progress, self.epoch, now_s

    def _emit(self, event: str, now_s: float) -> None:
        run = self._run
        if run is None or self.silent:
            return
        self._seq += 1
        initial = self.truth.initial_batch
        observations: tuple[Observation, ...] = ()
        gradient = memory = None
        if event != "start" and self._window_steps >= 1.0:
            observations, gradient, memory = (self._observation(),), self._gradient(now_s), self._memory()
            self._window_steps = 0.0
        run.emit(
            Report(
                job_id=run.job_id,
                restart=run.restart,
                seq=self._seq,
                t_s=now_s,
                event=event,
                observations=observations,
                gradient=gradient,
                progress=Progress(
                    now_s,
                    self.progress * initial,
                    self._says * self.work * initial if self._says else None,
                    self.safe_progress * initial,
                    self.safe_t_s,
                ),
                memory=memory,
                restart_sample=self._restart_sample(event),
                handles_signal=True,
            )
        )

    def _observation(self) -> Observation:
        count = float(max(int(self._window_steps), 1))
        step_sum = count * self._step_s * (1.0 + self._random.gauss(0.0, STEP_SPREAD / math.sqrt(count)))
        return Observation(
            gpu_type=self._type,
            nodes=len(self._placement),
            gpus=sum(self._placement),
            local_batch=float(self._local),
            accumulation=self._accumulation,
            count=count,
            step_sum_s=step_sum,
            step_square_sum_s2=step_sum * step_sum / count * (1.0 + STEP_SPREAD**2),
            sync_sum_s=min(self._sync_s / self._step_s, 0.999) * step_sum,
        )

    def _gradient(self, now_s: float) -> Gradient:
        batch = sum(self._placement) * self._local * (self._accumulation + 1)
        square, variance = self.truth.moments(batch, min(self.epoch, self.truth.epochs - 1))
        return Gradient(
            now_s,
            square * self._spread(GRADIENT_SPREAD),
            variance * self._spread(GRADIENT_SPREAD),
            batch / self.truth.initial_batch,
        )

    def _memory(self) -> MemoryPoint:
        total = MEMORY_BYTES.get(self._type, 16e9)
        share = MEMORY_BASE + (MEMORY_FULL - MEMORY_BASE) * self._local / self.truth.on(self._type).local_max
        return MemoryPoint(self._type, float(self._local), total * min(share, 0.99), total)

    def _restart_sample(self, event: str) -> RestartSample | None:
        if event == "checkpointed" and self._saved_now_s is not None:
            return RestartSample(save_s=self._saved_now_s)
        if event == "progress" and self._loaded_s is not None:
            loaded, self._loaded_s = self._loaded_s, None
            return RestartSample(load_s=loaded, first_step_s=self._step_s)
        return None


#: Called with every report of every job, in order of time.
ReportSink = Callable[[Report], None]
