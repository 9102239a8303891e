"""What an emulated job does while it runs: when it ends, what it reports, how it takes signals. Plug in your own.

The emulator calls a `JobPhysics` only at moments the object asked for (`next_s`) and when something happens to it
(start, signal, stop, resize), so that hours without events cost nothing. Physics never touches the cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...cluster import Allocation, JobId
from ...history import Progress, Report, RestartSample


@dataclass(frozen=True, slots=True)
class RunStart:
    """A run begins: at ``now_s``, on ``allocation``, for the ``restart``-th time (0 = first run)."""

    job_id: JobId
    now_s: float
    allocation: Allocation
    restart: int
    emit: Callable[[Report], None]
    """Hands a report to whoever reads the spool."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a run ended by itself. ``signal`` is set when a signal killed it."""

    code: int = 0
    signal: str = ""

    @property
    def state(self) -> str:
        """Slurm's name of the end state."""
        return "COMPLETED" if self.code == 0 and not self.signal else "FAILED"


class JobPhysics(Protocol):
    """The behaviour of one job over all its runs. One object per job; it survives requeues as checkpoints do."""

    def start(self, run: RunStart) -> None:
        """A run begins."""
        ...

    def next_s(self) -> float | None:
        """When the job next wants `wake` (absolute seconds), ``None`` = never by itself."""
        ...

    def wake(self, now_s: float) -> Exit | None:
        """Called at `next_s`; returns how the run ended, or ``None`` to go on."""
        ...

    def signal(self, name: str, now_s: float) -> Exit | None:
        """A signal arrives at the batch shell; returns how the run ended if the signal killed it."""
        ...

    def stop(self, now_s: float) -> float:
        """The run is being killed (requeue, cancel, node failure); returns the seconds it takes to die."""
        ...

    def resize(self, allocation: Allocation, now_s: float) -> None:
        """Whole nodes were given back while running."""
        ...


@dataclass(slots=True)
class FixedWork:
    """A job with ``work_gpu_s`` GPU-seconds to do at constant speed, saving all of its progress on a signal.

    ``checkpoint_every_s``: progress is safe at these intervals (``None``: only on a signal); ``save_s`` and ``load_s``
    are the costs of a checkpoint and of a start; ``handles_signal`` False = a USR1 kills it (the shell's default);
    ``ignores_signal``: it traps the signal and does nothing; ``loses_progress``: resuming starts from zero.
    """

    work_gpu_s: float
    checkpoint_every_s: float | None = None
    save_s: float = 5.0
    load_s: float = 0.0
    die_s: float = 1.0
    handles_signal: bool = True
    ignores_signal: bool = False
    loses_progress: bool = False
    crashes_after_s: float | None = None
    report_every_s: float | None = 30.0
    samples_per_gpu_s: float = 1.0
    done_gpu_s: float = 0.0
    safe_gpu_s: float = 0.0
    runs: int = 0
    _run: RunStart | None = None
    _gpus: int = 0
    _since_s: float = 0.0
    _saving_until_s: float | None = None
    _next_report_s: float | None = None
    _crash_s: float | None = None
    _next_safe_s: float | None = None
    _seq: int = 0

    def start(self, run: RunStart) -> None:
        self._run = run
        self.runs += 1
        self._gpus = max(run.allocation.gpus, 1)
        self.done_gpu_s = 0.0 if self.loses_progress else self.safe_gpu_s
        self._since_s = run.now_s + self.load_s
        self._saving_until_s = None
        self._seq = 0
        self._crash_s = None if self.crashes_after_s is None else run.now_s + self.crashes_after_s
        self._next_report_s = None if self.report_every_s is None else run.now_s + self.load_s + self.report_every_s
        self._next_safe_s = None if self.checkpoint_every_s is None else self._since_s + self.checkpoint_every_s
        self._emit("start", run.now_s)

    def _accrue(self, now_s: float) -> None:
        if now_s > self._since_s and self._saving_until_s is None:
            self.done_gpu_s += (now_s - self._since_s) * self._gpus
        self._since_s = max(now_s, self._since_s)

    def _emit(self, event: str, now_s: float) -> None:
        if self._run is None:
            return
        self._seq += 1
        rate = self.samples_per_gpu_s
        self._run.emit(
            Report(
                job_id=self._run.job_id,
                restart=self._run.restart,
                seq=self._seq,
                t_s=now_s,
                event=event,
                progress=None
                if event == "start" and self.load_s > 0
                else Progress(now_s, self.done_gpu_s * rate, self.work_gpu_s * rate, self.safe_gpu_s * rate, now_s),
                restart_sample=RestartSample(save_s=self.save_s) if event == "checkpointed" else None,
                handles_signal=self.handles_signal,
            )
        )

    def next_s(self) -> float | None:
        if self._run is None:
            return None
        if self._saving_until_s is not None:
            done_s: float | None = self._saving_until_s
        else:
            done_s = self._since_s + max(self.work_gpu_s - self.done_gpu_s, 0.0) / self._gpus
        times = [t for t in (done_s, self._next_report_s, self._crash_s, self._next_safe_s) if t is not None]
        return min(times)

    def wake(self, now_s: float) -> Exit | None:
        self._accrue(now_s)
        if self._saving_until_s is not None and now_s >= self._saving_until_s - 1e-6:
            self._saving_until_s = None
            self.safe_gpu_s = self.done_gpu_s
            self._emit("checkpointed", now_s)
        if self._crash_s is not None and now_s >= self._crash_s:
            return self._ended(Exit(1), now_s)
        if self.done_gpu_s >= self.work_gpu_s - 1e-6:
            return self._ended(Exit(0), now_s)
        if self._next_safe_s is not None and now_s >= self._next_safe_s:
            self.safe_gpu_s = self.done_gpu_s
            self._next_safe_s = now_s + (self.checkpoint_every_s or 0.0)
        if self._next_report_s is not None and now_s >= self._next_report_s:
            self._emit("progress", now_s)
            self._next_report_s = now_s + (self.report_every_s or 0.0)
        return None

    def _ended(self, exit_: Exit, now_s: float) -> Exit:
        self._emit("end", now_s)
        self._run = None
        return exit_

    def signal(self, name: str, now_s: float) -> Exit | None:
        if not self.handles_signal:
            self._accrue(now_s)
            self._run = None
            return Exit(138, name)
        if not self.ignores_signal and self._saving_until_s is None:
            self._accrue(now_s)
            self._saving_until_s = max(now_s, self._since_s) + self.save_s
        return None

    def stop(self, now_s: float) -> float:
        self._accrue(now_s)
        self._run = None
        return self.die_s

    def resize(self, allocation: Allocation, now_s: float) -> None:
        self._accrue(now_s)
        self._gpus = max(allocation.gpus, 1)


@dataclass(slots=True)
class NeverEnding:
    """A job that runs until somebody stops it and says nothing; ``die_s`` is how long it takes to die."""

    die_s: float = 0.0

    def start(self, run: RunStart) -> None:
        """It has nothing to prepare."""

    def next_s(self) -> float | None:
        return None

    def wake(self, now_s: float) -> Exit | None:
        return None

    def signal(self, name: str, now_s: float) -> Exit | None:
        return None

    def stop(self, now_s: float) -> float:
        return self.die_s

    def resize(self, allocation: Allocation, now_s: float) -> None:
        """Its speed does not matter."""
