"""The ``slurmsia`` command: one file per group of commands. Import name ``slurmsia_cli``."""
