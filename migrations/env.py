"""Alembic's entry: runs the migrations on the connection that `slurmsia.store.upgrade` hands over, nothing else."""

from __future__ import annotations

from alembic import context

from slurmsia.store.schema import Base

connection = context.config.attributes["connection"]
# SQLite cannot alter tables: batch mode copies them.
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
)
context.run_migrations()
