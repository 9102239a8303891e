"""``slurmsia jobs``, ``job`` and ``why``: live jobs with squeue's own flags, one job in full, and the reason for it."""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import Any

import click

from .asking import answer, asking, period, watching
from .client import Client, Json

#: squeue's format letters and long names -> what of a row they show.
LETTERS = {
    "i": ("JOBID", "job_id"), "A": ("JOBID", "job_id"), "j": ("NAME", "name"), "u": ("USER", "user"),
    "U": ("UID", "user_id"), "t": ("ST", "short_state"), "T": ("STATE", "state"), "P": ("PARTITION", "partitions"),
    "a": ("ACCOUNT", "account"), "q": ("QOS", "qos"), "N": ("NODELIST", "nodes"), "D": ("NODES", "node_count"),
    "r": ("REASON", "reason"), "R": ("NODELIST(REASON)", "nodes_or_reason"), "M": ("TIME", "time"),
    "Q": ("PRIORITY", "priority"), "S": ("START_TIME", "start_s"), "V": ("SUBMIT_TIME", "submit_s"),
    "b": ("TRES_PER_NODE", "gres"),
}  # fmt: skip
LONG_NAMES = {
    "jobid": "job_id", "name": "name", "username": "user", "userid": "user_id", "state": "state",
    "statecompact": "short_state", "partition": "partitions", "account": "account", "qos": "qos", "nodelist": "nodes",
    "numnodes": "node_count", "reason": "reason", "timeused": "time", "prioritylong": "priority",
    "submittime": "submit_s", "starttime": "start_s", "gpus": "gpus", "gputype": "gpu_type", "goodput": "goodput",
    "moves": "moves", "verdict": "verdict", "sentence": "sentence", "target": "target",
}  # fmt: skip


@click.command(context_settings={"help_option_names": ["--help"]})
@click.option("--me", is_flag=True, help="My jobs only.")
@click.option("-u", "--user", default="", help="Users, comma-separated.")
@click.option("-p", "--partition", default="", help="Partitions, comma-separated.")
@click.option("-t", "--states", default="", help="States (PD, R, S, CG, or in words), comma-separated.")
@click.option("-j", "--jobs", "job_ids", default="", help="Job ids, comma-separated.")
@click.option("-A", "--account", default="", help="Accounts, comma-separated.")
@click.option("-q", "--qos", default="", help="QOS, comma-separated.")
@click.option("-n", "--name", default="", help="Job names, comma-separated.")
@click.option("-h", "--noheader", is_flag=True, help="No header line.")
@click.option("-o", "--format", "letters", help='squeue\'s format, as "%i %T %N".')
@click.option("-O", "--Format", "long_names", help="Names: " + ", ".join(sorted(LONG_NAMES)) + ".")
@click.option("-l", "--long", is_flag=True, help="More columns.")
@click.option("--managed", is_flag=True, help="Managed jobs only.")
@click.option("--limit", type=click.IntRange(1, 100_000), help="At most so many rows.")
@asking
@watching
def jobs(
    me: bool, user: str, partition: str, states: str, job_ids: str, account: str, qos: str, name: str, noheader: bool,
    letters: str | None, long_names: str | None, long: bool, managed: bool, limit: int | None, server: str | None,
    as_json: bool, watch: bool, iterate: float | None,
) -> None:  # fmt: skip
    """Live jobs with GPUs: what each holds and why; squeue's own flags where they mean the same.

    \b
    Example:
      slurmsia jobs --me
      slurmsia jobs -t PD -p gpu --json
      slurmsia jobs -h -o "%i %T %N"
    """
    if me:
        user = getpass.getuser()

    def ask(client: Client) -> Json:
        return client.get(
            "/v1/jobs", user=user, partition=partition, state=states, job=job_ids, account=account, qos=qos,
            name=name, managed=managed or None, limit=limit,
        )  # fmt: skip

    if letters or long_names:
        columns = _columns(letters, long_names)
        answer(ask, lambda found: [_plain(found, columns, not noheader)], server, as_json, period(watch, iterate))
        return

    def render(found: Json) -> list[Any]:
        from .render import jobs as parts

        return parts(found, header=not noheader, long=long)

    answer(ask, render, server, as_json, period(watch, iterate))


