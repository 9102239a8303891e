"""Policies side by side over several workloads: means, ratios to a baseline, and how sure they are.

Reads result files or `RunResult` values and returns plain data; printing and drawing are elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Summary keys worth comparing; all are "smaller is better" except none.
KEYS = (
    "avg_jct_h",
    "median_jct_h",
    "p99_jct_h",
    "makespan_h",
    "gpu_h_per_job",
    "restarts_per_job",
    "worst_rho",
    "unfair_fraction",
)
_RESAMPLES = 2000


def load_runs(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The runs of result files in order. Raises ValueError naming a file that is not one."""
    runs: list[dict[str, Any]] = []
    for file in files:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            runs += document["runs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: is not a result of `slurmsia simulate --json` ({error})") from None
    if not runs:
        raise ValueError("the files hold no runs")
    return runs


def comparison(runs: Sequence[Mapping[str, Any]], baseline: str | None = None) -> dict[str, Any]:
    """Mean per policy over its workloads, and the ratio to the baseline over the workloads both ran.

    A ratio is the geometric mean of per-workload ratios; its interval is a percentile bootstrap over workloads (95 %,
    fixed seed), ``None`` with fewer than three. Raises ValueError when the baseline ran nothing.
    """
    table: dict[str, dict[tuple[str, str, int], Mapping[str, Any]]] = {}
    for run in runs:
        summary, settings = run["summary"], run["settings"]
        key = (summary["workload"], str(settings.get("cluster")), int(settings.get("seed", 0)))
        table.setdefault(summary["policy"], {})[key] = summary
    base = baseline or next(iter(table))
    if base not in table:
        raise ValueError(f"no run of baseline `{base}`; there are: {', '.join(table)}")
    return {
        "baseline": base,
        "keys": [key for key in KEYS if any(_number(one.get(key)) for of in table.values() for one in of.values())],
        "policies": [
            {
                "policy": policy,
                "workloads": len(mine),
                "mean": {key: _mean(mine.values(), key) for key in KEYS},
                "ratio": {key: ratio(mine, table[base], key) for key in KEYS},
            }
            for policy, mine in table.items()
        ],
    }


def ratio(
    mine: Mapping[Any, Mapping[str, Any]], base: Mapping[Any, Mapping[str, Any]], key: str
) -> dict[str, float | None] | None:
    """Geometric mean of mine / base over common workloads with a bootstrap interval; ``None`` without any."""
    logs = [
        math.log(mine[workload][key] / base[workload][key])
        for workload in mine
        if workload in base and _positive(mine[workload].get(key)) and _positive(base[workload].get(key))
    ]
    if not logs:
        return None
    low = high = None
    if len(logs) >= 3:
        draws = np.random.default_rng(0).choice(np.array(logs), size=(_RESAMPLES, len(logs))).mean(axis=1)
        low, high = (float(math.exp(value)) for value in np.percentile(draws, (2.5, 97.5)))
    return {"mean": math.exp(math.fsum(logs) / len(logs)), "low": low, "high": high}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _mean(summaries: Any, key: str) -> float | None:
    values = [float(one[key]) for one in summaries if _number(one.get(key))]
    return math.fsum(values) / len(values) if values else None
