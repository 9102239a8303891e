"""What may be forgotten and when: old rows go in small batches, each its own short transaction, oldest first.

What was learnt (sums by kind, ratios) outlives the jobs it was learnt from. Never removed: unfinished jobs and moves,
verdicts that still stand, the lease, and anything without a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, delete, func, select, text, tuple_
from sqlalchemy.exc import OperationalError

from .engine import Database
from .records import Keep, Pruned, TableSize
from .schema import (
    Base,
    GradientPoint,
    Job,
    Kind,
    Move,
    OperatorActionRow,
    ProgressPoint,
    Round,
    RoundBody,
    VerdictRow,
)

#: Tables that retention knows, in the order in which they are pruned.
PRUNABLE = (
    "round_bodies", "rounds", "verdicts", "gradient_points", "progress_points", "moves", "operator_actions", "jobs",
    "kinds",
)  # fmt: skip

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Forgettable:
    """A table, the time that makes a row old, and which of its rows may go at all."""

    table: Table
    age: Any
    join: tuple[Any, Any] | None = None
    only: Callable[[], Any] | None = None

    def oldest(self, *columns: Any) -> Select[Any]:
        statement = select(*columns).select_from(self.table)
        if self.join is not None:
            statement = statement.join(*self.join)
        statement = statement.where(self.age.is_not(None))
        return statement if self.only is None else statement.where(self.only())


def _table(model: type[Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


_FORGETTABLE: Mapping[str, _Forgettable] = {
    "round_bodies": _Forgettable(_table(RoundBody), Round.taken_s, (Round, Round.id == RoundBody.round_id)),
    "rounds": _Forgettable(_table(Round), Round.taken_s),
    "verdicts": _Forgettable(_table(VerdictRow), VerdictRow.last_s, only=lambda: ~VerdictRow.open),
    "gradient_points": _Forgettable(_table(GradientPoint), GradientPoint.t_s),
    "progress_points": _Forgettable(_table(ProgressPoint), ProgressPoint.t_s),
    "moves": _Forgettable(_table(Move), Move.ended_s),
    "operator_actions": _Forgettable(_table(OperatorActionRow), OperatorActionRow.t_s),
    "jobs": _Forgettable(
        _table(Job),
        Job.ended_s,
        only=lambda: ~select(Move.id).where(Move.job_id == Job.id, Move.ended_s.is_(None)).exists(),
    ),
    "kinds": _Forgettable(
        _table(Kind),
        Kind.last_report_s,
        only=lambda: (
            ~select(Job.id).where(Job.user_kind_id == Kind.id).exists()
            & ~select(Job.id).where(Job.script_kind_id == Kind.id).exists()
        ),
    ),
}


def prune(
    db: Database, policy: Mapping[str, Keep], now_s: float, dry_run: bool = False, batch: int = 500,
    between: Callable[[], None] | None = None,
) -> tuple[Pruned, ...]:  # fmt: skip
    """Remove (or with ``dry_run`` count) what the policy no longer keeps; ``between`` runs after every batch."""
    done: list[Pruned] = []
    for name in PRUNABLE:
        keep = policy.get(name)
        if keep is None:
            continue
        what = _FORGETTABLE[name]
        if keep.max_age_s is not None:
            cutoff = now_s - keep.max_age_s
            rows = _by_age(db, what, cutoff, dry_run, batch, between)
            done.append(Pruned(name, rows, f"older than {keep.max_age_s / _DAY_S:g} days"))
        if keep.max_bytes is not None:
            rows = _by_size(db, what, keep.max_bytes, dry_run, batch, between)
            done.append(Pruned(name, rows, f"more than {keep.max_bytes / 1024**2:g} MiB"))
    return tuple(done)


def _by_age(
    db: Database, what: _Forgettable, cutoff_s: float, dry_run: bool, batch: int, between: Callable[[], None] | None
) -> int:
    if dry_run:
        with db.read() as connection:
            return int(connection.execute(what.oldest(func.count()).where(what.age < cutoff_s)).scalar_one())
    return _remove(db, what, lambda statement: statement.where(what.age < cutoff_s), None, batch, between)


def _by_size(
    db: Database, what: _Forgettable, max_bytes: int, dry_run: bool, batch: int, between: Callable[[], None] | None
) -> int:
    with db.read() as connection:
        rows = int(connection.execute(select(func.count()).select_from(what.table)).scalar_one())
        held = live_bytes(db, connection, what.table)
        removable = int(connection.execute(what.oldest(func.count())).scalar_one())
    if held <= max_bytes or rows == 0:
        return 0
    excess = min(-(-rows * (held - max_bytes) // held), removable)
    if dry_run:
        return excess
    return _remove(db, what, lambda statement: statement, excess, batch, between)


def _remove(
    db: Database, what: _Forgettable, narrow: Callable[[Select[Any]], Select[Any]], at_most: int | None, batch: int,
    between: Callable[[], None] | None,
) -> int:  # fmt: skip
    removed = 0
    key = list(what.table.primary_key.columns)
    while at_most is None or removed < at_most:
        size = batch if at_most is None else min(batch, at_most - removed)
        with db.write() as connection:
            victims = connection.execute(narrow(what.oldest(*key)).order_by(what.age).limit(size)).all()
            if victims:
                gone = key[0].in_([row[0] for row in victims]) if len(key) == 1 else tuple_(*key).in_(victims)
                connection.execute(delete(what.table).where(gone))
        removed += len(victims)
        if len(victims) < size:
            break
        if between is not None:
            between()
    return removed


def live_bytes(db: Database, connection: Connection, table: Table) -> int:
    """Bytes of the rows that are there; space that deleted rows left behind does not count."""
    if db.is_sqlite:
        return _sqlite_bytes(connection, [table.name]).get(table.name, 0)
    quote = connection.dialect.identifier_preparer.quote
    widths = " + ".join(f"coalesce(pg_column_size({quote(column.name)}), 0)" for column in table.columns)
    return int(connection.execute(text(f"SELECT coalesce(sum({widths}), 0) FROM {quote(table.name)}")).scalar_one())


def _sqlite_bytes(connection: Connection, tables: Iterable[str]) -> dict[str, int]:
    """Pages of each table and its indexes; SQLite builds without ``dbstat`` report nothing."""
    names = list(tables)
    owner = {row.name: row.tbl_name for row in connection.execute(text("SELECT name, tbl_name FROM sqlite_master"))}
    found = dict.fromkeys(names, 0)
    try:
        pages = connection.execute(text("SELECT name, pgsize FROM dbstat WHERE aggregate = TRUE")).all()
    except OperationalError:
        return found
    for name, size in pages:
        if owner.get(name) in found:
            found[owner[name]] += int(size)
    return found


def sizes(db: Database) -> tuple[TableSize, ...]:
    """Rows and bytes of every table, largest first."""
    tables = Base.metadata.sorted_tables
    with db.read() as connection:
        if db.is_sqlite:
            bytes_of = _sqlite_bytes(connection, [table.name for table in tables])
            rows_of = {
                table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
                for table in tables
            }
        else:
            statement = text(
                "SELECT relname, n_live_tup, pg_total_relation_size(relid) AS bytes FROM pg_stat_user_tables "
                "WHERE schemaname = current_schema()"
            )
            found = {row.relname: row for row in connection.execute(statement)}
            bytes_of = {table.name: int(found[table.name].bytes) for table in tables if table.name in found}
            rows_of = {table.name: int(found[table.name].n_live_tup) for table in tables if table.name in found}
    listed = [TableSize(table.name, rows_of.get(table.name, 0), bytes_of.get(table.name, 0)) for table in tables]
    return tuple(sorted(listed, key=lambda entry: (-entry.bytes, entry.table)))
