"""Keeps what we remember of each job (`Standing`) in step with snapshots, finished moves and job reports.

One book serves the daemon and the simulator. It does no I/O and reads no clock; time is the snapshot's. It never
forgets what the user submitted: once an edit of ours may have reached Slurm, the request that Slurm shows is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..cluster import Job, JobId, JobState, Shape, Snapshot
from ..plan import BatchChoice
from ..standing import Standing
from .move import Move, MoveKind, Phase

#: A begin time further ahead than a lease and this many seconds is the user's own.
_LEASE_SLACK_S = 60.0
#: A new run counts as restoring until its first report, but no longer than this.
_RESTORING_S = 600.0


class StandingBook:
    """Standings of the declared jobs that are alive, by job id."""

    def __init__(self, lease_s: float, standings: Mapping[JobId, Standing] | None = None) -> None:
        self._lease_s = lease_s
        self._standings: dict[JobId, Standing] = dict(standings or {})
        self._seen_s: dict[JobId, float] = {}
        self._begin_s: dict[JobId, float | None] = {}
        self._reports: set[JobId] = set()
        self._proven: set[JobId] = set()
        self._changed: set[JobId] = set()

    def standings(self) -> Mapping[JobId, Standing]:
        """The standings now; a copy that later calls do not change."""
        return dict(self._standings)

    def get(self, job_id: JobId) -> Standing | None:
        return self._standings.get(job_id)

    def take_changed(self) -> dict[JobId, Standing]:
        """Standings that changed since the last call, to be stored."""
        changed = {job_id: self._standings[job_id] for job_id in sorted(self._changed) if job_id in self._standings}
        self._changed.clear()
        return changed

    def restore(self, standings: Mapping[JobId, Standing]) -> None:
        """Take over what the store remembers, without overwriting what is already known."""
        for job_id, standing in standings.items():
            self._standings.setdefault(job_id, standing)

    def observe(self, snapshot: Snapshot, flying: Iterable[Move] = ()) -> Mapping[JobId, Standing]:
        """Bring every declared job of the snapshot up to date, forget those that ended; returns the standings."""
        moves = {move.job_id: move for move in flying}
        alive: set[JobId] = set()
        for job in snapshot.jobs:
            if job.state is JobState.ENDED or "sia:" not in job.comment:
                continue
            alive.add(job.id)
            before = self._standings.get(job.id)
            after = self._updated(job, before, moves.get(job.id), snapshot.taken_s)
            if after is not before and after != before:
                self._standings[job.id] = after
                self._changed.add(job.id)
            self._seen_s[job.id] = snapshot.taken_s
            self._begin_s[job.id] = job.begin_s
        for job_id in [job_id for job_id in self._standings if job_id not in alive]:
            del self._standings[job_id]
            self._seen_s.pop(job_id, None)
            self._begin_s.pop(job_id, None)
        for known in (self._proven, self._reports, self._changed):
            known &= alive
        return self.standings()

    def reported(self, job_id: JobId) -> None:
        """A report of the current run arrived: the job has restored."""
        self._reports.add(job_id)
        standing = self._standings.get(job_id)
        if standing is not None and standing.restoring:
            self._set(replace(standing, restoring=False))

    def proven(self, job_id: JobId) -> None:
        """Its owner has rehearsed the job's script; remembered also before the job is first observed."""
        self._proven.add(job_id)
        standing = self._standings.get(job_id)
        if standing is not None and not standing.script_proven:
            self._set(replace(standing, script_proven=True))

    def landed(self, move: Move, now_s: float) -> None:
        """A move came to its end: count it, remember pins, missed graces and harm."""
        standing = self._standings.get(move.job_id)
        if standing is None or not move.phase.final:
            return
        restarted = move.phase is Phase.VERIFIED and move.kind in (MoveKind.MOVE, MoveKind.SUSPEND)
        missed = standing.missed_graces + (1 if move.missed_grace else 0)
        pinned = standing.pinned_reason or move.pinned_reason
        if not pinned and missed >= 2:
            pinned = "it missed two checkpoint graces in this run"
        self._set(
            replace(
                standing,
                moves=standing.moves + (1 if restarted else 0),
                last_moved_s=now_s if restarted else standing.last_moved_s,
                missed_graces=missed,
                pinned_reason=pinned,
                in_flight=None,
                in_flight_nodes=(),
            )
        )

    def pin(self, job_id: JobId, reason: str) -> bool:
        """Pin or (empty reason) unpin a job; ``False`` when it is not known."""
        standing = self._standings.get(job_id)
        if standing is None:
            return False
        self._set(replace(standing, pinned_reason=reason, missed_graces=0 if not reason else standing.missed_graces))
        return True

    def batch(self, job_id: JobId, batch: BatchChoice | None) -> None:
        """The batch the job was told to use."""
        standing = self._standings.get(job_id)
        if standing is not None and standing.batch != batch:
            self._set(replace(standing, batch=batch))

    def _set(self, standing: Standing) -> None:
        self._standings[standing.job_id] = standing
        self._changed.add(standing.job_id)

    def _updated(self, job: Job, before: Standing | None, move: Move | None, now_s: float) -> Standing:
        standing = before if before is not None else self._first(job, now_s)
        untouched = standing.moves == 0 and move is None and job.restarts == 0 and standing.run_started_s is None
        if job.state is JobState.PENDING and untouched:
            begin_s = self._user_begin(job) if before is None else self._user_begin_again(job, before, now_s)
            standing = replace(
                standing,
                submitted=job.request,
                submitted_time_limit_s=job.time_limit_s,
                user_begin_s=begin_s,
                requested=_requested(job),
            )
        changes = self._accounted(job, standing, now_s)
        target = move.target if move is not None and not move.phase.final else None
        changes["in_flight"] = target
        changes["in_flight_nodes"] = move.gpus_by_node if move is not None and target is not None else ()
        changes["restarts"] = max(standing.restarts, job.restarts)
        return changed(standing, changes)

    def _first(self, job: Job, now_s: float) -> Standing:
        return Standing(
            job.id,
            first_submit_s=job.submit_s or now_s,
            restarts=job.restarts,
            requested=_requested(job),
            submitted=job.request,
            submitted_time_limit_s=job.time_limit_s,
            user_begin_s=self._user_begin(job),
            wait_since_s=(job.submit_s or now_s) if job.state is JobState.PENDING else None,
            script_proven=job.id in self._proven,
        )

    def _user_begin(self, job: Job) -> float | None:
        if job.state is not JobState.PENDING or job.begin_s is None:
            return None
        return job.begin_s if job.begin_s > job.submit_s + self._lease_s + _LEASE_SLACK_S else None

    def _user_begin_again(self, job: Job, before: Standing, now_s: float) -> float | None:
        """The begin time of its user of a job seen before: its user's stays its user's while it lies ahead; of a new
        one only what a lease of ours, written since the last look, can be is not the user's."""
        if job.begin_s is None or (before.user_begin_s is not None and before.user_begin_s > now_s):
            return job.begin_s
        if job.begin_s == self._begin_s.get(job.id):
            return before.user_begin_s
        earliest_s = self._seen_s.get(job.id, -math.inf) + self._lease_s - _LEASE_SLACK_S
        latest_s = now_s + self._lease_s + _LEASE_SLACK_S
        return None if earliest_s <= job.begin_s <= latest_s else job.begin_s

    def _accounted(self, job: Job, standing: Standing, now_s: float) -> dict[str, Any]:
        """Fields that may change: GPU-seconds, time run, since when it waits, and whether a new run still restores."""
        seen_s = self._seen_s.get(job.id)
        if job.state is JobState.RUNNING and not job.completing:
            held = job.allocation.gpus if job.allocation is not None else 0
            start_s = job.start_s if job.start_s is not None else now_s
            new_run = standing.run_started_s != start_s
            since = start_s if new_run or seen_s is None else max(seen_s, start_s)
            if seen_s is None and standing.service_gpu_s > 0 and not new_run:
                since = now_s
            service = held * max(0.0, now_s - since)
            restoring = standing.restoring and now_s - start_s < _RESTORING_S
            if new_run and job.id in self._reports:
                self._reports.discard(job.id)
                restoring = True
            found: dict[str, Any] = {
                "run_started_s": start_s,
                "wait_since_s": None,
                "restoring": restoring,
                "service_gpu_s": standing.service_gpu_s + service,
                "gpu_h_used": standing.gpu_h_used + service / 3600.0,
            }
            if new_run:
                found |= {"missed_graces": 0, "pinned_reason": _pin_for_new_run(standing)}
            return found
        if job.state is JobState.PENDING and standing.run_started_s is not None:
            ran = max(0.0, (seen_s if seen_s is not None else now_s) - standing.run_started_s)
            return {"run_started_s": None, "wait_since_s": now_s, "ran_s": standing.ran_s + ran, "restoring": False}
        if job.state is JobState.PENDING and standing.wait_since_s is None:
            return {"wait_since_s": now_s}
        return {}


def changed(standing: Standing, changes: Mapping[str, Any]) -> Standing:
    """The standing with some fields changed; the same object where none is different."""
    different = {name: value for name, value in changes.items() if getattr(standing, name) != value}
    return replace(standing, **different) if different else standing


def _pin_for_new_run(standing: Standing) -> str:
    """Missed graces pin one run only; every other pin (lost progress, an operator's) lasts."""
    return "" if "grace" in standing.pinned_reason else standing.pinned_reason


def _requested(job: Job) -> Shape | None:
    asked = job.request
    if asked.gpu_type is None or asked.gpus <= 0 or asked.gpus % max(asked.nodes, 1):
        return None
    return Shape(asked.gpu_type, asked.nodes, asked.gpus)
