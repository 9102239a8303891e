"""Honest physics: production's round, moves and models over the emulated Slurm, hour after hour in virtual time.

The same `decide`, `Actor`, `StandingBook` and `Estimator` as the daemon; only client and clock differ. Every real move
pays: checkpoint, requeue, Slurm's latencies, start and load. What a job is really like is told to nobody.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..cluster import GpuType, Job, JobId, JobState
from ..config import Config
from ..config.site import GpuTypeSection
from ..declaration import DeclarationError, parse
from ..history import JobKind, Report
from ..models.base import JobModel
from ..models.estimator import Estimator
from ..models.goodput import GoodputTable
from ..moves.act import Actor
from ..moves.channel import JobNews
from ..moves.leases import limits_of
from ..moves.log import MemoryMoveLog
from ..moves.standings import StandingBook
from ..plan import Plan
from ..round import decide
from ..slurm.emulator import Emulator, JobPhysics, Latencies, RunRecord, make_cluster
from ..slurm.emulator.client import EmulatorClient
from .clusters import SimCluster, load_cluster
from .honest_job import HonestJob, HonestSettings
from .pooled import HistoryBook
from .profiles import Profiles
from .result import JobResult, RunResult, Segment
from .round_times import TICK_S, RoundTimes, behind
from .settings import SettingError
from .submissions import submission
from .workloads import TraceJob, Workload

if TYPE_CHECKING:
    from .runner import RunSpec, Tick

#: Longest pause between two looks while nothing at all happens in the cluster.
QUIET_TICK_S = 20.0
#: Rounds that may be skipped in a row when nothing but time has changed, and the longest pause that makes: leases
#: are renewed in rounds.
MOST_SKIPPED = 4
LONGEST_PAUSE_S = 300.0
#: A simulation whose queue stands still for so long is stuck.
STUCK_S = 14 * 86400.0


@dataclass(frozen=True)
class HonestOptions:
    """The simulation's own keys, typed. Times in the unit of their name.

    ``target_off``: jobs say that all their work is this many times what it is, 0 = they say nothing; ``target_lies``:
    each job says so many times more or less, by chance; ``own_scripts``: not 0 = no two jobs are similar;
    ``all_rigid``: not 0 = every job has the size that its user asks for; ``early_round_after_s``: what waits may start
    between two rounds when a job came or ended, at the soonest so long after the last one, 0 = in rounds only
    (`early_round_after_s`).
    """

    noise: float = 0.05
    failures_per_node_day: float = 0.0
    repair_h: float = 2.0
    checkpoint_every_s: float = 600.0
    target_off: float = 1.0
    target_lies: float = 1.0
    own_scripts: float = 0.0
    all_rigid: float = 0.0
    early_round_after_s: float | None = None

    @staticmethod
    def of(own: Mapping[str, str]) -> HonestOptions:
        known = {key: own[key] for key in HonestOptions.__dataclass_fields__ if key in own}
        try:
            return HonestOptions(**{key: float(value) for key, value in known.items()})
        except ValueError as error:
            raise SettingError(f"simulation option: {error}") from None


@dataclass
class _Channel:
    """The spool between the simulated jobs and the actor."""

    book: HistoryBook

    def news(self, job_id: JobId) -> JobNews | None:
        return self.book.news(job_id)

    def ask_checkpoint(self, job_id: JobId, deadline_s: float, cause: str) -> None:
        """The jobs of the simulation handle the signal that goes with the directive."""

    def carry_on(self, job_id: JobId, cause: str) -> None:
        """A job that is not requeued after its checkpoint goes on by itself."""


@dataclass
class Simulation:
    """One run. ``physics_of`` makes the behaviour of a job; ``managed`` False leaves everything to Slurm."""

    cluster: SimCluster
    workload: Workload
    config: Config
    profiles: Profiles | None
    physics_of: Callable[[TraceJob], JobPhysics]
    seed: int = 0
    managed: bool = True
    rigid: bool = False
    options: HonestOptions = field(default_factory=HonestOptions)
    ended: int = 0
    solve_ms: list[float] = field(default_factory=list)
    contention: list[int] = field(default_factory=list)
    rounds: int = 0
    moves_failed: int = 0

    def __post_init__(self) -> None:
        spec = make_cluster([(group.gpu_type, group.nodes, group.gpus_per_node) for group in self.cluster.types])
        self.emulator = Emulator(spec, latencies=Latencies(), seed=self.seed, on_report=self._on_report)
        self.client: EmulatorClient = self.emulator.client("simulator")
        self.history = HistoryBook()
        self.book = StandingBook(self.config.moves.lease_s)
        self.estimator = Estimator(shipped=False, noise_ahead=self.config.policy.noise_ahead)
        self.table = GoodputTable()
        sections = {group.gpu_type: GpuTypeSection(feature=group.gpu_type) for group in self.cluster.types}
        self.config = self.config.model_copy(update={"gpu_types": sections})
        self.actor = Actor(
            self.client,
            MemoryMoveLog(),
            limits=limits_of(self.config),
            types=self.config.gpu_types,
            channel=_Channel(self.history),
        )
        self.traces: dict[JobId, TraceJob] = {}
        self.physics: dict[JobId, JobPhysics] = {}
        self.counted: dict[JobId, list[int]] = {}
        self._gpu_types: tuple[GpuType, ...] = spec.gpu_types
        self._failures = random.Random(f"{self.seed}/failures")
        self._repairs: list[tuple[float, str]] = []
        self._events_seen = -1
        self._accounted = 0
        self._heard = 0
        self._skipped = 0
        self._decided_on: tuple[int, ...] = ()

    # the world

    def run(self, tick: Callable[[int, float], None] | None = None) -> None:
        """Simulate until every job has ended; ``tick(jobs ended, simulated seconds)`` once a round."""
        waiting = list(reversed(self.workload.jobs))
        total = len(self.workload.jobs)
        interval = self.config.policy.round_s
        minute_s, next_look_s, last_end_s = interval, math.inf, 0.0
        rounds = RoundTimes(interval, early_round_after_s(self.options, self.config))
        next_failure_s = self._draw_failure(0.0)
        while self.ended < total:
            next_submit_s = waiting[-1].submit_s if waiting else math.inf
            if self.ended == len(self.traces):
                minute_s = behind(minute_s, next_submit_s, interval)
                rounds.idle_until(next_submit_s)
            at_s = min(next_submit_s, minute_s, rounds.next_s, next_look_s, next_failure_s, self._next_repair_s())
            self.emulator.run_until(at_s)
            while waiting and waiting[-1].submit_s <= at_s:
                self._submit(waiting.pop())
                last_end_s = at_s
            if at_s >= min(next_failure_s, self._next_repair_s()):
                next_failure_s = self._break_and_repair(at_s, next_failure_s)
            if at_s >= minute_s:
                minute_s += interval
                last_end_s = at_s if self._count_ended() else last_end_s
                if self.ended < len(self.traces):
                    self._count(len(self.traces) - self.ended)
                if tick is not None:
                    tick(self.ended, at_s)
                if at_s - last_end_s > STUCK_S:
                    raise RuntimeError(f"{self.workload.name}: no job has ended for {STUCK_S / 86400:.0f} days")
            if at_s >= rounds.next_s:
                last_end_s = at_s if self._count_ended() else last_end_s
                kind = rounds.due(at_s, (len(self.traces), self.ended))
                if kind and self.ended < len(self.traces):
                    self._round(at_s, starts_only=kind == "starts")
                    next_look_s = at_s if self.actor.flights else math.inf
            if at_s >= next_look_s:
                next_look_s = self._look(at_s)

    def _count_ended(self) -> int:
        """How many jobs have ended since the last call."""
        runs = self.emulator.accounting
        now = sum(run.state in _FINAL for run in runs[self._accounted :])
        self._accounted = len(runs)
        self.ended += now
        return now

    def _submit(self, trace: TraceJob) -> None:
        now_s = self.emulator.now_s
        truth = None if self.profiles is None else self.profiles.application(trace.application)
        asked = submission(
            trace, truth, self.cluster, now_s=now_s, managed=self.managed, rigid=self.rigid, seed=self.seed
        )
        if self.options.own_scripts:
            asked = replace(asked, script_hash=trace.name)
        physics = self.physics_of(trace)
        job_id = self.emulator.submit(asked, physics)
        self.traces[job_id] = trace
        self.physics[job_id] = physics
        self.counted[job_id] = [0, 0]
        self.history.enter(job_id, JobKind(asked.user_id, asked.script_hash))

    def _draw_failure(self, now_s: float) -> float:
        rate = self.options.failures_per_node_day * len(self.emulator.nodes) / 86400.0
        return now_s + self._failures.expovariate(rate) if rate > 0 else math.inf

    def _next_repair_s(self) -> float:
        return self._repairs[0][0] if self._repairs else math.inf

    def _break_and_repair(self, now_s: float, failure_s: float) -> float:
        """Nodes that come back, and at most one that fails now; returns when the next fails."""
        while self._repairs and self._repairs[0][0] <= now_s:
            self.emulator.resume(self._repairs.pop(0)[1])
        if now_s < failure_s:
            return failure_s
        broken = {name for _, name in self._repairs}
        name = self._failures.choice(sorted(self.emulator.nodes))
        if name not in broken:
            self.emulator.fail_node(name)
            self._repairs.append((now_s + self.options.repair_h * 3600.0, name))
        return self._draw_failure(now_s)

    def _on_report(self, report: Report) -> None:
        self._heard += 1
        self.history.add(report)
        self.book.reported(report.job_id)

    # what the daemon does

    def _round(self, now_s: float, starts_only: bool) -> None:
        if not self.managed or (not starts_only and self._nothing_new()):
            return
        snapshot = self.client.snapshot()
        standings = self.book.observe(snapshot, self.actor.flights.values())
        models = self._models(snapshot.jobs, snapshot.taken_s)
        begun = time.perf_counter()
        plan = decide(snapshot, models, standings, self.config, self.table, verdicts=False, starts_only=starts_only)
        self.solve_ms.append(_solve_ms(plan, time.perf_counter() - begun))
        self._directives(plan)
        self.actor.submit(plan, snapshot, standings, cause=f"r{self.rounds}")
        self._events_seen = -1

    def _nothing_new(self) -> bool:
        """Whether a round may be skipped: no report, submission, start, end, node change or move since the last one.

        What remains is that jobs grow older and leases end; for that a round is held anyway after `MOST_SKIPPED`.
        """
        key = (self._heard, len(self.traces), len(self.emulator.accounting), len(self._repairs))
        pause_s = (self._skipped + 2) * self.config.policy.round_s
        may_skip = self._skipped < MOST_SKIPPED and pause_s <= LONGEST_PAUSE_S
        if key == self._decided_on and not self.actor.flights and may_skip:
            self._skipped += 1
            return True
        self._decided_on, self._skipped = key, 0
        return False

    def _count(self, live: int) -> None:
        self.rounds += 1
        self.contention.append(live)
        for job in self.emulator.jobs():
            if job.state is not JobState.ENDED:
                self.counted[job.id][0] += live
                self.counted[job.id][1] += 1

    def _models(self, jobs: tuple[Job, ...], now_s: float) -> dict[JobId, JobModel]:
        models = {}
        alive = []
        for job in jobs:
            if job.state is JobState.ENDED:
                continue
            try:
                declaration = parse(job.comment)
            except DeclarationError:
                continue
            if declaration is None:
                continue
            alive.append(job.id)
            models[job.id] = self.estimator.model(
                job.id,
                self.history.history(job.id),
                declaration,
                JobKind(job.user_id, job.script_hash),
                self._gpu_types,
                self.history,
                now_s,
            )
        self.estimator.forget(alive)
        return models

    def _directives(self, plan: Plan) -> None:
        for target in plan.targets:
            physics = self.physics.get(target.job_id)
            if target.batch is not None and isinstance(physics, HonestJob):
                physics.batch = target.batch
                self.book.batch(target.job_id, target.batch)

    def _look(self, now_s: float) -> float:
        """One tick of the actor; returns when the next is due."""
        if not self.actor.flights:
            return math.inf
        if self.emulator.events == self._events_seen:
            self._events_seen = -1
            return now_s + TICK_S
        done = self.actor.tick()
        for move in done.finished:
            self.book.landed(move, now_s)
            self.moves_failed += move.phase.value != "verified"
        if not self.actor.flights:
            return math.inf
        if done.steps:
            self._events_seen = -1
            return now_s + TICK_S
        self._events_seen = self.emulator.events
        following = self.emulator.next_event_s()
        return min(max(now_s + TICK_S, following if following is not None else math.inf), now_s + QUIET_TICK_S)

    # what is left

    def results(self) -> tuple[JobResult, ...]:
        """One record per job, in the order of the workload, from the emulator's accounting."""
        runs: dict[JobId, list[RunRecord]] = {}
        for run in self.emulator.accounting:
            runs.setdefault(run.job_id, []).append(run)
        return tuple(
            job_result(trace, runs.get(job_id, []), self.counted[job_id]) for job_id, trace in self.traces.items()
        )


