"""An embedded cluster with the real API on a private socket, in a process of its own: for the tutorial and benches.

The process is the daemon package's own stage; it ends with the ``with`` block and leaves nothing behind.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def embedded(*options: str) -> Iterator[tuple[str, int]]:
    """Address of the API and the process id of the stage."""
    with tempfile.TemporaryDirectory(prefix="slurmsia-") as folder:
        path = f"{folder}/api.sock"
        process = subprocess.Popen(
            [sys.executable, "-m", "slurmsia_daemon.api.stage", "--socket", path, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise click.ClickException("the embedded cluster did not start; its error is above")
            yield f"unix:{path}", process.pid
        finally:
            process.terminate()
            process.wait(10)
