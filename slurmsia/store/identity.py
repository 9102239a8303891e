"""Which stored job a Slurm job id means, and the rows of jobs, kinds and runs that follow from a snapshot.

Slurm reuses ids and resets the submit time at every requeue; a job's identity here is its id, its cluster and its
first submission. Nothing is ever deleted here, and a job that reappears is opened again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, case, select, update

from .. import cluster
from .engine import Database, DbRow
from .schema import Cluster, Job, Kind, Run

Item = TypeVar("Item")

_CHUNK = 5_000
#: Ended with this word, a job did all it wanted: what it had done by then says how much similar jobs will do.
_DONE = "COMPLETED"
UNKNOWN_END = "unknown"


def chunks(items: Sequence[Item], size: int = _CHUNK) -> Iterator[Sequence[Item]]:
    """Slices small enough for one statement's parameters on either database."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What identifies a job where it was seen: in a snapshot or in front of a report."""

    slurm_id: str
    user_id: int
    submit_s: float
    restarts: int
    name: str = ""
    account: str = ""
    comment: str = ""
    script_hash: str = ""
    sluid: str = ""


def is_same_job(row: DbRow, seen: Sighting) -> bool:
    """Whether the id's present owner in the store is the job that was seen.

    A requeue keeps owner and script, raises the restart count, and moves the submit time forward: the count as soon as
    the run is killed, the time when nothing of the run is left (seconds later, 26.05). A snapshot in between has shown
    the count alone. Anything else is another job that inherited the id.
    """
    if row.sluid and row.sluid == seen.sluid:
        return True
    if row.user_id != seen.user_id or seen.restarts < row.restarts:
        return False
    if row.script_hash and seen.script_hash and row.script_hash != seen.script_hash:
        return False
    if seen.submit_s == row.last_submit_s:
        return True
    counted = seen.restarts > row.restarts or (seen.restarts == row.restarts > 0 and row.ended_s is None)
    return bool(counted and seen.submit_s > row.last_submit_s)


def ensure_cluster(db: Database, connection: Connection, name: str, now_s: float) -> int:
    """Row id of the cluster, made on first sight."""
    if (found := cluster_row(connection, name)) >= 0:
        return found
    connection.execute(db.insert(Cluster).values(name=name, created_s=now_s).on_conflict_do_nothing())
    return connection.execute(select(Cluster.id).where(Cluster.name == name)).scalar_one()


def script_key(script_hash: str, name: str) -> str:
    """What stands for the script: its hash, or the job's name where Slurm would not tell the script."""
    return script_hash or (f"name:{name}" if name else "")


def cluster_row(connection: Connection, name: str) -> int:
    """Row id of the cluster, -1 when the store has never heard of it."""
    found = connection.execute(select(Cluster.id).where(Cluster.name == name)).scalar_one_or_none()
    return -1 if found is None else found


def _likeness(user_id: int, script: str) -> str:
    if user_id >= 0:
        return "user+script"
    return "script" if script else "cluster"


def ensure_kinds(
    db: Database, connection: Connection, cluster_id: int, wanted: Iterable[tuple[int, str]]
) -> dict[tuple[int, str], int]:
    """Row ids of kinds by (user id, script); user -1 stands for "any user"."""
    keys = sorted(set(wanted))
    found: dict[tuple[int, str], int] = {}
    if not keys:
        return found
    scripts = sorted({script for _, script in keys})

    def look() -> None:
        for part in chunks(scripts):
            statement = select(Kind.id, Kind.user_id, Kind.script).where(
                Kind.cluster_id == cluster_id, Kind.script.in_(part)
            )
            found.update({(row.user_id, row.script): row.id for row in connection.execute(statement)})

    look()
    missing = [key for key in keys if key not in found]
    if missing:
        rows = [
            {"cluster_id": cluster_id, "likeness": _likeness(user, s), "user_id": user, "script": s}
            for user, s in missing
        ]
        connection.execute(db.insert(Kind).on_conflict_do_nothing(), rows)
        look()
    return found


_JOB_COLUMNS = (
    Job.id, Job.slurm_id, Job.first_submit_s, Job.last_submit_s, Job.user_id, Job.script_hash, Job.sluid, Job.state,
    Job.restarts, Job.ended_s, Job.user_kind_id, Job.script_kind_id, Job.counted, Job.progress_samples, Job.name,
    Job.comment,
)  # fmt: skip


_CURRENT = (
    select(*_JOB_COLUMNS)
    .where(Job.cluster_id == bindparam("b_cluster"), Job.current, Job.slurm_id.in_(bindparam("b_ids", expanding=True)))
    .order_by(Job.id)
    .with_for_update()
)


def current_rows(connection: Connection, cluster_id: int, slurm_ids: Iterable[str]) -> dict[str, DbRow]:
    """The present owners of Slurm ids, locked against other writers (PostgreSQL; SQLite has one writer anyway)."""
    rows: dict[str, DbRow] = {}
    for part in chunks(sorted(set(slurm_ids))):
        found = connection.execute(_CURRENT, {"b_cluster": cluster_id, "b_ids": part})
        rows.update({row.slurm_id: row for row in found})
    return rows


