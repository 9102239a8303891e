"""How simulations look on a terminal: progress with time left, summaries, comparisons, fidelity. Printing only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from slurmsia.sim.result import SUMMARY_KEYS, RunResult, summary

if TYPE_CHECKING:
    from slurmsia.sim.fidelity import Optimum, Row, Verdict
    from slurmsia.sim.runner import Progress as News
    from slurmsia.sim.runner import RunSpec

_SHOWN = tuple(key for key in SUMMARY_KEYS if key not in ("moves_uncharged", "rounds", "contention_mean"))


@contextmanager
def progress_bar(specs: Sequence[RunSpec]) -> Iterator[Callable[[News], None]]:
    """One bar over all runs, counted in finished jobs, on standard error; silent where that is no terminal."""
    console = Console(stderr=True)
    done: dict[int, int] = {}
    totals: dict[int, int] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(f"{len(specs)} runs", total=None)

        def on_progress(news: News) -> None:
            done[news.index] = news.finished
            if news.total:
                totals[news.index] = news.total
            known = sum(totals.values())
            expected = known / max(len(totals), 1) * len(specs) if totals else None
            bar.update(task, completed=sum(done.values()), total=expected, description="jobs finished")

        yield on_progress


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)


def print_summaries(results: Sequence[RunResult]) -> None:
    """One line per run; assumptions and notes below."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in _SHOWN:
        table.add_column(key.replace("_", " "), justify="left" if key in ("workload", "policy") else "right")
    for result in results:
        values = summary(result)
        table.add_row(*(_text(values[key]) for key in _SHOWN))
    console = Console(width=max(Console().width, 170))
    console.print(table)
    for sentence in dict.fromkeys(line for result in results for line in (*result.assumptions, *result.notes)):
        console.print(f"* {sentence}", highlight=False)


def print_comparison(table: Mapping[str, Any]) -> None:
    """Policies side by side: mean over workloads, ratio to the baseline with its 95 % interval."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("policy")
    shown.add_column("workloads", justify="right")
    for key in table["keys"]:
        shown.add_column(key.replace("_", " "), justify="right")
        shown.add_column(f"/ {table['baseline']}", justify="right")
    for row in table["policies"]:
        cells = [row["policy"], str(row["workloads"])]
        for key in table["keys"]:
            cells.append(_text(row["mean"].get(key)))
            ratio = row["ratio"].get(key)
            if ratio is None:
                cells.append("-")
            elif ratio["low"] is None:
                cells.append(f"{ratio['mean']:.2f}")
            else:
                cells.append(f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]")
        shown.add_row(*cells)
    console = Console(width=max(Console().width, 170))
    console.print(shown)
    console.print("ratios: geometric mean over the workloads both ran, 95 % interval by bootstrap", style="dim")


def print_fidelity(rows: Sequence[Row], verdicts: Sequence[Verdict], optima: Sequence[Optimum]) -> None:
    """Ours beside the reference, then the promised lines."""
    console = Console(width=max(Console().width, 170))
    if rows:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("run")
        for key in rows[0].ours:
            table.add_column(key.replace("_", " "), justify="right")
            table.add_column("ref", justify="right")
            table.add_column("off", justify="right")
        for row in rows:
            cells = [row.title]
            for key, ours in row.ours.items():
                cells += [_text(ours), _text(row.reference[key]), f"{row.off[key]:+.1%}" if key in row.off else "-"]
            table.add_row(*cells)
        console.print(table)
    if optima:
        equal = sum(optimum.holds for optimum in optima)
        worst = max(abs(optimum.ours - optimum.recorded) for optimum in optima)
        console.print(
            f"recorded programs: {equal} of {len(optima)} optima equal to 1e-6 (largest difference {worst:.2g})"
        )
    for verdict in verdicts:
        console.print(f"{'holds' if verdict.holds else 'FAILS'}: {verdict.sentence}", highlight=False)


def fidelity_json(rows: Sequence[Row], verdicts: Sequence[Verdict], optima: Sequence[Optimum]) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "schema": 1,
        "rows": [
            {"run": row.title, "ours": row.ours, "reference": row.reference, "relative_difference": row.off}
            for row in rows
        ],
        "programs": [{"number": o.number, "recorded": o.recorded, "ours": o.ours, "equal": o.holds} for o in optima],
        "verdicts": [{"sentence": verdict.sentence, "holds": verdict.holds} for verdict in verdicts],
    }
