"""Writes directives for jobs, each file replaced whole by rename. Daemon side; the folder belongs to the daemon.

A reader sees the old directive or the new one, never a half. Nothing is written outside ``directives/``.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ..cluster import JobId
from .directive import Directive
from .names import DIRECTIVES, directive_name


class DirectiveWriter:
    """Writes below ``<path>/directives/``. Raises OSError when the spool cannot be written (the caller goes on)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = os.path.join(os.fspath(path), DIRECTIVES)

    def write(self, job_id: JobId, directive: Directive) -> None:
        """Replaces the job's directive. Raises ValueError for no job id, OSError for a full or missing spool."""
        name = directive_name(job_id)
        temporary = f".{name}.{os.getpid()}"
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o644, dir_fd=folder)
            try:
                os.fchmod(handle, 0o644)
                os.write(handle, directive.to_json().encode())
                os.fsync(handle)
            except BaseException:
                os.unlink(temporary, dir_fd=folder)
                raise
            finally:
                os.close(handle)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def remove(self, job_id: JobId) -> None:
        """Takes the job's directive away; nothing happens when there is none."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, directive_name(job_id)))
