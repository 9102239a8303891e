"""Fitted models on disk, and the ratios between GPU types that later jobs start from.

A job counts once per pair of types in the ratios of its kinds: when its fit improves, its old share is taken out.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from ..cluster import JobId
from . import codec
from .engine import Database
from .identity import chunks, current_rows, ensure_kinds
from .records import FitRecord
from .schema import Fit, KindRatio

Pair = tuple[str, str]


def _log_ratios(speeds: dict[str, float]) -> dict[Pair, float]:
    return {(one, other): math.log(speeds[one] / speeds[other]) for one in speeds for other in speeds if one != other}


def save_fits(db: Database, connection: Connection, cluster_id: int, fits: Sequence[FitRecord]) -> int:
    """Replace the fits of these jobs and types; returns how many were stored (unknown jobs are passed over)."""
    rows = current_rows(connection, cluster_id, {fit.job_id for fit in fits})
    known = [fit for fit in fits if fit.job_id in rows]
    if not known:
        return 0
    before: dict[int, dict[str, float]] = defaultdict(dict)
    for part in chunks(sorted({rows[fit.job_id].id for fit in known})):
        statement = select(Fit.job_id, Fit.gpu_type, Fit.one_gpu_samples_per_s).where(
            Fit.job_id.in_(part), Fit.one_gpu_samples_per_s.is_not(None)
        )
        for row in connection.execute(statement):
            before[row.job_id][row.gpu_type] = float(row.one_gpu_samples_per_s or 0.0)
    insert = db.insert(Fit)
    replaced = ("params_json", "source", "rel_error", "observations", "fitted_s", "one_gpu_samples_per_s")
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["job_id", "gpu_type"], set_={name: insert.excluded[name] for name in replaced}
        ),
        [
            {
                "job_id": rows[fit.job_id].id, "gpu_type": fit.gpu_type, "params_json": codec.plain_json(fit.params),
                "source": fit.source, "rel_error": fit.rel_error, "observations": fit.observations,
                "fitted_s": fit.fitted_s, "one_gpu_samples_per_s": fit.one_gpu_samples_per_s,
            }
            for fit in known
        ],
    )  # fmt: skip
    after = {row_id: dict(speeds) for row_id, speeds in before.items()}
    for fit in known:
        speeds = after.setdefault(rows[fit.job_id].id, {})
        if fit.one_gpu_samples_per_s is None:
            speeds.pop(fit.gpu_type, None)
        else:
            speeds[fit.gpu_type] = fit.one_gpu_samples_per_s
    everybody = ensure_kinds(db, connection, cluster_id, [(-1, "")])[(-1, "")]
    changes: dict[tuple[int, Pair], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for job in {rows[fit.job_id].id: rows[fit.job_id] for fit in known}.values():
        kinds = [everybody, *(kind for kind in (job.user_kind_id, job.script_kind_id) if kind is not None)]
        for sign, ratios in ((-1, _log_ratios(before.get(job.id, {}))), (1, _log_ratios(after[job.id]))):
            for pair, log_ratio in ratios.items():
                for kind in kinds:
                    change = changes[(kind, pair)]
                    change[0] += sign
                    change[1] += sign * log_ratio
                    change[2] += sign * log_ratio * log_ratio
    _write_ratios(db, connection, changes)
    return len(known)


def _write_ratios(db: Database, connection: Connection, changes: dict[tuple[int, Pair], list[float]]) -> None:
    if not changes:
        return
    # A negative number of jobs cannot be inserted, so rows exist before anything is taken from them.
    keys = [{"kind_id": kind, "gpu_type": one, "reference_type": other} for (kind, (one, other)) in sorted(changes)]
    zero = {"jobs": 0, "log_sum": 0.0, "log_square_sum": 0.0}
    connection.execute(db.insert(KindRatio).on_conflict_do_nothing(), [{**key, **zero} for key in keys])
    connection.execute(
        update(KindRatio)
        .where(
            KindRatio.kind_id == bindparam("b_kind"), KindRatio.gpu_type == bindparam("b_one"),
            KindRatio.reference_type == bindparam("b_other"),
        )
        .values(
            jobs=KindRatio.jobs + bindparam("b_jobs"), log_sum=KindRatio.log_sum + bindparam("b_sum"),
            log_square_sum=KindRatio.log_square_sum + bindparam("b_square"),
        ),
        [
            {
                "b_kind": kind, "b_one": one, "b_other": other, "b_jobs": int(change[0]), "b_sum": change[1],
                "b_square": change[2],
            }
            for (kind, (one, other)), change in sorted(changes.items())
        ],
    )  # fmt: skip


def fits_of(connection: Connection, cluster_id: int, job_ids: Sequence[JobId]) -> dict[JobId, tuple[FitRecord, ...]]:
    """The latest fits of jobs, by type name."""
    rows = current_rows(connection, cluster_id, job_ids)
    names = {row.id: job_id for job_id, row in rows.items()}
    found: dict[JobId, list[FitRecord]] = defaultdict(list)
    for part in chunks(sorted(names)):
        columns: list[Any] = list(Fit.__table__.c)
        for row in connection.execute(select(*columns).where(Fit.job_id.in_(part)).order_by(Fit.job_id, Fit.gpu_type)):
            found[names[row.job_id]].append(
                FitRecord(
                    names[row.job_id],
                    row.gpu_type,
                    json.loads(row.params_json),
                    row.source,
                    row.rel_error,
                    row.observations,
                    row.fitted_s,
                    row.one_gpu_samples_per_s,
                )
            )
    return {job_id: tuple(fits) for job_id, fits in found.items()}
