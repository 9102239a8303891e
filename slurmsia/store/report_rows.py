"""What a batch of job reports adds, and the rows it goes to: runs, jobs, and the kinds they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, update

from ..history import Gradient, Progress
from . import codec
from .engine import Database, DbRow, insert_of
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

ShapeKey = tuple[str, int, int, float, int]
CellKey = tuple[int, int]


@dataclass(slots=True)
class RunState:
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
class Batch:
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


_SUMS = ("count", "step_sum_s", "step_square_sum_s2", "sync_sum_s")
_SHAPE = ("gpu_type", "nodes", "gpus", "local_batch", "accumulation")
_NOISE_SUMS = ("count", "log_sum", "log_square_sum")
_NOISE_CELL = ("samples_cell", "scale_doubling")


@cache
def _adds(is_sqlite: bool, table: Any, keys: tuple[str, ...], columns: tuple[str, ...]) -> Any:
    """Add to the row that has these keys, or insert it. A statement is built once: a round writes thousands of rows."""
    insert, target = insert_of(is_sqlite, table), table.__table__.c
    return insert.on_conflict_do_update(
        index_elements=keys, set_={name: target[name] + insert.excluded[name] for name in columns}
    )


def _upsert_sums(
    db: Database, connection: Connection, table: Any, owner: str,
    sums: Mapping[tuple[int, tuple[Any, ...]], list[float]], keys: tuple[str, ...] = _SHAPE,
    columns: tuple[str, ...] = _SUMS,
) -> None:  # fmt: skip
    """Add sums to their rows, in key order so that two writers never wait for each other in a circle."""
    if sums:
        names = (owner, *keys, *columns)
        connection.execute(
            _adds(db.is_sqlite, table, (owner, *keys), columns),
            [dict(zip(names, (row_id, *key, *total), strict=True)) for (row_id, key), total in sorted(sums.items())],
        )


@cache
def _raises_peaks(is_sqlite: bool, table: Any, owner: str) -> Any:
    insert = insert_of(is_sqlite, table)
    old, new = table.__table__.c, insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[owner, "gpu_type", "local_batch"],
        set_={
            "peak_bytes": case((new.peak_bytes > old.peak_bytes, new.peak_bytes), else_=old.peak_bytes),
            "total_bytes": func.coalesce(new.total_bytes, old.total_bytes),
        },
    )


def _upsert_peaks(
    db: Database, connection: Connection, table: Any, owner: str,
    peaks: dict[tuple[int, str, float], tuple[float, float | None]],
) -> None:  # fmt: skip
    if peaks:
        connection.execute(
            _raises_peaks(db.is_sqlite, table, owner),
            [
                {owner: row_id, "gpu_type": gpu_type, "local_batch": local, "peak_bytes": peak, "total_bytes": total}
                for (row_id, gpu_type, local), (peak, total) in sorted(peaks.items())
            ],
        )


@cache
def _new_points(is_sqlite: bool, table: Any) -> Any:
    return insert_of(is_sqlite, table).on_conflict_do_nothing()


_SEEN = update(Run).where(Run.id == bindparam("b_id")).values(
    last_seq=bindparam("b_seq"), last_report_s=bindparam("b_t"), last_point_s=bindparam("b_point"),
    handles_signal=case((Run.handles_signal, Run.handles_signal), else_=bindparam("b_signal")),
    energy_j=Run.energy_j + bindparam("b_energy"), net_bytes=Run.net_bytes + bindparam("b_net"),
)  # fmt: skip
_EXTRA = update(Run).where(Run.id == bindparam("b_id")).values(extra_json=bindparam("b_extra"))


def write(db: Database, connection: Connection, cluster_id: int, batch: Batch, runs: Sequence[RunState]) -> None:
    """Write what a batch adds within the caller's transaction."""
    if not runs:
        return
    _upsert_sums(db, connection, RunObservation, "run_id", batch.run_sums)
    _upsert_sums(db, connection, KindObservation, "kind_id", batch.kind_sums)
    _upsert_sums(db, connection, KindNoise, "kind_id", batch.kind_noise, _NOISE_CELL, _NOISE_SUMS)
    _upsert_peaks(db, connection, MemoryPeak, "job_id", batch.job_peaks)
    _upsert_peaks(db, connection, KindMemoryPeak, "kind_id", batch.kind_peaks)
    if batch.gradients:
        connection.execute(_new_points(db.is_sqlite, GradientPoint), batch.gradients)
    if batch.progress:
        connection.execute(_new_points(db.is_sqlite, ProgressPoint), batch.progress)
    _write_restarts(db, connection, cluster_id, runs)
    connection.execute(
        _SEEN,
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
        connection.execute(_EXTRA, extras)
    _write_job_changes(connection, batch.jobs)
    _write_kind_changes(connection, batch.kinds)


def _write_restarts(db: Database, connection: Connection, cluster_id: int, runs: Iterable[RunState]) -> None:
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


def _job_changes() -> Any:
    """A job's history version grows by one per batch; its latest gradient and progress are kept, each by its own time.

    NULL for a time means that the batch had none, and keeps what is there.
    """
    newer_gradient: Any = bindparam("b_gradient_t") >= func.coalesce(Job.gradient_t_s, 0.0)
    newer_progress: Any = bindparam("b_t") >= func.coalesce(Job.progress_t_s, 0.0)

    def gradient(name: str, column: Any) -> Any:
        return case((newer_gradient, bindparam(name)), else_=column)

    def progress(value: Any, column: Any) -> Any:
        return case((newer_progress, value), else_=column)

    saved: Any = func.coalesce(bindparam("b_saved"), Job.checkpoint_samples)
    saved_s: Any = func.coalesce(bindparam("b_saved_t"), Job.checkpoint_t_s)
    completed = and_(newer_progress, Job.end_state == "COMPLETED")
    return update(Job).where(Job.id == bindparam("b_id")).values(
        history_version=Job.history_version + 1, counted=True,
        throughput_only=case((Job.throughput_only, Job.throughput_only), else_=bindparam("b_only")),
        gradient_t_s=gradient("b_gradient_t", Job.gradient_t_s),
        gradient_square=gradient("b_square", Job.gradient_square),
        gradient_variance=gradient("b_variance", Job.gradient_variance),
        gradient_scale=gradient("b_scale", Job.gradient_scale),
        progress_t_s=progress(bindparam("b_t"), Job.progress_t_s),
        progress_samples=progress(bindparam("b_samples"), Job.progress_samples),
        target_samples=progress(func.coalesce(bindparam("b_target"), Job.target_samples), Job.target_samples),
        checkpoint_samples=progress(saved, Job.checkpoint_samples),
        checkpoint_t_s=progress(saved_s, Job.checkpoint_t_s),
        final_samples=case((completed, bindparam("b_samples")), else_=Job.final_samples),
    )  # fmt: skip


_JOB_CHANGES = _job_changes()
_NO_GRADIENT = dict.fromkeys(("b_gradient_t", "b_square", "b_variance", "b_scale"))
_NO_PROGRESS = dict.fromkeys(("b_t", "b_samples", "b_target", "b_saved", "b_saved_t"))


def _write_job_changes(connection: Connection, jobs: dict[int, dict[str, Any]]) -> None:
    rows = []
    for job_id, change in sorted(jobs.items()):
        grad: Gradient | None = change.get("gradient")
        points = change.get("progress")
        rows.append({
            "b_id": job_id, "b_only": change["throughput_only"],
            **(_NO_GRADIENT if grad is None else {
                "b_gradient_t": grad.t_s, "b_square": grad.square, "b_variance": grad.variance, "b_scale": grad.scale,
            }),
            **(_latest(points) if points else _NO_PROGRESS),
        })  # fmt: skip
    connection.execute(_JOB_CHANGES, rows)


def _latest(points: Sequence[Progress]) -> dict[str, Any]:
    latest = max(points, key=lambda point: point.t_s)
    saved = [point for point in points if point.checkpoint_samples is not None]
    targets = [point.target_samples for point in points if point.target_samples is not None]
    return {
        "b_t": latest.t_s, "b_samples": latest.samples, "b_target": targets[-1] if targets else None,
        "b_saved": saved[-1].checkpoint_samples if saved else None,
        "b_saved_t": (saved[-1].checkpoint_t_s or saved[-1].t_s) if saved else None,
    }  # fmt: skip


_KIND_CHANGES = update(Kind).where(Kind.id == bindparam("b_id")).values(
    jobs=Kind.jobs + bindparam("b_jobs"), last_report_s=bindparam("b_t"),
    gradient_t_s=func.coalesce(bindparam("b_g"), Kind.gradient_t_s),
    gradient_square=func.coalesce(bindparam("b_square"), Kind.gradient_square),
    gradient_variance=func.coalesce(bindparam("b_variance"), Kind.gradient_variance),
    gradient_scale=func.coalesce(bindparam("b_scale"), Kind.gradient_scale),
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
    connection.execute(_KIND_CHANGES, rows)
