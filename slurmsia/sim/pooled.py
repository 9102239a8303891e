"""Job reports pooled into histories, as the store does it: sums over restarts, peaks, latest moments, restart parts.

In memory, for simulations: the same reports give the same `JobHistory` as the database would. Also answers what
similar jobs have shown so far. Must never see the truth of a simulation, only reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter

from ..cluster import JobId
from ..history import (
    Gradient,
    JobHistory,
    JobKind,
    MemoryPoint,
    NoiseCell,
    Observation,
    Progress,
    Report,
    RestartSample,
    SimilarHistory,
    noise_cell,
)
from ..moves.channel import JobNews

_RESTARTS_KEPT = 32
_TOTALS_KEPT = 64

_Key = tuple[str, int, int, float, int]
_first = itemgetter(0)


@dataclass
class _Job:
    kind: JobKind
    version: int = 0
    sums: dict[_Key, Observation] = field(default_factory=dict)
    gradient: Gradient | None = None
    memory: dict[tuple[str, float], MemoryPoint] = field(default_factory=dict)
    restarts: dict[int, RestartSample] = field(default_factory=dict)
    progress: Progress | None = None
    news: JobNews | None = None
    built: JobHistory | None = None
    ended_samples: float | None = None
    settled: bool = False
    ordered: list[_Key] = field(default_factory=list)

    def order(self) -> list[_Key]:
        """The keys of `sums` in order."""
        if len(self.ordered) != len(self.sums):
            self.ordered = sorted(self.sums)
        return self.ordered


@dataclass
class _Kind:
    """Jobs of one kind in order of submission, with what the first ``settled`` of them, all ended, add up to."""

    jobs: list[_Job] = field(default_factory=list)
    settled: int = 0
    sums: dict[_Key, list[float]] = field(default_factory=dict)
    built: dict[_Key, Observation] = field(default_factory=dict)
    """`sums` as values, made when they are asked for."""
    memory: dict[tuple[str, float], MemoryPoint] = field(default_factory=dict)
    noise: dict[tuple[int, int], NoiseCell] = field(default_factory=dict)

    def settle(self) -> None:
        """Add up the jobs that have ended, as far as no earlier one still runs."""
        while self.settled < len(self.jobs) and self.jobs[self.settled].ended_samples is not None:
            job = self.jobs[self.settled]
            job.settled = True
            for key in job.sums:
                self.built.pop(key, None)
            _pool(job, self.sums, self.memory)
            self.settled += 1

    def unsettle(self) -> None:
        """Forget the sums: one of the jobs has reported after its end."""
        for job in self.jobs[: self.settled]:
            job.settled = False
        self.settled, self.sums, self.built, self.memory = 0, {}, {}, {}

    def observations(self) -> tuple[tuple[Observation, ...], tuple[MemoryPoint, ...]]:
        """What all of its jobs have measured, in order; only what changed since the last call is made anew."""
        self.settle()
        live: dict[_Key, list[float]] = {}
        memory = dict(self.memory)
        for job in self.jobs[self.settled :]:
            for key in job.sums:
                if key not in live and key in self.sums:
                    live[key] = list(self.sums[key])
            _pool(job, live, memory)
        for key, total in self.sums.items():
            if key not in live and key not in self.built:
                self.built[key] = Observation(*key, *total)
        found = [(key, Observation(*key, *total)) for key, total in live.items()]
        found += [(key, seen) for key, seen in self.built.items() if key not in live]
        found.sort(key=_first)
        return tuple(seen for _, seen in found), tuple(memory[key] for key in sorted(memory))

    def restarts(self) -> tuple[RestartSample, ...]:
        """The last samples of its jobs, in the order of the jobs."""
        found: list[RestartSample] = []
        for job in reversed(self.jobs):
            found += [job.restarts[restart] for restart in sorted(job.restarts, reverse=True)]
            if len(found) >= _RESTARTS_KEPT:
                break
        return tuple(reversed(found[:_RESTARTS_KEPT]))


@dataclass
class HistoryBook:
    """Histories of all jobs of a simulation, and of similar ones; implements `HistorySource`."""

    _jobs: dict[JobId, _Job] = field(default_factory=dict)
    _by_kind: dict[JobKind, _Kind] = field(default_factory=dict)

    def enter(self, job_id: JobId, kind: JobKind) -> None:
        """A job is submitted: from now on its reports count."""
        job = self._jobs[job_id] = _Job(kind)
        self._by_kind.setdefault(kind, _Kind()).jobs.append(job)

    def add(self, report: Report) -> None:
        """Pool one report; of a job that was never entered it is dropped."""
        job = self._jobs.get(report.job_id)
        if job is None:
            return
        job.version += 1
        job.built = None
        if job.settled:
            self._by_kind[job.kind].unsettle()
        for seen in report.observations:
            key = (seen.gpu_type, seen.nodes, seen.gpus, seen.local_batch, seen.accumulation)
            job.sums[key] = _plus(job.sums.get(key), seen)
        job.gradient = report.gradient or job.gradient
        seen_noise = noise_cell(report)
        if seen_noise is not None:
            _add_noise(self._by_kind[job.kind].noise, seen_noise)
        job.progress = report.progress or job.progress
        if report.memory is not None:
            point = (report.memory.gpu_type, report.memory.local_batch)
            before = job.memory.get(point)
            if before is None or before.peak_bytes < report.memory.peak_bytes:
                job.memory[point] = report.memory
        if report.restart_sample is not None:
            job.restarts[report.restart] = _merged(job.restarts.get(report.restart), report.restart_sample)
        job.news = _news(job.news, report)
        if report.event == "end" and report.progress is not None:
            job.ended_samples = report.progress.samples

    def history(self, job_id: JobId) -> JobHistory | None:
        """Everything known of one job; the same object until a report changes it."""
        job = self._jobs.get(job_id)
        if job is None or not job.version:
            return None
        if job.built is None:
            job.built = JobHistory(
                job_id=job_id,
                version=job.version,
                observations=tuple([job.sums[key] for key in job.order()]),
                gradient=job.gradient,
                memory=tuple(job.memory[key] for key in sorted(job.memory)),
                restarts=tuple(job.restarts[key] for key in sorted(job.restarts))[-_RESTARTS_KEPT:],
                progress=job.progress,
            )
        return job.built

    def news(self, job_id: JobId) -> JobNews | None:
        """The latest reports in brief, as the move machine wants them."""
        job = self._jobs.get(job_id)
        return None if job is None else job.news

    def forget(self, job_id: JobId) -> None:
        """An ended job's history is kept only as part of its kind."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.built = None

    def similar(self, kind: JobKind) -> SimilarHistory | None:
        """Pooled observations of the jobs of the same kind; ``None`` before the first of them has reported."""
        known = self._by_kind.get(kind, _Kind())
        found = [job for job in known.jobs if job.version]
        if not found:
            return None
        observations, memory = known.observations()
        totals = [job.ended_samples for job in found if job.ended_samples is not None]
        return SimilarHistory(
            likeness="user+script",
            jobs=len(found),
            observations=observations,
            restarts=known.restarts(),
            memory=memory,
            gradient=next((job.gradient for job in reversed(found) if job.gradient is not None), None),
            total_samples=tuple(totals[-_TOTALS_KEPT:]),
            noise=tuple(known.noise[key] for key in sorted(known.noise)),
        )


