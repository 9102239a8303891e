"""What the models ask: the history of a job, the history of similar jobs, the standing of a job, its runs.

Read only. Every answer comes from indexed rows or from sums kept up to date at ingest, never from a scan.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from ..cluster import JobId
from ..history import (
    Gradient,
    JobHistory,
    JobKind,
    MemoryPoint,
    NoiseCell,
    Observation,
    Progress,
    RestartSample,
    SimilarHistory,
)  # fmt: skip
from .engine import DbRow
from .identity import chunks, script_key
from .records import JobRecord, RunRecord
from .schema import (
    Job,
    Kind,
    KindMemoryPeak,
    KindNoise,
    KindObservation,
    KindRatio,
    MemoryPeak,
    RestartCostRow,
    Run,
    RunObservation,
)  # fmt: skip

_RESTARTS_KEPT = 32
_TOTALS_KEPT = 64
#: Bounds the search for jobs that ended by themselves among those that were cancelled or failed.
_ENDED_LOOKED_AT = 256
#: A ratio that one job alone has shown may be off by this much (one standard deviation of its logarithm).
_LONE_RATIO_STD = 0.3


_LATEST = select(
    Job.id, Job.slurm_id, Job.history_version, Job.throughput_only, Job.gradient_t_s, Job.gradient_square,
    Job.gradient_variance, Job.gradient_scale, Job.progress_t_s, Job.progress_samples, Job.target_samples,
    Job.checkpoint_samples, Job.checkpoint_t_s,
).where(
    Job.cluster_id == bindparam("b_cluster"), Job.current, Job.slurm_id.in_(bindparam("b_ids", expanding=True))
)  # fmt: skip


def job_histories(
    connection: Connection, cluster_id: int, job_ids: Sequence[JobId], known: Mapping[JobId, JobHistory]
) -> dict[JobId, JobHistory]:
    """Histories pooled over runs; jobs whose version equals that in ``known`` are taken from there."""
    rows: dict[int, DbRow] = {}
    for part in chunks(sorted(set(job_ids))):
        latest = connection.execute(_LATEST, {"b_cluster": cluster_id, "b_ids": part})
        rows.update({row.id: row for row in latest})
    found: dict[JobId, JobHistory] = {}
    stale: list[int] = []
    for row in rows.values():
        old = known.get(row.slurm_id)
        if old is not None and old.version == version_of(row):
            found[row.slurm_id] = old
        else:
            stale.append(row.id)
    observations = _observations(connection, stale)
    memory = _memory(connection, stale)
    restarts = _restarts(connection, stale)
    for row_id in stale:
        row = rows[row_id]
        found[row.slurm_id] = JobHistory(
            job_id=row.slurm_id,
            version=version_of(row),
            observations=tuple(observations.get(row_id, ())),
            gradient=_gradient(row),
            memory=tuple(memory.get(row_id, ())),
            restarts=tuple(restarts.get(row_id, ())),
            progress=_progress(row),
            throughput_only=row.throughput_only,
        )
    return found


def version_of(row: DbRow) -> int:
    """Grows with every batch of reports, and differs between two owners of one Slurm id."""
    return int(row.id) * 1_000_000_000 + int(row.history_version)


def _gradient(row: DbRow) -> Gradient | None:
    if row.gradient_t_s is None:
        return None
    return Gradient(row.gradient_t_s, row.gradient_square, row.gradient_variance, row.gradient_scale)


def _progress(row: DbRow) -> Progress | None:
    if row.progress_t_s is None:
        return None
    return Progress(
        row.progress_t_s, row.progress_samples, row.target_samples, row.checkpoint_samples, row.checkpoint_t_s
    )


_SHAPE = ("gpu_type", "nodes", "gpus", "local_batch", "accumulation")
_SUMS = ("count", "step_sum_s", "step_square_sum_s2", "sync_sum_s")


def _pooled_observations() -> Any:
    shape = [getattr(RunObservation, name) for name in _SHAPE]
    return (
        select(Run.job_id, *shape, *(func.sum(getattr(RunObservation, name)).label(name) for name in _SUMS))
        .join(Run, Run.id == RunObservation.run_id)
        .where(Run.job_id.in_(bindparam("b_jobs", expanding=True)))
        .group_by(Run.job_id, *shape)
        .order_by(Run.job_id, *shape)
    )


_OBSERVATIONS = _pooled_observations()


def _observations(connection: Connection, job_rows: Sequence[int]) -> dict[int, list[Observation]]:
    found: dict[int, list[Observation]] = defaultdict(list)
    for part in chunks(job_rows):
        for job_id, *values in connection.execute(_OBSERVATIONS, {"b_jobs": part}):
            found[job_id].append(Observation(*values))
    return found


_PEAKS = (
    select(
        MemoryPeak.job_id, MemoryPeak.gpu_type, MemoryPeak.local_batch, MemoryPeak.peak_bytes, MemoryPeak.total_bytes
    )
    .where(MemoryPeak.job_id.in_(bindparam("b_jobs", expanding=True)))
    .order_by(MemoryPeak.job_id, MemoryPeak.gpu_type, MemoryPeak.local_batch)
)


def _memory(connection: Connection, job_rows: Sequence[int]) -> dict[int, list[MemoryPoint]]:
    found: dict[int, list[MemoryPoint]] = defaultdict(list)
    for part in chunks(job_rows):
        for row in connection.execute(_PEAKS, {"b_jobs": part}):
            found[row.job_id].append(MemoryPoint(row.gpu_type, row.local_batch, row.peak_bytes, row.total_bytes))
    return found


_RESTARTS = (
    select(
        Run.job_id, RestartCostRow.save_s, RestartCostRow.requeue_s, RestartCostRow.load_s, RestartCostRow.first_step_s
    )
    .join(Run, Run.id == RestartCostRow.run_id)
    .where(Run.job_id.in_(bindparam("b_jobs", expanding=True)))
    .order_by(Run.job_id, Run.restart)
)


def _restarts(connection: Connection, job_rows: Sequence[int]) -> dict[int, list[RestartSample]]:
    found: dict[int, list[RestartSample]] = defaultdict(list)
    for part in chunks(job_rows):
        for job_id, *values in connection.execute(_RESTARTS, {"b_jobs": part}):
            found[job_id].append(RestartSample(*values))
    return {job_id: samples[-_RESTARTS_KEPT:] for job_id, samples in found.items()}


def similar(connection: Connection, cluster_id: int, kind: JobKind) -> SimilarHistory | None:
    """The closest history: same user and script, else the same script by anybody, else what the cluster teaches.

    The cluster level has no step times (those of other programs say nothing), only ratios of types and restarts.
    """
    key = script_key(kind.script_hash, kind.name)
    kinds: dict[str, DbRow] = {}
    wanted = [(-1, ""), *([(kind.user_id, key), (-1, key)] if key else [])]
    for user, script in wanted:
        statement = select(Kind).where(Kind.cluster_id == cluster_id, Kind.user_id == user, Kind.script == script)
        for row in connection.execute(statement.with_only_columns(*Kind.__table__.c)):
            kinds[row.likeness] = row
    ratios: dict[tuple[str, str], tuple[float, float]] = {}
    for likeness in ("cluster", "script", "user+script"):
        if likeness in kinds:
            ratios.update(_ratios(connection, kinds[likeness].id))
    listed = tuple((pair[0], pair[1], *ratios[pair]) for pair in sorted(ratios))
    for likeness, column, ended in (
        ("user+script", RestartCostRow.user_kind_id, Job.user_kind_id),
        ("script", RestartCostRow.script_kind_id, Job.script_kind_id),
    ):
        nearest = kinds.get(likeness)
        if nearest is not None and nearest.jobs > 0:
            return SimilarHistory(
                likeness=likeness,
                jobs=nearest.jobs,
                observations=_kind_observations(connection, nearest.id),
                restarts=_recent_restarts(connection, column, nearest.id),
                memory=_kind_memory(connection, nearest.id),
                gradient=_gradient(nearest),
                total_samples=_totals(connection, ended, nearest.id),
                type_ratios=listed,
                noise=_kind_noise(connection, nearest.id),
            )
    restarts = _recent_restarts(connection, RestartCostRow.cluster_id, cluster_id)
    if not listed and not restarts:
        return None
    jobs = kinds["cluster"].jobs if "cluster" in kinds else 0
    return SimilarHistory("cluster", max(jobs, 1), (), restarts, type_ratios=listed)


def _kind_observations(connection: Connection, kind_id: int) -> tuple[Observation, ...]:
    columns = [getattr(KindObservation, name) for name in (*_SHAPE, *_SUMS)]
    statement = select(*columns).where(KindObservation.kind_id == kind_id).order_by(*columns[: len(_SHAPE)])
    return tuple(Observation(*row) for row in connection.execute(statement))


def _kind_memory(connection: Connection, kind_id: int) -> tuple[MemoryPoint, ...]:
    statement = (
        select(
            KindMemoryPeak.gpu_type, KindMemoryPeak.local_batch, KindMemoryPeak.peak_bytes, KindMemoryPeak.total_bytes
        )
        .where(KindMemoryPeak.kind_id == kind_id)
        .order_by(KindMemoryPeak.gpu_type, KindMemoryPeak.local_batch)
    )
    return tuple(MemoryPoint(*row) for row in connection.execute(statement))


def _kind_noise(connection: Connection, kind_id: int) -> tuple[NoiseCell, ...]:
    statement = (
        select(
            KindNoise.samples_cell, KindNoise.scale_doubling, KindNoise.count, KindNoise.log_sum,
            KindNoise.log_square_sum,
        )
        .where(KindNoise.kind_id == kind_id)
        .order_by(KindNoise.samples_cell, KindNoise.scale_doubling)
    )  # fmt: skip
    return tuple(NoiseCell(*row) for row in connection.execute(statement))


def _recent_restarts(connection: Connection, column: Any, value: int) -> tuple[RestartSample, ...]:
    statement = (
        select(
            RestartCostRow.save_s, RestartCostRow.requeue_s, RestartCostRow.load_s, RestartCostRow.first_step_s
        )
        .where(column == value)
        .order_by(column.desc(), RestartCostRow.t_s.desc())
        .limit(_RESTARTS_KEPT)
    )  # fmt: skip
    return tuple(RestartSample(*row) for row in connection.execute(statement))


def _totals(connection: Connection, column: Any, kind_id: int) -> tuple[float, ...]:
    statement = (
        select(Job.final_samples)
        .where(column == kind_id, Job.ended_s.is_not(None))
        .order_by(column.desc(), Job.ended_s.desc())
        .limit(_ENDED_LOOKED_AT)
    )
    totals = [float(samples) for samples in connection.execute(statement).scalars() if samples is not None]
    return tuple(totals[:_TOTALS_KEPT])


def _ratios(connection: Connection, kind_id: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Geometric mean ratio and how far the next job may be from it, per ordered pair of types."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    statement = select(KindRatio).where(KindRatio.kind_id == kind_id, KindRatio.jobs > 0)
    for row in connection.execute(statement.with_only_columns(*KindRatio.__table__.c)):
        mean = row.log_sum / row.jobs
        # Two prior jobs' worth of doubt: a handful of equal ratios does not make the next job certain.
        spread = max(row.log_square_sum - row.jobs * mean * mean, 0.0) + 2 * _LONE_RATIO_STD**2
        error = math.sqrt(spread / (row.jobs + 1) * (1 + 1 / row.jobs)) if row.jobs > 1 else _LONE_RATIO_STD
        found[(row.gpu_type, row.reference_type)] = (math.exp(mean), error)
    return found


def signal_handlers(connection: Connection, cluster_id: int, job_ids: Sequence[JobId]) -> frozenset[JobId]:
    """Jobs whose present run said in a report that it handles our signal."""
    found: set[JobId] = set()
    for part in chunks(sorted(set(job_ids))):
        statement = (
            select(Job.slurm_id)
            .join(Run, Run.job_id == Job.id)
            .where(
                Job.cluster_id == cluster_id, Job.current, Job.slurm_id.in_(part), Run.ended_s.is_(None),
                Run.handles_signal,
            )
        )  # fmt: skip
        found.update(connection.execute(statement).scalars())
    return frozenset(found)


def last_reports_s(connection: Connection, cluster_id: int, job_ids: Sequence[JobId]) -> dict[JobId, float]:
    """When each job's present run was last heard of."""
    found: dict[JobId, float] = {}
    for part in chunks(sorted(set(job_ids))):
        statement = (
            select(Job.slurm_id, Run.last_report_s)
            .join(Run, Run.job_id == Job.id)
            .where(
                Job.cluster_id == cluster_id, Job.current, Job.slurm_id.in_(part), Run.ended_s.is_(None),
                Run.last_report_s.is_not(None),
            )
        )  # fmt: skip
        found.update({row.slurm_id: float(row.last_report_s) for row in connection.execute(statement)})
    return found


