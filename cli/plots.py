"""``--plot FILE``: the terminal pictures as PNG or SVG, by matplotlib (the ``plot`` extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

Json = dict[str, Any]
_COLOURS = {"managed": "#2a9d55", "other": "#3a6ea5", "free": "#e6e6e6", "down": "#b03a3a"}


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'slurmsia[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, file: Path) -> None:
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file}: {error}") from None


def curves(answer: Json, file: Path) -> None:
    """Goodput over GPUs with one standard deviation, a line for each type."""
    figure, axes = _figure(7, 4.5)
    for curve in answer["curves"]:
        points = curve["points"]
        gpus = [point["gpus"] for point in points]
        axes.plot(gpus, [point["goodput"] for point in points], marker="o", label=curve["gpu_type"])
        axes.fill_between(gpus, [p["low"] for p in points], [p["high"] for p in points], alpha=0.2)
    row = answer["job"]
    if row["gpus"]:
        axes.axvline(row["gpus"], linestyle=":", color="grey", label=f"now: {row['gpus']} {row['gpu_type']}")
    axes.set(xlabel="GPUs", ylabel="goodput (samples/s)", title=f"Job {row['job_id']} ({row['name']})")
    axes.set_xscale("log", base=2)
    axes.legend()
    _save(figure, file)


def gpu_map(answer: Json, file: Path) -> None:
    """Every node as a bar of its GPUs by use."""
    nodes = answer["nodes"]
    figure, axes = _figure(7, 0.3 * len(nodes) + 1.2)
    for at, node in enumerate(nodes):
        left = 0
        held = {
            "managed": sum(holder["gpus"] for holder in node["held"] if holder["managed"]),
            "other": sum(holder["gpus"] for holder in node["held"] if not holder["managed"]),
        }
        rest = max(0, node["gpus"] - held["managed"] - held["other"])
        held["free" if node["state"] == "up" else "down"] = rest
        for use, count in held.items():
            axes.barh(at, count, left=left, color=_COLOURS[use], edgecolor="white")
            left += count
    axes.set_yticks(range(len(nodes)), [node["name"] for node in nodes])
    axes.invert_yaxis()
    axes.set(xlabel="GPUs")
    axes.legend(
        handles=[axes.barh(0, 0, color=colour, label=use) for use, colour in _COLOURS.items()], loc="upper right"
    )
    _save(figure, file)
