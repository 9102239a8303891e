"""Carries plans out: drives every move through its table with calls to a Slurm client. No threads, no store, no clock.

The daemon and the simulator run this same object. Each step is written to the log before its calls are made; each tick
reads the queue once and derives everything again from it. It holds and cancels nothing: there is no such call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..cluster import Job, JobId, JobState, Node, Snapshot
from ..deciding.eligibility import is_declared
from ..plan import Plan, TargetKind
from ..reshape import TypeAtSite
from ..slurm.client import (
    EditIgnored,
    JobsRead,
    NoSuchJob,
    NotPending,
    SlurmClient,
    SlurmError,
    SlurmRejected,
    SlurmUnavailable,
)
from ..standing import Standing
from .channel import JobChannel, JobNews, SilentJobs
from .leases import due_renewals
from .log import Fenced, LogAway, MoveLog
from .move import Action, ActionKind, Event, EventKind, Limits, Move, MoveKind, Phase
from .planned import Admission, admit
from .quiet import Quiet
from .room import Room, leaves_soon
from .table import derive, step


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick did. ``steps``: moves that changed phase or made a call; 0 = nothing to do now."""

    steps: int = 0
    calls: int = 0
    finished: tuple[Move, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(slots=True)
class _Pending:
    """One flight's next step, computed but not yet carried out."""

    move: Move
    after: Move
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class _Refused:
    """Edits of a job that Slurm (a site's hook, a limit) refused in a row, and until when we do not try again."""

    times: int
    until_s: float
    why: str


#: Wait after the first refusal of a job's edit; doubled with each further one, up to the longest.
_FIRST_BACK_OFF_S = 120.0
_LONGEST_BACK_OFF_S = 3600.0

#: Order of calls within a tick: free GPUs first, then fill them.
_ORDER = {
    ActionKind.SIGNAL: 0,
    ActionKind.ASK_CHECKPOINT: 0,
    ActionKind.CARRY_ON: 0,
    ActionKind.REQUEUE: 1,
    ActionKind.SHRINK: 1,
    ActionKind.END_LAUNCH_HOLD: 2,
    ActionKind.RESHAPE: 3,
}


@dataclass
class Actor:
    """Drives all moves of one cluster.

    Call `submit` after each round, `tick` every couple of seconds while `flights` is not empty, and `recover` once at
    start-up. ``types``: the policy file's ``[gpu_types]``. Finished moves are handed out by `tick`, once each.
    """

    client: SlurmClient
    log: MoveLog
    limits: Limits = field(default_factory=Limits)
    types: Mapping[str, TypeAtSite] = field(default_factory=dict)
    channel: JobChannel = field(default_factory=SilentJobs)
    generation: int = 0
    flights: dict[JobId, Move] = field(default_factory=dict)
    leased: dict[JobId, float] = field(default_factory=dict)
    """Begin times that we wrote and that are still ours."""
    on_mishap: Callable[[JobId, Exception], None] | None = None
    """Told of a mistake of our own over one move: it waits for the next tick, and the other moves go on. Without a
    listener such a mistake is raised, as the simulator and tests want it."""
    seen: Mapping[JobId, Job] = field(default_factory=dict)
    """Jobs in flight as the last tick read them."""
    _nodes: Sequence[Node] = ()
    _finished: list[Move] = field(default_factory=list)
    _mends: dict[JobId, int] = field(default_factory=dict)
    _refused: dict[JobId, _Refused] = field(default_factory=dict)
    _quiet: Quiet | None = None

    def recover(self) -> None:
        """Take up the moves that a predecessor left unfinished. What had not even sent a signal is dropped."""
        for move in self.log.unfinished():
            adopted = replace(move, generation=self.generation, tried_s=float("-inf"), unsure=True)
            self.flights[move.job_id] = adopted
            if move.phase is Phase.PLANNED:
                self.withdraw(move.job_id, "slurmsia restarted before anything was changed")

    def submit(
        self,
        plan: Plan,
        snapshot: Snapshot,
        standings: Mapping[JobId, Standing] | None = None,
        cause: str = "round",
    ) -> Admission:
        """Begin the moves of a round, renew leases, let go of jobs that left management.

        Raises `Fenced` when a newer leader exists. Failures of single jobs never raise: they are tried again.
        """
        standings = standings or {}
        self._nodes = snapshot.nodes
        targets = {target.job_id: target for target in plan.targets}
        for job_id, move in list(self.flights.items()):
            target = targets.get(job_id)
            if move.phase is Phase.PLANNED and (target is None or target.shape != move.target):
                self.withdraw(job_id, "a newer round decided otherwise")
        admission = admit(
            plan,
            snapshot,
            limits=self.limits,
            types=self.types,
            standings=standings,
            news={target.job_id: heard for target in plan.targets if (heard := self.channel.news(target.job_id))},
            flying=self.flights,
            cause=cause,
            generation=self.generation,
            refused=self._backing_off(snapshot),
        )
        self.flights.update({move.job_id: move for move in self.log.begin(admission.moves)})
        self._renew(admission, snapshot, standings)
        self._let_go(targets.keys(), snapshot, {t.job_id for t in plan.targets if t.kind is TargetKind.LEAVE})
        self._mend_strays(snapshot, standings)
        return admission

    def _backing_off(self, snapshot: Snapshot) -> dict[JobId, str]:
        """Jobs whose last edits Slurm refused, with the sentence that says why and until when they are left alone."""
        if not self._refused:
            return {}
        live = {job.id for job in snapshot.jobs}
        self._refused = {job_id: said for job_id, said in self._refused.items() if job_id in live}
        return {
            job_id: f"Slurm refused our edit ({said.why}); tried again in {said.until_s - snapshot.taken_s:.0f} s"
            for job_id, said in self._refused.items()
            if said.until_s > snapshot.taken_s
        }

    def withdraw(self, job_id: JobId, why: str) -> None:
        """Drop a move that has changed nothing yet; later phases walk on to a whole shape."""
        move = self.flights.get(job_id)
        if move is None:
            return
        after, actions = step(move, Event(EventKind.WITHDRAWN, self.client.now_s(), why=why), self.limits)
        if after is not move:
            self._carry_out(_Pending(move, after, actions), [])
            self._land()

    def _land(self) -> None:
        """Take finished moves out of the air; the next tick hands them out."""
        for job_id in [job_id for job_id, move in self.flights.items() if move.phase.final]:
            self._finished.append(self.flights.pop(job_id))
            self.seen = {other: job for other, job in self.seen.items() if other != job_id}

    def _hand_out(self) -> tuple[Move, ...]:
        finished, self._finished = tuple(self._finished), []
        return finished

    def tick(self) -> Tick:
        """Read the queue once and advance every move. Raises `Fenced`; an unreachable Slurm only waits."""
        if not self.flights:
            return Tick(finished=self._hand_out())
        try:
            read = self.client.jobs()
        except SlurmError as error:
            return Tick(finished=self._hand_out(), errors=(str(error),))
        if self._still_quiet(read):
            return Tick(finished=self._hand_out())
        self.seen = {job.id: job for job in read.jobs if job.id in self.flights}
        due = self._due_steps(read.taken_s, self.seen, read.jobs)
        due.sort(key=lambda one: (max((_ORDER.get(a.kind, 3) for a in one.actions), default=0), -one.move.priority))
        errors: list[str] = []
        steps = calls = 0
        for one in due:
            writes = sum(1 for action in one.actions if action.kind in _CALLS)
            if calls and calls + writes > self.limits.writes_per_tick:
                continue
            calls += writes
            steps += 1
            try:
                self._carry_out(one, errors)
            except Exception as error:
                self._mishap(one.move.job_id, error)
        self._land()
        return Tick(steps, calls, self._hand_out(), tuple(errors))

    def wake_after_s(self) -> float | None:
        """How long to wait before the next tick; ``None`` when nothing is in flight."""
        if not self.flights:
            return self.limits.retry_s if self._finished else None
        quiet = all(move.phase in (Phase.PLANNED, Phase.RUNNING) for move in self.flights.values())
        return self.limits.retry_s * (5.0 if quiet else 1.0)

    def run_until_quiet(self, most: int = 50) -> tuple[Move, ...]:
        """Tick until nothing is left to do at this moment: for clusters without latencies. Returns finished moves."""
        finished: list[Move] = []
        for _ in range(most):
            tick = self.tick()
            finished += tick.finished
            if not tick.steps:
                break
        return tuple(finished)

    def _due_steps(self, now_s: float, mine: Mapping[JobId, Job], jobs: Sequence[Job]) -> list[_Pending]:
        heard: dict[JobId, JobNews | None] = {}
        saved: dict[JobId, bool] = {}
        leaving: list[JobId] = []
        whole = True
        for job_id, move in list(self.flights.items()):
            try:
                heard[job_id] = self.channel.news(job_id)
                saved[job_id] = _checkpointed(move, heard[job_id])
                if job_id in mine and leaves_soon(move, mine[job_id], saved[job_id]):
                    leaving.append(job_id)
            except Exception as error:
                whole = False
                self._mishap(job_id, error)
        room: Room | None = None
        saving_bytes = sum(
            move.checkpoint_bytes
            for job_id, move in self.flights.items()
            if move.phase is Phase.WARNED and not saved.get(job_id)
        )
        due: list[_Pending] = []
        events: list[tuple[Move, Event]] = []
        for move in sorted(self.flights.values(), key=_claims_first):
            if move.job_id not in saved:
                continue
            job = mine.get(move.job_id)
            asks = _needs_room(move) and not (
                move.phase is Phase.EDITED and job is not None and job.state is JobState.RUNNING
            )
            if asks and room is None:
                room = Room(self._nodes, jobs, leaving)
            try:
                fits = room.ask(move) if asks and room is not None else True
                if move.phase is Phase.PLANNED and move.warns:
                    if saving_bytes and saving_bytes + move.checkpoint_bytes > self.limits.checkpoint_bytes_in_flight:
                        continue
                    saving_bytes += move.checkpoint_bytes
                news = heard[move.job_id]
                event = derive(
                    move,
                    job,
                    now_s,
                    room=fits,
                    checkpointed=saved[move.job_id],
                    reported_samples=_first_samples(job, news),
                )
                after, actions = step(move, event, self.limits)
                if after.phase is Phase.REQUEUED and move.phase is not Phase.REQUEUED and news is not None:
                    after = replace(after, checkpoint_samples=news.checkpoint_samples or after.checkpoint_samples)
                events.append((move, event))
                if after is not move or actions:
                    due.append(_Pending(move, after, actions))
            except Exception as error:
                whole = False
                self._mishap(move.job_id, error)
        self._quiet = None
        if whole and not due:
            flying = tuple((move, heard.get(job_id)) for job_id, move in self.flights.items())
            self._quiet = Quiet(jobs, self._nodes, self.limits, flying, tuple(events))
        return due

    def _still_quiet(self, read: JobsRead) -> bool:
        """Whether this read can lead to nothing, because the last one did not and only time has passed."""
        try:
            return self._quiet is not None and self._quiet.lasts(
                read, self._nodes, self.limits, self.flights, self.channel.news
            )
        except Exception:  # whose mistake it is comes out when every move is looked at by itself
            return False

    def _mishap(self, job_id: JobId, error: Exception) -> None:
        """A mistake of ours over one job's move costs that move this tick, and no other; raises what is none of it."""
        if isinstance(error, Fenced | LogAway) or self.on_mishap is None:
            raise error
        if job_id in self.flights:  # as after a crash: a call may or may not have been made
            self.flights[job_id] = replace(self.flights[job_id], unsure=True)
        self.on_mishap(job_id, error)

    def _carry_out(self, one: _Pending, errors: list[str]) -> None:
        """Write the intent, then make the calls; what Slurm says at once goes through the table as well."""
        self.log.save(one.after)
        self.flights[one.after.job_id] = one.after
        for action in one.actions:
            event = self._perform(action, errors)
            if event is None:
                continue
            move = self.flights[action.job_id]
            after, more = step(move, event, self.limits)
            if after is not move:
                self.log.save(after)
                self.flights[action.job_id] = after
            for extra in more:
                self._perform(extra, errors)

    def _perform(self, action: Action, errors: list[str]) -> Event | None:
        """Make one call; an error becomes an event, or is left to the next read."""
        now_s = self.client.now_s()
        try:
            self._call(action)
        except SlurmUnavailable as error:
            errors.append(f"{action.cause}: {error}")
            return Event(EventKind.ANSWER_LOST, now_s, why=str(error))
        except (NotPending, NoSuchJob) as error:
            errors.append(f"{action.cause}: {error}")
            return None
        except SlurmRejected as error:
            errors.append(f"{action.cause}: {error}")
            if error.retryable:
                return None
            if action.kind is ActionKind.RESHAPE:
                before = self._refused.get(action.job_id)
                times = 1 if before is None else before.times + 1
                wait_s = min(_FIRST_BACK_OFF_S * 2.0 ** (times - 1), _LONGEST_BACK_OFF_S)
                self._refused[action.job_id] = _Refused(times, now_s + wait_s, error.why)
            return Event(EventKind.REFUSED, now_s, why=error.why)
        except EditIgnored as error:
            errors.append(f"{action.cause}: {error}")
            return None
        if action.kind is ActionKind.RESHAPE:
            self.leased.pop(action.job_id, None)
            self._refused.pop(action.job_id, None)
            return Event(EventKind.DONE, now_s)
        return None

    def _call(self, action: Action) -> None:
        client, job_id = self.client, action.job_id
        if action.kind is ActionKind.REQUEUE:
            client.requeue(job_id)
        elif action.kind is ActionKind.RESHAPE and action.edit is not None:
            client.reshape(job_id, action.edit)
        elif action.kind is ActionKind.SIGNAL:
            client.signal(job_id, action.signal)
        elif action.kind is ActionKind.ASK_CHECKPOINT:
            self.channel.ask_checkpoint(job_id, action.deadline_s or client.now_s(), action.cause)
        elif action.kind is ActionKind.CARRY_ON:
            self.channel.carry_on(job_id, action.cause)
        elif action.kind is ActionKind.LEASE and action.begin_s is not None:
            self._lease({job_id: action.begin_s})
        elif action.kind is ActionKind.END_LEASE:
            client.end_lease(job_id)
        elif action.kind is ActionKind.CLEAR_PINS:
            client.clear_pins(job_id)
        elif action.kind is ActionKind.END_LAUNCH_HOLD:
            client.end_launch_failure_hold(job_id)
        elif action.kind is ActionKind.SHRINK:
            client.shrink(job_id, action.keep_nodes)

    def _lease(self, leases: dict[JobId, float]) -> None:
        failures = self.client.renew_leases(leases)
        self.leased.update({job_id: begin_s for job_id, begin_s in leases.items() if job_id not in failures})
        if len(leases) == 1:
            for error in failures.values():
                raise error

    def _renew(self, admission: Admission, snapshot: Snapshot, standings: Mapping[JobId, Standing]) -> None:
        """Leases of jobs that wait, and of starts whose GPUs are not free yet, in one bulk."""
        waiting = set(admission.waiting)
        waiting |= {
            job_id
            for job_id, move in self.flights.items()
            if move.kind is MoveKind.START and move.phase is Phase.PLANNED
        }
        due = due_renewals(snapshot, waiting, standings, self.limits)
        if due:
            try:
                failures = self.client.renew_leases(due)
            except SlurmUnavailable:
                return
            self.leased.update({job_id: begin_s for job_id, begin_s in due.items() if job_id not in failures})

    def _let_go(self, known: Iterable[JobId], snapshot: Snapshot, left: set[JobId]) -> None:
        """Jobs on a lease of ours whose user took the declaration away are made eligible now."""
        live = {job.id for job in snapshot.jobs}
        for job_id in [job_id for job_id in self.leased if job_id not in live]:
            del self.leased[job_id]
        mine = self.leased.keys() - set(known) | (self.leased.keys() & left)
        for job in snapshot.jobs:
            if job.id not in mine or job.id in self.flights or is_declared(job):
                continue
            begin_s = self.leased.pop(job.id)
            if job.state is JobState.PENDING and not job.completing and not job.hold and job.begin_s == begin_s:
                try:
                    self.client.end_lease(job.id)
                except SlurmError:
                    self.leased[job.id] = begin_s

    def _mend_strays(self, snapshot: Snapshot, standings: Mapping[JobId, Standing]) -> None:
        """End launch-failure holds of jobs that we moved before, a bounded number of times each."""
        if self._mends:
            live = {job.id for job in snapshot.jobs}
            self._mends = {job_id: count for job_id, count in self._mends.items() if job_id in live}
        for job in snapshot.jobs:
            if job.hold != "launch-failure" or job.id in self.flights or job.id not in standings:
                continue
            if not is_declared(job) or self._mends.get(job.id, 0) >= self.limits.mends:
                continue
            if snapshot.taken_s < job.submit_s + self.limits.same_node_wait_s:
                continue  # Slurm requeued it a moment ago: its node may kill a launch within the same second (22.05)
            self._mends[job.id] = self._mends.get(job.id, 0) + 1
            try:
                self.client.end_launch_failure_hold(job.id)
            except SlurmError:
                continue


_CALLS = frozenset(ActionKind) - {ActionKind.ASK_CHECKPOINT, ActionKind.CARRY_ON}


def _claims_first(move: Move) -> tuple[int, float, JobId]:
    """Who speaks for room first: edited jobs, then requeued ones, then the rest by priority."""
    rank = {Phase.EDITED: 0, Phase.REQUEUED: 1}.get(move.phase, 2)
    return rank, -move.priority, move.job_id


def _needs_room(move: Move) -> bool:
    if move.kind not in (MoveKind.START, MoveKind.MOVE):
        return False
    return move.phase in (Phase.PLANNED, Phase.WARNED, Phase.REQUEUED, Phase.EDITED)


def _checkpointed(move: Move, news: JobNews | None) -> bool:
    return (
        move.phase is Phase.WARNED
        and news is not None
        and news.restart == move.run
        and news.checkpointed_s is not None
        and news.checkpointed_s >= move.phase_s
    )


def _first_samples(job: Job | None, news: JobNews | None) -> float | None:
    if job is None or news is None or news.restart != job.restarts or job.state is not JobState.RUNNING:
        return None
    return news.samples
