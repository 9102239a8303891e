"""Pictures for terminals: bars, the GPU map by node, goodput curves, a job's timeline. Pure.

Drawn with block characters; `render` turns them into plain ASCII where the locale asks for it.
"""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]
#: use -> (character, style); the characters alone tell the uses apart.
USES = {"managed": ("█", "green"), "other": ("▓", "blue"), "down": ("✗", "red"), "free": ("·", "dim")}
_LEVELS = " ▏▎▍▌▋▊▉█"


def bar(use: Json, width: int) -> Text:
    """One type's GPUs by use, scaled to ``width``."""
    total = max(1, use["total"])
    made = Text()
    drawn = 0
    running = 0
    for name in ("managed", "other", "down", "free"):
        running += use[name]
        until = min(width, round(width * running / total))
        character, style = USES[name]
        made.append(character * (until - drawn), style)
        drawn = max(drawn, until)
    return made


def legend() -> Text:
    made = Text()
    for name, (character, style) in USES.items():
        made.append(character, style)
        made.append(f" {name}  ")
    return made


def gpu_map(answer: Json) -> list[RenderableType]:
    """A line for each node: one character per GPU, then who holds them."""
    made = Table(box=None, pad_edge=False, show_header=True, header_style="bold", padding=(0, 2, 0, 0), expand=True)
    for name in ("NODE", "TYPE", "GPUS"):
        made.add_column(name, no_wrap=True)
    made.add_column("JOBS", no_wrap=True, overflow="ellipsis", ratio=1, min_width=10)
    for node in answer["nodes"]:
        gpus = Text()
        said = []
        drawn = 0
        for held in sorted(node["held"], key=lambda held: (not held["managed"], held["job_id"] or "~")):
            character, style = USES["managed" if held["managed"] else "other"]
            gpus.append(character * held["gpus"], style)
            drawn += held["gpus"]
            said.append(f"{held['job_id'] or 'other'}:{held['gpus']}")
        rest = max(0, node["gpus"] - drawn)
        character, style = USES["free" if node["state"] == "up" else "down"]
        gpus.append(character * rest, style)
        if node["state"] != "up":
            said.append(f"{node['state']}{': ' + node['reason'] if node['reason'] else ''}")
        made.add_row(node["name"], node["gpu_type"], gpus, " ".join(said))
    totals = [
        f"{use['gpu_type']} {use['managed'] + use['other']} of {use['total']} used, {use['free']} free"
        for use in answer["types"]
    ]
    return [made, Text(""), legend(), Text("; ".join(totals) + ".")]


def curve(curve: Json, width: int, highest: float, held: tuple[str, int] | None) -> list[RenderableType]:
    """One type's goodput over GPUs: a bar for each size, a lighter end for one standard deviation."""
    title = Text.assemble((curve["gpu_type"], "bold"), f"  ±{curve['rel_error']:.0%}, {curve['source']}")
    lines: list[RenderableType] = [title]
    for point in curve["points"]:
        sure = _cells(point["low"], highest, width)
        likely = max(sure, _cells(point["high"], highest, width))
        here = held == (curve["gpu_type"], point["gpus"])
        line = Text(f"{point['gpus']:>5}", style="bold" if here else "")
        line.append(" │", "dim")
        line.append("█" * sure, "green" if here else "cyan")
        line.append("░" * (likely - sure), "cyan")
        line.append(f" {_rate(point['goodput'])}" + (" ● now" if here else ""))
        lines.append(line)
    return lines


def _cells(value: float, highest: float, width: int) -> int:
    return 0 if highest <= 0 else max(0, min(width, round(width * value / highest)))


def timeline(runs: list[Json], now_s: float, width: int) -> list[RenderableType]:
    """A job's runs on one line each, along the time since its first start."""
    if not runs:
        return []
    begin = min(run["started_s"] for run in runs)
    whole = max(now_s - begin, 1.0)
    lines: list[RenderableType] = []
    for run in runs[-12:]:
        left = round(width * (run["started_s"] - begin) / whole)
        right = max(left + 1, round(width * ((run["ended_s"] or now_s) - begin) / whole))
        label = f"{run['gpus']} {run['gpu_type'] or 'gpu'}"
        line = Text(f"{label:>10} │" + " " * left)
        line.append("━" * min(right - left, width - left + 1), "green" if run["ended_s"] is None else "blue")
        lines.append(line)
    return lines


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
