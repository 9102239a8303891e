"""Who leads: a lease row whose generation fences the writes of everybody who led before. No timers, no threads.

The database server's clock decides about expiry. A lease is never shortened by anybody but its holder.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select, update

from .engine import Database
from .errors import Fenced
from .records import Lease
from .schema import LeaseRow


def _read(connection: Connection, name: str, lock: bool) -> Lease | None:
    statement = select(*LeaseRow.__table__.c).where(LeaseRow.name == name)
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        return None
    return Lease(row.name, row.holder, row.generation, row.acquired_s, row.renewed_s, row.expires_s)


def present(connection: Connection, name: str) -> Lease | None:
    """The lease as it is stored, expired or not."""
    return _read(connection, name, lock=False)


def acquire(
    db: Database, connection: Connection, name: str, holder: str, lease_s: float, now_s: float | None
) -> Lease | None:
    """Take a free or expired lease with the next generation; ``None`` while another holder's is fresh.

    A holder that comes back under its own name (a restart) takes it at once: its older self is fenced.
    """
    now = db.now_s(connection) if now_s is None else now_s
    old = _read(connection, name, lock=True)
    if old is not None and old.holder and old.holder != holder and old.expires_s > now:
        return None
    generation = 1 if old is None else old.generation + 1
    taken = Lease(name, holder, generation, now, now, now + lease_s)
    values = {
        "holder": holder, "generation": generation, "acquired_s": now, "renewed_s": now, "expires_s": taken.expires_s
    }  # fmt: skip
    if old is not None:
        connection.execute(update(LeaseRow).where(LeaseRow.name == name).values(**values))
        return taken
    # Two first comers: the loser's insert waits for the winner's commit and then changes nothing.
    connection.execute(db.insert(LeaseRow).values(name=name, **values).on_conflict_do_nothing())
    return taken if _read(connection, name, lock=True) == taken else None


def renew(
    db: Database, connection: Connection, name: str, holder: str, generation: int, lease_s: float, now_s: float | None
) -> bool:
    """Extend our lease, even when it has expired, as long as nobody took it; ``False`` when somebody has."""
    now = db.now_s(connection) if now_s is None else now_s
    held = _read(connection, name, lock=True)
    if held is None or (held.holder, held.generation) != (holder, generation):
        return False
    connection.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name)
        .values(renewed_s=now, expires_s=max(now + lease_s, held.expires_s))
    )
    return True


def release(connection: Connection, name: str, holder: str, generation: int) -> None:
    """Let the next daemon in at once; the row stays, so that the generation never falls. Not ours any more: no-op."""
    connection.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name, LeaseRow.holder == holder, LeaseRow.generation == generation)
        .values(holder="", expires_s=0.0)
    )


_LEADER = (
    select(LeaseRow.generation, LeaseRow.holder).where(LeaseRow.name == bindparam("b_name")).with_for_update(read=True)
)


def fence(connection: Connection, name: str, generation: int | None) -> None:
    """Refuse the transaction of an older leader (`Fenced`). The row stays locked until the transaction ends."""
    if generation is None:
        return
    row = connection.execute(_LEADER, {"b_name": name}).one_or_none()
    if row is not None and row.generation != generation:
        raise Fenced(generation, row.generation, row.holder)
