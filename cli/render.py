"""How answers look: tables and words for terminals of any width, with or without colour, in Unicode or plain ASCII.

Pure but for `show`, which prints. Nothing here asks the API or decides anything.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from .pictures import bar

Json = dict[str, Any]
_ASCII = str.maketrans(
    {"…": "~", "±": "+", "→": ">", "█": "#", "▓": "+", "░": ".", "·": ".", "×": "x", "─": "-", "│": "|", "●": "*",
     "▏": "#", "▎": "#", "▍": "#", "▌": "#", "▋": "#", "▊": "#", "▉": "#", "–": "-", "•": "*", "━": "-", "✗": "x"}
)  # fmt: skip
_STATE = {"running": "green", "pending": "yellow", "suspended": "magenta", "completing": "cyan"}
_MODE = {"enforce": "green", "observe": "cyan", "paused": "yellow", "standby": "magenta", "starting": "yellow"}
_SHORT_STATE = {"running": "R", "pending": "PD", "suspended": "S", "completing": "CG"}


def ascii_only() -> bool:
    """Whether the locale or the stream asks for plain ASCII."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or ""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    return "utf8" not in encoding or "utf8" not in locale.lower().replace("-", "")


def text_of(parts: Iterable[RenderableType], width: int | None, colour: bool, ascii: bool) -> str:
    """The parts as they would be printed; lines have no trailing blanks."""
    console = Console(
        width=width,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    text = "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
    return text.translate(_ASCII).encode("ascii", "replace").decode() if ascii else text


def show(parts: Iterable[RenderableType]) -> None:
    """Print: colour on terminals unless NO_COLOR is set; as wide as the terminal, or as COLUMNS says."""
    terminal = sys.stdout.isatty()
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdigit() and int(columns) > 20 else (None if terminal else 160)
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    sys.stdout.write(text_of(parts, width, colour, ascii_only()))
    sys.stdout.flush()


# --- words ----------------------------------------------------------------------------------------------------------


def span(seconds: float | None) -> str:
    """``42 s``, ``7 min``, ``3.2 h``, ``5.1 d``; a dash for nothing."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def between(low: float | None, high: float | None) -> str:
    """A range of seconds; open above where nobody knows."""
    if low is None and high is None:
        return "unknown"
    if high is None:
        return f"{span(low)} or more"
    left, right = span(low), span(high)
    return left if left == right else f"{left} - {right}"


def clock(epoch_s: float, now_s: float) -> str:
    """Time of day, with the date where it is not today; local time."""
    form = "%H:%M:%S" if abs(now_s - epoch_s) < 20 * 3600 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(epoch_s))


def rate(value: float) -> str:
    if not value:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(*columns: str | tuple[str, dict[str, Any]], header: bool = True) -> Table:
    wordy = any(not isinstance(column, str) and "ratio" in column[1] for column in columns)
    made = Table(
        box=None, pad_edge=False, show_header=header, header_style="bold", padding=(0, 2, 0, 0), expand=wordy
    )  # fmt: skip
    for column in columns:
        name, options = (column, {}) if isinstance(column, str) else column
        made.add_column(name, **{"no_wrap": True, "overflow": "ellipsis", **options})
    return made


_RIGHT: dict[str, Any] = {"justify": "right"}
_WORDS: dict[str, Any] = {"ratio": 1, "min_width": 12}


# --- status ---------------------------------------------------------------------------------------------------------


def status(answer: Json, width: int = 80) -> list[RenderableType]:
    now_s = answer["now_s"]
    mode = Text(answer["mode"], style=f"bold {_MODE.get(answer['mode'], '')}".strip())
    head = Text.assemble(("slurmsia", "bold"), f" on {answer['cluster'] or 'this cluster'}: ", mode)
    if answer["why_mode"]:
        head.append(f" ({answer['why_mode']})")
    head.append(f", policy {answer['policy']}")
    age = now_s - (answer["read_s"] or answer["published_s"])
    head.append(f", round {answer['rounds']} {span(age)} ago, next in {span(answer['next_round_s'] - now_s)}")
    parts: list[RenderableType] = [head, Text(answer["sentence"])]
    parts += [Text(f"! {warning}", style="yellow") for warning in answer["warnings"]]
    if answer["gpus"]:
        parts += [Text(""), _uses(answer["gpus"], width)]
    counts = answer["jobs"]
    parts += [
        Text(""),
        Text(
            f"Managed jobs: {counts['managed_running']} running, {counts['managed_waiting']} waiting, "
            f"{counts['moving']} moving. Others: {counts['other_running']} running, {counts['other_waiting']} waiting."
        ),
    ]
    if answer["my_jobs"]:
        parts += [
            Text(""),
            Text(f"My jobs ({answer['caller']['user']})", style="bold"),
            jobs_table(answer["my_jobs"], now_s),
        ]
    else:
        parts.append(Text(f"You ({answer['caller']['user']}) have no jobs with GPUs here."))
    return parts


def _uses(uses: list[Json], width: int) -> Table:
    made = table(
        "TYPE", ("TOTAL", _RIGHT), ("MANAGED", _RIGHT), ("OTHER", _RIGHT), ("DOWN", _RIGHT), ("FREE", _RIGHT), ""
    )
    room = max(8, min(40, width - 48))
    for use in uses:
        made.add_row(
            use["gpu_type"], str(use["total"]), str(use["managed"]), str(use["other"]), str(use["down"]),
            str(use["free"]), bar(use, room),
        )  # fmt: skip
    return made


def jobs_table(rows: list[Json], now_s: float, header: bool = True, long: bool = False) -> Table:
    columns: list[str | tuple[str, dict[str, Any]]] = [
        "JOBID",
        ("NAME", {"max_width": 18}),
        ("USER", {"max_width": 10}),
    ]
    columns += ["ST", ("TIME", _RIGHT), "ON"]
    if long:
        columns += ["PARTITION", "ACCOUNT", ("GOODPUT", _RIGHT), ("MOVES", _RIGHT)]
    columns.append(("WHY", _WORDS))
    made = table(*columns, header=header)
    for row in rows:
        held = f"{row['gpus']} {row['gpu_type'] or 'gpu'}" if row["gpus"] else f"({row['requested_gpus']})"
        if len(row["nodes"]) > 1:
            held += f"/{len(row['nodes'])}n"
        since = row["start_s"] if row["start_s"] is not None else row["submit_s"]
        state = _SHORT_STATE.get(row["state"], row["state"])
        cells: list[RenderableType] = [
            row["job_id"],
            row["name"],
            row["user"],
            Text(state, style=_STATE.get(row["state"], "")),
            span(now_s - since),
            held,
        ]
        if long:
            cells += [",".join(row["partitions"]), row["account"], rate(row["goodput"]), str(row["moves"])]
        cells.append(Text(row["sentence"]))
        made.add_row(*cells)
    return made


def jobs(answer: Json, header: bool = True, long: bool = False) -> list[RenderableType]:
    if not answer["jobs"] and header:
        return [Text("No jobs with GPUs match.")]
    parts: list[RenderableType] = [jobs_table(answer["jobs"], answer["now_s"], header, long)]
    if answer["total"] > len(answer["jobs"]):
        parts.append(Text(f"... {answer['total'] - len(answer['jobs'])} more (--limit)"))
    return parts


# --- why ------------------------------------------------------------------------------------------------------------


def why(answer: Json) -> list[RenderableType]:
    row = answer["job"]
    parts: list[RenderableType] = [
        Text.assemble((f"Job {row['job_id']}", "bold"), f" ({row['name']}, {row['user']}): ", answer["sentence"] + ".")
    ]
    if answer["term"]:
        parts.append(Text(f"Decided by: {answer['term']}."))
    if answer["put_off"]:
        parts.append(Text(f"Put off: {answer['put_off']}.", style="yellow"))
    if answer["would_change"]:
        parts.append(Text(f"It would change with: {answer['would_change']}."))
    parts += [Text(f"! {problem}", style="yellow") for problem in answer["problems"]]
    if answer["alternatives"]:
        made = table("ALSO CONSIDERED", ("GOODPUT", _RIGHT), ("WHY NOT", _WORDS))
        for other in answer["alternatives"]:
            made.add_row(other["shape"]["text"], rate(other["goodput"]), other["why_not"])
        parts += [Text(""), made]
    if len(answer["before"]) > 1:
        made = table("BEFORE", ("FOR", _RIGHT), ("", _WORDS))
        for past, newer in zip(answer["before"][1:6], answer["before"], strict=False):
            made.add_row(
                clock(past["first_s"], answer["now_s"]), span(newer["first_s"] - past["first_s"]), past["sentence"]
            )
        parts += [Text(""), made, Text("")]
    parts.append(Text(f"Looked at again in {span(answer['look_again_s'])}.", style="dim"))
    return parts


# --- plan, rounds, history, models, estimate --------------------------------------------------------------------------


def plan(answer: Json) -> list[RenderableType]:
    lead = "" if answer["carried_out"] else "This is what would be done; nothing is changed in this mode. "
    parts: list[RenderableType] = [Text(lead + answer["sentence"])]
    if answer["decisions"]:
        parts += [Text(""), decisions(answer["decisions"])]
    else:
        parts.append(Text("No job that you may see starts, moves or gives way."))
    if answer["in_flight"]:
        made = table("MOVING", "KIND", "PHASE", "FROM", "TO", ("SINCE", _RIGHT))
        for move in answer["in_flight"]:
            made.add_row(
                move["job_id"], move["kind"], move["phase"], _shape(move["former"]), _shape(move["target"]),
                span(answer["published_s"] - move["planned_s"]),
            )  # fmt: skip
        parts += [Text(""), made]
    return parts


def decisions(rows: list[Json]) -> Table:
    made = table("JOBID", "DOES", "TO", ("NOW", _RIGHT), ("THEN", _RIGHT), ("WHY", _WORDS))
    for row in rows:
        made.add_row(
            row["job_id"], row["kind"], _shape(row["target"]), rate(row["current_goodput"]),
            rate(row["expected_goodput"]), row["sentence"],
        )  # fmt: skip
    return made


def rounds(answer: Json) -> list[RenderableType]:
    made = table(("ROUND", _RIGHT), "AT", "MODE", ("MOVES", _RIGHT), ("TOOK", _RIGHT), ("", _WORDS))
    for row in answer["rounds"]:
        took = sum(row["times_s"].values())
        made.add_row(
            str(row["round_id"]), clock(row["taken_s"], answer["now_s"]), row["mode"], str(row["moves"]),
            f"{took * 1000:.0f} ms", row["sentence"],
        )  # fmt: skip
    return [made] if answer["rounds"] else [Text("No rounds in the store yet.")]


def one_round(answer: Json) -> list[RenderableType]:
    row = answer["round"]
    times = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in sorted(row["times_s"].items()))
    parts: list[RenderableType] = [
        Text(
            f"Round {row['round_id']} at {clock(row['taken_s'], answer['now_s'])} in {row['mode']} mode: "
            f"{row['sentence']}"
        ),
        Text(
            f"Policy {row['policy']}, decided by {row['stage']}, "
            f"gap {row['gap'] if row['gap'] is not None else '-'}; {times}."
        ),
    ]
    if not row["replayable"]:
        parts.append(Text("Its snapshot is no longer kept, so it cannot be replayed.", style="yellow"))
    if answer["decisions"]:
        parts += [Text(""), decisions(answer["decisions"])]
    return parts


def history(answer: Json) -> list[RenderableType]:
    now_s = answer["now_s"]
    parts: list[RenderableType] = []
    if answer["runs"]:
        made = table(("RUN", _RIGHT), "STARTED", ("TOOK", _RIGHT), "ON", ("NODES", {"max_width": 30}), "ENDED")
        for run in answer["runs"]:
            made.add_row(
                str(run["restart"]), clock(run["started_s"], now_s),
                span((run["ended_s"] or now_s) - run["started_s"]), f"{run['gpus']} {run['gpu_type'] or 'gpu'}",
                ",".join(run["nodes"]), run["how_ended"] or "runs",
            )  # fmt: skip
        parts += [made, Text("")]
    if answer["moves"]:
        made = table("JOBID", "AT", "KIND", "TO", "OUTCOME", ("TOOK", _RIGHT))
        for move in answer["moves"][-200:]:
            took = None if move["ended_s"] is None else move["ended_s"] - move["planned_s"]
            made.add_row(
                move["job_id"], clock(move["planned_s"], now_s), move["kind"], _shape(move["target"]), move["phase"],
                span(took),
            )  # fmt: skip
        parts += [made]
    if answer["verdicts"]:
        made = table("FROM", ("FOR", _RIGHT), ("VERDICT", _WORDS))
        ends = [None, *(past["first_s"] for past in answer["verdicts"])]
        for past, end_s in zip(answer["verdicts"], ends, strict=False):
            stood_s = (past["last_s"] if end_s is None else end_s) - past["first_s"]
            made.add_row(clock(past["first_s"], now_s), span(stood_s), past["sentence"])
        parts += [Text(""), made]
    if answer["operators"]:
        made = table("AT", "WHO", "DID", "JOBID", ("REASON", _WORDS))
        for action in answer["operators"]:
            made.add_row(
                clock(action["t_s"], now_s), action["who"], action["what"], action["job_id"] or "", action["reason"]
            )
        parts += [Text(""), made]
    return parts or [Text("Nothing happened in this time.")]


def models(answer: Json) -> list[RenderableType]:
    if not answer["models"]:
        return [Text("No job that you may see has a model.")]
    made = table("JOBID", ("NAME", {"max_width": 18}), "TYPE", ("ERROR", _RIGHT), ("SEEN", _RIGHT), ("FROM", _WORDS))
    for row in answer["models"]:
        made.add_row(
            row["job_id"], row["name"], row["gpu_type"], f"±{row['rel_error']:.0%}", str(row["max_gpus_seen"]),
            row["sentence"].removeprefix(f"{row['gpu_type']}: ") or row["source"],
        )  # fmt: skip
    return [made]


def estimate(answer: Json) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(answer["sentence"])]
    if answer["options"]:
        made = table("ON", ("GOODPUT", _RIGHT), ("STARTS IN", _RIGHT), ("RUNS FOR", _RIGHT), ("ENDS IN", _RIGHT))
        for option in answer["options"]:
            made.add_row(
                option["shape"]["text"], rate(option["goodput"]),
                between(option["start_low_s"], option["start_high_s"]),
                between(option["run_low_s"], option["run_high_s"]),
                between(option["end_low_s"], option["end_high_s"]),
            )  # fmt: skip
        parts += [Text(""), made]
    return parts


def _shape(shape: Json | None) -> str:
    return "-" if shape is None else str(shape["text"])
