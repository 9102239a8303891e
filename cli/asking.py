"""What every command that asks the daemon has in common: ``--server``, ``--json``, ``--watch``, exit codes.

Imports neither rich nor anything heavy before there is something to show.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from .client import Client, Json, Refused, Unreachable, fail

F = TypeVar("F", bound=Callable[..., Any])
_CLEAR = "\x1b[H\x1b[2J"


def asking(command: F) -> F:
    """Add ``--server`` and ``--json``."""
    command = click.option(
        "--server",
        metavar="ADDRESS",
        help="unix:/path or http(s)://host:port; default: SLURMSIA_API, else the policy file.",
    )(command)
    return click.option("--json", "as_json", is_flag=True, help="Print the API's answer as JSON (versioned `schema`).")(
        command
    )


def watching(command: F) -> F:
    """Add ``--watch`` and squeue's ``-i``."""
    command = click.option("--watch", is_flag=True, help="Show again every two seconds until Ctrl-C.")(command)
    return click.option("-i", "--iterate", type=float, metavar="SECONDS", help="Like --watch, every so many seconds.")(
        command
    )


def answer(
    ask: Callable[[Client], Json],
    render: Callable[[Json], Iterable[Any]],
    server: str | None,
    as_json: bool,
    every_s: float | None = None,
) -> None:
    """Ask, show, and with ``every_s`` do so until Ctrl-C; ends the process with its exit code on failure."""
    client = Client(server)
    if every_s is None:
        try:
            found = ask(client)
        except (Unreachable, Refused) as error:
            fail(error)
        _print(found, render, as_json)
        return
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                found = ask(client)
            except (Unreachable, Refused) as error:
                _clear()
                click.echo(f"slurmsia: {error}", err=True)
            else:
                _clear()
                _print(found, render, as_json)
            time.sleep(max(0.5, every_s))


def _print(found: Json, render: Callable[[Json], Iterable[Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    from .render import show

    show(render(found))


def _clear() -> None:
    if sys.stdout.isatty():
        sys.stdout.write(_CLEAR)


def period(watch: bool, iterate: float | None) -> float | None:
    return iterate if iterate is not None else (2.0 if watch else None)
