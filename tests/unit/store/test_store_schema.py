"""The schema and its versions, copies, retention, and the store's sentences when something is wrong."""

from __future__ import annotations

import csv
import importlib
import re
import sqlite3
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from click.testing import CliRunner
from slurmsia_cli.main import cli
from sqlalchemy import inspect, text
from store_values import (
    CONTEXT,
    assert_same_noise,
    changed,
    full_report,
    job,
    noisy_report,
    report,
    round_record,
    snapshot,
)  # fmt: skip

from slurmsia.cluster import JobState
from slurmsia.history import Gradient, JobKind, Progress
from slurmsia.store import (
    Keep,
    MoveRecord,
    SchemaMismatch,
    Store,
    StoreConflict,
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    upgrade,
)  # fmt: skip
from slurmsia.store.engine import Database, database_url
from slurmsia.store.schema import Base


def test_migrations_lead_from_nothing_to_exactly_the_models_and_back(empty_url: str) -> None:
    db = Database(database_url(empty_url))
    for _ in range(2):
        assert upgrade.migrate(db, "head")[1] == upgrade.head()
        assert upgrade.differences(db) == []
        upgrade.migrate(db, "base", down=True)
        with db.read() as connection:
            assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    db.close()


def test_a_migration_that_copies_a_table_keeps_the_rows_that_point_to_it(store: Store) -> None:
    store.save_round(round_record())
    store.ingest([(full_report(0), CONTEXT)])
    with store.db.migrating() as connection:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("jobs", recreate="auto") as table:
            table.alter_column("name", server_default="?")
    with store.db.read() as connection:
        for name in ("jobs", "runs", "observations", "verdicts"):
            assert connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() > 0
    with pytest.raises(StoreConflict), store.db.write() as connection:
        connection.execute(text("INSERT INTO runs (job_id, restart, started_s) VALUES (999, 0, 1.0)"))
    with store.db.migrating() as connection:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("jobs", recreate="auto") as table:
            table.alter_column("name", server_default="")


