"""Tells one generated story: a small cluster, a few jobs, the real actor, one misfortune, and what must hold after.

The story's number decides everything: which jobs there are, what the rounds want, which fault strikes at which step,
and whether the daemon dies there for ever, comes back, or lives. The same number is the same story, everywhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from slurmsia.cluster import Job, JobId, JobState, Request, Reservation, Shape, Snapshot
from slurmsia.config.site import GpuTypeSection
from slurmsia.moves.act import Actor
from slurmsia.moves.channel import ReportedJobs
from slurmsia.moves.leases import standing_after
from slurmsia.moves.log import MemoryMoveLog
from slurmsia.moves.move import Limits, Move, Phase
from slurmsia.plan import Plan, Target, TargetKind
from slurmsia.slurm.client import SlurmError, SlurmRejected
from slurmsia.slurm.emulator import (
    Emulator,
    FaultKind,
    FixedWork,
    Latencies,
    Submission,
    Update,
    gang,
    make_cluster,
)
from slurmsia.standing import Standing

DECLARED = "sia: gpus=1-16 types=t4,rtx,a100 level=restartable"
SIGNALLED = DECLARED + " signal=USR1@30"
TYPES = {name: GpuTypeSection(feature=name) for name in ("t4", "rtx", "a100")}
ROUND_S = 60.0
TICK_S = 2.0
BUSY_ROUNDS = 12
"""Rounds that move jobs about; later ones only start what waits."""
END_S = 4 * 3600.0

CALLS = ("jobs", "snapshot", "requeue", "reshape", "renew_leases", "signal", "end_lease", "clear_pins")
FAULTS = ("fails", "answer-lost", "rejected", "busy", "ignored")
USER_DEEDS = ("cancel", "hold", "hold-then-release", "edit-shape", "edit-begin", "requeue", "undeclare")
SITE_DEEDS = (
    "fail-node",
    "drain",
    "preempt",
    "pause",
    "hook-rejects",
    "hook-rewrites",
    "reservation",
    "launch-fails",
    "launch-kills",
)
ENDS = ("lives", "dies", "returns")
"""What becomes of the daemon at the story's kill point."""


class Killed(BaseException):
    """kill -9."""


class MortalLog(MemoryMoveLog):
    """A move log whose process is killed just before or just after its n-th write."""

    def __init__(self, kill_at: int | None, before: bool) -> None:
        super().__init__()
        self.kill_at = kill_at
        self.before = before

    def save(self, move: Move) -> None:
        struck = self.kill_at is not None and self.writes + 1 == self.kill_at
        if struck and self.before:
            raise Killed
        super().save(move)
        if struck:
            raise Killed


@dataclass(frozen=True)
class Plot:
    """What a story's number means."""

    number: int
    end: str
    kill_at_write: int | None
    kill_before: bool
    kill_after_call: tuple[str, int] | None
    fault: str
    fault_call: str
    fault_skip: int
    deed: str
    deed_s: float
    deed_job: int
    deed_call: str
    """The call of ours that the deed comes just before or after; empty = at ``deed_s``."""
    deed_before: bool
    deed_skip: int


