"""``python -m slurmsia.job``: the commands that run inside a job."""

from __future__ import annotations

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
