"""The store's few, named errors, and the translation of every database error into one of them.

Each error's text is a sentence an operator can act on. Nothing outside this package ever sees an exception of
SQLAlchemy, sqlite3 or psycopg.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc


class StoreError(Exception):
    """Base of every error the store raises."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, is locked by somebody else, or dropped the connection. Try again later."""


class StoreFull(StoreError):
    """The disk or the quota under the database is full; nothing of the transaction was written."""


class StoreDamaged(StoreError):
    """The database file is not a database any more."""


class SchemaMismatch(StoreError):
    """The schema is older or newer than this version of slurmsia; ``command`` mends it."""

    def __init__(self, sentence: str, command: str) -> None:
        super().__init__(f"{sentence}. Run: {command}")
        self.command = command


class Fenced(StoreError):
    """A write came from a leader whose lease somebody else has taken since. Stop acting at once."""

    def __init__(self, generation: int, current: int, holder: str) -> None:
        super().__init__(
            f"write of lease generation {generation} refused: {holder or 'nobody'} holds generation {current}; "
            "this daemon no longer leads"
        )
        self.generation = generation
        self.current = current
        self.holder = holder


class StoreConflict(StoreError):
    """The database's own constraints refused a row: the caller's values contradict what is stored."""


class UndecodableBody(StoreError):
    """A stored value cannot be read by this version of the codec."""


_UPGRADE = "slurmsia db upgrade"


def translated(error: exc.SQLAlchemyError, where: str) -> StoreError:
    """The named error for a database error; ``where`` is the URL without its password."""
    original = getattr(error, "orig", None)
    text = str(original if original is not None else error).strip().splitlines()[0] if str(error) else repr(error)
    low = text.lower()
    state = getattr(original, "sqlstate", None) or ""
    if "disk is full" in low or "no space left" in low or state in ("53100", "53200"):
        return StoreFull(f"the store at {where} has no space left ({text}). Free space or run: slurmsia db prune")
    if "malformed" in low or "not a database" in low or state.startswith("XX"):
        return StoreDamaged(f"the store at {where} is damaged ({text}). Restore the last `slurmsia db backup`")
    if "no such table" in low or "no such column" in low or state in ("42P01", "42703"):
        return SchemaMismatch(f"the store at {where} lacks what this version needs ({text})", _UPGRADE)
    if isinstance(error, exc.IntegrityError):
        return StoreConflict(f"the store at {where} refused a row ({text})")
    if isinstance(error, (exc.DataError, exc.ProgrammingError, exc.StatementError)) and not isinstance(
        error, (exc.OperationalError, exc.InterfaceError, exc.InternalError)
    ):
        return StoreConflict(f"the store at {where} refused a value ({text})")
    return StoreUnavailable(f"the store at {where} does not answer ({text}). Check the server, the path and its rights")


@contextmanager
def named_errors(where: str) -> Iterator[None]:
    """Turn whatever the database raises inside the block into a `StoreError`."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise translated(error, where) from error
    except (OverflowError, UnicodeError) as error:
        raise StoreConflict(f"the store at {where} cannot hold a value ({error})") from error
