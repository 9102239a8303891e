"""Rounds on disk: one transaction with the round, its bodies, one verdict per job and what we remember of the jobs.

Encoding happens before the transaction, so that the database is locked only while rows are written. A round is
there entirely or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, case, select, update

from ..cluster import Job as SlurmJob
from ..cluster import JobId, Node, Snapshot
from ..models.base import JobModel, TypeModel
from ..plan import Plan, TargetKind, Verdict
from ..standing import Standing
from . import codec
from .engine import Database, DbRow, insert_of
from .identity import chunks, storable
from .records import RoundHead, RoundRecord, StoredRound, VerdictSpan
from .schema import ConfigText, Job, Round, RoundBody, StandingRow, VerdictRow

_MODELS = dict[str, JobModel]
_STANDINGS = dict[str, Standing]
_MOVING = (TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE, TargetKind.SUSPEND)


def digest(body: str) -> str:
    """Short, stable name of a canonical text."""
    return hashlib.sha256(body.encode()).hexdigest()[:32]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def canonical(config_text: str) -> str:
    """The configuration's JSON with sorted keys and no spaces, whatever wrote it."""
    return codec.plain_json(json.loads(config_text))


@dataclass(frozen=True, slots=True)
class EncodedRound:
    """A round ready to be written."""

    record: RoundRecord
    config: str
    row: Mapping[str, Any]
    body: Mapping[str, bytes]
    verdicts: Mapping[JobId, tuple[Verdict, str]]
    standings: Mapping[JobId, str]


def encode(record: RoundRecord, kept: codec.Kept) -> EncodedRound:
    """Everything that costs time and needs no database. ``kept``: what the last round wrote, most of it unchanged.

    Bodies are compressed beside the encoding of the next one: zlib lets go of the interpreter.
    """
    plan = record.plan
    config = canonical(record.config_text)
    parsed = json.loads(config)
    options = parsed.get("policy", {}) if isinstance(parsed, dict) else {}
    row = {
        "taken_s": record.taken_s, "mode": record.mode, "policy": plan.policy,
        "policy_hash": digest(plan.policy + codec.plain_json(options)), "config_hash": digest(config),
        "objective": _finite(plan.objective), "bound": _finite(plan.bound),
        "gap": _finite(max(plan.gap, 0.0)), "stage": plan.stage,
        "sentence": storable(plan.sentence), "jobs": len(plan.targets),
        "moves": sum(target.kind in _MOVING for target in plan.targets),
        "times_json": codec.plain_json(record.times_s), "generation": record.generation,
    }  # fmt: skip
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="compress") as beside:
        packing = {"models": beside.submit(codec.pack_text, _models_text(record.models, kept))}
        packing["snapshot"] = beside.submit(codec.pack_text, _snapshot_text(record.snapshot, kept))
        said = [kept.text(Verdict, verdict.job_id, verdict) for verdict in plan.verdicts]
        plan_text = codec.with_texts(Plan, plan, {"verdicts": codec.sequence_text(said)})
        packing["plan"] = beside.submit(codec.pack_text, plan_text)
        standings = {job_id: codec.to_text(Standing, standing) for job_id, standing in record.standing.items()}
        packing["standing"] = beside.submit(codec.pack_text, codec.mapping_text(standings))
        body = {name: packed.result() for name, packed in packing.items()}
    kept.turn()
    verdicts = {verdict.job_id: (verdict, text) for verdict, text in zip(plan.verdicts, said, strict=True)}
    return EncodedRound(record, config, row, body, verdicts, standings)


def _snapshot_text(snapshot: Snapshot, kept: codec.Kept) -> str:
    """Jobs and nodes are most of a snapshot, and few of them change within a round."""
    return codec.with_texts(Snapshot, snapshot, {
        "jobs": codec.sequence_text(kept.text(SlurmJob, job.id, job) for job in snapshot.jobs),
        "nodes": codec.sequence_text(kept.text(Node, node.name, node) for node in snapshot.nodes),
    })  # fmt: skip


def _models_text(models: Mapping[JobId, JobModel], kept: codec.Kept) -> str:
    """What a job is on each GPU type is most of its model, and stays until it is fitted again."""
    return codec.mapping_text({
        job_id: codec.with_texts(JobModel, model, {
            "types": codec.mapping_text({
                name: kept.text(TypeModel, (job_id, name), fitted) for name, fitted in model.types.items()
            }),
        })
        for job_id, model in models.items()
    })  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Statements:
    """Inserts of one dialect, built once: SQLAlchemy compiles a statement it has seen before in no time."""

    config: Any
    round: Any
    standing: Any


