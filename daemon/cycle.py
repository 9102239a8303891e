"""One round and one tick: observe, ingest, learn, decide, store, act. Each ends in one English sentence.

A cycle never raises for anything that Slurm, the store, a job or a user did, nor for a mistake of our own: what could
not be done is said in the sentence, and doubt ends with nothing changed. Only a newer leader (`Fenced`) stops it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field

from slurmsia.cluster import Job, JobId, JobState, Snapshot
from slurmsia.config import Config
from slurmsia.deciding.prospect import Prospect, prospect
from slurmsia.declaration import Declaration, DeclarationError, parse
from slurmsia.models.base import JobModel
from slurmsia.models.estimator import Estimator
from slurmsia.models.goodput import GoodputTable
from slurmsia.moves.act import Actor, Tick
from slurmsia.moves.log import Fenced
from slurmsia.moves.move import Move
from slurmsia.moves.standings import StandingBook
from slurmsia.plan import Plan, TargetKind
from slurmsia.round import decide
from slurmsia.slurm.client import SlurmClient, SlurmError
from slurmsia.standing import Standing
from slurmsia.store import Fenced as StoreFenced
from slurmsia.store import RoundRecord, Store, StoreError

from .intake import TICK_BUDGET_S, Intake, ReportSource
from .learning import Learner
from .metrics import Metrics
from .mishaps import Mishaps
from .movelog import StoreMoveLog
from .published import gpu_use
from .spool_channel import SpoolChannel

_log = logging.getLogger("slurmsia.round")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round did. ``snapshot`` None: nothing could be read; ``plan`` None: nothing was decided."""

    sentence: str
    snapshot: Snapshot | None = None
    plan: Plan | None = None
    models: Mapping[JobId, JobModel] = field(default_factory=dict)
    round_id: int | None = None
    times_s: Mapping[str, float] = field(default_factory=dict)
    problems: Mapping[JobId, tuple[str, ...]] = field(default_factory=dict)
    put_off: Mapping[JobId, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    read_s: float = 0.0
    prospect: Prospect | None = None


@dataclass
class Parts:
    """Everything a cycle works with; built by `wiring`, replaced as a whole on reconfiguration."""

    config: Config
    client: SlurmClient
    store: Store
    estimator: Estimator
    book: StandingBook
    actor: Actor
    log: StoreMoveLog
    spool: ReportSource
    channel: SpoolChannel
    metrics: Metrics
    table: GoodputTable = field(default_factory=GoodputTable)


class Cycle:
    """Rounds and ticks of one daemon. Not thread-safe: the loop alone calls it."""

    def __init__(self, parts: Parts, config_text: str) -> None:
        self.parts = parts
        self.config_text = config_text
        self.generation: int | None = None
        self._watchdog = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decide")
        self._deciding: Future[Plan] | None = None
        self.intake = Intake(parts.store, parts.spool, parts.channel, parts.book, parts.metrics)
        self._models_before: Mapping[JobId, JobModel] = {}
        self._waiting_undeclared: dict[JobId, float] = {}
        self._restored = False
        self._recovered = False
        self._times: dict[str, float] = {}
        self._phase = "observe"
        self._snapshot: Snapshot | None = None
        self.mishaps = Mishaps(parts.metrics, parts.client.now_s)
        self._learner = Learner(self.mishaps)
        parts.actor.on_mishap = self._move_mishap
        self.seen: frozenset[tuple[JobId, str]] = frozenset()
        self.pressure = 0.0

    def lead(self, generation: int | None) -> None:
        """This daemon leads (again): moves that others left unfinished are read before the first action."""
        self.generation = generation
        self._recovered = False

    # --- a round -------------------------------------------------------------------------------------------------

    def round(self, mode: str, why_mode: str, starts_only: bool = False) -> Outcome:
        """One round in ``mode``: "enforce" acts, every other mode only says what it would do. Raises `Fenced`.

        ``starts_only``: a round between two rounds, in which nothing that runs is moved.
        """
        self._times, self._phase, self._snapshot = {}, "observe", None
        warnings: list[str] = []
        try:
            return self._round(mode, why_mode, warnings, starts_only)
        except Fenced:
            raise
        except Exception as error:  # a mistake of ours costs a round, never the daemon
            return self._lost(error, warnings)

    def _lost(self, error: Exception, warnings: list[str]) -> Outcome:
        """The outcome of a round that a mistake of ours ended: what had not been done by then is not done."""
        said = self.mishaps.note(self._phase, error)
        begun = "no further move begins" if self._phase == "act" else "nothing was changed"
        self.parts.metrics.rounds.labels("degraded").inc()
        sentence = f"Degraded: {said}; {begun}."
        _log.warning(sentence)
        return Outcome(
            sentence, self._snapshot, times_s=self._times, warnings=tuple(warnings), problems=self.intake.problems(),
            read_s=self._times.get("observe", 0.0),
        )  # fmt: skip

    def _round(self, mode: str, why_mode: str, warnings: list[str], starts_only: bool) -> Outcome:
        parts = self.parts
        try:
            with self._timed("observe"):
                snapshot = parts.client.snapshot(parts.config.slurm.call_deadline_s)
        except SlurmError as error:
            parts.metrics.rounds.labels("skipped").inc()
            return Outcome(f"Skipped: Slurm could not be read ({error}). Nothing was changed.", times_s=self._times)
        self.seen = queue_marks(snapshot.jobs)
        self._snapshot = snapshot
        self._restore(warnings)
        with self._timed("ingest"):
            stored = self.intake.round(snapshot, warnings)
            self._forget_channels(snapshot)
        with self._timed("learn"):
            standings = parts.book.observe(snapshot, parts.actor.flights.values())
            declared = dict(declared_jobs(snapshot))
            parts.metrics.set_goodput(self._learner.judged(self.intake.take_heard(), self._models_before))
            parts.estimator.noise_ahead = parts.config.policy.noise_ahead
            models = self._learner.models(snapshot, declared, parts.estimator, parts.store, warnings)
            self._models_before = models
        with self._timed("decide"):
            plan = self._decide(snapshot, models, standings, starts_only)
        if plan is None:
            parts.metrics.rounds.labels("degraded").inc()
            limit = parts.config.daemon.solve_watchdog_s
            sentence = f"Degraded: deciding took more than {limit:g} s; every allocation stays as it is."
            _log.warning(sentence)
            return Outcome(
                sentence, snapshot, models=models, times_s=self._times, warnings=tuple(warnings),
                problems=self.intake.problems(), read_s=self._times.get("observe", 0.0),
            )  # fmt: skip
        round_id = None
        if stored:
            with self._timed("store"):
                round_id = self._store_round(snapshot, plan, models, mode, warnings)
        parts.log.round_id = round_id
        put_off: Mapping[JobId, str] = {}
        with self._timed("act"):
            acting = mode == "enforce" and round_id is not None and self._recover(warnings)
            if acting:
                put_off = self._act(plan, snapshot, warnings)
        with self._timed("measure"), self.mishaps.survived("measure"):
            self._measure(snapshot, plan)
        gain: Prospect | None = None
        if mode != "enforce":
            with self._timed("prospect"), self.mishaps.survived("prospect"):
                gain = prospect(snapshot, parts.config.scope, parts.config.moves.lease_s)
        parts.metrics.rounds.labels("done" if round_id is not None else "degraded").inc()
        sentence = round_sentence(plan, mode, why_mode, acting, warnings)
        if gain is not None and not declared:
            sentence = f"{sentence} {gain.sentence}"
        _log.info(sentence, extra={"round": round_id})
        return Outcome(
            sentence, snapshot, plan, models, round_id, self._times, self.intake.problems(), put_off, tuple(warnings),
            self._times.get("observe", 0.0), gain,
        )  # fmt: skip

    def _forget_channels(self, snapshot: Snapshot) -> None:
        """Directives of jobs that are gone, or that are ours no longer, are taken away."""
        live = {job.id for job in snapshot.jobs if job.state is not JobState.ENDED and "sia:" in job.comment}
        for job_id in self.parts.channel.jobs_told():
            if job_id not in live:
                self.parts.channel.forget(job_id)

    def _restore(self, warnings: list[str]) -> None:
        """Once, as soon as the store answers: what earlier daemons remembered of the jobs."""
        if self._restored:
            return
        try:
            self.parts.book.restore(self.parts.store.standing())
            self._restored = True
        except StoreError as error:
            warnings.append(str(error))

    def _recover(self, warnings: list[str]) -> bool:
        """Once, before the first action: moves that a predecessor left unfinished."""
        if self._recovered:
            return True
        try:
            self.parts.actor.generation = self.generation or 0
            self.parts.actor.recover()
        except StoreError as error:
            warnings.append(f"Unfinished moves cannot be read, so nothing is changed: {error}")
            return False
        self._recovered = True
        return True

    def _decide(
        self,
        snapshot: Snapshot,
        models: Mapping[JobId, JobModel],
        standings: Mapping[JobId, Standing],
        starts_only: bool,
    ) -> Plan | None:
        """The plan, or ``None`` when the watchdog's time is over; a decision still running is waited for first."""
        limit = self.parts.config.daemon.solve_watchdog_s
        if self._deciding is not None and not self._deciding.done():
            return None
        parts = self.parts
        self._deciding = self._watchdog.submit(
            decide, snapshot, dict(models), dict(standings), parts.config, parts.table, starts_only=starts_only
        )
        try:
            return self._deciding.result(timeout=limit)
        except FutureTimeout:
            return None

    def _store_round(
        self, snapshot: Snapshot, plan: Plan, models: Mapping[JobId, JobModel], mode: str, warnings: list[str]
    ) -> int | None:
        parts = self.parts
        record = RoundRecord(
            taken_s=snapshot.taken_s,
            mode=mode,
            snapshot=snapshot,
            plan=plan,
            models=models,
            standing=parts.book.standings(),
            config_text=self.config_text,
            times_s=dict(self._times),
            generation=self.generation,
        )
        try:
            round_id = parts.store.save_round(record)
        except StoreFenced as error:
            raise Fenced(str(error)) from error
        except StoreError as error:
            warnings.append(f"The round could not be stored, so nothing is changed: {error}")
            return None
        try:
            self._learner.store_fits(models, parts.store, snapshot.taken_s)
        except StoreFenced as error:
            raise Fenced(str(error)) from error
        except StoreError as error:
            warnings.append(f"Fitted models could not be stored; they are stored with a later round: {error}")
        return round_id

    def _act(self, plan: Plan, snapshot: Snapshot, warnings: list[str]) -> Mapping[JobId, str]:
        parts = self.parts
        for target in plan.targets:
            if target.kind in (TargetKind.KEEP, TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE):
                parts.channel.advise(target.job_id, target.batch, "the best batch for what it holds")
                parts.book.batch(target.job_id, target.batch)
        try:
            admission = parts.actor.submit(
                plan, snapshot, parts.book.standings(), cause=f"r{int(snapshot.taken_s * 1000)}"
            )
        except StoreError as error:
            warnings.append(f"Moves could not be written down, so none begins: {error}")
            return {}
        return admission.put_off

    # --- between rounds ------------------------------------------------------------------------------------------

    def tick(self) -> Tick:
        """Drive moves in flight by one step. Raises `Fenced`; without the store, or by our mistake, moves wait."""
        try:
            return self._tick()
        except Fenced:
            raise
        except Exception as error:  # moves wait; should they wait for ever, Slurm finishes them
            return Tick(errors=(self.mishaps.note("tick", error),))

    def _tick(self) -> Tick:
        parts = self.parts
        try:
            self.intake.between(parts.actor.flights, parts.actor.seen)
            done = parts.actor.tick()
            for move in done.finished:
                with self.mishaps.survived("tick"):
                    self._landed(move)
            if done.finished:
                self.intake.store_held(TICK_BUDGET_S)
                parts.store.save_standing(parts.book.take_changed().values(), parts.client.now_s())
        except StoreFenced as error:
            raise Fenced(str(error)) from error
        except StoreError as error:
            _log.warning("moves wait for the store: %s", error)
            return Tick(errors=(str(error),))
        for sentence in done.errors:
            _log.warning(sentence)
        parts.metrics.in_flight.set(len(parts.actor.flights))
        return done

    def _landed(self, move: Move) -> None:
        """Remember, count and tell one finished move."""
        parts = self.parts
        parts.book.landed(move, parts.client.now_s())
        parts.metrics.moves.labels(move.kind.value, move.phase.value).inc()
        took_s = max(0.0, parts.client.now_s() - move.planned_s)
        parts.metrics.move_seconds.labels(move.kind.value).observe(took_s)
        said = f": {move.outcome}" if move.outcome else ""
        _log.info(
            "job %s: %s to %s is %s after %.1f s%s", move.job_id, move.kind.value, move.target,
            move.phase.value, took_s, said, extra={"cause": move.cause, "job": move.job_id},
        )  # fmt: skip

    def _move_mishap(self, job_id: JobId, error: Exception) -> None:
        self.mishaps.note("tick", error, about=f"the move of job {job_id}")

    def queue_changed(self) -> bool:
        """Whether a job with GPUs arrived or ended since the last round: one bulk read. Unknown = no."""
        try:
            return queue_marks(self.parts.client.jobs().jobs) != self.seen
        except SlurmError:
            return False

    def release(self, job_id: JobId) -> None:
        """An operator lets a job go: its move is dropped where it changed nothing, and its lease ends now."""
        self.parts.actor.withdraw(job_id, "released by an operator")
        self.parts.book.pin(job_id, "released by an operator")
        if job_id in self.parts.actor.leased:
            try:
                self.parts.client.end_lease(job_id)
                del self.parts.actor.leased[job_id]
            except SlurmError as error:
                _log.warning("the lease of job %s could not be ended now: %s", job_id, error, extra={"job": job_id})

    # --- inside --------------------------------------------------------------------------------------------------

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.perf_counter()
        self._phase = phase
        try:
            yield
        finally:
            took = time.perf_counter() - begun
            self._times[phase] = took
            self.parts.metrics.phase.labels(phase).observe(took)

    def _measure(self, snapshot: Snapshot, plan: Plan) -> None:
        metrics = self.parts.metrics
        metrics.gap.set(plan.gap)
        metrics.set_verdicts(Counter(verdict.code for verdict in plan.verdicts))
        managed = frozenset(t.job_id for t in plan.targets if t.kind is not TargetKind.LEAVE)
        metrics.set_gpus(
            {
                use.gpu_type: {"total": use.total, "managed": use.managed, "other": use.other, "down": use.down}
                for use in gpu_use(snapshot, managed)
            }
        )
        self._measure_neighbours(snapshot)
        metrics.reports_held.set(self.intake.held)
        health = self.parts.client.health()
        metrics.calls_made(health.rpc_count)
        metrics.worker_restarts.set(health.worker_restarts)
        self.pressure = health.pressure

    def _measure_neighbours(self, snapshot: Snapshot) -> None:
        """Waits of undeclared GPU jobs: of those pending now, and of each that started since the last round."""
        waiting: dict[JobId, float] = {}
        for job in snapshot.jobs:
            if not job.request.gpus or "sia:" in job.comment:
                continue
            if job.state is JobState.PENDING and not job.hold:
                waiting[job.id] = job.submit_s
            elif job.start_s is not None and job.id in self._waiting_undeclared:
                self.parts.metrics.start_waits.observe(max(0.0, job.start_s - self._waiting_undeclared[job.id]))
        self._waiting_undeclared = waiting
        waits = [snapshot.taken_s - submit_s for submit_s in waiting.values()]
        self.parts.metrics.waits.set(sum(waits) / len(waits) if waits else 0.0)

    def step_down(self) -> None:
        """Another daemon leads: forget moves in flight; they are read from the store should this one lead again."""
        self.parts.actor.flights.clear()
        self._recovered = self._restored = False

    def drop_caches(self) -> None:
        """Give memory back: the next round computes models and goodput anew, from warm fits."""
        self.parts.table = GoodputTable()
        text = self.parts.estimator.to_json()
        self.parts.estimator = Estimator.from_json(text, shipped=self.parts.config.models.use_shipped)
        self._models_before = {}

    def close(self) -> None:
        """End helpers; a decision still running is left behind."""
        self.intake.close()
        self._watchdog.shutdown(wait=False, cancel_futures=True)


def queue_marks(jobs: tuple[Job, ...]) -> frozenset[tuple[JobId, str]]:
    """What must not change unnoticed between rounds: which GPU jobs there are and whether each waits or runs."""
    return frozenset((job.id, job.state.value) for job in jobs if job.request.gpus and job.state is not JobState.ENDED)


def declared_jobs(snapshot: Snapshot) -> Iterator[tuple[JobId, tuple[Job, Declaration]]]:
    """Live jobs with a declaration that parses, by id."""
    types = frozenset(kind.name for kind in snapshot.gpu_types)
    for job in snapshot.jobs:
        if job.state is JobState.ENDED:
            continue
        try:
            declaration = parse(job.comment, known_types=types)
        except DeclarationError:
            continue
        if declaration is not None:
            yield job.id, (job, declaration)


def round_sentence(plan: Plan, mode: str, why_mode: str, acting: bool, warnings: list[str]) -> str:
    """The round's sentence: what the plan says, whether it is carried out, and the first thing that is wrong."""
    if mode == "enforce" and acting:
        lead = plan.sentence
    elif mode == "enforce":
        lead = f"Nothing was changed. {plan.sentence}"
    else:
        because = f" ({why_mode})" if why_mode else ""
        lead = f"{mode.capitalize()} mode{because}, nothing is changed: {plan.sentence}"
    return lead + (f" Warning: {warnings[0]}" if warnings else "")