def plot_of(number: int) -> Plot:
    """The plot of a story; consecutive numbers walk through every fault at every step."""
    rng = random.Random(number * 7919 + 17)
    end = ENDS[number % 3]
    kill_write: int | None = None
    kill_call: tuple[str, int] | None = None
    if end != "lives":
        if (number // 3) % 2:
            kill_write = 1 + (number // 6) % 48
        else:
            kill_call = (CALLS[(number // 6) % len(CALLS)], (number // 48) % 4)
    fault = FAULTS[(number // 3) % len(FAULTS)]
    deeds = ("none", *USER_DEEDS, *SITE_DEEDS)
    return Plot(
        number=number,
        end=end,
        kill_at_write=kill_write,
        kill_before=bool((number // 12) % 2),
        kill_after_call=kill_call,
        fault=fault,
        fault_call=CALLS[(number // 15) % len(CALLS)],
        fault_skip=(number // 120) % 5,
        deed=deeds[(number // 5) % len(deeds)],
        deed_s=rng.choice([rng.uniform(0, 120), rng.uniform(100, 700)]),
        deed_job=rng.randrange(8),
        deed_call=("", "requeue", "reshape", "renew_leases", "signal", "jobs")[(number // 80) % 6],
        deed_before=bool((number // 480) % 2),
        deed_skip=rng.randrange(4),
    )


@dataclass
class Ending:
    """What happened: violations are broken promises; the counts are for the table."""

    plot: Plot
    violations: list[str] = field(default_factory=list)
    moves: dict[str, int] = field(default_factory=dict)
    died: bool = False
    longest_wait_s: float = 0.0
    lost_races: int = 0
    excused: int = 0
    died_in: tuple[str, ...] = ()
    faults_met: tuple[str, ...] = ()


class Story:
    """One story: `tell` it, then read its `Ending`."""

    def __init__(self, number: int) -> None:
        self.plot = plot_of(number)
        self.rng = random.Random(number)
        plot = self.plot
        launch_fails = plot.deed == "launch-fails" and plot.end == "lives"
        self.emulator = Emulator(
            make_cluster([("t4", 2, 4), ("rtx", 2, 8), ("a100", 1, 8)]),
            latencies=Latencies(
                schedule_s=self.rng.choice([0.0, 1.0, 3.0]),
                completing_s=self.rng.choice([0.1, 1.0, 8.0]),
                launch_failure=0.5 if launch_fails else 0.0,
                launch_kill=0.5 if plot.deed == "launch-kills" and plot.end == "lives" else 0.0,
                leftover_s=30.0 if launch_fails else 10.0,
            ),
            seed=number,
        )
        self.client = self.emulator.client()
        self.limits = Limits()
        self.log = MortalLog(plot.kill_at_write, plot.kill_before)
        self.channel = ReportedJobs()
        self.standings: dict[JobId, Standing] = {}
        self.chosen: dict[JobId, set[tuple[str, int, int]]] = {}
        self.cancelled: set[JobId] = set()
        self.held: set[JobId] = set()
        self.user_begin: dict[JobId, float] = {}
        self.liars: set[JobId] = set()
        """Jobs that declare a signal they do not survive: their own undoing when nobody is left to requeue them."""
        self.undeclared: list[JobId] = []
        self.declared: list[JobId] = []
        self.struck = False
        self.ending = Ending(plot)
        self.death_s: float | None = None
        self.actor = self._daemon()
        self._submit_jobs()
        self._arm()

    def _daemon(self) -> Actor:
        return Actor(self.client, self.log, self.limits, types=TYPES, channel=self.channel)

    # the cast

    def _submit_jobs(self) -> None:
        rng = self.rng
        for index in range(rng.randint(3, 6)):
            gpus, nodes, feature = rng.choice(
                [(1, 1, ""), (2, 1, "t4"), (4, 1, "rtx"), (8, 1, "rtx"), (8, 2, "t4"), (4, 1, "a100")]
            )
            handles = rng.random() < 0.6
            physics = FixedWork(
                rng.uniform(500, 6000),
                save_s=rng.choice([2.0, 10.0, 45.0]),
                load_s=rng.choice([0.0, 20.0]),
                checkpoint_every_s=300.0,
                handles_signal=handles,
                ignores_signal=rng.random() < 0.15,
                loses_progress=rng.random() < 0.1,
                die_s=rng.choice([0.0, 2.0, 40.0]),
                report_every_s=90.0,
            )
            # A signal declared for a job that does not handle it: our signal kills it, and we must make that good.
            words = SIGNALLED if handles or rng.random() < 0.2 else DECLARED
            liar = words == SIGNALLED and not handles
            leased = rng.random() < 0.7
            job_id = self.emulator.submit(
                Submission(
                    gang(gpus, nodes, features=feature),
                    comment=words,
                    user_id=1000 + index % 2,
                    begin_s=self.emulator.now_s + self.limits.lease_s if leased else None,
                ),
                physics,
            )
            self.declared.append(job_id)
            self.chosen[job_id] = {("*", nodes, gpus)}
            if liar:
                self.liars.add(job_id)
        for index in range(rng.randint(1, 3)):
            gpus = rng.choice([1, 2, 4])
            request = gang(gpus, features=rng.choice(["", "t4"]))
            job_id = self.emulator.submit(
                Submission(request, comment="weather model", user_id=2000 + index, time_limit_s=7200.0),
                FixedWork(rng.uniform(300, 3000), handles_signal=False, report_every_s=None),
            )
            self.undeclared.append(job_id)
            self.chosen[job_id] = {("*", 1, gpus)}

    # the misfortune

    def _arm(self) -> None:
        plot, faults = self.plot, self.emulator.faults
        if plot.kill_after_call is not None:
            call, skip = plot.kill_after_call
            kind = FaultKind.BEFORE if plot.kill_before else FaultKind.AFTER
            faults.inject(kind, call, skip=skip, action=self._kill)
        if plot.deed_call:
            when = FaultKind.BEFORE if plot.deed_before else FaultKind.AFTER
            faults.inject(when, plot.deed_call, skip=plot.deed_skip, action=self._strike_once)
        kind_of = {"busy": FaultKind.REJECTED}.get(plot.fault) or FaultKind(plot.fault)
        times = 1 + plot.number % 4
        if plot.fault == "rejected":
            faults.inject(kind_of, plot.fault_call, skip=plot.fault_skip, times=times, code=2050, why="a site limit")
        else:
            faults.inject(kind_of, plot.fault_call, skip=plot.fault_skip, times=times, retryable=plot.fault == "busy")

    def _kill(self, _: JobId | None) -> None:
        raise Killed

    def _strike_once(self, job_id: JobId | None) -> None:
        if not self.struck:
            self.struck = True
            self._strike(job_id or self.declared[self.plot.deed_job % len(self.declared)])

    def _strike(self, job_id: JobId) -> None:
        emulator, plot = self.emulator, self.plot
        node = sorted(emulator.nodes)[plot.deed_job % len(emulator.nodes)]
        try:
            if plot.deed == "cancel":
                self.cancelled.add(job_id)
                emulator.user_cancel(job_id)
            elif plot.deed in ("hold", "hold-then-release"):
                emulator.user_hold(job_id)
                self.held.add(job_id)
            elif plot.deed == "edit-shape":
                self.chosen[job_id].add(("*", 1, 2))
                update = Update(nodes=1, tasks=1, cpus=8, gres=(None, 2), features="", required_nodes=())
                emulator.user_edit(job_id, update)
            elif plot.deed == "edit-begin":
                begin_s = emulator.now_s + 3000.0
                emulator.user_edit(job_id, Update(begin_s=begin_s))
                self.user_begin[job_id] = begin_s
            elif plot.deed == "requeue":
                emulator.user_requeue(job_id)
            elif plot.deed == "undeclare":
                emulator.user_edit(job_id, Update(comment="no more"))
            elif plot.deed == "fail-node":
                emulator.fail_node(node)
            elif plot.deed == "drain":
                emulator.drain(node)
            elif plot.deed == "preempt":
                emulator.preempt(job_id)
            elif plot.deed == "reservation":
                now_s = emulator.now_s
                emulator.reserve(Reservation("maintenance", frozenset({node}), now_s + 60.0, now_s + 900.0))
            elif plot.deed == "pause":
                emulator.pause_controller(self.rng.choice([20.0, 100.0, 300.0]))
            elif plot.deed == "hook-rejects":
                emulator.modify_hook = _rejecting
            elif plot.deed == "hook-rewrites":
                emulator.modify_hook = self._rewriting
        except SlurmError:
            if plot.deed in ("hold", "hold-then-release"):
                self.held.discard(job_id)

    def _rewriting(self, job: Job, update: Update) -> Update:
        """A site's hook that thinks two GPUs are enough for everybody."""
        if update.gres is None or update.gres[1] <= 2:
            return update
        nodes = update.nodes or 1
        self.chosen[job.id].add(("*", nodes, 2 * nodes))
        return replace(update, gres=(update.gres[0], 2), cpus=8 * nodes)

    def _relent(self) -> None:
        """Operators mend what was broken, so that every job can end."""
        self.emulator.modify_hook = None
        for name in sorted(self.emulator.nodes):
            self.emulator.resume(name)
        if self.plot.deed == "hold-then-release":
            for job_id in sorted(self.held & self.emulator.records.keys()):
                if self.emulator.records[job_id].state is JobState.PENDING:
                    self.emulator.user_release(job_id)
            self.held.clear()

    # the rounds

    def _round(self, number: int) -> None:
        try:
            snapshot = self.client.snapshot()
        except SlurmError:
            return
        targets = self._wishes(snapshot, number)
        plan = Plan(tuple(sorted(targets, key=lambda t: t.job_id)), (), "story", 0.0, 0.0, 0.0, "story", "")
        for target in targets:
            if target.shape is not None and target.kind is not TargetKind.KEEP:
                shape = target.shape
                self.chosen[target.job_id].add((shape.gpu_type, shape.nodes, shape.gpus))
        self.actor.submit(plan, snapshot, self.standings, cause=f"round-{number}")

    def _wishes(self, snapshot: Snapshot, number: int) -> list[Target]:
        """Random wishes that fit together, as a round's would."""
        rng = self.rng
        free = {node.name: node.gpus for node in snapshot.nodes if node.state.value == "up"}
        kinds = {node.name: node.gpu_type or "" for node in snapshot.nodes}
        for job in snapshot.jobs:
            for name, gpus in job.allocation.gpus_by_node if job.allocation else ():
                if name in free:
                    free[name] -= gpus
        for move in self.actor.flights.values():
            for name, gpus in move.gpus_by_node:
                if name in free:
                    free[name] -= gpus
        targets: list[Target] = []
        for job in snapshot.jobs:
            if job.id not in self.chosen or not job.comment.startswith("sia:") or job.state is JobState.ENDED:
                continue
            standing = self.standings.setdefault(
                job.id, Standing(job.id, job.submit_s, submitted=self._submitted(job.id))
            )
            if job.id in self.actor.flights:
                move = self.actor.flights[job.id]
                targets.append(Target(job.id, TargetKind.MOVE, move.target, move.gpus_by_node))
                continue
            if job.hold or job.completing or self._begins_later(job, snapshot):
                continue
            if job.state is JobState.PENDING:
                where = _pick(rng, free, kinds)
                if where is None or rng.random() < 0.2:
                    targets.append(Target(job.id, TargetKind.QUEUE))
                    continue
                targets.append(self._target(job.id, TargetKind.START, where, kinds))
            elif job.state is JobState.RUNNING and job.allocation is not None:
                movable = not standing.pinned_reason and number < BUSY_ROUNDS
                dice = rng.random()
                if not movable or dice < 0.4:
                    targets.append(Target(job.id, TargetKind.KEEP, job.allocation.shape, job.allocation.gpus_by_node))
                    continue
                if dice < 0.5:
                    targets.append(Target(job.id, TargetKind.SUSPEND))
                    continue
                if rng.random() < 0.5:
                    for name, gpus in job.allocation.gpus_by_node:
                        if name in free:
                            free[name] += gpus
                where = _pick(rng, free, kinds)
                if where is None or dict(where) == dict(job.allocation.gpus_by_node):
                    targets.append(Target(job.id, TargetKind.KEEP, job.allocation.shape, job.allocation.gpus_by_node))
                    continue
                targets.append(self._target(job.id, TargetKind.MOVE, where, kinds))
        return targets

    def _begins_later(self, job: Job, snapshot: Snapshot) -> bool:
        return job.begin_s is not None and job.begin_s > snapshot.taken_s + 2 * self.limits.lease_s

    def _submitted(self, job_id: JobId) -> Request:
        record = self.emulator.records.get(job_id) or self.emulator.forgotten[job_id]
        return record.submission.request

    def _target(
        self, job_id: JobId, kind: TargetKind, where: tuple[tuple[str, int], ...], kinds: dict[str, str]
    ) -> Target:
        shape = Shape(kinds[where[0][0]], len(where), sum(gpus for _, gpus in where))
        return Target(job_id, kind, shape, where, urgency=self.rng.random(), pin=self.rng.random() < 0.3)

    # the telling

    def tell(self) -> Ending:
        """Let the story run to its end and judge it."""
        emulator = self.emulator
        relented = False
        alive = True
        next_round_s, number = 0.0, 0
        revive_s: float | None = None
        while emulator.now_s < END_S:
            now_s = emulator.now_s
            if now_s >= (900.0 if self.plot.deed_call else self.plot.deed_s):
                self._strike_once(None)
            if not relented and now_s >= 2400.0:
                relented = True
                self._relent()
            if not alive and revive_s is not None and now_s >= revive_s:
                alive, revive_s = True, None
                emulator.faults.clear()
                self.log.kill_at = None
                self.actor = self._daemon()
                self.actor.recover()
            if alive:
                try:
                    self._live(number if now_s >= next_round_s else None)
                except Killed:
                    alive = False
                    self.ending.died = True
                    self.ending.died_in = self._under_way()
                    self._note_faults()
                    emulator.faults.clear()
                    self.death_s = now_s
                    if self.plot.end == "returns":
                        revive_s = now_s + self.rng.choice([5.0, 60.0, 130.0, 900.0])
                    else:
                        self._check_leases()
                if now_s >= next_round_s:
                    next_round_s, number = now_s + ROUND_S, number + 1
            if self.struck and relented and self._all_ended() and not (alive and self.actor.flights):
                break
            next_s = emulator.now_s + (TICK_S if alive and self.actor.flights else 20.0)
            emulator.run_until(next_s)
            for report in emulator.take_reports():
                self.channel.hear(report)
        self._judge(alive)
        return self.ending

    def _live(self, number: int | None) -> None:
        if number is not None:
            self._round(number)
        tick = self.actor.tick()
        for move in [*tick.finished, *self.actor.flights.values()]:
            standing = self.standings.get(move.job_id)
            if standing is not None:
                self.standings[move.job_id] = standing_after(standing, move, self.emulator.now_s)
        for move in tick.finished:
            key = f"{move.kind.value} {move.phase.value}"
            self.ending.moves[key] = self.ending.moves.get(key, 0) + 1
            if move.phase is not Phase.VERIFIED and "did not start it" in move.outcome:
                self.ending.lost_races += 1

    def _under_way(self) -> tuple[str, ...]:
        """What the moves in the log were doing when the daemon died."""
        return tuple(sorted(f"{move.kind.value} {move.phase.value}" for move in self.log.unfinished()))

    def _note_faults(self) -> None:
        met = [f"{fault.call} {fault.kind.value}" for fault in self.emulator.faults.armed if fault.fired]
        self.ending.faults_met += tuple(met)

    def _all_ended(self) -> bool:
        return all(
            job_id in self.emulator.forgotten
            or self.emulator.records[job_id].state is JobState.ENDED
            or job_id in self.held
            for job_id in self.chosen
        )

    def _check_leases(self) -> None:
        """The daemon is dead for ever: how long can each job be kept from starting by what we wrote?"""
        now_s = self.emulator.now_s
        for job_id in self.declared:
            record = self.emulator.records.get(job_id)
            if record is None or record.state is not JobState.PENDING or job_id in self.user_begin:
                continue
            if record.begin_s is not None:
                wait_s = record.begin_s - now_s
                self.ending.longest_wait_s = max(self.ending.longest_wait_s, wait_s)
                if wait_s > self.limits.lease_s + 1.0:
                    self._broken(job_id, f"waits {wait_s:.0f} s after the daemon's death")

    # the judgement

    def _broken(self, job_id: JobId, what: str) -> None:
        story = "; ".join(f"{t:.1f} {text}" for t, text in self.emulator.story(job_id))
        self.ending.violations.append(f"story {self.plot.number}: job {job_id} {what} [{story}]")

    def _judge(self, alive: bool) -> None:
        emulator = self.emulator
        self._note_faults()
        for job_id in self.chosen:
            record = emulator.records.get(job_id) or emulator.forgotten.get(job_id)
            if record is None:
                self._broken(job_id, "is lost")
                continue
            if record.hold and job_id not in self.held:
                self._broken(job_id, f"is left held ({record.hold})")
            if record.ended_by == "CANCELLED" and job_id not in self.cancelled:
                self._broken(job_id, "was cancelled, not by its user")
            ended_well = record.ended_by == "COMPLETED" or job_id in self.cancelled
            if self.ending.died and job_id in self.liars and record.ended_by == "FAILED":
                self.ending.excused += 1
                continue
            if not ended_well and job_id not in self.held:
                self._broken(job_id, f"never ended (state {record.state.value}, {record.reason}, {record.ended_by})")
            if alive and job_id in self.actor.flights:
                self._broken(job_id, f"still has a move in flight ({self.actor.flights[job_id].phase.value})")
            self._judge_runs(job_id)
        for _, call, job_id in self.client.writes:
            if job_id in self.undeclared:
                self._broken(job_id, f"is undeclared but was touched by {call}")

    def _judge_runs(self, job_id: JobId) -> None:
        for run in self.emulator.accounting:
            if run.job_id != job_id:
                continue
            counts = {gpus for _, gpus in run.allocation.gpus_by_node}
            held = (run.allocation.gpu_type or "", len(run.allocation.gpus_by_node), run.allocation.gpus)
            fits = any(
                kind in ("*", held[0]) and (nodes, gpus) == held[1:] for kind, nodes, gpus in self.chosen[job_id]
            )
            if not fits or len(counts) != 1:
                self._broken(job_id, f"ran in a shape nobody chose: {held}, chosen {sorted(self.chosen[job_id])}")
            if job_id in self.undeclared and run.state == "REQUEUED":
                self._broken(job_id, "is undeclared but was requeued")
        request = (self.emulator.records.get(job_id) or self.emulator.forgotten[job_id]).request
        if request.tasks != request.nodes or request.cpus < request.gpus:
            self._broken(job_id, f"is half-edited: {request}")


def _rejecting(job: Job, update: Update) -> Update:
    if update.gres is None:
        return update
    raise SlurmRejected(2000, "the site's job_submit plugin says no", job.id)


def _pick(rng: random.Random, free: dict[str, int], kinds: dict[str, str]) -> tuple[tuple[str, int], ...] | None:
    """A random legal shape that fits on free GPUs; takes them."""
    options: list[tuple[tuple[str, int], ...]] = []
    for name, gpus in sorted(free.items()):
        options += [((name, size),) for size in (1, 2, 4, 8) if size <= gpus]
    for kind in sorted(set(kinds.values())):
        whole = [name for name in sorted(free) if kinds[name] == kind and free[name] >= 4]
        if len(whole) >= 2:
            options.append(tuple((name, 4) for name in whole[:2]))
    if not options:
        return None
    chosen = rng.choice(options)
    for name, gpus in chosen:
        free[name] -= gpus
    return chosen


def tell(number: int) -> Ending:
    """Tell story ``number``."""
    return Story(number).tell()
