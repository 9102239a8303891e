"""``slurmsia bench solve``: time, proven gap and correctness of the solver on recorded and stacked programs.

Times include filling the program from its goodput matrices. Prints a table, or JSON for scripts; measures only.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slurmsia.solver import Program, Solution, SolverLimits, solve
from slurmsia.solver.reference import solve_reference

from .bench_instances import Instances, own_objective, program, read
from .bench_solvers import Answer, against

#: General solvers of ``--compare``.
_OTHERS = ("HiGHS", "CBC", "SCIP", "CP-SAT", "CP-SAT 2 workers")
#: Without ``--compare``, stacked programs up to this many jobs are still checked against HiGHS.
_CHECKED_JOBS = 1000


@click.command("solve")
@click.option(
    "--instances",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Recorded programs.",
)
@click.option("--gpus", type=click.IntRange(1), help="Stack jobs of different rounds up to this many GPUs.")
@click.option("--jobs", type=click.IntRange(1), help="Jobs to stack (default: as many per GPU as recorded).")
@click.option("--seed", default=0, show_default=True, help="First seed of the stacking.")
@click.option("--seeds", default=50, show_default=True, type=click.IntRange(1), help="Number of stacked programs.")
@click.option("--holes", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share of nodes with holes.")
@click.option("--gap", default=1e-4, show_default=True, help="Proven gap that is good enough.")
@click.option("--exact/--no-exact", default=True, show_default=True, help="Close the gap altogether where cheap.")
@click.option("--compare", is_flag=True, help="Run HiGHS, CBC, SCIP and CP-SAT on the identical programs.")
@click.option("--compare-seeds", default=5, show_default=True, type=click.IntRange(1), help="Programs they get.")
@click.option("--check/--no-check", default=True, show_default=True, help="Check objectives against another solver.")
@click.option("--time-limit-s", default=60.0, show_default=True, help="Time limit of each other solver.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def solve_bench(
    instances: Path,
    gpus: int | None,
    jobs: int | None,
    seed: int,
    seeds: int,
    holes: float,
    gap: float,
    exact: bool,
    compare: bool,
    compare_seeds: int,
    check: bool,
    time_limit_s: float,
    as_json: bool,
) -> None:
    """Time and prove the solver on recorded programs, or on larger ones stacked from them.

    \b
    Examples:
      slurmsia bench solve --instances instances.json
      slurmsia bench solve --instances instances.json --gpus 2048 --jobs 460 --compare
      slurmsia bench solve --instances instances.json --gpus 100000 --jobs 50000 --seeds 3
    """
    data = read(instances)
    limits = SolverLimits(gap=gap, exact=exact)
    _warm(data, limits)
    if gpus is None and jobs is None:
        report = _recorded(data, limits, check, time_limit_s)
        programs = [program(r, data.sums(), data.p, data.lambda_n, False) for r in data.rounds]
    else:
        total, recorded = sum(data.capacity.values()), sum(len(r.factor) for r in data.rounds) / len(data.rounds)
        gpus = gpus or round((jobs or 1) * total / recorded)
        jobs = jobs or max(1, round(gpus * recorded / total))
        report, programs = _stacked(data, limits, gpus, jobs, range(seed, seed + seeds), holes, check, time_limit_s)
    if compare:
        report["compare"] = _side_by_side(programs[:compare_seeds], limits, time_limit_s)
    report["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    click.echo(json.dumps(report) if as_json else _text(report))
    sys.exit(0 if report["sound"] else 1)


def _warm(data: Instances, limits: SolverLimits) -> None:
    """Imports and first-call costs happen before the clock starts: a daemon pays them once."""
    first = data.rounds[0]
    solve(program(first, data.sums(), data.p, data.lambda_n, False), limits)


def _timed(fill: Callable[[], Program], limits: SolverLimits) -> tuple[Program, Solution, tuple[float, float]]:
    """Filling and solving, with elapsed and processor seconds (the second does not depend on what else runs)."""
    started, worked = time.perf_counter(), time.process_time()
    filled = fill()
    solution = solve(filled, limits)
    return filled, solution, (time.perf_counter() - started, time.process_time() - worked)


def _recorded(data: Instances, limits: SolverLimits, check: bool, time_limit_s: float) -> dict[str, Any]:
    """Every recorded program: the public code's optimum with its rounding, the reference mode without."""
    times, gaps, unlike_recorded, unlike_reference, missed = [], [], [], [], []
    rows = data.sums()
    for matrices in data.rounds:
        jobs = len(matrices.factor)
        clean, solution, seconds = _timed(lambda m=matrices: program(m, rows, data.p, data.lambda_n, False), limits)
        times.append(seconds)
        gaps.append(solution.gap)
        if check:
            reference = solve_reference(clean, SolverLimits(gap=0.0, deterministic_time=1e9, wall_s=time_limit_s))
            unlike_reference.append(_apart(solution.objective, reference.objective))
        if matrices.recorded is not None:
            artifact = program(matrices, rows, data.p, data.lambda_n, True)
            gain = solve(artifact, limits).objective
            unlike_recorded.append(abs(own_objective(gain, jobs, data.p, data.lambda_n) - matrices.recorded))
            if unlike_recorded[-1] > 1e-6:
                missed.append(matrices.name)
    return {
        "schema": 1,
        "what": "recorded programs",
        "programs": len(data.rounds),
        **_times(times),
        "gap_worst": max(gaps),
        "objective_vs_reference_worst": max(unlike_reference, default=None),
        "objective_vs_recorded_worst": max(unlike_recorded, default=None),
        "equal_to_recorded": sum(1 for d in unlike_recorded if d <= 1e-6),
        "with_recorded_optimum": len(unlike_recorded),
        "not_equal_to_recorded": missed,
        "reference": "CP-SAT on the whole program" if check else None,
        "sound": not missed and max(gaps) <= limits.gap and max(unlike_reference, default=0.0) <= 1e-6,
    }


