"""Job reports into the database: each exactly once, whatever is repeated, and never a batch lost for one bad report.

Identity is (job, restart, seq). A run keeps the highest seq it has stored; anything up to that is a duplicate. The
sums go to the run and, in the same transaction, to the kinds the job belongs to, so that questions about similar
jobs never scan.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, select, update

from ..history import Gradient, Observation, Report, noise_cell
from . import codec
from .engine import Database, DbRow
from .flaws import flaw
from .identity import Sighting, chunks, close_runs, current_rows, ensure_jobs, is_same_job, storable
from .records import IngestResult, RejectedReport, ReportContext
from .schema import (
    GradientPoint,
    Job,
    Kind,
    KindMemoryPeak,
    KindNoise,
    KindObservation,
    MemoryPeak,
    ProgressPoint,
    RestartCostRow,
    Run,
    RunObservation,
)  # fmt: skip

#: A report may be this much older than its job's submission before it must belong to an earlier owner of the id.
_CLOCK_SKEW_S = 300.0

ShapeKey = tuple[str, int, int, float, int]
CellKey = tuple[int, int]
Offered = tuple[Report, ReportContext | None]


@dataclass(slots=True)
class _RunState:
    """What a batch adds to one run."""

    id: int
    job: DbRow
    last_seq: int
    last_point_s: float
    last_report_s: float = -math.inf
    handles_signal: bool = False
    energy_j: float = 0.0
    net_bytes: float = 0.0
    extra: dict[str, str] = field(default_factory=dict)
    restart_parts: dict[str, float] = field(default_factory=dict)
    touched: bool = False


@dataclass(slots=True)
class _Batch:
    """Everything a batch of reports adds, keyed by the rows it goes to."""

    run_sums: dict[tuple[int, ShapeKey], list[float]] = field(default_factory=dict)
    kind_sums: dict[tuple[int, ShapeKey], list[float]] = field(default_factory=dict)
    kind_noise: dict[tuple[int, CellKey], list[float]] = field(default_factory=dict)
    job_peaks: dict[tuple[int, str, float], tuple[float, float | None]] = field(default_factory=dict)
    kind_peaks: dict[tuple[int, str, float], tuple[float, float | None]] = field(default_factory=dict)
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    kinds: dict[int, dict[str, Any]] = field(default_factory=dict)
    gradients: list[dict[str, Any]] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)


def ingest(
    db: Database, connection: Connection, cluster_id: int, offered: Sequence[Offered], point_every_s: float,
    now_s: float,
) -> IngestResult:  # fmt: skip
    """Store a batch within the caller's transaction."""
    rejected: list[RejectedReport] = []
    duplicates = 0
    good: dict[tuple[str, int, int], Offered] = {}
    for report, context in offered:
        why = flaw(report)
        if why:
            rejected.append(RejectedReport(report.job_id, report.restart, report.seq, why))
        elif (key := (report.job_id, report.restart, report.seq)) in good:
            duplicates += 1
        else:
            good[key] = (report, context)
    rows = _job_rows(db, connection, cluster_id, list(good.values()), now_s)
    filed: list[Offered] = []
    for report, context in good.values():
        row = rows.get(report.job_id)
        why = _misfit(row, report, context)
        if why:
            rejected.append(RejectedReport(report.job_id, report.restart, report.seq, why))
        else:
            filed.append((report, context))
    filed.sort(key=lambda item: (item[0].job_id, item[0].restart, item[0].seq))
    runs = _ensure_runs(db, connection, rows, [report for report, _ in filed])
    batch = _Batch()
    accepted: dict[str, int] = defaultdict(int)
    for report, context in filed:
        run = runs[(rows[report.job_id].id, report.restart)]
        if report.seq <= run.last_seq:
            duplicates += 1
            continue
        _add(batch, run, report, context, point_every_s)
        accepted[report.job_id] += 1
    _write(db, connection, cluster_id, batch, [run for run in runs.values() if run.touched])
    return IngestResult(sum(accepted.values()), duplicates, tuple(rejected), dict(accepted))


