"""Answers that need the store: rounds, history, and the past of one job. Reads only; a store that is away is said.

Who may see an ended job follows the same rule as for live ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from slurmsia.cluster import JobId
from slurmsia.models.base import JobModel
from slurmsia.plan import Plan
from slurmsia.store import JobRecord, RoundHead, Store, StoreError

from .callers import Caller
from .problems import Problem
from .rows import head_row, known_rate, move_row, run_row, shape_row, span_row
from .state import View

Json = dict[str, Any]
_TRY_AGAIN_S = 10.0
_NO_STORE = "The store cannot be read now ({error}); answers from it are missing until it is back."


class Records:
    """The store as the API sees it: opened at the first question, and again later where that failed."""

    def __init__(self, opener: Callable[[], Store]) -> None:
        self._opener = opener
        self._store: Store | None = None
        self._lock = threading.Lock()
        self._failed: tuple[float, str] = (float("-inf"), "")

    def _open(self) -> Store:
        with self._lock:
            if self._store is not None:
                return self._store
            if time.monotonic() - self._failed[0] > _TRY_AGAIN_S:
                try:
                    self._store = self._opener()
                except StoreError as error:
                    self._failed = (time.monotonic(), str(error))
                else:
                    return self._store
            raise Problem(503, _NO_STORE.format(error=self._failed[1]))

    def similar_source(self) -> Store | None:
        """Where histories of similar jobs come from."""
        try:
            return self._open()
        except Problem:
            return None

    def rounds(self, start_s: float | None, end_s: float | None, most: int) -> Json:
        store = self._open()
        try:
            return {"rounds": [head_row(head) for head in store.rounds_between(start_s, end_s, most)]}
        except StoreError as error:
            raise Problem(503, _NO_STORE.format(error=error)) from None

    def round(self, view: View, caller: Caller, round_id: int) -> Json:
        """A round and what it decided about jobs that the caller may see."""
        store = self._open()
        try:
            found = store.round(round_id)
        except StoreError as error:
            raise Problem(503, _NO_STORE.format(error=error)) from None
        if found is None:
            raise Problem(404, f"There is no round {round_id}; `slurmsia rounds` lists them.")
        if isinstance(found, RoundHead):
            return {"round": head_row(found), "decisions": []}
        owners = {job.id: job.user_id for job in found.snapshot.jobs}
        return {
            "round": head_row(found.head),
            "decisions": _decisions(found.plan, found.models, lambda job_id: view.sees(caller, owners.get(job_id, -1))),
        }

    def past_of(self, job_id: str) -> Json:
        """Moves, runs and verdicts of the job that has this id now; empty when the store is away."""
        try:
            store = self._open()
            records = store.jobs_named(job_id)
            return {
                "moves": _moves(store, records[0]) if records else [],
                "runs": [run_row(run) for run in records[0].runs] if records else [],
                "before": [span_row(span) for span in store.verdicts_of(job_id, 10)],
            }
        except (StoreError, Problem):
            return {"moves": [], "runs": [], "before": []}

    def history(self, view: View, caller: Caller, job_id: str, start_s: float, end_s: float) -> Json:
        store = self._open()
        try:
            if job_id:
                return self._of_job(store, view, caller, job_id)
            shown = {job.id for job in view.shown(caller)}
            moves = list(store.moves_between(start_s, end_s))
            if not caller.operator and view.jobs_are_private:
                moves = [record for record in moves if record.job_id in shown]
            actions = store.operator_actions(start_s, end_s) if caller.operator else ()
            return {
                "job_id": None,
                "moves": [move_row(record) for record in moves],
                "runs": [],
                "verdicts": [],
                "operators": [
                    {
                        "t_s": action.t_s,
                        "who": action.who,
                        "what": action.what,
                        "job_id": action.job_id,
                        "reason": str(action.detail.get("reason", "")),
                    }
                    for action in actions
                ],
            }
        except StoreError as error:
            raise Problem(503, _NO_STORE.format(error=error)) from None

    def _of_job(self, store: Store, view: View, caller: Caller, job_id: str) -> Json:
        records = [record for record in store.jobs_named(job_id) if view.sees(caller, record.user_id)]
        if not records:
            raise Problem(404, f"The store knows no job {job_id} that you may see.")
        return {
            "job_id": job_id,
            "moves": _moves(store, records[0]),
            "runs": [run_row(run) for run in records[0].runs],
            "verdicts": [span_row(span) for span in store.verdicts_of(job_id)],
            "operators": [],
        }


def _moves(store: Store, record: JobRecord) -> list[Json]:
    """Moves of this job, not of an older one with the same id."""
    return [move_row(move) for move in store.moves_of(record.job_id) if move.created_s >= record.first_submit_s - 1.0]


def _decisions(plan: Plan, models: Mapping[JobId, JobModel], seen: Any) -> list[Json]:
    sentences = {verdict.job_id: verdict.sentence for verdict in plan.verdicts}
    return [
        {
            "job_id": target.job_id,
            "kind": target.kind.value,
            "target": shape_row(target.shape),
            "nodes": [[name, gpus] for name, gpus in target.gpus_by_node],
            "current_goodput": known_rate(models, target.job_id, target.current_goodput),
            "expected_goodput": known_rate(models, target.job_id, target.expected_goodput),
            "sentence": sentences.get(target.job_id, ""),
        }
        for target in plan.targets
        if seen(target.job_id)
    ]
