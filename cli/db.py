"""``slurmsia db``: the job-history store from the operator's side. Works without the daemon, and beside it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from slurmsia.config.store import StoreSection
    from slurmsia.store.engine import Database


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--config`` and ``--url``: which store."""
    command = click.option("--url", help="Database URL instead of the policy file's.")(command)
    return click.option(
        "--config", "config_file", type=click.Path(path_type=Path), help="Policy file (default: the installed one)."
    )(command)


def section_of(config_file: Path | None, url: str | None) -> StoreSection:
    """The ``[store]`` section to use; a URL alone needs no policy file."""
    from slurmsia.config import StoreSection
    from slurmsia.config.loader import DEFAULT_FILE, load

    file = config_file or DEFAULT_FILE
    section = load(file).store if config_file is not None or (url is None and file.exists()) else StoreSection()
    return section.model_copy(update={"url": url}) if url else section


@contextmanager
def sentences() -> Iterator[None]:
    """Print the store's and the policy file's errors as sentences and leave with exit code 1 or 2."""
    from slurmsia.config.base import ConfigError
    from slurmsia.store import StoreError

    try:
        yield
    except StoreError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)


@contextmanager
def _database(config_file: Path | None, url: str | None) -> Iterator[Database]:
    from slurmsia.store.engine import Database, database_url

    with sentences():
        section = section_of(config_file, url)
        db = Database(database_url(section.url, section.password_file), section.busy_timeout_s)
        try:
            yield db
        finally:
            db.close()


@click.group()
def db() -> None:
    """The job-history store: schema, backup, export, pruning.

    \b
    Example:
      slurmsia db upgrade
      slurmsia db backup /backup/slurmsia.db
      slurmsia db prune --dry-run
    """


@db.command()
@click.argument("revision", default="head")
@store_options
def upgrade(revision: str, config_file: Path | None, url: str | None) -> None:
    """Bring the schema up to REVISION (default: what this version needs).

    \b
    Example:
      slurmsia db upgrade
    """
    from slurmsia.store.upgrade import migrate

    with _database(config_file, url) as database:
        before, after = migrate(database, revision)
        click.echo(f"{database.where}: schema {before or 'empty'} -> {after}")


@db.command()
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask; stepping down may drop what the older schema has no place for.")
@store_options
def downgrade(revision: str, yes: bool, config_file: Path | None, url: str | None) -> None:
    """Step the schema down to REVISION ("base" = empty).

    \b
    Example:
      slurmsia db backup before.db && slurmsia db downgrade 0001
    """
    from slurmsia.store.upgrade import migrate

    with _database(config_file, url) as database:
        if not yes:
            click.confirm(f"Step {database.where} down to {revision}? Make a `slurmsia db backup` first", abort=True)
        before, after = migrate(database, revision, down=True)
        click.echo(f"{database.where}: schema {before or 'empty'} -> {after or 'empty'}")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON (versioned `schema`).")
@store_options
def current(as_json: bool, config_file: Path | None, url: str | None) -> None:
    """Print the schema's revision and the one this version needs.

    \b
    Example:
      slurmsia db current --json
    """
    from slurmsia.store import upgrade as schema

    with _database(config_file, url) as database:
        with database.read() as connection:
            have = schema.current(connection)
        if as_json:
            click.echo(json.dumps({"schema": 1, "current": have, "head": schema.head()}))
        else:
            click.echo(f"{have or 'empty'} (this version needs {schema.head()})")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON (versioned `schema`).")
@store_options
def check(as_json: bool, config_file: Path | None, url: str | None) -> None:
    """Check that the schema is exactly what this version needs, and show sizes. Exit code 1: it is not.

    \b
    Example:
      slurmsia db check --json
    """
    from slurmsia.store import upgrade as schema
    from slurmsia.store.retention import sizes

    with _database(config_file, url) as database:
        with database.read() as connection:
            schema.require_head(connection)
        found = schema.differences(database)
        listed = sizes(database)
        if as_json:
            tables = [{"table": entry.table, "rows": entry.rows, "bytes": entry.bytes} for entry in listed]
            click.echo(json.dumps({"schema": 1, "differences": [repr(one) for one in found], "tables": tables}))
        else:
            for difference in found:
                click.echo(f"differs: {difference!r}", err=True)
            for entry in listed:
                click.echo(f"{entry.table:<20} {entry.rows:>12,} rows {entry.bytes / 1024**2:>10.1f} MiB")
            click.echo("the schema is what this version needs" if not found else "the schema differs")
        sys.exit(1 if found else 0)


@db.command()
@click.argument("target", type=click.Path(path_type=Path))
@store_options
def backup(target: Path, config_file: Path | None, url: str | None) -> None:
    """Write a consistent copy to TARGET while the daemon works (PostgreSQL: by pg_dump, restored by pg_restore).

    \b
    Example:
      slurmsia db backup /backup/slurmsia.db
    """
    from slurmsia.store.copies import backup as copy

    with _database(config_file, url) as database:
        written = copy(database, target)
        click.echo(f"{written}: {written.stat().st_size / 1024**2:.1f} MiB")


@db.command()
@click.argument("table")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["parquet", "csv"]), help="Default: by TARGET's ending, else Parquet."
)
@store_options
def export(table: str, target: Path, form: str | None, config_file: Path | None, url: str | None) -> None:
    """Write TABLE to TARGET as Parquet or CSV.

    \b
    Example:
      slurmsia db export rounds rounds.parquet
      slurmsia db export verdicts verdicts.csv
    """
    from slurmsia.store.copies import export as write

    with _database(config_file, url) as database:
        rows = write(database, table, target, form or ("csv" if target.suffix == ".csv" else "parquet"))
        click.echo(f"{target}: {rows:,} rows of {table}")


@db.command()
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (versioned `schema`).")
@store_options
def prune(dry_run: bool, as_json: bool, config_file: Path | None, url: str | None) -> None:
    """Remove what the policy file's [store] section no longer keeps, in small batches.

    \b
    Example:
      slurmsia db prune --dry-run
    """
    from slurmsia.store import upgrade as schema
    from slurmsia.store.retention import prune as forget
    from slurmsia.store.settings import keep

    with _database(config_file, url) as database:
        section = section_of(config_file, url)
        with database.read() as connection:
            schema.require_head(connection)
        done = forget(database, keep(section), time.time(), dry_run, section.prune_batch_rows)
        if as_json:
            lines = [{"table": entry.table, "rows": entry.rows, "why": entry.why} for entry in done]
            click.echo(json.dumps({"schema": 1, "dry_run": dry_run, "pruned": lines}))
        else:
            verb = "would go" if dry_run else "gone"
            for entry in done:
                click.echo(f"{entry.table:<20} {entry.rows:>10,} rows {verb} ({entry.why})")