def _job_rows(
    db: Database, connection: Connection, cluster_id: int, offered: Sequence[Offered], now_s: float
) -> dict[str, DbRow]:
    seen: dict[str, Sighting] = {}
    for report, context in offered:
        if context is not None and (report.job_id not in seen or report.restart > seen[report.job_id].restarts):
            seen[report.job_id] = Sighting(
                report.job_id, context.user_id, context.submit_s, report.restart, storable(context.name),
                script_hash=storable(context.script_hash), sluid=storable(context.sluid),
            )  # fmt: skip
    rows = current_rows(connection, cluster_id, {report.job_id for report, _ in offered})
    unknown = [
        job for job in seen.values()
        if job.slurm_id not in rows
        or (job.submit_s > rows[job.slurm_id].last_submit_s and not _may_be(rows[job.slurm_id], job))
    ]  # fmt: skip
    if unknown:
        rows.update(ensure_jobs(db, connection, cluster_id, unknown, now_s))
    return rows


def _may_be(row: DbRow, seen: Sighting) -> bool:
    """A late report of an earlier run of the same job still is of that job."""
    late = Sighting(
        seen.slurm_id, seen.user_id, seen.submit_s, max(seen.restarts, row.restarts), script_hash=seen.script_hash,
        sluid=seen.sluid,
    )  # fmt: skip
    return is_same_job(row, seen) or is_same_job(row, late)


def _misfit(row: DbRow | None, report: Report, context: ReportContext | None) -> str:
    if row is None:
        return "no such job was seen yet; offer the report again after the next snapshot"
    if context is not None and context.user_id != row.user_id:
        return f"written by user {context.user_id} but the job belongs to user {row.user_id}"
    if report.t_s < row.first_submit_s - _CLOCK_SKEW_S:
        return "older than the job's first submission: it belongs to an earlier job of the same id"
    return ""


def _ensure_runs(
    db: Database, connection: Connection, rows: dict[str, DbRow], reports: Sequence[Report]
) -> dict[tuple[int, int], _RunState]:
    """The runs that the reports speak of; a run that no snapshot showed yet is opened by its first report."""
    by_row = {row.id: row for row in rows.values()}
    first: dict[tuple[int, int], Report] = {}
    for report in reports:
        first.setdefault((rows[report.job_id].id, report.restart), report)
    stored: dict[tuple[int, int], DbRow] = {}
    newest_open: dict[int, int] = {}

    def look() -> None:
        for part in chunks(sorted({row_id for row_id, _ in first})):
            statement = select(
                Run.id, Run.job_id, Run.restart, Run.last_seq, Run.last_point_s, Run.ended_s
            ).where(Run.job_id.in_(part))  # fmt: skip
            for run in connection.execute(statement):
                stored[(run.job_id, run.restart)] = run
                if run.ended_s is None:
                    newest_open[run.job_id] = run.restart

    look()
    missing = [key for key in first if key not in stored]
    if missing:
        newest: dict[int, int] = dict(newest_open)
        for row_id, restart in missing:
            if by_row[row_id].ended_s is None:
                newest[row_id] = max(restart, newest.get(row_id, restart))
        opened = {(row_id, newest[row_id]) for row_id, _ in missing if row_id in newest} - stored.keys()
        close_runs(connection, [
            (row_id, first[(row_id, restart)].t_s, "requeued")
            for row_id, restart in sorted(opened) if row_id in newest_open
        ])  # fmt: skip
        connection.execute(db.insert(Run), [_first_run(key, first[key], key in opened) for key in missing])
        look()
    return {
        key: _RunState(
            stored[key].id, by_row[key[0]], stored[key].last_seq,
            -math.inf if stored[key].last_point_s is None else stored[key].last_point_s,
        )
        for key in first
    }  # fmt: skip


def _first_run(key: tuple[int, int], report: Report, is_open: bool) -> dict[str, Any]:
    shape = report.observations[0] if report.observations else None
    return {
        "job_id": key[0], "restart": key[1], "started_s": report.t_s, "ended_s": None if is_open else report.t_s,
        "how_ended": "" if is_open else "unknown", "gpu_type": shape.gpu_type if shape else None,
        "nodes": shape.nodes if shape else 0, "gpus": shape.gpus if shape else 0,
    }  # fmt: skip


