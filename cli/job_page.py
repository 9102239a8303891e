"""One job in full, as `slurmsia job` shows it. Pure."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from .pictures import curve, timeline
from .render import between, jobs_table, rate, span

Json = dict[str, Any]
_CURVE_WIDTH = 40


def page(answer: Json) -> list[RenderableType]:
    row, now_s = answer["job"], answer["now_s"]
    parts: list[RenderableType] = [jobs_table([row], now_s, long=True)]
    if answer["comment"]:
        parts.append(Text(f"Declared: {answer['comment']}", style="dim"))
    if answer["pinned"]:
        parts.append(Text(f"Pinned: {answer['pinned']}.", style="yellow"))
    parts += [Text(f"! {problem}", style="yellow") for problem in answer["problems"]]
    if answer["curves"]:
        parts += [Text(""), Text("Goodput over GPUs (samples/s; lighter end: one standard deviation)", style="bold")]
        highest = max((p["high"] for found in answer["curves"] for p in found["points"]), default=0.0)
        held = (row["gpu_type"], row["gpus"]) if row["gpus"] else None
        for found in answer["curves"]:
            parts += curve(found, _CURVE_WIDTH, highest, held)
    parts += _numbers(answer)
    if answer["runs"]:
        parts += [Text(""), Text("Runs", style="bold"), *timeline(answer["runs"], now_s, _CURVE_WIDTH)]
    if answer["advice"]:
        parts += [Text(""), Text("Advice", style="bold")]
        for advice in answer["advice"]:
            parts.append(Text(f"• {advice['sentence']}"))
            parts.append(Text(f"    {advice['line']}", style="cyan", no_wrap=True, overflow="ignore"))
    return parts


def _numbers(answer: Json) -> list[RenderableType]:
    lines: list[RenderableType] = [Text("")]
    gained, restart, work = answer["gained"], answer["restart"], answer["work"]
    if gained is not None:
        lines.append(
            Text(
                f"Goodput: {rate(gained['goodput_held'])} samples/s on {gained['held']}, {gained['ratio']:.2f}x of "
                f"{rate(gained['goodput_asked'])} on the {gained['asked']} that it asked for."
            )
        )
    if restart is not None:
        moves = answer["job"]["moves"]
        cost = f"about {span(moves * restart['mean_s'])} in all, " if moves else ""
        lines.append(
            Text(
                f"Moves: {moves} ({cost}{restart['mean_s']:.0f} ± {restart['std_s']:.0f} s each, {restart['source']})."
            )
        )
    if work is not None and work["remaining"] is not None:
        held = next(
            (
                point
                for found in answer["curves"]
                for point in found["points"]
                if (found["gpu_type"], point["gpus"]) == (answer["job"]["gpu_type"], answer["job"]["gpus"])
            ),
            None,
        )
        left = ""
        if held is not None and held["low"] > 0:
            spread = work["remaining_std"] or 0.0
            low = max(0.0, work["remaining"] - spread) / held["high"]
            left = f", {between(low, (work['remaining'] + spread) / held['low'])} at this speed"
        lines.append(Text(f"Work left: {work['remaining']:.3g} samples{left} ({work['source']})."))
    return lines if len(lines) > 1 else []
