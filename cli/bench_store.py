"""``slurmsia bench store``: ingest, round writes, growth and similar-job look-ups of the store, on either database.

Works in a store of its own (a temporary SQLite file, or the empty database of ``--url``) and leaves it empty again.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from slurmsia.cluster import Job, Snapshot
    from slurmsia.history import Report
    from slurmsia.store import ReportContext, RoundRecord, Store

_SCRIPTS = 2_000
_USERS = 500


def _median_ms(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1e3, 2)


def _job(number: int) -> Job:
    from slurmsia.cluster import Allocation, GpuForm, Job, JobState, Request

    node = number // 2
    held = Allocation("a100", ((f"node{node:04d}", 4),))
    return Job(
        id=str(number), user_id=1000 + number % _USERS, state=JobState.RUNNING, submit_s=1.7e9 + number,
        name=f"train-{number % _SCRIPTS}", account="physics", qos="normal", partitions=("gpu",),
        comment="sia: gpus=1-16 types=a100,rtx batch=256:4096 local=16:128 signal=USR1@60", priority=1e4 + number,
        start_s=1.7e9 + number + 30, time_limit_s=86400.0, allocation=held, script_hash=f"{number % _SCRIPTS:032x}",
        request=Request(nodes=1, tasks=1, cpus=16, memory_mb=128_000, gpus=4, gpu_form=GpuForm.PER_NODE_UNTYPED),
        work_dir="/home/user/project",
    )  # fmt: skip


def _snapshot(jobs: int, taken_s: float) -> Snapshot:
    from slurmsia.cluster import GpuType, Node, Snapshot

    nodes = tuple(
        Node(f"node{index:04d}", "a100", 8, 64, 512_000, features=frozenset({"a100"}), partitions=frozenset({"gpu"}))
        for index in range(jobs // 2)
    )
    return Snapshot(taken_s, nodes, tuple(_job(number) for number in range(jobs)), (GpuType("a100"), GpuType("rtx")))


def _reports(jobs: int, seq: int, t_s: float) -> list[tuple[Report, ReportContext]]:
    from slurmsia.history import Gradient, MemoryPoint, Observation, Progress, Report
    from slurmsia.store import ReportContext

    made = []
    for number in range(jobs):
        shape = Observation("a100", 1, 4, 32.0, seq % 2, 25.0, 30.0 + number * 1e-3, 37.0, 4.0)
        made.append((
            Report(
                str(number), 0, seq, t_s, "progress", (shape,), Gradient(t_s, 1e-3, 5e-4, 4.0),
                Progress(t_s, 1e4 * seq, 1e8), MemoryPoint("a100", 32.0, 3e10, 4e10), energy_j=1e5,
            ),
            ReportContext.of(_job(number)),
        ))  # fmt: skip
    return made


def _round(jobs: int, number: int) -> RoundRecord:
    from slurmsia.cluster import Shape
    from slurmsia.config import Config
    from slurmsia.models.base import JobModel, ThroughputParams, TypeModel
    from slurmsia.plan import Alternative, Plan, Target, TargetKind, Verdict
    from slurmsia.standing import Standing
    from slurmsia.store import RoundRecord

    taken_s = 1.8e9 + 60 * number
    targets, verdicts, models, standing = [], [], {}, {}
    for index in range(jobs):
        job_id, wobble = str(index), ((index * 7919 + number * 104729) % 10007) / 10007
        # A job reports every other round or so: only then its model, goodput and words change.
        learnt = ((index * 7919 + (number - (index + number) % 2) * 104729) % 10007) / 10007
        params = ThroughputParams(0.1 + learnt, 0.01 * learnt, 0.02, 1e-8, 0.01, 1e-8, 1 + learnt)
        models[job_id] = JobModel(
            job_id, {name: TypeModel(name, params, "fit", 0.05, sentence="own fit") for name in ("a100", "rtx")},
            known=True, work_done=1e4 * number,
        )  # fmt: skip
        shape = Shape("a100", 1, 4)
        targets.append(
            Target(job_id, TargetKind.KEEP, shape, ((f"node{index // 2:04d}", 4),), None, 900 + learnt, 900 + learnt)
        )
        code = "keeps" if wobble < 0.98 else "waits-for-capacity"
        other = Alternative(Shape("rtx", 1, 8), 700 + learnt, "slower by 22 %")
        verdicts.append(Verdict(job_id, code, f"keeps 4 a100: {900 + learnt:.1f} samples/s", "goodput", (other,)))
        standing[job_id] = Standing(job_id, 1.7e9 + index, service_gpu_s=240.0 * number)
    plan = Plan(tuple(targets), tuple(verdicts), "sia", 1e3, 1e3, 1e-5, "core", f"Kept {jobs} jobs.")
    return RoundRecord(
        taken_s, "enforce", _snapshot(jobs, taken_s), plan, models, standing, Config().model_dump_json(),
        {"solve": 0.2},
    )  # fmt: skip


def _bytes(store: Store) -> int:
    """Bytes of the rows that are there: without SQLite's free pages, and on PostgreSQL after a full vacuum, because
    the dead rows of half an hour written within seconds are not what a server with autovacuum holds."""
    from sqlalchemy import text

    with store.db.read() as connection:
        if store.db.is_sqlite:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            free = connection.execute(text("PRAGMA freelist_count")).scalar_one()
            return int((pages - free) * connection.execute(text("PRAGMA page_size")).scalar_one())
    with store.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM FULL"))
    return sum(entry.bytes for entry in store.sizes())


def _rows(store: Store, jobs: int) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """A million past jobs as rows: every job with a run, sums of its own, a restart and its part in its kinds."""
    from slurmsia.store.schema import Job, Kind, KindObservation, RestartCostRow, Run, RunObservation

    kinds = [(-1, script) for script in range(_SCRIPTS)] + [
        (1000 + user, script) for script in range(_SCRIPTS) for user in range(script % 7, _USERS, 25)
    ]
    ids = {kind: index + 1_000_000 for index, kind in enumerate(kinds)}
    members = {script: [user for user, of in kinds if of == script and user >= 0] for script in range(_SCRIPTS)}
    yield (
        Kind,
        [
            {
                "id": ids[(user, script)], "cluster_id": 1, "user_id": user, "script": f"{script:x}past",
                "likeness": "script" if user < 0 else "user+script", "jobs": max(1, jobs // len(kinds)),
                "last_report_s": 1.6e9,
            }
            for user, script in kinds
        ],
    )  # fmt: skip
    shapes = [(name, nodes, gpus, local) for name in ("a100", "rtx", "t4") for nodes, gpus in ((1, 1), (1, 2), (1, 4),
              (1, 8), (2, 16)) for local in (16.0, 32.0, 64.0, 128.0)]  # fmt: skip
    yield (
        KindObservation,
        [
            {
                "kind_id": ids[kind], "gpu_type": name, "nodes": nodes, "gpus": gpus, "local_batch": local,
                "accumulation": 0, "count": 1e4, "step_sum_s": 2e3, "step_square_sum_s2": 5e2, "sync_sum_s": 1e2,
            }
            for kind in kinds
            for name, nodes, gpus, local in (shapes if kind[0] < 0 else shapes[:8])
        ],
    )  # fmt: skip
    for start in range(0, jobs, 20_000):
        numbers = range(start, min(start + 20_000, jobs))
        owners = {number: members[number % _SCRIPTS][number // _SCRIPTS % len(members[number % _SCRIPTS])]
                  for number in numbers}  # fmt: skip
        yield Job, [
            {
                "id": 10_000_000 + number, "cluster_id": 1, "slurm_id": f"p{number}", "first_submit_s": 1.6e9 + number,
                "last_submit_s": 1.6e9 + number, "user_id": owners[number], "state": "ended",
                "ended_s": 1.6e9 + number + 3600, "end_state": "COMPLETED", "last_seen_s": 1.6e9, "counted": True,
                "user_kind_id": ids[(owners[number], number % _SCRIPTS)],
                "script_kind_id": ids[(-1, number % _SCRIPTS)],
                "final_samples": 1e6 + number, "script_hash": f"{number % _SCRIPTS:x}past",
            }
            for number in numbers
        ]  # fmt: skip
        yield Run, [
            {
                "id": 10_000_000 + number, "job_id": 10_000_000 + number, "restart": 0, "started_s": 1.6e9 + number,
                "ended_s": 1.6e9 + number + 3600, "how_ended": "COMPLETED", "gpu_type": "a100", "nodes": 1, "gpus": 4,
            }
            for number in numbers
        ]  # fmt: skip
        yield RunObservation, [
            {
                "run_id": 10_000_000 + number, "gpu_type": "a100", "nodes": 1, "gpus": 4, "local_batch": 32.0,
                "accumulation": 0, "count": 100.0, "step_sum_s": 20.0, "step_square_sum_s2": 4.5, "sync_sum_s": 1.0,
            }
            for number in numbers
        ]  # fmt: skip
        yield RestartCostRow, [
            {
                "run_id": 10_000_000 + number, "cluster_id": 1, "t_s": 1.6e9 + number, "load_s": 9.0,
                "user_kind_id": ids[(owners[number], number % _SCRIPTS)],
                "script_kind_id": ids[(-1, number % _SCRIPTS)],
            }
            for number in numbers
        ]  # fmt: skip


def _fill(store: Store, jobs: int) -> None:
    """Bulk insert: COPY on PostgreSQL, executemany on SQLite."""
    from sqlalchemy import insert, text

    for model, rows in _rows(store, jobs):
        with store.db.write() as connection:
            if store.db.is_sqlite:
                connection.execute(insert(model), rows)
                continue
            names = list(rows[0])
            cursor: Any = connection.connection.cursor()
            with cursor.copy(f"COPY {model.__tablename__} ({', '.join(names)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row([row[name] for name in names])
    with store.db.write() as connection:
        connection.execute(text("ANALYZE"))


def _similar_ms(store: Store, jobs: int) -> dict[str, float]:
    from slurmsia.history import JobKind

    times: dict[str, list[float]] = {"user+script": [], "script": [], "cluster": []}
    for number in range(200):
        script = f"{number * 7 % _SCRIPTS:x}past"
        owner = 1000 + (number * 7 % _SCRIPTS) % 7
        for kind in (JobKind(owner, script), JobKind(99_999, script), JobKind(owner, f"new-{number}")):
            start = time.perf_counter()
            found = store.similar(kind)
            spent = time.perf_counter() - start
            assert found is not None
            times[found.likeness].append(spent)
    return {likeness: _median_ms(spent) for likeness, spent in times.items()} | {
        "worst": round(max(max(spent) for spent in times.values()) * 1e3, 2)
    }


def measure(url: str, jobs: int, past_jobs: int, rounds: int) -> dict[str, Any]:
    """All figures of one empty store; it is empty again afterwards."""
    from slurmsia.store import Store
    from slurmsia.store.engine import Database, database_url
    from slurmsia.store.upgrade import migrate

    db = Database(database_url(url))
    if migrate(db, "head")[0] is not None:
        db.close()
        raise click.ClickException(f"{db.where} is not empty; name an empty database")
    found: dict[str, Any] = {"database": db.url.get_backend_name(), "jobs": jobs, "past_jobs": past_jobs}
    try:
        with Store.open(url) as store:
            store.see_jobs(_snapshot(jobs, 1.8e9))
            store.ingest(_reports(jobs, 0, 1.8e9))
            batches, spent = 20, 0.0
            for seq in range(1, batches + 1):
                batch = _reports(jobs, seq, 1.8e9 + 30 * seq)
                start = time.perf_counter()
                assert store.ingest(batch).accepted == jobs
                spent += time.perf_counter() - start
            found["reports_per_s"] = round(batches * jobs / spent, 0)
            start = time.perf_counter()
            store.history([str(number) for number in range(jobs)])
            found["history_ms"] = round((time.perf_counter() - start) * 1e3, 1)
            store.save_round(_round(jobs, 0))
            before, times = _bytes(store), []
            for number in range(1, rounds + 1):
                record = _round(jobs, number)
                start = time.perf_counter()
                store.save_round(record)
                times.append(time.perf_counter() - start)
            found["round_write_ms"] = _median_ms(times)
            found["round_kib"] = round((_bytes(store) - before) / rounds / 1024, 1)
            day_before, minutes = _bytes(store), 30
            for step in range(minutes * 2):
                store.ingest(_reports(jobs, 100 + step, 1.81e9 + 30 * step))
            reports_mb = (_bytes(store) - day_before) / 1024**2 * (1440 / minutes) * (1000 / jobs)
            rounds_mb = found["round_kib"] / 1024 * 1440 * (1000 / jobs)
            found["mb_per_1000_job_days"] = round(reports_mb + rounds_mb, 1)
            found["mb_per_1000_job_days_without_round_bodies"] = round(reports_mb, 1)
            _fill(store, past_jobs)
            by_likeness = _similar_ms(store, past_jobs)
            found["similar_job_ms"] = max(by_likeness[likeness] for likeness in ("user+script", "script", "cluster"))
            found["similar_job_ms_by_likeness"] = by_likeness
    finally:
        migrate(db, "base", down=True)
        db.close()
    return found


@click.command("store")
@click.option("--url", help="An empty database (default: a temporary SQLite file).")
@click.option("--jobs", default=1000, show_default=True, help="Jobs that report and are in a round.")
@click.option("--past-jobs", default=1_000_000, show_default=True, help="Jobs in the history.")
@click.option("--rounds", default=20, show_default=True, help="Rounds written.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def store_bench(url: str | None, jobs: int, past_jobs: int, rounds: int, as_json: bool) -> None:
    """Reports per second, round writes, growth, and similar-job look-ups at a million jobs.

    \b
    Example:
      slurmsia bench store
      slurmsia bench store --url postgresql://me@db/empty --json
    """
    from .db import sentences

    with tempfile.TemporaryDirectory() as folder, sentences():
        found = measure(url or f"sqlite:///{Path(folder) / 'bench.db'}", jobs, past_jobs, rounds)
    if as_json:
        click.echo(json.dumps({"schema": 1, **found}))
    else:
        for name, value in found.items():
            click.echo(f"{name:<45} {value}")
    sys.exit(0 if found["similar_job_ms"] <= 20.0 else 1)
