"""Names of the files in the spool folder, and where that folder is: agreed between jobs and the daemon.

Every name follows from job id, restart number and user id alone, so that the daemon opens names it knows instead of
listing a folder that anybody may fill. Standard library only, Python 3.8; never opens a file.
"""

from __future__ import annotations

import os
import re
from typing import Mapping, Optional, Tuple

DEFAULT_SPOOL = "/var/spool/slurmsia"
REPORTS = "reports"
DIRECTIVES = "directives"
#: A report file that has grown past this is renamed to its name + ROTATED by its writer and begun anew.
ROTATE_BYTES = 8 * 1024 * 1024
ROTATED = ".old"
#: Longest line that the daemon reads; a writer must stay below it.
MAX_LINE_BYTES = 16 * 1024

_JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")
_REPORT = re.compile(r"([0-9]{1,18}(?:_[0-9]{1,9})?)\.([0-9]{1,9})\.([0-9]{1,10})\.jsonl(\.old)?")


def is_job_id(text: str) -> bool:
    """Whether the text is a job id as users write it: ``123``, or ``123_4`` for an array task."""
    return _JOB_ID.fullmatch(text) is not None


def report_name(job_id: str, restart: int, uid: int) -> str:
    """File name of one run's reports below ``reports/``. Raises ValueError for anything that is no job id."""
    if not is_job_id(job_id) or restart < 0 or uid < 0:
        raise ValueError(f"no report file for job {job_id!r}, restart {restart}, user id {uid}")
    return f"{job_id}.{restart}.{uid}.jsonl"


def parse_report_name(name: str) -> Optional[Tuple[str, int, int]]:
    """(job id, restart, user id) of a report file's name, rotated or not, or None for any other name."""
    match = _REPORT.fullmatch(name)
    if match is None:
        return None
    return match.group(1), int(match.group(2)), int(match.group(3))


def directive_name(job_id: str) -> str:
    """File name of a job's directive below ``directives/``. Raises ValueError for anything that is no job id."""
    if not is_job_id(job_id):
        raise ValueError(f"no directive file for job {job_id!r}")
    return f"{job_id}.json"


def spool_dir(environ: Optional[Mapping[str, str]] = None) -> str:
    """The spool folder: ``SLURMSIA_SPOOL``, else the default."""
    return (os.environ if environ is None else environ).get("SLURMSIA_SPOOL") or DEFAULT_SPOOL