@cache
def _statements(is_sqlite: bool) -> _Statements:
    standing = insert_of(is_sqlite, StandingRow)
    new = standing.excluded
    return _Statements(
        config=insert_of(is_sqlite, ConfigText).on_conflict_do_nothing(),
        round=insert_of(is_sqlite, Round).on_conflict_do_nothing().returning(Round.id),
        standing=standing.on_conflict_do_update(
            index_elements=["job_id"], set_={"body_json": new.body_json, "updated_s": new.updated_s}
        ),
    )


def write_round(
    db: Database, connection: Connection, cluster_id: int, encoded: EncodedRound, job_rows: Mapping[JobId, int],
    spans: dict[int, OpenSpan],
) -> int:  # fmt: skip
    """Write an encoded round within the caller's transaction; a round repeated by its time is not written twice.

    ``spans``: see `_write_verdicts`; no longer true when the transaction fails.
    """
    record = encoded.record
    statements = _statements(db.is_sqlite)
    config = {"hash": encoded.row["config_hash"], "body_json": encoded.config, "first_used_s": record.taken_s}
    connection.execute(statements.config, config)
    round_id: int | None = connection.execute(
        statements.round, {"cluster_id": cluster_id, **encoded.row}
    ).scalar_one_or_none()
    if round_id is None:
        statement = select(Round.id).where(Round.cluster_id == cluster_id, Round.taken_s == record.taken_s)
        return connection.execute(statement).scalar_one()
    connection.execute(db.insert(RoundBody), {"round_id": round_id, **encoded.body})
    _write_verdicts(db, connection, round_id, record.taken_s, encoded.verdicts, job_rows, spans)
    return round_id


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """A job's verdict that still stands: its row, what is said in it, and ``body``, ``None`` where not known."""

    id: int
    code: str
    term: str
    body: str | None = None


def _write_verdicts(
    db: Database, connection: Connection, round_id: int, taken_s: float,
    verdicts: Mapping[JobId, tuple[Verdict, str]], job_rows: Mapping[JobId, int], spans: dict[int, OpenSpan],
) -> None:  # fmt: skip
    """Extend the open span of a job whose verdict stayed; end it and open a new one where code or term changed.

    ``spans``: open spans as last written, by job row; the ones missing are looked up. Brought up to date.
    """
    wanted = {job_rows[job_id]: said for job_id, said in verdicts.items() if job_id in job_rows}
    for part in chunks(sorted(wanted.keys() - spans.keys())):
        for row in connection.execute(_OPEN_SPANS, {"b_jobs": part}):
            spans[row.job_id] = OpenSpan(row.id, row.code, row.term)
    stays: list[int] = []
    said_anew, ended, opened = [], [], []
    for row_id, (verdict, body) in wanted.items():
        old = spans.get(row_id)
        if old is not None and (old.code, old.term) == (verdict.code, verdict.term):
            stays.append(old.id)
            if old.body != body:
                said_anew.append({"b_id": old.id, "b_body": body})
                spans[row_id] = OpenSpan(old.id, old.code, old.term, body)
            continue
        if old is not None:
            ended.append(old.id)
            del spans[row_id]
        opened.append({
            "job_id": row_id, "open": True, "code": storable(verdict.code), "term": storable(verdict.term),
            "body_json": body,
            "first_round": round_id, "last_round": round_id, "first_s": taken_s, "last_s": taken_s, "rounds": 1,
        })  # fmt: skip
    for part in chunks(ended):
        connection.execute(_CLOSE_SPANS, {"b_ids": part})
    if said_anew:
        connection.execute(_NEW_BODY, said_anew)
    for part in chunks(sorted(stays)):
        connection.execute(_EXTEND_SPANS, {"b_ids": part, "b_round": round_id, "b_taken": taken_s})
    if opened:
        connection.execute(db.insert(VerdictRow), opened)


_OPEN_SPANS = select(VerdictRow.id, VerdictRow.job_id, VerdictRow.code, VerdictRow.term).where(
    VerdictRow.open, VerdictRow.job_id.in_(bindparam("b_jobs", expanding=True))
)
_OF_IDS = VerdictRow.id.in_(bindparam("b_ids", expanding=True))
_TAKEN: Any = bindparam("b_taken")
_CLOSE_SPANS = update(VerdictRow).where(_OF_IDS).values(open=False)
_EXTEND_SPANS = update(VerdictRow).where(_OF_IDS).values(
    last_round=bindparam("b_round"), rounds=VerdictRow.rounds + 1,
    last_s=case((VerdictRow.last_s < _TAKEN, _TAKEN), else_=VerdictRow.last_s),
)  # fmt: skip
_NEW_BODY = update(VerdictRow).where(VerdictRow.id == bindparam("b_id")).values(body_json=bindparam("b_body"))


