"""Renders fixed answers of the API at several widths, with and without colour; as a script it rewrites the files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ANSWERS = HERE / "answers.json"
FOLDER = HERE / "golden"
WIDTHS = (60, 80, 160)
VIEWS = (
    "status",
    "jobs",
    "jobs-long",
    "job",
    "why",
    "gpus",
    "plan",
    "rounds",
    "round",
    "history",
    "models",
    "estimate",
)


def answers() -> dict[str, Any]:
    return dict(json.loads(ANSWERS.read_text()))


def picture(view: str, answer: dict[str, Any], width: int, colour: bool, ascii: bool) -> str:
    from slurmsia_cli import pictures, render
    from slurmsia_cli.job_page import page

    os.environ["TZ"] = "UTC"
    time.tzset()
    parts = {
        "status": lambda: render.status(answer, width),
        "jobs": lambda: render.jobs(answer),
        "jobs-long": lambda: render.jobs(answer, long=True),
        "job": lambda: page(answer),
        "why": lambda: render.why(answer),
        "gpus": lambda: pictures.gpu_map(answer),
        "plan": lambda: render.plan(answer),
        "rounds": lambda: render.rounds(answer),
        "round": lambda: render.one_round(answer),
        "history": lambda: render.history(answer),
        "models": lambda: render.models(answer),
        "estimate": lambda: render.estimate(answer),
    }[view]()
    return render.text_of(parts, width, colour, ascii)


def cases() -> Iterator[tuple[str, int, str]]:
    for view in VIEWS:
        for width in WIDTHS:
            for style in ("plain", "colour", "ascii"):
                yield view, width, style


def drawn(found: dict[str, Any], view: str, width: int, style: str) -> str:
    return picture(view, found[view.removesuffix("-long")], width, style == "colour", style == "ascii")


def record() -> None:
    """Ask the embedded API once and keep what it said."""
    from slurmsia_cli.client import Client
    from slurmsia_cli.embedded import embedded

    with embedded("--minutes", "41") as (address, _):
        client = Client(address)
        rows = client.get("/v1/jobs", managed=True)["jobs"]
        job = max((row for row in rows if row["gpus"]), key=lambda row: row["moves"])["job_id"]
        found = {
            "status": client.get("/v1/status"), "jobs": client.get("/v1/jobs"), "job": client.get(f"/v1/jobs/{job}"),
            "why": client.get(f"/v1/jobs/{job}/why"), "gpus": client.get("/v1/gpus"),
            "plan": client.get("/v1/plan", all=True), "rounds": client.get("/v1/rounds", limit=5),
            "round": client.get("/v1/rounds/40"), "history": client.get("/v1/history", job=job),
            "models": client.get("/v1/models"), "estimate": client.get(f"/v1/jobs/{job}/estimate"),
        }  # fmt: skip
    ANSWERS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    record()
    FOLDER.mkdir(exist_ok=True)
    kept = answers()
    for view, width, style in cases():
        (FOLDER / f"{view}-{width}-{style}.txt").write_text(drawn(kept, view, width, style))