def _shape_key(seen: Observation) -> ShapeKey:
    return (seen.gpu_type, seen.nodes, seen.gpus, float(seen.local_batch), seen.accumulation)


def _kind_ids(job: DbRow) -> list[int]:
    return [kind for kind in (job.user_kind_id, job.script_kind_id) if kind is not None]


def _add(batch: _Batch, run: _RunState, report: Report, context: ReportContext | None, point_every_s: float) -> None:
    job, kinds = run.job, _kind_ids(run.job)
    run.touched = True
    run.last_seq = report.seq
    run.last_report_s = max(run.last_report_s, report.t_s)
    run.handles_signal |= report.handles_signal
    run.energy_j += report.energy_j or 0.0
    run.net_bytes += report.net_bytes or 0.0
    run.extra.update(report.extra)
    for seen in report.observations:
        numbers = (seen.count, seen.step_sum_s, seen.step_square_sum_s2, seen.sync_sum_s)
        for sums, owners in ((batch.run_sums, [run.id]), (batch.kind_sums, kinds)):
            for owner in owners:
                total = sums.setdefault((owner, _shape_key(seen)), [0.0, 0.0, 0.0, 0.0])
                for index, number in enumerate(numbers):
                    total[index] += number
    cell = noise_cell(report)
    if cell is not None:
        for owner in kinds:
            total = batch.kind_noise.setdefault((owner, (cell.samples_cell, cell.scale_doubling)), [0.0, 0.0, 0.0])
            for index, number in enumerate((cell.count, cell.log_sum, cell.log_square_sum)):
                total[index] += number
    if report.memory is not None:
        peak = report.memory
        for peaks, owners in ((batch.job_peaks, [job.id]), (batch.kind_peaks, kinds)):
            for owner in owners:
                key = (owner, peak.gpu_type, float(peak.local_batch))
                old = peaks.get(key, (0.0, None))
                peaks[key] = (max(old[0], peak.peak_bytes), peak.total_bytes if peak.total_bytes else old[1])
    if report.restart_sample is not None:
        for name in ("save_s", "requeue_s", "load_s", "first_step_s"):
            part = getattr(report.restart_sample, name)
            if part is not None:
                run.restart_parts[name] = part
    changes = batch.jobs.setdefault(job.id, {"job": job, "reports": 0, "throughput_only": False})
    changes["reports"] += 1
    if context is not None and context.throughput_only:
        changes["throughput_only"] = True
    due = report.t_s - run.last_point_s >= point_every_s or report.event in ("checkpointed", "end")
    if report.gradient is not None:
        changes["gradient"] = report.gradient
        if due:
            grad = report.gradient
            batch.gradients.append({
                "run_id": run.id, "seq": report.seq, "t_s": grad.t_s, "square": grad.square,
                "variance": grad.variance, "scale": grad.scale,
            })  # fmt: skip
        for kind in kinds:
            batch.kinds.setdefault(kind, {})["gradient"] = report.gradient
    if report.progress is not None:
        changes.setdefault("progress", []).append(report.progress)
        if due:
            batch.progress.append({
                "run_id": run.id, "seq": report.seq, "t_s": report.progress.t_s, "samples": report.progress.samples,
            })  # fmt: skip
    if due and (report.gradient is not None or report.progress is not None):
        run.last_point_s = report.t_s
    for kind in kinds:
        entry = batch.kinds.setdefault(kind, {})
        entry["t_s"] = max(entry.get("t_s", 0.0), report.t_s)
        if not job.counted:
            entry.setdefault("new_jobs", set()).add(job.id)


_SUMS = ("count", "step_sum_s", "step_square_sum_s2", "sync_sum_s")
_SHAPE = ("gpu_type", "nodes", "gpus", "local_batch", "accumulation")
_NOISE_SUMS = ("count", "log_sum", "log_square_sum")
_NOISE_CELL = ("samples_cell", "scale_doubling")