def early_round_after_s(options: HonestOptions, config: Config) -> float:
    """As the daemon's for the policy made for it; the published programs decide at the interval only."""
    if options.early_round_after_s is not None:
        return options.early_round_after_s
    return config.daemon.early_round_after_s if config.policy.name == "goodput" else 0.0


_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")


def _solve_ms(plan: Plan, seconds: float) -> float:
    inside = plan.stats.times_s.get("solve")
    return (seconds if inside is None else inside) * 1000.0


def job_result(trace: TraceJob, runs: list[RunRecord], counted: list[int]) -> JobResult:
    """A job's fate from its runs as accounting has them; GPU-seconds are what was allocated."""
    by_type: dict[str, float] = {}
    segments = []
    for run in runs:
        gpu_type = run.allocation.gpu_type or "?"
        by_type[gpu_type] = by_type.get(gpu_type, 0.0) + run.elapsed_s * run.allocation.gpus
        segments.append(
            Segment(run.start_s, run.end_s, gpu_type, len(run.allocation.gpus_by_node), run.allocation.gpus)
        )
    end_s = max((run.end_s for run in runs), default=trace.submit_s)
    held = math.fsum(run.elapsed_s for run in runs)
    return JobResult(
        name=trace.name,
        application=trace.application,
        submit_s=trace.submit_s,
        start_s=min((run.start_s for run in runs), default=end_s),
        end_s=end_s,
        restarts=max(len(runs) - 1, 0),
        gpu_s=math.fsum(by_type.values()),
        gpu_s_by_type=tuple(sorted(by_type.items())),
        contention=counted[0] / max(counted[1], 1),
        waited_s=max(end_s - trace.submit_s - held, 0.0),
        declared=trace.declared,
        segments=tuple(segments),
    )