def _everything(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables but the one that revision 0002 brought."""
    with store.db.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key.columns))]
            for table in Base.metadata.sorted_tables
            if table.name != "kind_noise"
        }


def _at(url: str, revision: str, down: bool = False) -> None:
    db = Database(database_url(url))
    upgrade.migrate(db, revision, down)
    db.close()


def test_noise_of_kinds_begins_from_the_stored_points_and_nothing_else_changes(empty_url: str) -> None:
    _at(empty_url, "head")
    other = changed(CONTEXT, user_id=9)
    spaced = [(noisy_report(seq, samples=77.7 * 1.9**seq, t_s=200.0 + 400 * seq), CONTEXT) for seq in range(12)]
    spaced += [
        (noisy_report(seq, "2", samples=500.0 * seq, t_s=200.0 + 400 * seq, scale=3.0**seq, square=1e-3 * seq), other)
        for seq in range(5)
    ]
    kinds = JobKind(7, "abc"), JobKind(9, "abc"), JobKind(1, "abc")
    with Store.open(empty_url) as store:
        store.see_jobs(snapshot(job(), job("2", user_id=9)))
        store.ingest(spaced)
        store.save_round(round_record(250.0))
        store.record_move_intent(MoveRecord("m1", "1", "planned", {}, "r", 0, 200.0))
        store.ingest([(report(20, t_s=6000.0, progress=Progress(6000.0, 9e6)), CONTEXT)])
        rows, noise = _everything(store), [store.similar(kind) for kind in kinds]
    for _ in range(2):
        _at(empty_url, "0001", down=True)
        db = Database(database_url(empty_url))
        with db.read() as connection:
            assert set(Base.metadata.tables) - set(inspect(connection).get_table_names()) == {"kind_noise"}
        db.close()
        with pytest.raises(SchemaMismatch, match=r"older.*slurmsia db upgrade"):
            Store.open(empty_url)
        _at(empty_url, "0002")
        with Store.open(empty_url) as store:
            assert upgrade.differences(store.db) == []
            assert _everything(store) == rows
            for kind, before in zip(kinds, noise, strict=True):
                assert_same_noise(store.similar(kind), before)


@pytest.mark.parametrize(
    ("pages", "samples"), [(50, {8, 16, 32, 64, 128, 256}), (2, {8, 16, 32, 64, 128, 256}), (1, {64, 128, 256})]
)
def test_noise_of_kinds_is_filled_page_by_page_and_no_further_than_it_may(
    store: Store, monkeypatch: pytest.MonkeyPatch, pages: int, samples: set[int]
) -> None:
    """Full pages, to the last; the newest run first; a point without progress says nothing and takes no place."""
    revision = importlib.import_module("slurmsia_migrations.versions.0002_noise_of_kinds")
    monkeypatch.setattr(revision, "_PAGE", 3)
    monkeypatch.setattr(revision, "_PAGES", pages)
    told = [noisy_report(seq, samples=8.0 * 2**seq, t_s=200.0 + 400 * seq, restart=seq // 3) for seq in range(6)]
    lone = report(9, restart=1, t_s=9000.0, gradient=Gradient(9000.0, 1e-3, 5e-4, 4.0))
    store.ingest([(one, CONTEXT) for one in (*told, lone)])
    with store.db.write() as connection:
        connection.execute(text("DELETE FROM kind_noise"))
        revision._fill(connection)
    for kind in (JobKind(7, "abc"), JobKind(1, "abc")):
        known = store.similar(kind)
        assert known is not None
        assert {2 ** (cell.samples_cell // 4): cell.count for cell in known.noise} == dict.fromkeys(samples, 1.0)


def test_cells_of_noise_go_with_their_kind(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.ingest([(noisy_report(seq, samples=1000.0 * (seq + 1)), CONTEXT) for seq in range(4)])
    store.see_jobs(snapshot(taken_s=1000.0))
    forgotten = {"jobs": Keep(max_age_s=0.0)}
    store.prune(forgotten, now_s=1e6)
    known = store.similar(JobKind(7, "abc"))
    assert known is not None
    assert sum(cell.count for cell in known.noise) == 4.0
    assert {entry.table: entry.rows for entry in store.prune({"kinds": Keep(max_age_s=0.0)}, now_s=1e6)} == {"kinds": 2}
    with store.db.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM kind_noise")).scalar_one() == 0


def test_the_schema_in_memory_is_the_migrated_one() -> None:
    with Store.open("sqlite://") as store:
        assert upgrade.differences(store.db) == []


def test_an_empty_older_or_newer_schema_is_refused_with_the_command_that_mends_it(empty_url: str, url: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"empty.*slurmsia db upgrade"):
        Store.open(empty_url)
    db = Database(database_url(url))
    with db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match=r"newer.*slurmsia db downgrade"):
        Store.open(url)
    with db.write() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{upgrade.head()}'"))
    db.close()
    Store.open(url).close()


def test_a_store_that_is_up_to_date_is_not_migrated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration ends with a look at every row, which at a daemon's start costs time and fills the page cache."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    Store.open(url, auto_upgrade=True).close()
    called: list[str] = []
    monkeypatch.setattr(upgrade, "migrate", lambda _, revision: called.append(revision))
    Store.open(url, auto_upgrade=True).close()
    assert called == []


def test_auto_upgrade_is_for_sqlite_only(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        with Store.open(empty_url, auto_upgrade=True) as store:
            store.see_jobs(snapshot(job()))
    else:
        with pytest.raises(SchemaMismatch):
            Store.open(empty_url, auto_upgrade=True)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET state = 'flying'",
        "UPDATE jobs SET state = 'ended'",
        "UPDATE runs SET ended_s = started_s - 1, how_ended = 'x'",
        "UPDATE observations SET count = 0",
        "UPDATE kind_noise SET count = -1",
        "INSERT INTO kind_noise SELECT 999, samples_cell, scale_doubling, count, 0, 0 FROM kind_noise",
        "INSERT INTO runs (job_id, restart, started_s) VALUES (999, 0, 1.0)",
        "INSERT INTO runs (job_id, restart, started_s) SELECT job_id, 5, 1.0 FROM runs",
        "INSERT INTO rounds SELECT * FROM rounds",
        "UPDATE rounds SET gap = -1",
        "DELETE FROM configs",
    ],
)
def test_the_database_itself_refuses_nonsense(store: Store, statement: str) -> None:
    store.save_round(round_record())
    store.ingest([(full_report(0), CONTEXT)])
    with pytest.raises(StoreConflict), store.db.write() as connection:
        connection.execute(text(statement))


def test_a_reader_is_never_blocked_by_a_writer(store: Store, url: str) -> None:
    store.see_jobs(snapshot(job()))
    with Store.open(url, busy_timeout_s=0.2) as other, store.db.write() as connection:
        connection.execute(text("UPDATE jobs SET name = 'new'"))
        assert other.jobs_named("1")[0].name == "train"


def test_a_locked_database_is_unavailable_and_works_again_when_free(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with Store.open(url, auto_upgrade=True, busy_timeout_s=0.05) as store:
        blocker = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.save_round(round_record())
        blocker.execute("ROLLBACK")
        blocker.close()
        assert store.save_round(round_record()) == 1


def test_a_full_database_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'store.db'}", auto_upgrade=True) as store:
        store.save_round(round_record())
        with store.db.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        many = snapshot(*(job(str(index), JobState.PENDING, name="x" * 500) for index in range(500)))
        with pytest.raises(StoreFull, match="slurmsia db prune"):
            store.see_jobs(many)
        assert len(store.rounds_between()) == 1


def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreDamaged, match="backup"):
        Store.open(f"sqlite:///{tmp_path / 'store.db'}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////no/such/folder/store.db", "does not answer"),
        ("postgresql://nobody@127.0.0.1:1/none", "does not answer"),
        ("mysql://x/y", "must be sqlite:// or postgresql://"),
        ("nonsense", "is no database URL"),
    ],
)
def test_a_store_that_cannot_be_reached_is_unavailable(url: str, words: str) -> None:
    with pytest.raises(StoreUnavailable, match=words):
        Store.open(url)


@pytest.mark.postgresql
def test_a_dropped_connection_is_replaced_by_the_next_ping(migrated_pg_url: str) -> None:
    with Store.open(migrated_pg_url) as store, Store.open(migrated_pg_url) as other:
        store.ping()
        with other.db.write() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name = 'slurmsia' AND pid <> pg_backend_pid()"
                )
            )
        store.ping()


def test_a_password_file_is_used_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("SLURMSIA_STORE_PASSWORD_FILE", str(tmp_path / "secret"))
    db = Database(database_url("postgresql://me@127.0.0.1:1/none", password_file="/wrong"))
    assert db.url.password == "hunter2"
    assert "hunter2" not in db.where


def test_pruning_by_age_keeps_what_is_unfinished_and_what_was_learnt(store: Store) -> None:
    store.see_jobs(snapshot(job(), job("2")))
    store.ingest([(full_report(0), CONTEXT)])
    store.record_move_intent(MoveRecord("m1", "2", "planned", {}, "r", 0, 200.0))
    store.see_jobs(snapshot(taken_s=1000.0))
    everything = {name: Keep(max_age_s=0.0) for name in ("jobs", "kinds", "moves", "progress_points")}
    counted = store.prune(everything, now_s=1e6, dry_run=True)
    assert store.jobs_named("1")
    gone = {entry.table: entry.rows for entry in store.prune(everything, now_s=1e6, batch=1)}
    assert gone["jobs"] == 1
    assert {entry.table: entry.rows for entry in counted}["jobs"] == 1
    assert store.jobs_named("1") == ()
    assert [move.move_id for move in store.unfinished_moves()] == ["m1"]
    with store.db.read() as connection:
        for table in ("observations", "memory_peaks", "restart_costs", "progress_points"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


def test_what_was_learnt_outlives_the_jobs_it_was_learnt_from(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.ingest([(full_report(0), CONTEXT)])
    store.see_jobs(snapshot(taken_s=1000.0))
    store.prune({"jobs": Keep(max_age_s=0.0)}, now_s=1e6)
    known = store.similar(JobKind(7, "abc"))
    assert known is not None
    assert known.observations[0].count == 10.0


def test_pruning_by_size_drops_the_oldest_until_it_fits_and_then_stops(store: Store) -> None:
    for index in range(12):
        store.save_round(round_record(200.0 + 60 * index))
    half = {"round_bodies": Keep(max_bytes=20_000 if store.db.is_sqlite else 8_000)}
    (planned,) = store.prune(half, now_s=0.0, dry_run=True)
    (first,) = store.prune(half, now_s=0.0, batch=2)
    assert 0 < first.rows < 12
    assert planned.rows == first.rows
    kept = [head.bodies for head in store.rounds_between()]
    assert kept == [True] * (12 - first.rows) + [False] * first.rows


def test_sizes_cover_every_table(store: Store) -> None:
    store.save_round(round_record())
    assert {entry.table for entry in store.sizes()} == set(Base.metadata.tables)


def _run(*words: str) -> str:
    done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_backup_is_a_whole_store(store: Store, url: str, tmp_path: Path) -> None:
    store.save_round(round_record())
    target = tmp_path / "copy"
    _run("db", "backup", str(target), "--url", url)
    if url.startswith("sqlite"):
        with Store.open(f"sqlite:///{target}") as copy:
            assert len(copy.rounds_between()) == 1
    else:
        assert target.read_bytes().startswith(b"PGDMP")
    refused = CliRunner().invoke(cli, ["db", "backup", str(target), "--url", url])
    assert (refused.exit_code, "exists already" in refused.output) == (1, True)


def test_tables_export_to_csv_and_parquet_with_readable_bodies(store: Store, url: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    store.save_round(round_record())
    for ending in ("csv", "parquet"):
        _run("db", "export", "round_bodies", str(tmp_path / f"bodies.{ending}"), "--url", url)
        _run("db", "export", "jobs", str(tmp_path / f"jobs.{ending}"), "--url", url)
    with (tmp_path / "bodies.csv").open(newline="") as file:
        (body,) = csv.DictReader(file)
    assert '"sentence":"Moved 1 job of 2."' in body["plan"]
    table = parquet.read_table(tmp_path / "jobs.parquet").to_pydict()
    assert (table["slurm_id"], table["current"], table["first_submit_s"]) == (["1", "2"], [True, True], [100.0, 100.0])


def test_db_check_and_current_tell_the_operator_where_the_schema_stands(url: str, empty_url: str) -> None:
    assert "the schema is what this version needs" in _run("db", "check", "--url", url)
    assert re.search(r"^0\d+ \(this version needs 0\d+\)", _run("db", "current", "--url", url))
    refused = CliRunner().invoke(cli, ["db", "check", "--url", empty_url])
    assert (refused.exit_code, "Run: slurmsia db upgrade" in refused.output) == (1, True)
    assert "empty -> 0" in _run("db", "upgrade", "--url", empty_url)
    assert "-> empty" in _run("db", "downgrade", "base", "--yes", "--url", empty_url)


def test_db_prune_dry_run_removes_nothing(store: Store, url: str) -> None:
    store.save_round(round_record())
    assert re.search(r"round_bodies +1 rows would go", _run("db", "prune", "--dry-run", "--url", url))
    assert store.rounds_between()[0].bodies
    _run("db", "prune", "--url", url)
    assert store.rounds_between() == ()


def test_no_connection_outlives_its_question(store: Store) -> None:
    store.save_round(round_record())
    store.history(["1"])
    store.similar(JobKind(7, "abc"))
    assert store.db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