def write_standings(db: Database, connection: Connection, bodies: Mapping[int, str], now_s: float) -> None:
    """Replace what we remember of these job rows."""
    if not bodies:
        return
    connection.execute(
        _statements(db.is_sqlite).standing,
        [{"job_id": row_id, "body_json": body, "updated_s": now_s} for row_id, body in sorted(bodies.items())],
    )


def standings(connection: Connection, cluster_id: int, job_ids: Iterable[JobId] | None) -> dict[JobId, Standing]:
    """What we remember of these jobs; ``None`` = of every unfinished job."""
    base = (
        select(Job.slurm_id, StandingRow.body_json)
        .join(Job, Job.id == StandingRow.job_id)
        .where(Job.cluster_id == cluster_id, Job.current)
    )
    if job_ids is None:
        pages = [base.where(Job.ended_s.is_(None))]
    else:
        pages = [base.where(Job.slurm_id.in_(part)) for part in chunks(sorted(set(job_ids)))]
    return {
        row.slurm_id: codec.from_json(Standing, row.body_json) for page in pages for row in connection.execute(page)
    }


_HEAD = [column for column in Round.__table__.c if column.name not in ("cluster_id", "generation")]


def _head(row: DbRow) -> RoundHead:
    return RoundHead(
        row.id, row.taken_s, row.mode, row.policy, row.policy_hash, row.config_hash, row.objective, row.bound,
        row.gap, row.stage, row.sentence, row.jobs, row.moves, json.loads(row.times_json), row.body is not None,
    )  # fmt: skip


def heads(
    connection: Connection, cluster_id: int, start_s: float | None, end_s: float | None, limit: int | None
) -> tuple[RoundHead, ...]:
    """Rounds taken in [start, end), newest first."""
    statement = (
        select(*_HEAD, RoundBody.round_id.label("body"))
        .outerjoin(RoundBody, RoundBody.round_id == Round.id)
        .where(Round.cluster_id == cluster_id)
        .order_by(Round.taken_s.desc())
        .limit(limit)
    )
    if start_s is not None:
        statement = statement.where(Round.taken_s >= start_s)
    if end_s is not None:
        statement = statement.where(Round.taken_s < end_s)
    return tuple(_head(row) for row in connection.execute(statement))


def stored_round(connection: Connection, cluster_id: int, round_id: int) -> StoredRound | RoundHead | None:
    """A round with its bodies, its head alone once retention dropped them, ``None`` when there is no such round."""
    row = connection.execute(
        select(
            *_HEAD, RoundBody.round_id.label("body"), RoundBody.snapshot, RoundBody.plan, RoundBody.models,
            RoundBody.standing, ConfigText.body_json,
        )
        .join(ConfigText, ConfigText.hash == Round.config_hash)
        .outerjoin(RoundBody, RoundBody.round_id == Round.id)
        .where(Round.cluster_id == cluster_id, Round.id == round_id)
    ).one_or_none()  # fmt: skip
    if row is None:
        return None
    if row.body is None:
        return _head(row)
    plan_json = codec.unpack_json(row.plan)
    models: dict[JobId, JobModel] = codec.unpack(_MODELS, row.models)
    standing: dict[JobId, Standing] = codec.unpack(_STANDINGS, row.standing)
    return StoredRound(
        _head(row), codec.unpack(Snapshot, row.snapshot), codec.from_json(Plan, plan_json), plan_json, models, standing,
        row.body_json,
    )  # fmt: skip


def verdicts_of(connection: Connection, cluster_id: int, job_id: JobId, limit: int) -> tuple[VerdictSpan, ...]:
    """Verdict spans of the present owner of a Slurm id, newest first; the sentence is the latest of its span."""
    statement = (
        select(*VerdictRow.__table__.c)
        .join(Job, Job.id == VerdictRow.job_id)
        .where(Job.cluster_id == cluster_id, Job.slurm_id == job_id, Job.current)
        .order_by(VerdictRow.last_s.desc(), VerdictRow.id.desc())
        .limit(limit)
    )
    return tuple(
        VerdictSpan(
            codec.from_json(Verdict, row.body_json), row.first_round, row.last_round, row.first_s, row.last_s,
            row.rounds,
        )
        for row in connection.execute(statement)
    )  # fmt: skip