def run_honest(
    spec: RunSpec, config: Config, own: Mapping[str, str], workload: Workload, profiles: Profiles, tick: Tick | None
) -> RunResult:
    """One workload on honest physics."""
    from .runner import PLAIN_SLURM, RIGID_POLICIES

    options = HonestOptions.of(own)
    settings = HonestSettings(
        options.noise, options.checkpoint_every_s, spec.seed, options.target_off, options.target_lies
    )
    if options.all_rigid:
        workload = replace(workload, jobs=tuple(replace(job, category="rigid") for job in workload.jobs))
    managed = spec.policy != PLAIN_SLURM
    rigid = not managed or spec.policy in RIGID_POLICIES

    def physics_of(trace: TraceJob) -> JobPhysics:
        fixed = rigid or not trace.declared or trace.category != "adaptive"
        return HonestJob(
            trace,
            profiles.application(trace.application),
            settings,
            fixed_batch=trace.batch_size if fixed else None,
            silent=not managed or not trace.declared,
        )

    simulation = Simulation(
        cluster=load_cluster(spec.cluster),
        workload=workload,
        config=config,
        profiles=profiles,
        physics_of=physics_of,
        seed=spec.seed,
        managed=managed,
        rigid=rigid,
        options=options,
    )
    total = len(workload.jobs)
    simulation.run(None if tick is None else lambda done, now_s: tick(done, total, now_s))
    return RunResult(
        workload=workload.name,
        policy=spec.name,
        settings=spec.settings(),
        jobs=simulation.results(),
        rounds=simulation.rounds,
        solve_ms=tuple(simulation.solve_ms),
        moves_uncharged=0,
        contention=tuple(simulation.contention),
        wall_s=0.0,
        peak_rss_mb=0.0,
    )