def pooled(job_id: JobId, reports: Iterable[Report]) -> JobHistory | None:
    """The history that some reports make; for checks against the store."""
    book = HistoryBook()
    book.enter(job_id, JobKind(0, ""))
    for report in reports:
        book.add(report)
    return book.history(job_id)


def _pool(job: _Job, sums: dict[_Key, list[float]], memory: dict[tuple[str, float], MemoryPoint]) -> None:
    """Add what one job has measured."""
    for key, seen in job.sums.items():
        total = sums.get(key)
        if total is None:
            sums[key] = [seen.count, seen.step_sum_s, seen.step_square_sum_s2, seen.sync_sum_s]
        else:
            total[0] += seen.count
            total[1] += seen.step_sum_s
            total[2] += seen.step_square_sum_s2
            total[3] += seen.sync_sum_s
    memory.update(job.memory)


def _add_noise(cells: dict[tuple[int, int], NoiseCell], seen: NoiseCell) -> None:
    key = seen.samples_cell, seen.scale_doubling
    old = cells.get(key)
    cells[key] = (
        seen
        if old is None
        else NoiseCell(
            *key,
            old.count + seen.count,
            old.log_sum + seen.log_sum,
            old.log_square_sum + seen.log_square_sum,
        )
    )


def _plus(one: Observation | None, other: Observation) -> Observation:
    if one is None:
        return other
    return Observation(
        one.gpu_type,
        one.nodes,
        one.gpus,
        one.local_batch,
        one.accumulation,
        one.count + other.count,
        one.step_sum_s + other.step_sum_s,
        one.step_square_sum_s2 + other.step_square_sum_s2,
        one.sync_sum_s + other.sync_sum_s,
    )


def _merged(one: RestartSample | None, other: RestartSample) -> RestartSample:
    if one is None:
        return other
    return RestartSample(
        save_s=other.save_s if other.save_s is not None else one.save_s,
        requeue_s=other.requeue_s if other.requeue_s is not None else one.requeue_s,
        load_s=other.load_s if other.load_s is not None else one.load_s,
        first_step_s=other.first_step_s if other.first_step_s is not None else one.first_step_s,
    )


def _news(before: JobNews | None, report: Report) -> JobNews:
    same = before is not None and before.restart == report.restart
    samples = report.progress.samples if report.progress is not None else None
    safe = report.progress.checkpoint_samples if report.progress is not None else None
    save_s = None if report.restart_sample is None else report.restart_sample.save_s
    return JobNews(
        restart=report.restart,
        handles_signal=report.handles_signal,
        checkpointed_s=report.t_s
        if report.event == "checkpointed"
        else (before.checkpointed_s if same and before else None),
        samples=samples,
        checkpoint_samples=safe,
        save_s=save_s if save_s is not None else (before.save_s if before is not None else None),
    )
