"""Section ``[jobs]``: the spool through which jobs and the daemon talk, and what one user may put into it."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class JobsSection(Section):
    """The spool through which jobs and the daemon talk."""

    spool_dir: str = "/var/spool/slurmsia"
    """Folder on the shared file system, with `reports/` (mode 1777) and `directives/` (owned by the daemon)."""
    max_line_bytes: int = Field(default=16_384, ge=1024, le=1_048_576)
    """Longest line of a report file; longer lines are skipped."""
    max_file_mb: float = Field(default=64.0, gt=0)
    """A report file larger than this (10^6 bytes) is not read."""
    max_lines_per_poll: int = Field(default=64, ge=1)
    """Lines read from one file in one round; the rest is read in later rounds."""
    max_user_kb_per_poll: float = Field(default=512.0, gt=0)
    """Kilobytes read from all files of one user in one round."""
    max_poll_s: float = Field(default=2.0, gt=0)
    """A round stops reading reports after this long and goes on with the other files next time."""
    max_files_per_user: int = Field(default=2_000, ge=1)
    """Report files of jobs that are gone which one user may leave behind; more are removed once they are 2 min old."""
    linger_s: float = Field(default=300.0, ge=0)
    """A run's file is still read for this long after the run is over."""
    keep_after_end_s: float = Field(default=3_600.0, ge=0)
    """A run's file is removed this long after the run is over."""
    stray_age_s: float = Field(default=86_400.0, ge=60)
    """A file in `reports/` that belongs to no job we know is removed when nobody wrote to it for this long."""
    cleanup_entries_per_poll: int = Field(default=20_000, ge=1)
    """Directory entries looked at for clean-up in one round, beside the loop, which does not wait for it."""
