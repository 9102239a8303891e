"""Pictures of results: JCT distribution, GPU use by type over time, one Gantt per run. Needs the ``plot`` extra.

Draws from the plain data of result files and writes PNG or SVG; decides nothing and computes no summary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLOURS = {"t4": "#8da0cb", "rtx": "#66c2a5", "a100": "#fc8d62", "quad": "#e78ac3", "v100": "#a6d854"}
_OTHERS = ("#ffd92f", "#e5c494", "#b3b3b3", "#1f78b4", "#b15928")


def draw_all(runs: Sequence[Mapping[str, Any]], folder: Path, kind: str = "png") -> list[Path]:
    """One CDF per workload, one use chart and one Gantt per run; the paths written. ImportError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'slurmsia[plot]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "slurmsia"
    folder.mkdir(parents=True, exist_ok=True)
    workloads: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        workloads.setdefault(run["summary"]["workload"], []).append(run)
    written = [_cdf(name, group, folder, kind) for name, group in workloads.items()]
    for run in runs:
        written += [_use(run, folder, kind), _gantt(run, folder, kind)]
    return written


def use_over_time(run: Mapping[str, Any]) -> tuple[list[float], dict[str, list[int]]]:
    """(hours, GPUs held by type at each) from the segments of a run's jobs; steps hold until the next entry."""
    changes: dict[float, dict[str, int]] = {}
    for job in run["jobs"]:
        for start_s, end_s, gpu_type, _, gpus in job.get("segments", ()):
            for at_s, sign in ((start_s, 1), (end_s, -1)):
                held = changes.setdefault(at_s, {})
                held[gpu_type] = held.get(gpu_type, 0) + sign * gpus
    types = sorted({name for held in changes.values() for name in held})
    now = dict.fromkeys(types, 0)
    hours: list[float] = []
    use: dict[str, list[int]] = {name: [] for name in types}
    for at_s in sorted(changes):
        for name, change in changes[at_s].items():
            now[name] += change
        hours.append(at_s / 3600.0)
        for name in types:
            use[name].append(now[name])
    return hours, use


def _file(folder: Path, title: str, kind: str) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9.=-]+', '-', title).strip('-')}.{kind}"


def _save(figure: Any, file: Path) -> Path:
    figure.tight_layout()
    figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)
    import matplotlib.pyplot as plt

    plt.close(figure)
    return file


def _colour(gpu_type: str, number: int) -> str:
    return _COLOURS.get(gpu_type, _OTHERS[number % len(_OTHERS)])


def _cdf(workload: str, runs: Sequence[Mapping[str, Any]], folder: Path, kind: str) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for run in runs:
        times = sorted(job["jct_s"] / 3600.0 for job in run["jobs"])
        shares = [(i + 1) / len(times) for i in range(len(times))]
        axes.step(times, shares, where="post", label=run["summary"]["policy"])
    axes.set_xscale("log")
    axes.set_xlabel("job completion time (h)")
    axes.set_ylabel("share of jobs")
    axes.set_title(workload)
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, _file(folder, f"jct-{workload}", kind))


def _use(run: Mapping[str, Any], folder: Path, kind: str) -> Path:
    import matplotlib.pyplot as plt

    hours, use = use_over_time(run)
    figure, axes = plt.subplots(figsize=(8, 3.5))
    if hours:
        axes.stackplot(
            hours,
            list(use.values()),
            labels=list(use),
            colors=[_colour(name, i) for i, name in enumerate(use)],
            step="post",
        )
        axes.legend(loc="upper right")
    axes.set_xlabel("time (h)")
    axes.set_ylabel("GPUs held")
    axes.set_title(_title(run))
    return _save(figure, _file(folder, f"use-{_title(run)}", kind))


def _gantt(run: Mapping[str, Any], folder: Path, kind: str) -> Path:
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    jobs = run["jobs"]
    figure, axes = plt.subplots(figsize=(10, max(3.0, min(0.09 * len(jobs), 40.0))))
    types = sorted({segment[2] for job in jobs for segment in job.get("segments", ())})
    for row, job in enumerate(jobs):
        axes.plot([job["submit_s"] / 3600.0, job["end_s"] / 3600.0], [row, row], color="#dddddd", linewidth=0.6)
        for start_s, end_s, gpu_type, _, gpus in job.get("segments", ()):
            axes.barh(
                row,
                (end_s - start_s) / 3600.0,
                left=start_s / 3600.0,
                height=0.25 + 0.6 * min(gpus, 16) / 16.0,
                color=_colour(gpu_type, types.index(gpu_type)),
            )
    handles = [Patch(color=_colour(name, i)) for i, name in enumerate(types)]
    axes.legend(handles, types, loc="lower right")
    axes.set_ylim(len(jobs), -1)
    axes.set_xlabel("time (h); height of a bar grows with its GPUs")
    axes.set_ylabel("job")
    axes.set_title(_title(run))
    return _save(figure, _file(folder, f"gantt-{_title(run)}", kind))


def _title(run: Mapping[str, Any]) -> str:
    return f"{run['summary']['workload']} {run['summary']['policy']}"
