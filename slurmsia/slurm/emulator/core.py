"""The heart of the emulated slurmctld: records, clock and event heap, scheduling passes, starts and ends of runs.

`Controller` holds state and lets things happen in order; what users, operators and clients can do to it is in
`emulator.Emulator`. It never looks at who owns a job: declared or not, all jobs are the same here.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from ...cluster import Allocation, GpuLimit, Job, JobId, JobState, Node, NodeState, Partition, Reservation, Site
from ...history import Report
from ..client import NoSuchJob, NotPending
from .clock import Clock, VirtualClock
from .cluster import ClusterSpec, preset
from .edit import ESLURM_INVALID_JOB_ID, ESLURM_JOB_NOT_PENDING, Update
from .faults import Faults
from .job import JobRecord, RunRecord, Submission
from .physics import Exit, RunStart
from .schedule import NodeRecord, plan_starts

if TYPE_CHECKING:
    pass

_DAY_S = 86400.0
#: A controller that comes back needs a while until it purges old jobs.
_PURGE_CYCLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """What Slurm itself takes, in seconds; `Latencies.none()` for physics that has none.

    ``schedule_s``: longest wait until the next scheduling pass (drawn uniformly); ``completing_s``: epilogue after the
    job has died; ``kill_wait_s``: SIGKILL after SIGTERM; ``requeue_delay_s``: begin time of a requeued job;
    ``launch_failure``: chance that a restart on a node it left less than ``leftover_s`` ago fails to launch
    and is held; ``launch_kill``: chance that Slurm ends it instead (a revoked credential, seen on 22.05).
    """

    schedule_s: float = 1.0
    completing_s: float = 0.5
    kill_wait_s: float = 30.0
    requeue_delay_s: float = 121.0
    min_job_age_s: float = 300.0
    launch_failure: float = 0.0
    launch_kill: float = 0.0
    leftover_s: float = 5.0

    @staticmethod
    def none() -> Latencies:
        """No latency at all: a requeued job is editable at once and an edited one runs at once."""
        return Latencies(schedule_s=0.0, completing_s=0.0, kill_wait_s=0.0)


_by_id = attrgetter("id")

#: A site's job_submit plugin at submit: returns the submission, changed or not, or raises `SlurmRejected`.
SubmitHook = Callable[[Submission, float], Submission]
#: A site's job_submit plugin at modify: returns the update, changed or not, or raises `SlurmRejected`.
ModifyHook = Callable[[Job, Update], Update]


class Controller:
    """State and events of one emulated cluster."""

    def __init__(
        self,
        cluster: ClusterSpec | str = "hetero64",
        *,
        clock: Clock | None = None,
        latencies: Latencies | None = None,
        seed: int = 0,
        submit_hook: SubmitHook | None = None,
        modify_hook: ModifyHook | None = None,
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        spec = preset(cluster) if isinstance(cluster, str) else cluster
        self.latencies = latencies or Latencies()
        self.site: Site = replace(
            spec.site, requeue_delay_s=self.latencies.requeue_delay_s, kill_wait_s=self.latencies.kill_wait_s
        )
        self.cluster = spec
        self.clock: Clock = clock or VirtualClock()
        self.random = random.Random(seed)
        self.faults = Faults()
        self.submit_hook = submit_hook
        self.modify_hook = modify_hook
        self.accounting: list[RunRecord] = []
        self.partitions: dict[str, Partition] = {partition.name: partition for partition in spec.partitions}
        self.reservations: dict[str, Reservation] = {}
        self.limits: tuple[GpuLimit, ...] = spec.limits
        self.nodes: dict[str, NodeRecord] = {
            node.name: NodeRecord(node, node.state, node.reason, node.gpus, node.cpus, node.memory_mb)
            for node in sorted(spec.nodes, key=lambda node: node.name)
        }
        self.records: dict[JobId, JobRecord] = {}
        """Jobs the controller still knows; ended ones leave after MinJobAge."""
        self.forgotten: dict[JobId, JobRecord] = {}
        self.lock = threading.RLock()
        """Held by clients during a call; hold it when users act from another thread."""
        self.events = 0
        self.passes = 0
        self._reports: list[Report] = []
        self._on_report = on_report or self._reports.append
        self._heap: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._sequence = 0
        self._orders = 0
        self._next_id = 1
        self._paused_until_s = float("-inf")
        self._pass_at_s: float | None = None
        self._jobs_cache: tuple[Job, ...] | None = None
        self._nodes_cache: tuple[Node, ...] | None = None
        self._promised: frozenset[str] = frozenset()

    # time

    @property
    def now_s(self) -> float:
        return self.clock.now_s()

    @property
    def paused(self) -> bool:
        """True while the controller does not answer."""
        return self.now_s < self._paused_until_s

    def advance(self, dt_s: float) -> None:
        """Let ``dt_s`` virtual seconds pass."""
        self.run_until(self.now_s + dt_s)

    def run_until(self, t_s: float) -> None:
        """Let everything happen that is due up to ``t_s``, in order."""
        heap = self._heap
        while heap and heap[0][0] <= t_s:
            at_s, _, controller, action = heapq.heappop(heap)
            if controller and at_s < self._paused_until_s:
                self._at(self._paused_until_s, action, controller=True)
                continue
            self.clock.reach(at_s)
            self.events += 1
            action()
        self.clock.reach(t_s)

    def settle(self) -> None:
        """Let everything happen that is due by now."""
        self.run_until(self.now_s)

    def next_event_s(self) -> float | None:
        """When the next thing happens, ``None`` when nothing is due at all."""
        return self._heap[0][0] if self._heap else None

    def _at(self, t_s: float, action: Callable[[], None], controller: bool = False) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (t_s, self._sequence, controller, action))

    # reads
    def jobs(self) -> tuple[Job, ...]:
        """All jobs the controller knows, sorted by id; only changed ones are built anew."""
        if self._jobs_cache is None:
            records = sorted(self.records.values(), key=_by_id)
            self._jobs_cache = tuple(record.seen or record.view(self.priority(record)) for record in records)
        return self._jobs_cache

    def node_views(self) -> tuple[Node, ...]:
        """All nodes, sorted by name."""
        if self._nodes_cache is None:
            self._nodes_cache = tuple(self._node_view(node) for node in self.nodes.values())
        return self._nodes_cache

    def job(self, job_id: JobId) -> Job:
        """One job, even one that the controller has forgotten since. Raises `NoSuchJob`."""
        record = self.records.get(job_id) or self.forgotten.get(job_id)
        if record is None:
            raise NoSuchJob(ESLURM_INVALID_JOB_ID, f"job {job_id}: Invalid job id specified", job_id)
        return record.view(self.priority(record))

    def story(self, job_id: JobId) -> tuple[tuple[float, str], ...]:
        """(time, what happened) of a job, for people and failure messages."""
        record = self.records.get(job_id) or self.forgotten[job_id]
        return tuple(record.history)

    def take_reports(self) -> list[Report]:
        """Reports that jobs wrote since the last call (unless ``on_report`` was given)."""
        taken, self._reports[:] = list(self._reports), []
        return taken

    # inside

    def priority(self, record: JobRecord) -> float:
        """Multifactor-like: partition tier, age (a week at most), what operators added, less the user's nice."""
        tier = max(
            (self.partitions[name].priority_tier for name in record.partitions if name in self.partitions), default=1
        )
        since_s = record.submit_s if record.eligible_s is None else record.eligible_s
        age = min(max(self.now_s - since_s, 0.0) / (7 * _DAY_S), 1.0)
        return 1e5 * tier + 1e3 * age + record.priority_boost - record.submission.nice

    def _known(self, job_id: JobId) -> JobRecord:
        record = self.records.get(job_id)
        if record is None:
            raise NoSuchJob(ESLURM_INVALID_JOB_ID, f"job {job_id}: Invalid job id specified", job_id)
        return record

    def _pending(self, job_id: JobId) -> JobRecord:
        record = self._known(job_id)
        if record.state is not JobState.PENDING:
            raise NotPending(ESLURM_JOB_NOT_PENDING, f"job {job_id}: Job is no longer pending execution", job_id)
        return record

    def _changed(self, record: JobRecord) -> None:
        record.touch()
        self._jobs_cache = None

    def _reason(self, record: JobRecord, reason: str) -> None:
        if record.reason != reason:
            record.reason = reason
            self._changed(record)

    def _edited(self, record: JobRecord, why: str) -> None:
        record.edits += 1
        record.note(self.now_s, f"{why}: {record.request.gpus} GPUs on {record.request.nodes} nodes")
        self._changed(record)
        self._wake_at_begin(record)
        self._kick()

    def _nodes_stale(self) -> None:
        self._nodes_cache = None

    def _set_node(self, name: str, state: NodeState, reason: str) -> None:
        node = self.nodes[name]
        node.state, node.reason, node.view = state, reason, None
        self._nodes_stale()
        self._kick()

    def _reservation_turns(self) -> None:
        for node in self.nodes.values():
            node.view = None
        self._nodes_stale()
        self._kick()

    def _show_promised(self, promised: frozenset[str]) -> None:
        for name in promised ^ self._promised:
            self.nodes[name].view = None
            self._nodes_stale()
        self._promised = promised

    def _node_view(self, node: NodeRecord) -> Node:
        if node.view is None:
            state, reason = node.state, node.reason
            if state is NodeState.UP:
                if node.spec.name in self._promised:
                    state, reason = NodeState.PROMISED, "planned by backfill"
                for reservation in self.reservations.values():
                    if reservation.start_s <= self.now_s < reservation.end_s and node.spec.name in reservation.nodes:
                        state, reason = NodeState.RESERVED, f"reservation {reservation.name}"
            others = [
                need for job_id, need in node.holders.items() if "sia:" not in self.records[job_id].submission.comment
            ]
            node.view = replace(
                node.spec,
                state=state,
                reason=reason,
                cpus_used_by_others=sum(need[1] for need in others),
                memory_mb_used_by_others=sum(need[2] for need in others),
            )
        return node.view

    def _wake_at_begin(self, record: JobRecord) -> None:
        if record.begin_s is not None and record.begin_s > self.now_s:
            self._at(record.begin_s, self._kick, controller=True)

    def _kick(self) -> None:
        """A scheduling pass is due within the scheduling latency."""
        latest_s = self.latencies.schedule_s
        at_s = self.now_s + (self.random.uniform(0.0, latest_s) if latest_s else 0.0)
        if self._pass_at_s is None or at_s < self._pass_at_s or self._pass_at_s < self.now_s:
            self._pass_at_s = at_s
            self._at(at_s, self._pass, controller=True)

    def _pass(self) -> None:
        now_s = self.now_s
        if self._pass_at_s is None or now_s < self._pass_at_s:
            return
        self._pass_at_s = None
        self.passes += 1
        queue: list[JobRecord] = []
        for record in self.records.values():
            if record.state is JobState.PENDING and not record.completing:
                waits = self._not_eligible(record)
                if waits:
                    self._reason(record, waits)
                    continue
                if record.eligible_s is None:
                    record.eligible_s = now_s
                queue.append(record)
        if not queue:
            self._show_promised(frozenset())
            return
        queue.sort(key=lambda record: (-self.priority(record), record.order))
        free = {name: total - used for name, total, used in self.site.licenses}
        for record in self.records.values():
            if record.grants and record.request.licenses:
                for word in filter(None, record.request.licenses.split(",")):
                    name, _, count = word.partition(":")
                    free[name] = free.get(name, 0) - int(count or 1)
        starts, reasons, promised = plan_starts(
            queue,
            now_s=now_s,
            nodes=self.nodes,
            records=self.records,
            partitions=self.partitions,
            reservations=tuple(self.reservations.values()),
            limits=self.limits,
            licences_free=free,
        )
        self._show_promised(promised)
        for job_id, reason in reasons.items():
            self._reason(self.records[job_id], reason)
        for start in starts:
            self._start(self.records[start.job_id], start.grants)

    def _not_eligible(self, record: JobRecord) -> str:
        if record.hold:
            return "launch failed requeued held" if record.hold == "launch-failure" else f"JobHeld{record.hold.title()}"
        if record.begin_s is not None and record.begin_s > self.now_s:
            return "BeginTime"
        for other in record.submission.dependency:
            if other in self.records and self.records[other].state is not JobState.ENDED:
                return "Dependency"
        return ""

    def _allocation(self, grants: tuple[tuple[str, int, int, int], ...]) -> Allocation:
        types = {self.nodes[name].spec.gpu_type for name, gpus, _, _ in grants if gpus}
        return Allocation(
            next(iter(types)) if len(types) == 1 else None, tuple((name, gpus) for name, gpus, _, _ in grants)
        )

    def _start(self, record: JobRecord, grants: tuple[tuple[str, int, int, int], ...]) -> None:
        now_s = self.now_s
        for name, *need in grants:
            self.nodes[name].take(record.id, (need[0], need[1], need[2]))
        record.grants = grants
        record.allocation = self._allocation(grants)
        record.state = JobState.RUNNING
        record.start_s, record.end_s = now_s, None
        record.reason = "None"
        record.epoch += 1
        self._changed(record)
        self._nodes_stale()
        record.note(now_s, f"started on {','.join(f'{name}:{gpus}' for name, gpus, _, _ in grants)}")
        leftover = now_s - record.left_s < self.latencies.leftover_s and set(record.left_nodes) & {g[0] for g in grants}
        if leftover and self.latencies.launch_failure > 0 and self.random.random() < self.latencies.launch_failure:
            self._stop(record, "REQUEUED", requeue=True, hold="launch-failure", die_s=0.0)
            record.note(now_s, "launch failed")
            return
        if leftover and self.latencies.launch_kill > 0 and self.random.random() < self.latencies.launch_kill:
            self._exited(record, Exit(1))
            record.note(now_s, "launch killed")
            return
        record.physics.start(RunStart(record.id, now_s, record.allocation, record.restarts, self._on_report))
        self._arm_physics(record)
        if record.time_limit_s is not None:
            self._at(now_s + record.time_limit_s, self._time_limit_timer(record, record.restarts), controller=True)

    def _arm_physics(self, record: JobRecord) -> None:
        at_s = record.physics.next_s()
        if at_s is None:
            return
        epoch = record.epoch

        def wake() -> None:
            if record.epoch != epoch or record.state is not JobState.RUNNING:
                return
            exit_ = record.physics.wake(self.now_s)
            if exit_ is not None:
                self._exited(record, exit_)
            else:
                self._arm_physics(record)

        self._at(max(at_s, self.now_s), wake)

    def _time_limit_timer(self, record: JobRecord, restarts: int) -> Callable[[], None]:
        def check() -> None:
            if record.state is JobState.RUNNING and record.restarts == restarts and record.start_s is not None:
                self._stop(record, "TIMEOUT", requeue=False)
                self._kick()

        return check

    def _account(self, record: JobRecord, state: str, code: int) -> None:
        if record.start_s is None or record.allocation is None:
            return
        given = record.submission
        self.accounting.append(
            RunRecord(
                record.id,
                record.restarts,
                given.user_id,
                given.account,
                given.qos,
                record.partitions[0],
                given.name,
                record.comment,
                record.submit_s,
                record.eligible_s or record.submit_s,
                record.start_s,
                self.now_s,
                state,
                code,
                record.time_limit_s,
                record.allocation,
            )
        )

    def _exited(self, record: JobRecord, exit_: Exit) -> None:
        """The batch shell ended by itself."""
        self._account(record, exit_.state, exit_.code)
        self._end(record, exit_.state, exit_.code)
        self._complete_after(record, self.latencies.completing_s)

    def _stop(
        self, record: JobRecord, state: str, *, requeue: bool, hold: str = "", die_s: float | None = None
    ) -> None:
        """Kill the run; it is COMPLETING until its processes and the epilogue are done."""
        dies_s = record.physics.stop(self.now_s) if die_s is None else die_s
        self._account(record, state, 0)
        if requeue:
            self._back_to_queue(record, state, hold)
        else:
            self._end(record, state, 0)
        self._complete_after(record, min(dies_s, self.latencies.kill_wait_s) + self.latencies.completing_s)

    def _back_to_queue(self, record: JobRecord, state: str, hold: str = "") -> None:
        now_s = self.now_s
        record.state = JobState.PENDING
        record.restarts += 1
        record.returns = True
        record.eligible_s = record.start_s = record.end_s = record.exit_code = None
        record.ended_by = ""
        record.begin_s = now_s + self.latencies.requeue_delay_s
        record.hold = hold
        record.reason = "launch failed requeued held" if hold else "BeginTime"
        record.epoch += 1
        record.note(now_s, f"back in the queue ({state})")
        self._wake_at_begin(record)
        self._changed(record)

    def _end(self, record: JobRecord, state: str, code: int) -> None:
        now_s = self.now_s
        record.state = JobState.ENDED
        record.ended_by, record.exit_code, record.end_s = state, code, now_s
        record.reason = "None"
        record.epoch += 1
        record.note(now_s, state)
        self._changed(record)
        self._at(now_s + self.latencies.min_job_age_s, lambda: self._forget(record), controller=True)

    def _forget(self, record: JobRecord) -> None:
        purge_s = self._paused_until_s + _PURGE_CYCLE_S
        if self.now_s < purge_s:
            self._at(purge_s, lambda: self._forget(record), controller=True)
            return
        over = record.state is JobState.ENDED and self.now_s >= (record.end_s or 0.0) + self.latencies.min_job_age_s
        if over and not record.completing and self.records.pop(record.id, None) is not None:
            self.forgotten[record.id] = record
            self._jobs_cache = None

    def _complete_after(self, record: JobRecord, seconds: float) -> None:
        record.completing = True
        self._changed(record)
        if seconds <= 0.0:
            self._completed(record)
        else:
            self._at(self.now_s + seconds, lambda: self._completed(record), controller=True)

    def _completed(self, record: JobRecord) -> None:
        for name, *_ in record.grants:
            self.nodes[name].give_back(record.id)
        record.left_nodes, record.left_s = tuple(grant[0] for grant in record.grants), self.now_s
        record.grants, record.allocation, record.completing = (), None, False
        if record.returns:
            record.submit_s, record.returns = self.now_s, False
        self._changed(record)
        self._nodes_stale()
        self._kick()