def ensure_jobs(
    db: Database, connection: Connection, cluster_id: int, seen: Sequence[Sighting], now_s: float
) -> dict[str, DbRow]:
    """The row of every job seen; ids that changed hands get a new row and their old one stops being current."""
    rows = current_rows(connection, cluster_id, (job.slurm_id for job in seen))
    fresh = [job for job in seen if job.slurm_id not in rows or not is_same_job(rows[job.slurm_id], job)]
    if not fresh:
        return rows
    replaced = [rows[job.slurm_id] for job in fresh if job.slurm_id in rows]
    _retire(connection, replaced, now_s)
    kinds = ensure_kinds(
        db,
        connection,
        cluster_id,
        [(user, key) for job in fresh if (key := script_key(job.script_hash, job.name)) for user in (job.user_id, -1)],
    )
    values = []
    for job in fresh:
        key = script_key(job.script_hash, job.name)
        values.append({
            "cluster_id": cluster_id, "slurm_id": job.slurm_id, "first_submit_s": job.submit_s,
            "last_submit_s": job.submit_s, "sluid": job.sluid, "user_id": job.user_id, "name": job.name,
            "account": job.account, "comment": job.comment, "script_hash": job.script_hash, "state": "pending",
            "restarts": job.restarts, "last_seen_s": now_s, "current": True,
            "user_kind_id": kinds.get((job.user_id, key)), "script_kind_id": kinds.get((-1, key)),
        })  # fmt: skip
    insert = db.insert(Job)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["cluster_id", "slurm_id", "first_submit_s"],
            set_={"current": True, "last_submit_s": insert.excluded.last_submit_s},
        ),
        values,
    )
    rows.update(current_rows(connection, cluster_id, (job.slurm_id for job in fresh)))
    return rows


def _retire(connection: Connection, rows: Sequence[DbRow], now_s: float) -> None:
    """Their ids belong to other jobs now: whatever of them was still open has ended unseen."""
    if not rows:
        return
    close_runs(connection, [(row.id, now_s, UNKNOWN_END) for row in rows])
    open_ids = [row.id for row in rows if row.ended_s is None]
    for part in chunks([row.id for row in rows]):
        connection.execute(update(Job).where(Job.id.in_(part)).values(current=False))
    for part in chunks(open_ids):
        connection.execute(
            update(Job).where(Job.id.in_(part)).values(state="ended", ended_s=now_s, end_state=UNKNOWN_END)
        )


def close_runs(connection: Connection, closings: Sequence[tuple[int, float, str]]) -> None:
    """Close the open run of each (job row, end, how); an end before the start counts as the start."""
    if not closings:
        return
    end: Any = bindparam("b_end")
    connection.execute(
        update(Run)
        .where(Run.job_id == bindparam("b_job"), Run.ended_s.is_(None))
        .values(ended_s=case((end > Run.started_s, end), else_=Run.started_s), how_ended=bindparam("b_how")),
        [{"b_job": job, "b_end": at, "b_how": how or UNKNOWN_END} for job, at, how in closings],
    )


