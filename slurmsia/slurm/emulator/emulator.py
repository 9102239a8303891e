"""An in-memory slurmctld that behaves as measured on real releases, on a virtual or a real clock; event driven.

`Emulator` is the cluster, its controller and its users: submit jobs, advance time, fail nodes, cancel or edit as a
user would. `Emulator.client()` is what slurmsia talks to (`SlurmClient`). Time moves only by `advance`, `run_until` or
a real clock; the same calls with the same seed give the same history, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...cluster import GpuLimit, JobId, JobState, NodeState, Partition, Reservation
from ..client import SlurmRejected
from .core import Controller, SubmitHook
from .edit import ESLURM_DISABLED, ESLURM_JOB_NOT_RUNNING, ESLURM_NOT_SUPPORTED, Update, apply_update
from .job import JobRecord, Submission
from .physics import JobPhysics, NeverEnding

if TYPE_CHECKING:
    from .client import EmulatorClient


def lease_at_submit(heartbeat_s: Callable[[], float | None], lease_s: float, fresh_s: float = 180.0) -> SubmitHook:
    """What contrib/job_submit.lua does: a declared job waits on a lease while the daemon's heartbeat is fresh.

    ``heartbeat_s`` gives the epoch second in the heartbeat file, ``None`` when there is no file.
    """

    def submit(submission: Submission, now_s: float) -> Submission:
        beat_s = heartbeat_s()
        fresh = beat_s is not None and now_s - beat_s <= fresh_s
        later = submission.begin_s is not None and submission.begin_s > now_s
        if fresh and not later and submission.comment.lstrip().startswith("sia:"):
            return replace(submission, begin_s=now_s + lease_s)
        return submission

    return submit


class Emulator(Controller):
    """One emulated cluster. Clients take the lock; users in other threads must hold it."""

    # users

    def submit(self, submission: Submission, physics: JobPhysics | None = None, job_id: JobId | None = None) -> JobId:
        """sbatch: returns the job's id. Raises `SlurmRejected` when the site's hook or a limit refuses it."""
        now_s = self.now_s
        if self.submit_hook is not None:
            submission = self.submit_hook(submission, now_s)
        unknown = [name for name in submission.partitions if name not in self.partitions]
        if unknown:
            raise SlurmRejected(2000, f"Invalid partition name specified: {unknown[0]}")
        if job_id is None:
            job_id = str(self._next_id)
            self._next_id += 1
        if job_id in self.records or job_id in self.forgotten:
            raise ValueError(f"job {job_id} was submitted before")
        self._orders += 1
        record = JobRecord(
            id=job_id,
            order=self._orders,
            submission=submission,
            physics=physics or NeverEnding(),
            request=submission.request,
            submit_s=now_s,
            first_submit_s=now_s,
            comment=submission.comment,
            partitions=submission.partitions,
            time_limit_s=submission.time_limit_s,
            begin_s=submission.begin_s,
            hold="user" if submission.held else "",
            reason="JobHeldUser" if submission.held else "None",
        )
        record.note(now_s, "submitted")
        self.records[job_id] = record
        self._jobs_cache = None
        self._wake_at_begin(record)
        self._kick()
        return job_id

    def submit_array(self, submission: Submission, physics: Iterable[JobPhysics]) -> list[JobId]:
        """sbatch --array: one job ``A_T`` per task, split at once."""
        array = self._next_id
        self._next_id += 1
        return [self.submit(submission, task, f"{array}_{index}") for index, task in enumerate(physics)]

    def user_cancel(self, job_id: JobId) -> None:
        """scancel by the job's user."""
        record = self._known(job_id)
        if record.state is JobState.ENDED:
            return
        if record.state is JobState.PENDING:
            self._end(record, "CANCELLED", 0)
        else:
            self._stop(record, "CANCELLED", requeue=False)
        self._kick()

    def user_hold(self, job_id: JobId) -> None:
        """scontrol uhold by the job's user (pending jobs only)."""
        record = self._pending(job_id)
        record.hold = "user"
        self._reason(record, "JobHeldUser")
        record.note(self.now_s, "held by its user")

    def user_release(self, job_id: JobId) -> None:
        """scontrol release: ends any hold of a pending job and its begin time, as Slurm does."""
        record = self._pending(job_id)
        record.hold = ""
        self._reason(record, "None")
        record.note(self.now_s, "released")
        self._kick()

    def user_edit(self, job_id: JobId, update: Update) -> None:
        """scontrol update by the job's user."""
        record = self._known(job_id)
        apply_update(record, update, nodes=self.nodes, partitions=self.partitions)
        self._edited(record, "edited by its user")

    def user_requeue(self, job_id: JobId) -> None:
        """scontrol requeue by the job's user."""
        self.requeue(job_id, "requeued by its user")

    # operators and hardware

    def drain(self, node: str, reason: str = "drained by an operator") -> None:
        """Nothing new starts on the node; running jobs stay."""
        self._set_node(node, NodeState.DRAINED, reason)

    def resume(self, node: str) -> None:
        """The node is back in service."""
        self._set_node(node, NodeState.UP, "")

    def fail_node(self, node: str, reason: str = "Not responding") -> None:
        """The node goes down: its jobs are requeued by Slurm (or end as NODE_FAIL with --no-requeue)."""
        self._set_node(node, NodeState.UNUSABLE, reason)
        for job_id in list(self.nodes[node].holders):
            record = self.records[job_id]
            if record.state is JobState.RUNNING:
                self._stop(record, "NODE_FAIL", requeue=record.submission.requeue)
        self._kick()

    def preempt(self, job_id: JobId) -> None:
        """Slurm itself requeues a running job to make room."""
        record = self._known(job_id)
        if record.state is JobState.RUNNING:
            self._stop(record, "PREEMPTED", requeue=record.submission.requeue)
            self._kick()

    def reserve(self, reservation: Reservation) -> None:
        """Create or replace a reservation."""
        self.reservations[reservation.name] = reservation
        self._nodes_stale()
        for t_s in (reservation.start_s, reservation.end_s):
            if t_s > self.now_s:
                self._at(t_s, self._reservation_turns, controller=True)
        self._kick()

    def set_partition(self, partition: Partition) -> None:
        """Create or replace a partition (its node list included)."""
        self.partitions[partition.name] = partition
        self._kick()

    def set_limits(self, limits: tuple[GpuLimit, ...]) -> None:
        """Replace the limits of associations, QOS and partitions."""
        self.limits = limits
        self._kick()

    def pause_controller(self, duration_s: float) -> None:
        """slurmctld neither answers nor acts for a while; jobs run on. A restart with state looks the same."""
        self._paused_until_s = max(self._paused_until_s, self.now_s + duration_s)

    # what clients do

    def client(self, name: str = "emulator", rate_limit_per_s: float | None = None) -> EmulatorClient:
        """A client of this controller (`SlurmClient`); several may exist at a time."""
        from .client import EmulatorClient

        return EmulatorClient(self, name, rate_limit_per_s)

    def requeue(self, job_id: JobId, why: str = "requeued") -> None:
        """Plain requeue of a running or ended job: COMPLETING, then PENDING with begin = now + the requeue delay."""
        record = self._known(job_id)
        if record.state is JobState.PENDING:
            raise SlurmRejected(ESLURM_JOB_NOT_RUNNING, f"job {job_id}: Job is not running", job_id)
        if not record.submission.requeue:
            raise SlurmRejected(ESLURM_DISABLED, f"job {job_id}: Requested operation is presently disabled", job_id)
        if record.state is JobState.ENDED:
            self._back_to_queue(record, record.ended_by)
        else:
            self._stop(record, "REQUEUED", requeue=True)
        record.note(self.now_s, why)
        self._kick()

    def update(self, job_id: JobId, update: Update, why: str = "edited") -> None:
        """One atomic update of a job, through the site's modify hook."""
        record = self._known(job_id)
        if self.modify_hook is not None:
            update = self.modify_hook(record.view(self.priority(record)), update)
        apply_update(record, update, nodes=self.nodes, partitions=self.partitions)
        self._edited(record, why)

    def end_launch_failure_hold(self, job_id: JobId) -> None:
        """Release a job that Slurm held after a failed launch; refuses any other hold."""
        record = self._pending(job_id)
        if record.hold == "":
            return
        if record.hold != "launch-failure":
            raise SlurmRejected(ESLURM_NOT_SUPPORTED, f"job {job_id} is held by {record.hold}, not by Slurm", job_id)
        record.hold = ""
        self._reason(record, "None")
        record.note(self.now_s, "launch-failure hold ended")
        self._kick()

    def shrink(self, job_id: JobId, keep_nodes: tuple[str, ...]) -> None:
        """Whole nodes of a running job are given back; ``keep_nodes`` keeps the batch host."""
        record = self._known(job_id)
        if record.state is not JobState.RUNNING or record.allocation is None:
            raise SlurmRejected(ESLURM_JOB_NOT_RUNNING, f"job {job_id}: Job is not running", job_id)
        if not self.site.job_shrink_allowed:
            raise SlurmRejected(ESLURM_DISABLED, f"job {job_id}: Requested operation is presently disabled", job_id)
        held = record.allocation.nodes
        if not set(keep_nodes) <= set(held) or not keep_nodes or held[0] not in keep_nodes:
            raise SlurmRejected(
                ESLURM_NOT_SUPPORTED, f"job {job_id}: shrinking keeps a part of its nodes and its batch host", job_id
            )
        for name in set(held) - set(keep_nodes):
            self.nodes[name].give_back(job_id)
        record.grants = tuple(grant for grant in record.grants if grant[0] in keep_nodes)
        record.allocation = self._allocation(record.grants)
        record.physics.resize(record.allocation, self.now_s)
        record.epoch += 1
        self._arm_physics(record)
        self._changed(record)
        self._nodes_stale()
        record.note(self.now_s, f"shrunk to {','.join(keep_nodes)}")
        self._kick()

    def signal(self, job_id: JobId, name: str) -> None:
        """A signal to the batch shell; its physics may end the run or begin a checkpoint."""
        record = self._known(job_id)
        if record.state is not JobState.RUNNING:
            raise SlurmRejected(ESLURM_JOB_NOT_RUNNING, f"job {job_id}: Job is not running", job_id)
        exit_ = record.physics.signal(name, self.now_s)
        record.note(self.now_s, f"got {name}")
        if exit_ is not None:
            self._exited(record, exit_)
        else:
            record.epoch += 1
            self._arm_physics(record)

    def set_priority(self, job_id: JobId, boost: float) -> None:
        """An operator raises or lowers a job."""
        record = self._known(job_id)
        record.priority_boost = boost
        self._changed(record)
        self._kick()