def jobs_named(connection: Connection, cluster_id: int, job_id: JobId) -> tuple[JobRecord, ...]:
    """Every job that ever had this Slurm id, newest first, each with its runs."""
    jobs = connection.execute(
        select(*Job.__table__.c)
        .where(Job.cluster_id == cluster_id, Job.slurm_id == job_id)
        .order_by(Job.first_submit_s.desc())
    ).all()
    runs: dict[int, list[RunRecord]] = defaultdict(list)
    for run in connection.execute(
        select(*Run.__table__.c).where(Run.job_id.in_([job.id for job in jobs])).order_by(Run.restart)
    ):
        runs[run.job_id].append(
            RunRecord(
                job_id,
                run.restart,
                run.started_s,
                run.ended_s,
                run.how_ended,
                run.gpu_type,
                run.nodes,
                run.gpus,
                tuple(name for name in run.node_names.split(",") if name),
                run.energy_j,
                run.net_bytes,
                run.handles_signal,
            )
        )
    return tuple(
        JobRecord(
            job.slurm_id, job.first_submit_s, job.user_id, job.name, job.account, job.script_hash, job.sluid,
            job.comment, job.state, job.restarts, job.ended_s, job.end_state, job.current, tuple(runs[job.id]),
        )
        for job in jobs
    )  # fmt: skip