def upsert_sums(
    db: Database, connection: Connection, table: Any, owner: str,
    sums: Mapping[tuple[int, tuple[Any, ...]], list[float]], keys: tuple[str, ...] = _SHAPE,
    columns: tuple[str, ...] = _SUMS,
) -> None:  # fmt: skip
    """Add sums to their rows, in key order so that two writers never wait for each other in a circle."""
    if not sums:
        return
    insert = db.insert(table)
    target = table.__table__.c
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[owner, *keys], set_={name: target[name] + insert.excluded[name] for name in columns}
        ),
        [
            {owner: row_id, **dict(zip(keys, key, strict=True)), **dict(zip(columns, total, strict=True))}
            for (row_id, key), total in sorted(sums.items())
        ],
    )


def _upsert_peaks(
    db: Database, connection: Connection, table: Any, owner: str,
    peaks: dict[tuple[int, str, float], tuple[float, float | None]],
) -> None:  # fmt: skip
    if not peaks:
        return
    insert = db.insert(table)
    old, new = table.__table__.c, insert.excluded
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[owner, "gpu_type", "local_batch"],
            set_={
                "peak_bytes": case((new.peak_bytes > old.peak_bytes, new.peak_bytes), else_=old.peak_bytes),
                "total_bytes": func.coalesce(new.total_bytes, old.total_bytes),
            },
        ),
        [
            {owner: row_id, "gpu_type": gpu_type, "local_batch": local, "peak_bytes": peak, "total_bytes": total}
            for (row_id, gpu_type, local), (peak, total) in sorted(peaks.items())
        ],
    )


def _write(db: Database, connection: Connection, cluster_id: int, batch: _Batch, runs: Sequence[_RunState]) -> None:
    if not runs:
        return
    upsert_sums(db, connection, RunObservation, "run_id", batch.run_sums)
    upsert_sums(db, connection, KindObservation, "kind_id", batch.kind_sums)
    upsert_sums(db, connection, KindNoise, "kind_id", batch.kind_noise, _NOISE_CELL, _NOISE_SUMS)
    _upsert_peaks(db, connection, MemoryPeak, "job_id", batch.job_peaks)
    _upsert_peaks(db, connection, KindMemoryPeak, "kind_id", batch.kind_peaks)
    if batch.gradients:
        connection.execute(db.insert(GradientPoint).on_conflict_do_nothing(), batch.gradients)
    if batch.progress:
        connection.execute(db.insert(ProgressPoint).on_conflict_do_nothing(), batch.progress)
    _write_restarts(db, connection, cluster_id, runs)
    connection.execute(
        update(Run).where(Run.id == bindparam("b_id")).values(
            last_seq=bindparam("b_seq"), last_report_s=bindparam("b_t"), last_point_s=bindparam("b_point"),
            handles_signal=case((Run.handles_signal, Run.handles_signal), else_=bindparam("b_signal")),
            energy_j=Run.energy_j + bindparam("b_energy"), net_bytes=Run.net_bytes + bindparam("b_net"),
        ),
        [
            {
                "b_id": run.id, "b_seq": run.last_seq, "b_t": run.last_report_s, "b_signal": run.handles_signal,
                "b_point": run.last_point_s if math.isfinite(run.last_point_s) else None,
                "b_energy": run.energy_j, "b_net": run.net_bytes,
            }
            for run in runs
        ],
    )  # fmt: skip
    extras = [{"b_id": run.id, "b_extra": codec.plain_json(run.extra)} for run in runs if run.extra]
    if extras:
        connection.execute(
            update(Run).where(Run.id == bindparam("b_id")).values(extra_json=bindparam("b_extra")), extras
        )
    _write_job_changes(connection, batch.jobs)
    _write_kind_changes(connection, batch.kinds)


def _write_restarts(db: Database, connection: Connection, cluster_id: int, runs: Iterable[_RunState]) -> None:
    rows = [
        {
            "run_id": run.id, "cluster_id": cluster_id, "user_kind_id": run.job.user_kind_id,
            "script_kind_id": run.job.script_kind_id, "t_s": run.last_report_s,
            **{name: run.restart_parts.get(name) for name in ("save_s", "requeue_s", "load_s", "first_step_s")},
        }
        for run in runs if run.restart_parts
    ]  # fmt: skip
    if rows:
        insert = db.insert(RestartCostRow)
        old, new = RestartCostRow.__table__.c, insert.excluded
        parts = {
            name: func.coalesce(new[name], old[name]) for name in ("save_s", "requeue_s", "load_s", "first_step_s")
        }
        connection.execute(insert.on_conflict_do_update(index_elements=["run_id"], set_=parts), rows)


