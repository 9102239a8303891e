"""slurmsia: goodput-optimal scheduling of elastic deep-learning jobs on an unmodified Slurm.

The library half of the project: everything that decides lives here and nothing in it imports the daemon
or the command line.
"""

__version__ = "0.1.0"