def storable(text: str) -> str:
    """Users' words as both databases take them: no NUL, nothing that is no Unicode."""
    text = text.replace("\0", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def is_of_interest(job: cluster.Job) -> bool:
    """Jobs with GPUs or with our words; a site's CPU jobs would only bloat the store."""
    if job.user_id < 0 or job.restarts < 0 or not job.id:
        return False
    held = job.allocation.gpus if job.allocation is not None else 0
    return job.request.gpus > 0 or held > 0 or "sia:" in job.comment


def fingerprint(job: cluster.Job) -> tuple[Any, ...]:
    """Everything of a job that its rows follow; unchanged means nothing to write."""
    return (
        job.user_id, job.submit_s, job.state, job.restarts, job.completing, job.start_s, job.end_s, job.end_state,
        job.allocation, job.name, job.comment, job.script_hash, job.sluid,
    )  # fmt: skip


def sighting(job: cluster.Job) -> Sighting:
    return Sighting(
        job.id,
        job.user_id,
        job.submit_s,
        job.restarts,
        storable(job.name),
        storable(job.account),
        storable(job.comment),
        storable(job.script_hash),
        storable(job.sluid),
    )


def write_jobs(
    db: Database, connection: Connection, cluster_id: int, jobs: Sequence[cluster.Job], taken_s: float
) -> dict[str, int]:
    """Bring the rows of these jobs and their runs to what the snapshot says; returns row ids by Slurm id."""
    if not jobs:
        return {}
    seen = {job.id: sighting(job) for job in jobs}
    rows = ensure_jobs(db, connection, cluster_id, list(seen.values()), taken_s)
    updates, closings, openings = [], [], []
    for job in jobs:
        row, words = rows[job.id], seen[job.id]
        ended = job.state is cluster.JobState.ENDED
        ended_s = None if not ended else (job.end_s if job.end_s is not None else taken_s)
        end_state = (storable(job.end_state) or UNKNOWN_END) if ended else ""
        updates.append({
            "b_id": row.id, "last_submit_s": job.submit_s, "state": job.state.value, "restarts": job.restarts,
            "ended_s": ended_s, "end_state": end_state, "last_seen_s": taken_s, "name": words.name,
            "comment": words.comment, "account": words.account, "sluid": words.sluid or row.sluid,
            "script_hash": words.script_hash or row.script_hash,
            "final_samples": row.progress_samples if end_state == _DONE else None,
        })  # fmt: skip
        opening = _run_values(job, row.id, ended_s, end_state)
        if opening is not None and opening["ended_s"] is None:
            openings.append(opening)
            closings.append((row.id, job.start_s or taken_s, "requeued", job.restarts))
        else:
            if opening is not None:
                openings.append(opening)
            closings.append((row.id, ended_s or min(job.submit_s, taken_s), end_state or "requeued", -1))
    _close_others(connection, closings)
    _write_runs(db, connection, openings)
    connection.execute(
        update(Job)
        .where(Job.id == bindparam("b_id"))
        .values({name: bindparam(name) for name in updates[0] if name != "b_id"}),
        updates,
    )
    return {job.id: rows[job.id].id for job in jobs}


def _write_runs(db: Database, connection: Connection, runs: Sequence[dict[str, Any]]) -> None:
    """Insert or refresh runs; an ended job that no longer shows its GPUs keeps those it was seen to hold."""
    times = ("started_s", "ended_s", "how_ended")
    held = ("gpu_type", "nodes", "gpus", "node_names")
    for part, copied in (
        ([run for run in runs if run["gpus"] > 0], times + held),
        ([run for run in runs if run["gpus"] == 0], times),
    ):
        if part:
            insert = db.insert(Run)
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["job_id", "restart"], set_={name: insert.excluded[name] for name in copied}
                ),
                part,
            )


def _run_values(job: cluster.Job, row_id: int, ended_s: float | None, end_state: str) -> dict[str, Any] | None:
    """The run the job is in or ended in, or ``None`` while it waits."""
    holds = job.state in (cluster.JobState.RUNNING, cluster.JobState.SUSPENDED)
    if job.start_s is None or not (holds or job.state is cluster.JobState.ENDED):
        return None
    allocation = job.allocation
    if ended_s is not None and allocation is None and ended_s <= job.start_s:
        return None
    return {
        "job_id": row_id, "restart": job.restarts, "started_s": job.start_s,
        "ended_s": None if ended_s is None else max(ended_s, job.start_s), "how_ended": end_state,
        "gpu_type": allocation.gpu_type if allocation else None,
        "nodes": len(allocation.nodes) if allocation else 0, "gpus": allocation.gpus if allocation else 0,
        "node_names": ",".join(allocation.nodes) if allocation else "",
    }  # fmt: skip


def _close_others(connection: Connection, closings: Sequence[tuple[int, float, str, int]]) -> None:
    """Close open runs except the one with the given restart number (-1: all)."""
    open_runs: dict[int, DbRow] = {}
    for part in chunks([row_id for row_id, *_ in closings]):
        statement = select(Run.job_id, Run.restart).where(Run.ended_s.is_(None), Run.job_id.in_(part))
        open_runs.update({row.job_id: row for row in connection.execute(statement)})
    close_runs(
        connection,
        [
            (row_id, at, how)
            for row_id, at, how, keep in closings
            if row_id in open_runs and open_runs[row_id].restart != keep
        ],
    )


def end_vanished(connection: Connection, cluster_id: int, slurm_ids: Sequence[str], taken_s: float) -> None:
    """Jobs that Slurm no longer shows ended while nobody looked; how is not known."""
    if not slurm_ids:
        return
    ids: list[int] = []
    for part in chunks(sorted(slurm_ids)):
        statement = select(Job.id).where(
            Job.cluster_id == cluster_id, Job.current, Job.ended_s.is_(None), Job.slurm_id.in_(part)
        )
        ids.extend(connection.execute(statement).scalars())
    close_runs(connection, [(row_id, taken_s, UNKNOWN_END) for row_id in ids])
    for part_ids in chunks(ids):
        connection.execute(
            update(Job).where(Job.id.in_(part_ids)).values(state="ended", ended_s=taken_s, end_state=UNKNOWN_END)
        )


def unfinished_ids(connection: Connection, cluster_id: int) -> list[str]:
    """Slurm ids of every job the store believes unfinished."""
    statement = select(Job.slurm_id).where(Job.cluster_id == cluster_id, Job.current, Job.ended_s.is_(None))
    return list(connection.execute(statement).scalars())