def _stacked(
    data: Instances,
    limits: SolverLimits,
    gpus: int,
    jobs: int,
    seeds: range,
    holes: float,
    check: bool,
    time_limit_s: float,
) -> tuple[dict[str, Any], list[Program]]:
    """Programs stacked from the recorded rounds, one for each seed."""
    times, gaps, apart, programs, stages = [], [], [], [], {}
    unproven = 0
    for seed in seeds:
        matrices = data.stacked(jobs, seed)
        rows = data.holes(gpus, holes, seed) if holes > 0 else data.sums(gpus)
        filled, solution, seconds = _timed(
            lambda m=matrices, r=rows: program(m, r, data.p, data.lambda_n, False), limits
        )
        times.append(seconds)
        gaps.append(solution.gap)
        for name, lap in solution.times_s:
            stages.setdefault(name, []).append(lap)
        if not programs or (len(programs) < 50 and jobs <= _CHECKED_JOBS):
            programs.append(filled)
        if check and jobs <= _CHECKED_JOBS:
            answer = against("HiGHS", filled, time_limit_s)
            if answer is None or answer.objective is None or not answer.optimal:
                unproven += 1
            else:
                apart.append(_apart(solution.objective, answer.objective))
    report = {
        "schema": 1,
        "what": "stacked programs",
        "gpus": gpus,
        "jobs": jobs,
        "configurations": len(data.shapes),
        "holes": holes,
        "programs": len(seeds),
        **_times(times),
        "gap_worst": max(gaps),
        "proven_optimal": sum(1 for g in gaps if g <= 1e-9),
        "objective_vs_reference_worst": max(apart, default=None),
        "reference": "HiGHS, gap 0" if apart else None,
        "reference_unproven": unproven,
        "stage_ms": {name: round(statistics.median(laps) * 1e3, 2) for name, laps in stages.items()},
        "sound": max(gaps) <= limits.gap and max(apart, default=0.0) <= 1e-6,
    }
    return report, programs


