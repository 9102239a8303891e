"""Moves and their events on disk: the intent before the first call to Slurm, then every transition once.

Rows are generic (states are text, targets are JSON): what they mean is the move table's business. Repeating a write
that already took effect changes nothing; a write of an older lease generation is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from ..cluster import JobId
from . import codec
from .engine import Database, DbRow
from .errors import Fenced, StoreConflict
from .identity import chunks, current_rows
from .lease import fence
from .records import MoveEvent, MoveRecord, OperatorAction
from .schema import Job, Move, MoveEventRow, OperatorActionRow

_TARGETS = select(Move.id, Move.job_id, Move.target_json).where(Move.id.in_(bindparam("b_moves", expanding=True)))
_OPEN_OF = select(Move.id, Move.job_id).where(
    Move.job_id.in_(bindparam("b_jobs", expanding=True)), Move.ended_s.is_(None)
)


def record_intents(
    db: Database, connection: Connection, cluster_id: int, lease_name: str, moves: Sequence[MoveRecord], fenced: int
) -> None:
    """Write intents. Raises `Fenced`, and `StoreConflict` when a job has another unfinished move. ``fenced``: see
    `record_events`."""
    _fence(connection, lease_name, fenced, (move.generation for move in moves))
    jobs = current_rows(connection, cluster_id, [move.job_id for move in moves])
    for move in moves:
        if move.job_id not in jobs:
            raise StoreConflict(f"job {move.job_id}: no such job in the store; record the snapshot before its moves")
    owners = sorted({jobs[move.job_id].id for move in moves})
    known: dict[str, DbRow] = {}
    unfinished: dict[int, str] = {}
    for part in chunks([move.move_id for move in moves]):
        known.update({row.id: row for row in connection.execute(_TARGETS, {"b_moves": part})})
    for part in chunks(owners):
        unfinished.update({row.job_id: row.id for row in connection.execute(_OPEN_OF, {"b_jobs": part})})
    rows = []
    for move in moves:
        job, target = jobs[move.job_id], codec.plain_json(move.target)
        stored = known.get(move.move_id)
        if stored is not None:
            if stored.job_id != job.id or stored.target_json != target:
                raise StoreConflict(f"move {move.move_id} is already stored with another job or target")
            continue
        other = unfinished.setdefault(job.id, move.move_id)
        if other != move.move_id:
            raise StoreConflict(f"job {move.job_id}: move {other} is not finished; end it before move {move.move_id}")
        rows.append({
            "id": move.move_id, "job_id": job.id, "round_id": move.round_id, "state": move.state,
            "target_json": target, "cause": move.cause, "generation": move.generation, "created_s": move.created_s,
            "updated_s": move.created_s if move.updated_s is None else move.updated_s, "ended_s": move.ended_s,
        })  # fmt: skip
    if rows:
        connection.execute(db.insert(Move), rows)


_MOVES = (
    select(Move.id, Move.state, Move.generation, Move.ended_s)
    .where(Move.id.in_(bindparam("b_moves", expanding=True)))
    .order_by(Move.id)
    .with_for_update()
)
_EVENTS = select(MoveEventRow.move_id, MoveEventRow.seq, MoveEventRow.event, MoveEventRow.to_state).where(
    MoveEventRow.move_id.in_(bindparam("b_moves", expanding=True))
)
_ADVANCE = update(Move).where(Move.id == bindparam("b_id")).values(
    state=bindparam("b_state"), updated_s=bindparam("b_t"), generation=bindparam("b_generation"),
    ended_s=bindparam("b_ended"),
)  # fmt: skip


def record_events(
    db: Database, connection: Connection, lease_name: str, events: Sequence[MoveEvent], fenced: int
) -> None:
    """Write one transition of each of some moves. Raises `Fenced`; `StoreConflict` for an unknown move or an event
    after its end. ``fenced``: the generation that this transaction is fenced with already."""
    _fence(connection, lease_name, fenced, (happened.generation for happened in events))
    moves: dict[str, DbRow] = {}
    known: dict[tuple[str, int], DbRow] = {}
    for part in chunks(sorted({happened.move_id for happened in events})):
        moves.update({row.id: row for row in connection.execute(_MOVES, {"b_moves": part})})
        known.update({(row.move_id, row.seq): row for row in connection.execute(_EVENTS, {"b_moves": part})})
    new = [happened for happened in events if _is_new(happened, moves.get(happened.move_id), known)]
    if not new:
        return
    connection.execute(
        db.insert(MoveEventRow),
        [
            {
                "move_id": happened.move_id, "seq": happened.seq, "t_s": happened.t_s, "event": happened.event,
                "from_state": happened.from_state, "to_state": happened.to_state, "cause": happened.cause,
                "detail": happened.detail, "actions_json": codec.plain_json(happened.actions),
                "generation": happened.generation,
            }
            for happened in new
        ],
    )  # fmt: skip
    connection.execute(
        _ADVANCE,
        [
            {
                "b_id": happened.move_id, "b_state": happened.to_state, "b_t": happened.t_s,
                "b_generation": happened.generation, "b_ended": happened.t_s if happened.ends else None,
            }
            for happened in new
        ],
    )  # fmt: skip


def _is_new(happened: MoveEvent, move: DbRow | None, known: Mapping[tuple[str, int], DbRow]) -> bool:
    """Whether a transition is still to be written; what must not be written raises."""
    if move is None:
        raise StoreConflict(f"move {happened.move_id} is unknown; its intent was never recorded")
    if move.generation > happened.generation:
        raise Fenced(happened.generation, move.generation, "a newer leader of this move")
    stored = known.get((happened.move_id, happened.seq))
    if stored is not None:
        if (stored.event, stored.to_state) != (happened.event, happened.to_state):
            raise StoreConflict(
                f"move {happened.move_id}: event {happened.seq} is stored as {stored.event} -> {stored.to_state}"
            )
        return False
    if move.ended_s is not None:
        raise StoreConflict(f"move {happened.move_id} ended in state {move.state}; no event may follow")
    return True


def _fence(connection: Connection, lease_name: str, fenced: int, generations: Iterable[int]) -> None:
    """Fence what the transaction is not fenced with yet."""
    for generation in sorted({*generations} - {fenced}):
        fence(connection, lease_name, generation)


def _move(row: DbRow) -> MoveRecord:
    return MoveRecord(
        row.id, row.slurm_id, row.state, json.loads(row.target_json), row.cause, row.generation, row.created_s,
        row.round_id, row.updated_s, row.ended_s,
    )  # fmt: skip


def _moves(connection: Connection, cluster_id: int, *conditions: Any, limit: int | None = None) -> list[MoveRecord]:
    statement = (
        select(*Move.__table__.c, Job.slurm_id)
        .join(Job, Job.id == Move.job_id)
        .where(Job.cluster_id == cluster_id, *conditions)
        .order_by(Move.created_s, Move.id)
        .limit(limit)
    )
    return [_move(row) for row in connection.execute(statement)]


def unfinished(connection: Connection, cluster_id: int) -> tuple[MoveRecord, ...]:
    """Moves that a daemon must take up again after a start, oldest first."""
    return tuple(_moves(connection, cluster_id, Move.ended_s.is_(None)))


def moves_of(connection: Connection, cluster_id: int, job_id: JobId) -> tuple[MoveRecord, ...]:
    """All moves of the present owner of a Slurm id, oldest first."""
    return tuple(_moves(connection, cluster_id, Job.slurm_id == job_id, Job.current))


def moves_between(connection: Connection, cluster_id: int, start_s: float, end_s: float) -> tuple[MoveRecord, ...]:
    """Moves created in [start, end), oldest first."""
    return tuple(_moves(connection, cluster_id, Move.created_s >= start_s, Move.created_s < end_s))


def events_of(connection: Connection, move_ids: Sequence[str]) -> dict[str, tuple[MoveEvent, ...]]:
    """The transitions of moves, in order."""
    found: dict[str, list[MoveEvent]] = {move_id: [] for move_id in move_ids}
    statement = (
        select(*MoveEventRow.__table__.c, Move.ended_s, Move.state)
        .join(Move, Move.id == MoveEventRow.move_id)
        .where(MoveEventRow.move_id.in_(list(move_ids)))
        .order_by(MoveEventRow.move_id, MoveEventRow.seq)
    )
    rows = connection.execute(statement).all()
    last = {row.move_id: row.seq for row in rows}
    for row in rows:
        found[row.move_id].append(
            MoveEvent(
                row.move_id,
                row.seq,
                row.t_s,
                row.event,
                row.from_state,
                row.to_state,
                row.generation,
                row.cause,
                row.detail,
                tuple(json.loads(row.actions_json)),
                row.ended_s is not None and row.seq == last[row.move_id],
            )
        )
    return {move_id: tuple(events) for move_id, events in found.items()}


def record_operator_action(db: Database, connection: Connection, lease_name: str, action: OperatorAction) -> None:
    """Write who did what. Fenced only when the action names a generation (the daemon's do, offline commands' not)."""
    fence(connection, lease_name, action.generation)
    connection.execute(
        db.insert(OperatorActionRow).values(
            t_s=action.t_s, who=action.who, user_id=action.user_id, what=action.what, slurm_id=action.job_id,
            detail_json=codec.plain_json(action.detail),
        )
    )  # fmt: skip


def operator_actions(connection: Connection, start_s: float, end_s: float) -> tuple[OperatorAction, ...]:
    """Actions in [start, end), oldest first."""
    statement = (
        select(*OperatorActionRow.__table__.c)
        .where(OperatorActionRow.t_s >= start_s, OperatorActionRow.t_s < end_s)
        .order_by(OperatorActionRow.t_s, OperatorActionRow.id)
    )
    return tuple(
        OperatorAction(row.t_s, row.who, row.what, row.user_id, row.slurm_id, json.loads(row.detail_json))
        for row in connection.execute(statement)
    )
