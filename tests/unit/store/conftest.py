"""The same tests on SQLite and, where SLURMSIA_TEST_PG_URL names a server, on PostgreSQL (a schema of their own)."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from slurmsia.store import Store
from slurmsia.store.engine import Database, database_url
from slurmsia.store.schema import Base
from slurmsia.store.upgrade import migrate


def pg_schema_url(name: str) -> str:
    """The test server's URL with a search path of its own."""
    base = database_url(os.environ["SLURMSIA_TEST_PG_URL"])
    return base.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def pg_url() -> Iterator[str]:
    """A fresh, empty PostgreSQL schema, dropped at the end."""
    if not os.environ.get("SLURMSIA_TEST_PG_URL"):
        pytest.skip("SLURMSIA_TEST_PG_URL names no PostgreSQL server")
    name = f"slurmsia_{uuid.uuid4().hex[:12]}"
    engine = create_engine(database_url(os.environ["SLURMSIA_TEST_PG_URL"]))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    yield pg_schema_url(name)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


def _migrated(url: str) -> None:
    db = Database(database_url(url))
    migrate(db, "head")
    db.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "store.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_pg_url(pg_url: str) -> str:
    _migrated(pg_url)
    return pg_url


BOTH = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a migrated, empty store."""
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    found: str = request.getfixturevalue("migrated_pg_url")
    engine = create_engine(found)
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    engine.dispose()
    return found


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    if not os.environ.get("SLURMSIA_TEST_PG_URL"):
        pytest.skip("SLURMSIA_TEST_PG_URL names no PostgreSQL server")
    name = f"slurmsia_{uuid.uuid4().hex[:12]}"
    engine = create_engine(database_url(os.environ["SLURMSIA_TEST_PG_URL"]))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    yield pg_schema_url(name)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@pytest.fixture
def open_store(url: str) -> Iterator[Callable[[], Store]]:
    """Opens further doors to the same store; all are closed at the end."""
    opened: list[Store] = []

    def open_another() -> Store:
        opened.append(Store.open(url, busy_timeout_s=5))
        return opened[-1]

    yield open_another
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()
