"""Copies of the store: an online backup, and tables as Parquet or CSV. Reads only; the daemon works on meanwhile.

A copy appears under its name only when it is complete.
"""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, Integer, LargeBinary, Table, select

from . import codec
from .engine import Database
from .errors import StoreError, StoreUnavailable
from .schema import Base

_ROWS_AT_A_TIME = 10_000


def table_names() -> tuple[str, ...]:
    """Tables that can be exported."""
    return tuple(sorted(Base.metadata.tables))


def backup(db: Database, target: Path) -> Path:
    """Write a consistent copy while the daemon works: an SQLite file, or pg_dump's custom format.

    Raises `StoreError` when the target exists, cannot be written, or pg_dump is missing or fails.
    """
    if target.exists():
        raise StoreError(f"{target} exists already; name a new file")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    if db.is_sqlite:
        _backup_sqlite(db, partial)
    else:
        _backup_postgresql(db, partial)
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.rename(target)
    return target


def _backup_sqlite(db: Database, partial: Path) -> None:
    if db.in_memory or db.url.database is None:
        raise StoreError("a store in memory has no backup")
    try:
        source = sqlite3.connect(f"file:{db.url.database}?mode=ro", uri=True, isolation_level=None)
        try:
            source.execute("VACUUM INTO ?", (str(partial),))
        finally:
            source.close()
    except sqlite3.Error as error:
        partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"backup of {db.where} to {partial.parent} failed ({error})") from error


def _backup_postgresql(db: Database, partial: Path) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise StoreError("pg_dump is not installed; install the PostgreSQL client package of the server's version")
    url = db.url.set(drivername="postgresql")._replace(password=None)
    environment = dict(os.environ)
    if db.url.password is not None:
        environment["PGPASSWORD"] = str(db.url.password)
    done = subprocess.run(
        [program, "--format=custom", f"--file={partial}", f"--dbname={url.render_as_string()}"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"pg_dump of {db.where} failed: {done.stderr.strip()}")


def export(db: Database, table_name: str, target: Path, form: str) -> int:
    """Write one table to ``target`` as "parquet" or "csv"; returns the number of rows.

    Compressed bodies come out as their JSON. Raises `StoreError` with a sentence.
    """
    if table_name not in Base.metadata.tables:
        raise StoreError(f"no table {table_name!r}; tables are {', '.join(table_names())}")
    table = Base.metadata.tables[table_name]
    partial = target.with_name(target.name + ".partial")
    try:
        rows = (_parquet if form == "parquet" else _csv)(table, _batches(db, table), partial)
        partial.rename(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {target} ({error.strerror})") from error
    return rows


def _batches(db: Database, table: Table) -> Iterator[list[tuple[Any, ...]]]:
    bodies = [isinstance(column.type, LargeBinary) for column in table.columns]
    statement = select(table).order_by(*table.primary_key.columns)
    with db.read() as connection:
        result = connection.execution_options(yield_per=_ROWS_AT_A_TIME).execute(statement)
        for part in result.partitions():
            if any(bodies):
                yield [
                    tuple(
                        codec.unpack_json(value).decode() if is_body else value
                        for value, is_body in zip(row, bodies, strict=True)
                    )
                    for row in part
                ]
            else:
                yield [tuple(row) for row in part]


def _csv(table: Table, batches: Iterator[list[tuple[Any, ...]]], target: Path) -> int:
    rows = 0
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column.name for column in table.columns])
        for batch in batches:
            writer.writerows(batch)
            rows += len(batch)
    return rows


def _parquet(table: Table, batches: Iterator[list[tuple[Any, ...]]], target: Path) -> int:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise StoreError("Parquet needs pyarrow. Run: pip install 'slurmsia[parquet]', or export as CSV") from error
    fields = [arrow.field(column.name, _arrow_type(arrow, column.type), column.nullable) for column in table.columns]
    schema = arrow.schema(fields)
    rows = 0
    with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in batches:
            columns: Sequence[Any] = list(zip(*batch, strict=True)) or [() for _ in fields]
            arrays = [arrow.array(values, type=field.type) for values, field in zip(columns, fields, strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            rows += len(batch)
    return rows


def _arrow_type(arrow: Any, kind: Any) -> Any:
    if isinstance(kind, Boolean):
        return arrow.bool_()
    if isinstance(kind, (BigInteger, Integer)):
        return arrow.int64()
    if isinstance(kind, Float):
        return arrow.float64()
    return arrow.string()
