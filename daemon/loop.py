"""The daemon's loop: rounds on time, ticks between them, operators' wishes, signals, leadership. Nothing else.

Modelled on services that steer somebody else's server: a small loop, a snapshot in, a sentence out, and every doubt
ends on the side of changing nothing.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from slurmsia import __version__
from slurmsia.config import Config, ConfigError
from slurmsia.moves.log import Fenced
from slurmsia.moves.move import Move, Phase
from slurmsia.store import OperatorAction, StoreError

from .control import PauseMark, Wish, Wishes
from .cycle import Cycle, Outcome
from .heartbeat import Heartbeat
from .leader import Leadership
from .notify import ServiceManager
from .published import Published
from .upkeep import Body, Pruner, undisturbed

_log = logging.getLogger("slurmsia.daemon")

#: After so many rounds in a row that could change nothing, new jobs are no longer leased: nobody would start them.
_UNABLE_ROUNDS = 3


class Audience(Protocol):
    """Whoever shows what the daemon does: the API, the demo's table."""

    def publish(self, state: Published) -> None: ...

    def take_wishes(self) -> list[Wish]: ...


class Loop:
    """One daemon. `run` returns when `stop` was called; `wake` makes the loop look again at once."""

    def __init__(
        self,
        cycle: Cycle,
        leadership: Leadership,
        audience: Audience,
        wishes: Wishes,
        reload: Callable[[], Config],
        apply: Callable[[Config], None],
        clock: Callable[[], float] = time.monotonic,
        seed: int | None = None,
    ) -> None:
        self._cycle = cycle
        self._leadership = leadership
        self._audience = audience
        self._wishes = wishes
        self._reload = reload
        self._apply = apply
        self._clock = clock
        self._random = random.Random(seed)
        self._service = ServiceManager()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._reload_asked = threading.Event()
        self._outcome: Outcome | None = None
        self._started_s = time.time()
        self._rounds = 0
        self._next_round = 0.0
        self._last_round = float("-inf")
        self._stretch = 1.0
        self._last_tick = float("-inf")
        self._standby_why = ""
        self._config_problem = ""
        self._late = ""
        self._unable = 0
        self._pruner = Pruner(clock)
        self._body = Body(clock)
        self._set_up_for(cycle.parts.config)

    def _set_up_for(self, config: Config) -> None:
        self._config = config
        self._pause = PauseMark(config.daemon.state_dir, config.daemon.freeze_file)
        self._heartbeat = Heartbeat(config.daemon.heartbeat_file)

    # --- from outside --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Finish or park moves, then end `run`."""
        self._stop.set()
        self._wake.set()

    def reload(self) -> None:
        """Read the policy file again before the next round."""
        self._reload_asked.set()
        self._wake.set()

    @property
    def rounds(self) -> int:
        """Rounds since the start."""
        return self._rounds

    def wake(self) -> None:
        self._wake.set()

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until stopped. Never raises for anything that happens outside this process."""
        for sentence in self._body.stale():
            _log.warning("%s; end it by hand if it does not end by itself", sentence)
        try:
            while not self._stop.is_set():
                self._service.progress()
                self.turn()
                self._wake.wait(self._config.daemon.tick_s)
                self._wake.clear()
        finally:
            self._shut_down()

    def turn(self) -> None:
        """One pass: wishes, leadership, moves in flight, and a round when it is due."""
        survived = self._cycle.mishaps.survived
        if self._reload_asked.is_set():
            self._reload_asked.clear()
            with survived("reload"):
                self._reconfigure("SIGHUP")
        for wish in [*self._wishes.take_all(), *self._audience.take_wishes()]:
            with survived("wish"):
                self._grant(wish)
        leads = False
        with survived("lead"):
            leads = self._lead()
        if not leads:
            return
        try:
            with survived("loop"):
                self._work()
        except Fenced as error:
            self._step_down(str(error))

    def _work(self) -> None:
        """A leader's part of a pass: heartbeat, moves in flight, and a round when it is due."""
        mode, _ = self.mode()
        if mode == "enforce":
            if self._unable < _UNABLE_ROUNDS:
                self._heartbeat.beat(time.time(), self._config.moves.lease_s)
            else:
                self._heartbeat.stop()
            if self._tick_is_due():
                self._last_tick = self._clock()
                if self._cycle.tick().finished:
                    self._publish()
        else:
            self._heartbeat.stop()
        if self._clock() >= self._next_round:
            self._round()
        elif self._starts_are_due():
            self._round(starts_only=True)

    def mode(self) -> tuple[str, str]:
        """The mode in force and why it is not the configured one."""
        if not self._leadership.leads:
            return "standby", self._standby_why
        why = self._pause.why()
        return ("paused", why) if why else (self._config.daemon.mode, "")

    def _tick_is_due(self) -> bool:
        """Whether moves in flight, finished moves to hand out, or a backlog of reports ask for a look now."""
        wait_s = self._cycle.parts.actor.wake_after_s()
        if self._cycle.intake.backlog:
            wait_s = 0.0
        if wait_s is None:
            return False
        # a pass that comes just before its time would otherwise cost a whole pass more
        return self._clock() - self._last_tick >= wait_s - self._config.daemon.tick_s / 2

    def _starts_are_due(self) -> bool:
        """Whether a job came or ended, so that something may start before the next round."""
        now = self._clock()
        if now - self._last_round < self._config.daemon.early_round_after_s * self._stretch:
            return False
        self._last_round = now
        return self._cycle.queue_changed()

    def _round(self, starts_only: bool = False) -> None:
        mode, why = self.mode()
        begun = self._clock()
        with undisturbed():
            outcome = self._cycle.round(mode, why, starts_only)
        took = self._clock() - begun
        self._rounds += 1
        self._outcome = outcome
        self._unable = 0 if outcome.round_id is not None else self._unable + 1
        self._last_round = self._clock()
        self._last_tick = float("-inf")
        if not starts_only:
            self._plan_next(outcome, begun, took)
        parts = self._cycle.parts
        self._pruner.turn(parts.store, parts.config.store, parts.client.now_s())
        if outcome.snapshot is not None:
            self._service.ready()
        if outcome.snapshot is None:
            _log.warning(outcome.sentence)
        self._publish()
        self._body.tidy()

    def _plan_next(self, outcome: Outcome, begun: float, took: float) -> None:
        """Next round's time: the interval, jittered; stretched while Slurm is slow to read or under pressure."""
        daemon, interval = self._config.daemon, self._config.policy.round_s
        slow = max(outcome.read_s / daemon.read_budget_s, 1.0)
        if self._cycle.pressure >= 0.8:
            slow = max(slow, 2.0)
        self._stretch = min(slow, max(1.0, daemon.longest_round_s / interval))
        jitter = 1.0 + self._random.uniform(-daemon.round_jitter, daemon.round_jitter)
        self._next_round = begun + interval * self._stretch * jitter
        self._late = ""
        if took > interval:
            self._late = f"The round took {took:.1f} s, longer than the interval of {interval:g} s; the next is late."
            _log.warning(self._late)
            self._cycle.parts.metrics.rounds.labels("overrun").inc()

    # --- leadership ----------------------------------------------------------------------------------------------

    def _lead(self) -> bool:
        store = self._cycle.parts.store
        try:
            if self._leadership.leads:
                self._leadership.renew(store)
                return True
            self._standby_why = self._leadership.seek(store) or ""
        except StoreError as error:
            if self._leadership.leads:
                return True
            self._standby_why = f"the store is away, so leadership cannot be taken ({error})"
        except Fenced as error:
            self._step_down(str(error))
        if self._leadership.leads:
            self._cycle.lead(self._leadership.generation)
            self._cycle.parts.metrics.leader.set(1)
            _log.info("this daemon leads (generation %s)", self._leadership.generation)
            return True
        self._cycle.parts.metrics.leader.set(0)
        self._service.ready()
        self._service.status(self._standby_why)
        self._publish()
        self._stop.wait(self._config.daemon.standby_s)
        return False

    def _step_down(self, why: str) -> None:
        _log.error("stepping down: %s", why)
        self._leadership.lose()
        self._cycle.step_down()
        self._heartbeat.stop()
        self._cycle.parts.metrics.leader.set(0)
        self._standby_why = why

    # --- wishes --------------------------------------------------------------------------------------------------

    def _grant(self, wish: Wish) -> None:
        _log.info("%s asks: %s %s %s", wish.who, wish.kind, wish.job_id, wish.reason, extra={"user": wish.who})
        book = self._cycle.parts.book
        if wish.kind == "pause":
            self._pause.pause(wish)
        elif wish.kind == "resume":
            self._pause.resume()
            self._next_round = 0.0
        elif wish.kind == "reconfigure":
            self._reconfigure(wish.who)
        elif wish.kind == "pin":
            book.pin(wish.job_id, f"pinned by {wish.who}" + (f": {wish.reason}" if wish.reason else ""))
        elif wish.kind == "unpin":
            book.pin(wish.job_id, "")
        elif wish.kind == "release":
            self._cycle.release(wish.job_id)
        try:
            self._cycle.parts.store.operator_action(
                OperatorAction(
                    t_s=time.time(), who=wish.who, what=wish.kind, user_id=wish.user_id,
                    job_id=wish.job_id or None, detail={"reason": wish.reason} if wish.reason else {},
                )
            )  # fmt: skip
        except StoreError as error:
            _log.warning("%s by %s could not be written to the audit table: %s", wish.kind, wish.who, error)
        self._publish()

    def _reconfigure(self, who: str) -> None:
        self._service.reloading()
        try:
            config = self._reload()
        except ConfigError as error:
            self._config_problem = f"the policy file has mistakes, the old one stays in force: {error.sentences[0]}"
            for sentence in error.sentences:
                _log.error("policy file not loaded: %s", sentence)
        else:
            self._config_problem = ""
            self._apply(config)
            self._set_up_for(config)
            self._next_round = 0.0
            _log.info("policy file loaded again (asked by %s)", who)
        self._service.reloaded()

    # --- what others see -----------------------------------------------------------------------------------------

    def _publish(self) -> None:
        mode, why = self.mode()
        parts, outcome = self._cycle.parts, self._outcome
        parts.metrics.set_mode(mode)
        warnings = list(outcome.warnings) if outcome is not None else []
        warnings[:0] = [self._config_problem] if self._config_problem else []
        full = self._body.relieve(self._config.daemon.memory_limit_mb, self._cycle.drop_caches)
        if self._unable >= _UNABLE_ROUNDS and mode == "enforce":
            warnings.append(f"{self._unable} rounds in a row could change nothing; new jobs start without a lease.")
        warnings += [said for said in (self._late, self._pruner.problem, full) if said]
        warnings += self._cycle.mishaps.said()
        parts.metrics.memory.set(self._body.rss_bytes)
        parts.metrics.children_memory.set(self._body.children_rss_bytes())
        parts.metrics.cpu.set(self._body.cpu_share())
        parts.metrics.pruned.set(self._pruner.removed)
        sentence = outcome.sentence if outcome is not None else "No round yet."
        if mode == "standby":
            sentence = f"Standby: {why}"
        state = Published(
            mode=mode,
            sentence=sentence,
            cluster=parts.store.cluster,
            why_mode=why,
            published_s=time.time(),
            started_s=self._started_s,
            rounds=self._rounds,
            next_round_s=time.time() + max(0.0, self._next_round - self._clock()),
            standings=parts.book.standings(),
            moves=tuple(parts.actor.flights.values()),
            warnings=tuple(warnings),
            policy=self._config.policy.name,
            config_text=self._cycle.config_text,
            version=__version__,
        )
        if outcome is not None:
            if outcome.snapshot is not None:
                parts.metrics.snapshot_age.set(max(0.0, parts.client.now_s() - outcome.snapshot.taken_s))
            state = replace(
                state,
                round_id=outcome.round_id,
                snapshot=outcome.snapshot,
                plan=outcome.plan,
                models=outcome.models,
                problems=outcome.problems,
                put_off=outcome.put_off,
                times_s=outcome.times_s,
                prospect=outcome.prospect,
            )
        self._service.status(f"{sentence} {self._config_problem}".strip())
        self._audience.publish(state)

    def _shut_down(self) -> None:
        """Let moves reach a safe state (every state is one: Slurm alone starts every job), then resign."""
        self._service.stopping()
        self._heartbeat.stop()
        self._pruner.close()
        end = time.monotonic() + self._config.daemon.shutdown_s
        parts = self._cycle.parts
        while self._leadership.leads and self.mode()[0] == "enforce" and time.monotonic() < end:
            if not any(_half_way(move) for move in parts.actor.flights.values()):
                break
            try:
                self._cycle.tick()
            except Fenced:
                break
            time.sleep(min(1.0, self._config.daemon.tick_s))
        try:
            if self._leadership.leads:
                self._cycle.intake.store_held()
            parts.store.save_standing(parts.book.standings().values(), time.time())
            self._leadership.resign(parts.store)
        except (StoreError, Fenced) as error:
            _log.warning("on the way out: %s", error)
            self._leadership.resign(None)
        self._cycle.close()
        parts.client.close()
        _log.info("stopped; jobs and leases are Slurm's")


def _half_way(move: Move) -> bool:
    """A move that Slurm would have to finish by itself, if later than we would."""
    return bool(move.returning) or move.phase in (Phase.REQUEUED, Phase.EDITED)