def _columns(letters: str | None, long_names: str | None) -> list[tuple[str, str, int]]:
    """(title, field, width) as squeue's -o or -O words say; width 0 = as wide as the text."""
    columns = []
    if letters:
        for width, letter in re.findall(r"%\.?(\d*)([A-Za-z])", letters):
            if letter not in LETTERS:
                raise click.BadParameter(f"%{letter} is not known here; known: {' '.join('%' + c for c in LETTERS)}")
            columns.append((*LETTERS[letter], int(width or 0)))
        if not columns:
            raise click.BadParameter(f"{letters!r} has no %LETTER")
    for word in (long_names or "").split(","):
        name, _, width = word.strip().partition(":")
        if not name:
            continue
        if name.lower() not in LONG_NAMES:
            raise click.BadParameter(f"{name!r} is not known here; known: {', '.join(sorted(LONG_NAMES))}")
        columns.append((name.upper(), LONG_NAMES[name.lower()], int(width) if width.isdigit() else 0))
    return columns


def _plain(found: Json, columns: list[tuple[str, str, int]], header: bool) -> Any:
    """Rows for scripts: never wrapped, never cut but to the width asked for."""
    from rich.text import Text

    lines = [[title for title, _, _ in columns]] if header else []
    lines += [[_cell(row, field, found["now_s"]) for _, field, _ in columns] for row in found["jobs"]]
    shown = [
        " ".join(
            cell[:width].ljust(width) if width else cell for cell, (_, _, width) in zip(line, columns, strict=True)
        )
        for line in lines
    ]
    return Text("\n".join(shown), no_wrap=True, overflow="ignore")


def _cell(row: Json, field: str, now_s: float) -> str:
    from .render import clock, span

    nodes = ",".join(row["nodes"])
    if field == "short_state":
        return {"running": "R", "pending": "PD", "suspended": "S", "completing": "CG"}.get(row["state"], row["state"])
    if field == "state":
        return str(row["state"]).upper()
    if field == "node_count":
        return str(len(row["nodes"]))
    if field == "nodes":
        return nodes
    if field == "nodes_or_reason":
        return nodes or f"({row['reason']})"
    if field == "partitions":
        return ",".join(row["partitions"])
    if field == "time":
        return span(now_s - row["start_s"]) if row["start_s"] is not None else "0 s"
    if field in ("start_s", "submit_s"):
        return clock(row[field], now_s) if row[field] is not None else "N/A"
    if field == "gres":
        return f"gpu:{row['requested_gpus']}"
    if field == "target":
        return row["target"]["text"] if row["target"] is not None else "-"
    value = row[field]
    return f"{value:g}" if isinstance(value, float) else str("" if value is None else value)


@click.command()
@click.argument("job_id")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also write the curves to this PNG or SVG."
)
@asking
def job(job_id: str, plot: Path | None, server: str | None, as_json: bool) -> None:
    """One job: goodput over GPUs by type, its moves and what they cost, what it gained, and advice.

    \b
    Example:
      slurmsia job 1234
      slurmsia job 1234 --plot curves.svg
    """

    def ask(client: Client) -> Json:
        found = client.get(f"/v1/jobs/{job_id}")
        if plot is not None:
            from .plots import curves

            curves(found, plot)
        return found

    def render(found: Json) -> list[Any]:
        from .job_page import page

        return page(found)

    answer(ask, render, server, as_json)


@click.command()
@click.argument("job_id")
@asking
def why(job_id: str, server: str | None, as_json: bool) -> None:
    """Why a job is where it is: the numbers that decided, what else was considered, what would change it.

    \b
    Example:
      slurmsia why 1234
    """

    def render(found: Json) -> list[Any]:
        from .render import why as parts

        return parts(found)

    answer(lambda client: client.get(f"/v1/jobs/{job_id}/why"), render, server, as_json)