def _side_by_side(programs: list[Program], limits: SolverLimits, time_limit_s: float) -> list[dict[str, Any]]:
    """Each program to each solver in turn, so that the machine's speed is the same for all."""
    ours: list[Answer] = []
    others: dict[str, list[Answer | None]] = {name: [] for name in _OTHERS}
    for one in programs:
        started = time.perf_counter()
        mine = solve(one, limits)
        ours.append(Answer(mine.objective, mine.bound, mine.gap <= limits.gap, time.perf_counter() - started))
        for name in _OTHERS:
            others[name].append(against(name, one, time_limit_s))
    best = [
        max(a.objective for a in answers if a is not None and a.objective is not None)
        for answers in zip(ours, *others.values(), strict=True)
    ]
    own_median = statistics.median(answer.seconds for answer in ours)
    return [_line("slurmsia", list(ours), best, own_median)] + [
        _line(name, answers, best, own_median) for name, answers in others.items()
    ]


def _line(name: str, answers: list[Answer | None], best: list[float], own_median: float) -> dict[str, Any]:
    there = [answer for answer in answers if answer is not None]
    if not there:
        return {"solver": name, "available": False}
    median = statistics.median(answer.seconds for answer in there)
    short = [
        1.0 if answer.objective is None else max(0.0, value - answer.objective) / max(abs(value), 1e-9)
        for answer, value in zip(there, best, strict=True)
    ]
    return {
        "solver": name,
        "available": True,
        "median_ms": round(median * 1e3, 2),
        "worst_ms": round(max(answer.seconds for answer in there) * 1e3, 2),
        "times_slurmsia": round(median / own_median, 1),
        "proven": sum(1 for answer in there if answer.optimal),
        "programs": len(there),
        "below_best_worst": max(short),
    }


def _times(times: list[tuple[float, float]]) -> dict[str, float]:
    elapsed, worked = [one for one, _ in times], [one for _, one in times]
    return {
        "median_ms": round(statistics.median(elapsed) * 1e3, 3),
        "worst_ms": round(max(elapsed) * 1e3, 3),
        "median_cpu_ms": round(statistics.median(worked) * 1e3, 3),
        "worst_cpu_ms": round(max(worked) * 1e3, 3),
    }


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(abs(other), 1e-9)


def _text(report: dict[str, Any]) -> str:
    size = f"{report['gpus']} GPUs, {report['jobs']} jobs, " if "gpus" in report else ""
    lines = [
        f"{report['programs']} {report['what']} ({size}filling included): median {report['median_ms']:.1f} ms, "
        f"worst {report['worst_ms']:.1f} ms (processor {report['median_cpu_ms']:.1f} and "
        f"{report['worst_cpu_ms']:.1f} ms); proven gap at worst {report['gap_worst']:.1e}; "
        f"memory {report['peak_rss_mb']:.0f} MB",
    ]
    if report["objective_vs_reference_worst"] is not None:
        lines.append(
            f"objective against {report['reference']}: {report['objective_vs_reference_worst']:.1e} apart at worst"
        )
    if report.get("with_recorded_optimum"):
        lines.append(
            f"with the public code's rounding {report['equal_to_recorded']} of {report['with_recorded_optimum']} "
            f"programs have the recorded optimum (worst difference {report['objective_vs_recorded_worst']:.1e})"
        )
    if report.get("stage_ms"):
        lines.append("stages, median ms: " + ", ".join(f"{k} {v:.1f}" for k, v in report["stage_ms"].items()))
    if report.get("compare"):
        lines.append(f"{'solver':18}{'median ms':>11}{'worst ms':>11}{'x slurmsia':>12}{'proven':>8}{'below best':>12}")
        for line in report["compare"]:
            if not line["available"]:
                lines.append(f"{line['solver']:18}  not in this installation")
                continue
            lines.append(
                f"{line['solver']:18}{line['median_ms']:11.1f}{line['worst_ms']:11.1f}{line['times_slurmsia']:12.1f}"
                f"{line['proven']:5d}/{line['programs']:<2d}{line['below_best_worst']:12.1e}"
            )
    return "\n".join(lines)
