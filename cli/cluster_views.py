"""``slurmsia gpus``, ``plan``, ``estimate``, ``history``, ``rounds``: what is held, decided, expected, and was done."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import click

from .asking import answer, asking, period, watching
from .client import Client, Json


@click.command()
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also write the map to this PNG or SVG.")
@asking
@watching
def gpus(plot: Path | None, server: str | None, as_json: bool, watch: bool, iterate: float | None) -> None:
    """The GPU map: every node, what is held by managed jobs and by others, what is free or down.

    \b
    Example:
      slurmsia gpus
      slurmsia gpus --watch
    """

    def ask(client: Client) -> Json:
        found = client.get("/v1/gpus")
        if plot is not None:
            from .plots import gpu_map as write

            write(found, plot)
        return found

    def render(found: Json) -> list[Any]:
        from .pictures import gpu_map

        return gpu_map(found)

    answer(ask, render, server, as_json, period(watch, iterate))


@click.command()
@click.option("--all", "everything", is_flag=True, help="Jobs that stay as they are, too.")
@asking
@watching
def plan(everything: bool, server: str | None, as_json: bool, watch: bool, iterate: float | None) -> None:
    """What the last round decided: in enforce mode it is being done, in the others it is what would be done.

    \b
    Example:
      slurmsia plan
      slurmsia plan --all --json
    """

    def render(found: Json) -> list[Any]:
        from .render import plan as parts

        return parts(found)

    answer(lambda client: client.get("/v1/plan", all=everything), render, server, as_json, period(watch, iterate))


@click.command()
@click.argument("script_or_job")
@asking
def estimate(script_or_job: str, server: str | None, as_json: bool) -> None:
    """When a job, or a script not yet submitted, would start and end on each type and size; always a range.

    \b
    Example:
      slurmsia estimate 1234
      slurmsia estimate train.sh
    """
    file = Path(script_or_job)

    def ask(client: Client) -> Json:
        if re.fullmatch(r"[0-9]+(_[0-9]+)?", script_or_job) and not file.is_file():
            return client.get(f"/v1/jobs/{script_or_job}/estimate")
        try:
            text = file.read_bytes()
        except OSError as error:
            raise click.UsageError(f"{file}: {error.strerror}; give a script or a job id") from None
        return client.post("/v1/estimate", described(file, text))

    def render(found: Json) -> list[Any]:
        from .render import estimate as parts

        return parts(found)

    answer(ask, render, server, as_json)


def described(file: Path, script: bytes) -> Json:
    """What the API must know of a script: its words, name, hash and GPUs, as its #SBATCH lines say."""
    options: dict[str, str] = {}
    for line in re.findall(r"^#SBATCH\s+(.*)$", script.decode(errors="replace"), re.MULTILINE):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        for index, word in enumerate(words):
            name, given, value = word.partition("=")
            options[name] = value if given else (words[index + 1] if index + 1 < len(words) else "")
    nodes = _count(options.get("--nodes") or options.get("-N") or "1")
    gres = options.get("--gres") or options.get("--gpus-per-node") or ""
    total = options.get("--gpus") or options.get("-G") or ""
    gpus = _count(total) if total else nodes * _count(gres) if gres else 1
    return {
        "comment": options.get("--comment", "")[:2000],
        "name": (options.get("--job-name") or options.get("-J") or file.name)[:200],
        "script_hash": hashlib.sha256(script).hexdigest(),
        "gpus": max(1, gpus),
    }


def _count(text: str) -> int:
    """The number that a Slurm count ends with: ``2``, ``gpu:4``, ``gpu:a100:4``, ``1-2``."""
    found = re.search(r"(\d+)(?:-\d+)?$", text.strip())
    return int(found[1]) if found else 1


@click.command()
@click.option("-j", "--job", "job_id", default="", help="One job: its runs and verdicts too, after its end as well.")
@click.option("--hours", type=click.FloatRange(0.01, 8784), default=24.0, show_default=True, help="How far back.")
@asking
def history(job_id: str, hours: float, server: str | None, as_json: bool) -> None:
    """Moves and what became of them; of one job its runs and verdicts; for operators what operators did.

    \b
    Example:
      slurmsia history --hours 2
      slurmsia history -j 1234
    """

    def render(found: Json) -> list[Any]:
        from .render import history as parts

        return parts(found)

    answer(lambda client: client.get("/v1/history", job=job_id, hours=hours), render, server, as_json)


@click.command()
@click.argument("round_id", type=int, required=False)
@click.option("-n", "--number", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@asking
def rounds(round_id: int | None, number: int, server: str | None, as_json: bool) -> None:
    """The last rounds, or one round and what it decided.

    \b
    Example:
      slurmsia rounds -n 5
      slurmsia rounds 812
    """

    def render(found: Json) -> list[Any]:
        from . import render as look

        return look.rounds(found) if round_id is None else look.one_round(found)

    def ask(client: Client) -> Json:
        return client.get("/v1/rounds", limit=number) if round_id is None else client.get(f"/v1/rounds/{round_id}")

    answer(ask, render, server, as_json)
