"""Every combination of option values, run here or as a Slurm job array through submitit. Only lists and sends specs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .runner import Batch, RunSpec, run_one
from .settings import SettingError


def combinations(specs: Sequence[RunSpec], varied: Sequence[str]) -> list[RunSpec]:
    """Each spec with every combination of ``KEY=A,B,C``; the label says which. Raises `SettingError`.

    Keys ``seed`` and ``interval`` vary the run itself, all others are options.
    """
    axes: list[list[tuple[str, str]]] = []
    for text in varied:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise SettingError(f"--vary `{text}`: write it as key=a,b,c")
        axes.append([(key, value) for value in values.split(",") if value])
    found = []
    for spec in specs:
        for combination in itertools.product(*axes):
            one = replace(spec, label=f"{spec.policy} {' '.join(f'{key}={value}' for key, value in combination)}")
            for key, value in combination:
                one = _with(one, key, value)
            found.append(one)
    return found


def _with(spec: RunSpec, key: str, value: str) -> RunSpec:
    try:
        if key == "seed":
            return replace(spec, seed=int(value))
        if key == "interval":
            return replace(spec, interval_s=float(value))
    except ValueError:
        raise SettingError(f"--vary {key}={value}: not a number") from None
    return replace(spec, options=(*spec.options, f"{key}={value}"))


def run_on_slurm(specs: Sequence[RunSpec], folder: Path, parameters: Sequence[str]) -> Batch:
    """Run the specs as one job array and wait; Ctrl-C keeps what is finished. ImportError without submitit."""
    try:
        import submitit
    except ImportError:
        raise ImportError("running on Slurm needs submitit: pip install 'slurmsia[submitit]'") from None
    executor = submitit.AutoExecutor(folder=str(folder))
    values: dict[str, object] = {}
    for text in parameters:
        key, equals, value = text.partition("=")
        if not equals:
            raise SettingError(f"--submitit-option `{text}`: write it as key=value")
        values[key] = int(value) if value.isdigit() else value
    executor.update_parameters(**values)
    jobs = executor.map_array(run_one, list(specs))
    batch = Batch(specs)
    try:
        for index, job in enumerate(jobs):
            try:
                batch.results[index] = job.result()
            except Exception as error:  # one lost array task must not lose the others
                batch.errors[index] = f"{specs[index].name}: {error}"
    except KeyboardInterrupt:
        batch.interrupted = True
        for job in jobs:
            job.cancel(check=False)
    return batch
