"""The database behind the store: opening it, its transactions, and the few things SQLite and PostgreSQL do apart.

Every transaction is a ``with`` block, so no session can leak; every error leaves as a `StoreError`. Nothing here
knows what the tables mean.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, exc, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import StaticPool

from .errors import StoreConflict, StoreUnavailable, named_errors

PASSWORD_FILE_VARIABLE = "SLURMSIA_STORE_PASSWORD_FILE"
_WRITE = "slurmsia_write"

#: A result row; its columns are those of the statement. SQLAlchemy 2.0 and 2.1 type rows differently.
DbRow: TypeAlias = Any


def database_url(url: str, password_file: str | None = None) -> URL:
    """The URL with the password from a file; the environment variable wins over ``password_file``.

    ``postgresql://`` is taken as psycopg 3. Raises `StoreUnavailable` with a sentence for anything unusable.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise StoreUnavailable(f"[store] url is no database URL: {url!r}") from error
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    elif parsed.get_backend_name() != "sqlite":
        raise StoreUnavailable(f"[store] url must be sqlite:// or postgresql://, not {parsed.get_backend_name()}://")
    file = os.environ.get(PASSWORD_FILE_VARIABLE) or password_file
    if file and parsed.get_backend_name() == "postgresql" and parsed.password is None:
        try:
            parsed = parsed.set(password=Path(file).read_text().strip())
        except OSError as error:
            raise StoreUnavailable(f"the store's password file {file} cannot be read ({error.strerror})") from error
    return parsed


@cache
def insert_of(is_sqlite: bool, table: type | Table) -> Any:
    """The dialect's INSERT, which knows ON CONFLICT. One object for each table: SQLAlchemy then compiles it once."""
    target = getattr(table, "__table__", table)
    return sqlite.insert(target) if is_sqlite else postgresql.insert(target)


class Database:
    """One engine with read and write transactions. Safe to share between threads."""

    def __init__(self, url: URL, busy_timeout_s: float = 10.0) -> None:
        self.url = url
        self.where = url.render_as_string(hide_password=True)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.in_memory = self.is_sqlite and url.database in (None, "", ":memory:")
        self._alone: AbstractContextManager[Any] = threading.RLock() if self.in_memory else nullcontext()
        try:
            self.engine = self._create(busy_timeout_s)
        except ModuleNotFoundError as error:
            raise StoreUnavailable(
                f"{self.where} needs psycopg, which is not installed. Run: pip install 'slurmsia[postgresql]'"
            ) from error

    def _create(self, busy_timeout_s: float) -> Engine:
        if not self.is_sqlite:
            return create_engine(
                self.url,
                pool_pre_ping=True,
                pool_size=4,
                max_overflow=4,
                pool_timeout=busy_timeout_s,
                connect_args={"connect_timeout": max(2, int(busy_timeout_s)), "application_name": "slurmsia"},
            )
        options: dict[str, Any] = {"connect_args": {"timeout": busy_timeout_s, "check_same_thread": False}}
        if self.in_memory:
            options["poolclass"] = StaticPool
        engine = create_engine(self.url, **options)

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            # The driver must not open transactions by itself: `begin` below decides which kind it is.
            connection.isolation_level = None
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "cache_size=-16384",
                "temp_store=MEMORY",
                "wal_autocheckpoint=4000",
            ):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A write takes its lock at once: upgrading a read lock later would fail without waiting.
            write = connection.get_execution_options().get(_WRITE)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

        return engine

    def insert(self, table: type | Table) -> Any:
        """The dialect's INSERT, which knows ON CONFLICT."""
        return insert_of(self.is_sqlite, table)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction: one consistent picture on SQLite, statement by statement on PostgreSQL."""
        with self._alone, named_errors(self.where), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction: all or nothing, durable when the block ends without an error."""
        with (
            self._alone,
            named_errors(self.where),
            self.engine.connect() as connection,
            connection.execution_options(**{_WRITE: True}).begin(),
        ):
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A write transaction for schema changes.

        SQLite changes a table by copying it and dropping the old one, which with foreign keys on would delete every
        row that points to it: they are off inside and checked before the commit.
        """
        with self._alone, named_errors(self.where), self.engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            if self.is_sqlite:
                raw.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.execution_options(**{_WRITE: True}).begin():
                    yield connection
                    if self.is_sqlite and (loose := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
                        raise StoreConflict(f"the migration left rows of {loose[0]} pointing nowhere; nothing was kept")
            finally:
                if self.is_sqlite:
                    raw.execute("PRAGMA foreign_keys=ON")

    def now_s(self, connection: Connection) -> float:
        """The database server's clock: the one clock that all daemons of a shared store agree on."""
        if self.is_sqlite:
            return time.time()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def close(self) -> None:
        self.engine.dispose()
