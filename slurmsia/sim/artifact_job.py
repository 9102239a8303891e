"""One job under the public simulator's accounting: progress, epochs, restart charges (ARTIFACT.md section 3).

Discrete time, one call per round. It knows the truth (profiles) and its own estimate, and must never decide anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .applications import facts
from .artifact_estimates import ArtifactEstimate, Columns, OracleEstimate
from .profiles import ApplicationTruth, Placement, fold
from .result import JobResult, Segment
from .workloads import TraceJob


@dataclass
class ArtifactJob:
    """State of one job. ``restarts`` is ``None`` before its first start (which is charged but not counted)."""

    trace: TraceJob
    truth: ApplicationTruth
    estimate: ArtifactEstimate
    fixed_batch: int | None = None
    gpu_type: str | None = None
    placement: Placement = ()
    config: int = -1
    local: int = 0
    accumulation: int = 0
    progress: float = 0.0
    epoch: int = 0
    restoring_s: float = 0.0
    restarts: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    gpu_s_by_type: dict[str, float] = field(default_factory=dict)
    contention_sum: int = 0
    rounds: int = 0
    last_held_s: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    _held_since_s: float = 0.0

    @property
    def gpus(self) -> int:
        return sum(self.placement)

    @property
    def service_gpu_s(self) -> float:
        return sum(self.gpu_s_by_type.values())

    @property
    def restart_s(self) -> float:
        """Seconds one restart costs this job here."""
        return facts(self.truth.name).restart_s

    @property
    def work_remaining(self) -> float:
        """Samples (at M0) still to do."""
        return (self.truth.work - self.progress) * self.truth.initial_batch

    def advance(self, now_s: float, seconds: float) -> None:
        """Let ``seconds`` pass from ``now_s``: first the rest of a restore, then training."""
        if self.end_s is not None or not self.placement or self.gpu_type is None:
            return
        gpus, truth = self.gpus, self.truth
        delay = min(self.restoring_s, seconds)
        self.restoring_s -= delay
        left, used = seconds - delay, delay
        profile = truth.on(self.gpu_type)
        slowdown = facts(truth.name).slowdown
        while left > 0 and self.end_s is None:
            batch = gpus * self.local * (self.accumulation + 1)
            square, variance = truth.moments(batch, self.epoch)
            scale = batch / truth.initial_batch
            gain = (variance + square) / (variance / scale + square)
            step_s, sync_s = profile.step_and_sync_s(fold(self.placement, self.gpu_type), self.local)
            self.estimate.moments = (square, variance)
            self.estimate.record(self.gpu_type, self.placement, self.local, step_s, sync_s)
            speed = gain / (step_s + (step_s - sync_s) * self.accumulation) / slowdown
            target = truth.progress[self.epoch]
            if self.progress + speed * left < target:
                self.progress += speed * left
                used += left
                left = 0.0
            else:
                took = float(round((target - self.progress) / speed))
                self.epoch += 1
                self.progress = target
                used += took
                left -= took
                if self.epoch >= truth.epochs:
                    self.end_s = now_s + used
            if self.end_s is None:
                self.local, self.accumulation = self.estimate.batch_for(self.gpu_type, self.placement, self.fixed_batch)
        self.gpu_s_by_type[self.gpu_type] = self.gpu_s_by_type.get(self.gpu_type, 0.0) + used * gpus
        if self.end_s is not None:
            self._close_segment(self.end_s)
            self.placement, self.config = (), -1

    def place(self, now_s: float, gpu_type: str | None, placement: Placement, config: int) -> None:
        """Take a new allocation; a change of type or shape costs the restart time, giving GPUs up costs nothing."""
        self.config = config
        if gpu_type == self.gpu_type and placement == self.placement:
            return
        self._close_segment(now_s)
        self.gpu_type, self.placement = gpu_type, placement
        if gpu_type is None or not placement:
            self.local = 0
            self.last_held_s = now_s
            return
        self._held_since_s = now_s
        if self.start_s is None:
            self.start_s = now_s
        self.local, self.accumulation = self.estimate.batch_for(gpu_type, placement, self.fixed_batch)
        self.restoring_s = self.restart_s
        self.restarts = 0 if self.restarts is None else self.restarts + 1

    def _close_segment(self, now_s: float) -> None:
        if self.placement and self.gpu_type is not None and now_s > self._held_since_s:
            self.segments.append(
                Segment(self._held_since_s, now_s, self.gpu_type, len(self.placement), sum(self.placement))
            )

    def result(self, now_s: float) -> JobResult:
        """The record of a finished job (an unfinished one counts as ending now)."""
        end_s = self.end_s if self.end_s is not None else now_s
        held = math.fsum(segment.end_s - segment.start_s for segment in self.segments)
        return JobResult(
            name=self.trace.name,
            application=self.trace.application,
            submit_s=self.trace.submit_s,
            start_s=self.start_s if self.start_s is not None else end_s,
            end_s=end_s,
            restarts=self.restarts or 0,
            gpu_s=self.service_gpu_s,
            gpu_s_by_type=tuple(sorted(self.gpu_s_by_type.items())),
            contention=self.contention_sum / max(self.rounds, 1),
            waited_s=max(end_s - self.trace.submit_s - held, 0.0),
            declared=self.trace.declared,
            segments=tuple(self.segments),
        )


def make_job(trace: TraceJob, truth: ApplicationTruth, columns: Columns, project: bool, rigid: bool) -> ArtifactJob:
    """A job as the public simulator would set it up; ``rigid`` schedulers and rigid jobs fix batch and size."""
    fixed_size = rigid or trace.category == "rigid"
    tune = not fixed_size and trace.category == "adaptive"
    kind = OracleEstimate if fixed_size else ArtifactEstimate
    most = trace.gpus if trace.category == "scale-gpus" else None
    estimate = kind(truth, columns, trace.batch_size, project, tune, most)
    return ArtifactJob(trace, truth, estimate, fixed_batch=None if tune else trace.batch_size)
