"""The schema's version: what it is, what it should be, and the way from one to the other (Alembic).

The daemon only ever checks; changing a schema is the operator's command, or `auto_upgrade` on SQLite.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect, text

from .engine import Database
from .errors import SchemaMismatch, StoreError, named_errors
from .schema import Base

UPGRADE = "slurmsia db upgrade"
#: Alembic's table of one row and one column.
_VERSION_TABLE = "alembic_version"
_VERSION = text(f"SELECT version_num FROM {_VERSION_TABLE}")


def _alembic(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("slurmsia_migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@lru_cache(maxsize=1)
def head() -> str:
    """The revision this version of slurmsia works with."""
    revision = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert revision is not None
    return revision


def current(connection: Connection) -> str | None:
    """The revision of the database, ``None`` for an empty one.

    Every round asks: Alembic's own question is a new statement each time, of which SQLAlchemy would keep hundreds.
    """
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    return connection.execute(_VERSION).scalar_one_or_none()


def is_at_head(db: Database) -> bool:
    """Whether there is nothing to migrate. A migration ends by reading the whole database, however little it did."""
    with db.read() as connection:
        return current(connection) == head()


def require_head(connection: Connection) -> None:
    """Raise `SchemaMismatch`, with the command that mends it, unless the schema is exactly ours."""
    have, want = current(connection), head()
    if have == want:
        return
    if have is None:
        if inspect(connection).get_table_names():
            raise SchemaMismatch("the database has tables but no schema version: it is not a slurmsia store", UPGRADE)
        raise SchemaMismatch("the store is empty", UPGRADE)
    known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
    if have in known:
        raise SchemaMismatch(f"the store's schema {have} is older than this version's {want}", UPGRADE)
    raise SchemaMismatch(
        f"the store's schema {have} is newer than this version's {want}; install the slurmsia that wrote it, or "
        "step back with that version",
        f"slurmsia db downgrade {want}",
    )


def migrate(db: Database, revision: str, down: bool = False) -> tuple[str | None, str | None]:
    """Bring the schema to a revision ("head", "base", "-1", a number) in one transaction; (before, after)."""
    with db.migrating() as connection:
        before = current(connection)
        try:
            (command.downgrade if down else command.upgrade)(_alembic(connection), revision)
        except CommandError as error:
            raise StoreError(f"cannot migrate to {revision}: {error}") from error
        return before, current(connection)


def create_all(db: Database) -> None:
    """The present schema at once, for stores in memory (equal to the migrations' result, which tests assert)."""
    with db.write() as connection:
        Base.metadata.create_all(connection)
        command.stamp(_alembic(connection), "head")


def differences(db: Database) -> list[Any]:
    """What autogenerate would change in the database to match the models; empty when they agree."""
    with named_errors(db.where), db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))
