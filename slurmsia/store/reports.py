"""Job reports into the database: each exactly once, whatever is repeated, and never a batch lost for one bad report.

Identity is (job, restart, seq). A run keeps the highest seq it has stored; anything up to that is a duplicate. The
sums go to the run and, in the same transaction, to the kinds the job belongs to, so that questions about similar
jobs never scan.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from ..history import Observation, Report, noise_cell
from .engine import Database, DbRow
from .flaws import flaw
from .identity import Sighting, chunks, close_runs, current_rows, ensure_jobs, is_same_job, storable
from .records import IngestResult, RejectedReport, ReportContext
from .report_rows import Batch, RunState, ShapeKey, write
from .schema import Run

#: A report may be this much older than its job's submission before it must belong to an earlier owner of the id.
_CLOCK_SKEW_S = 300.0

Offered = tuple[Report, ReportContext | None]


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
    batch = Batch()
    accepted: dict[str, int] = defaultdict(int)
    for report, context in filed:
        run = runs[(rows[report.job_id].id, report.restart)]
        if report.seq <= run.last_seq:
            duplicates += 1
            continue
        _add(batch, run, report, context, point_every_s)
        accepted[report.job_id] += 1
    write(db, connection, cluster_id, batch, [run for run in runs.values() if run.touched])
    return IngestResult(sum(accepted.values()), duplicates, tuple(rejected), dict(accepted))


def _job_rows(
    db: Database, connection: Connection, cluster_id: int, offered: Sequence[Offered], now_s: float
) -> dict[str, DbRow]:
    seen: dict[str, Sighting] = {}
    for report, context in offered:
        if context is not None and (report.job_id not in seen or report.restart > seen[report.job_id].restarts):
            seen[report.job_id] = Sighting(
                report.job_id, context.user_id, context.submit_s, max(report.restart, context.restarts),
                storable(context.name), script_hash=storable(context.script_hash), sluid=storable(context.sluid),
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


_RUNS = select(Run.id, Run.job_id, Run.restart, Run.last_seq, Run.last_point_s, Run.ended_s).where(
    Run.job_id.in_(bindparam("b_jobs", expanding=True))
)


def _ensure_runs(
    db: Database, connection: Connection, rows: dict[str, DbRow], reports: Sequence[Report]
) -> dict[tuple[int, int], RunState]:
    """The runs that the reports speak of; a run that no snapshot showed yet is opened by its first report."""
    by_row = {row.id: row for row in rows.values()}
    first: dict[tuple[int, int], Report] = {}
    for report in reports:
        first.setdefault((rows[report.job_id].id, report.restart), report)
    stored: dict[tuple[int, int], DbRow] = {}
    newest_open: dict[int, int] = {}

    def look() -> None:
        for part in chunks(sorted({row_id for row_id, _ in first})):
            for run in connection.execute(_RUNS, {"b_jobs": part}):
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
        key: RunState(
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


def _add_to(sums: dict[Any, list[float]], key: Any, numbers: tuple[float, ...]) -> None:
    total = sums.get(key)
    if total is None:
        sums[key] = list(numbers)
        return
    for index, number in enumerate(numbers):
        total[index] += number


def _add(batch: Batch, run: RunState, report: Report, context: ReportContext | None, point_every_s: float) -> None:
    job, kinds = run.job, _kind_ids(run.job)
    run.touched = True
    run.last_seq = report.seq
    run.last_report_s = max(run.last_report_s, report.t_s)
    run.handles_signal |= report.handles_signal
    run.energy_j += report.energy_j or 0.0
    run.net_bytes += report.net_bytes or 0.0
    run.extra.update(report.extra)
    for seen in report.observations:
        shape = _shape_key(seen)
        numbers = (seen.count, seen.step_sum_s, seen.step_square_sum_s2, seen.sync_sum_s)
        _add_to(batch.run_sums, (run.id, shape), numbers)
        for kind in kinds:
            _add_to(batch.kind_sums, (kind, shape), numbers)
    cell = noise_cell(report)
    if cell is not None:
        for kind in kinds:
            of_cell = (kind, (cell.samples_cell, cell.scale_doubling))
            _add_to(batch.kind_noise, of_cell, (cell.count, cell.log_sum, cell.log_square_sum))
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