def _write_job_changes(connection: Connection, jobs: dict[int, dict[str, Any]]) -> None:
    """Latest gradient and progress on the job; its history version grows by one per batch."""
    connection.execute(
        update(Job).where(Job.id == bindparam("b_id")).values(
            history_version=Job.history_version + 1, counted=True,
            throughput_only=case((Job.throughput_only, Job.throughput_only), else_=bindparam("b_only")),
        ),
        [{"b_id": job_id, "b_only": change["throughput_only"]} for job_id, change in sorted(jobs.items())],
    )  # fmt: skip
    gradients = [
        {
            "b_id": job_id, "b_t": grad.t_s, "b_square": grad.square, "b_variance": grad.variance,
            "b_scale": grad.scale,
        }
        for job_id, change in sorted(jobs.items()) if (grad := change.get("gradient")) is not None
    ]  # fmt: skip
    if gradients:
        connection.execute(
            update(Job)
            .where(Job.id == bindparam("b_id"), func.coalesce(Job.gradient_t_s, 0.0) <= bindparam("b_t"))
            .values(
                gradient_t_s=bindparam("b_t"), gradient_square=bindparam("b_square"),
                gradient_variance=bindparam("b_variance"), gradient_scale=bindparam("b_scale"),
            ),
            gradients,
        )  # fmt: skip
    progress = []
    for job_id, change in sorted(jobs.items()):
        points = change.get("progress")
        if points:
            latest = max(points, key=lambda point: point.t_s)
            saved = [point for point in points if point.checkpoint_samples is not None]
            targets = [point.target_samples for point in points if point.target_samples is not None]
            progress.append({
                "b_id": job_id, "b_t": latest.t_s, "b_samples": latest.samples,
                "b_target": targets[-1] if targets else None,
                "b_saved": saved[-1].checkpoint_samples if saved else None,
                "b_saved_t": (saved[-1].checkpoint_t_s or saved[-1].t_s) if saved else None,
            })  # fmt: skip
    if progress:
        connection.execute(
            update(Job)
            .where(Job.id == bindparam("b_id"), func.coalesce(Job.progress_t_s, 0.0) <= bindparam("b_t"))
            .values(
                progress_t_s=bindparam("b_t"), progress_samples=bindparam("b_samples"),
                target_samples=func.coalesce(bindparam("b_target"), Job.target_samples),
                checkpoint_samples=func.coalesce(bindparam("b_saved"), Job.checkpoint_samples),
                checkpoint_t_s=func.coalesce(bindparam("b_saved_t"), Job.checkpoint_t_s),
                final_samples=case((Job.end_state == "COMPLETED", bindparam("b_samples")), else_=Job.final_samples),
            ),
            progress,
        )  # fmt: skip


def _write_kind_changes(connection: Connection, kinds: dict[int, dict[str, Any]]) -> None:
    """Jobs and last report of each kind, with the latest gradient where there is one: one statement for a batch."""
    if not kinds:
        return
    rows = []
    for kind, entry in sorted(kinds.items()):
        grad: Gradient | None = entry.get("gradient")
        at, square, variance, scale = (
            (None, None, None, None) if grad is None else (grad.t_s, grad.square, grad.variance, grad.scale)
        )
        rows.append({
            "b_id": kind, "b_jobs": len(entry.get("new_jobs", ())), "b_t": entry["t_s"], "b_g": at,
            "b_square": square, "b_variance": variance, "b_scale": scale,
        })  # fmt: skip
    connection.execute(
        update(Kind).where(Kind.id == bindparam("b_id")).values(
            jobs=Kind.jobs + bindparam("b_jobs"), last_report_s=bindparam("b_t"),
            gradient_t_s=func.coalesce(bindparam("b_g"), Kind.gradient_t_s),
            gradient_square=func.coalesce(bindparam("b_square"), Kind.gradient_square),
            gradient_variance=func.coalesce(bindparam("b_variance"), Kind.gradient_variance),
            gradient_scale=func.coalesce(bindparam("b_scale"), Kind.gradient_scale),
        ),
        rows,
    )  # fmt: skip
