"""Alembic migrations of the job-history store. Import name ``slurmsia_migrations``."""
