"""What is wrong with a report before any row is looked at: numbers and names that no database should have to keep."""

from __future__ import annotations

from ..history import Report

#: Larger numbers are nonsense, and sums of them would leave the range of a database's types.
_LARGEST_COUNT = 2**31
_LARGEST = 1e24


def _is_type_name(name: str) -> bool:
    return 0 < len(name) <= 64 and name.isprintable()


def flaw(report: Report) -> str:
    """Why the database would refuse the report, or an empty string."""
    if not (0 <= report.restart < _LARGEST_COUNT and 0 <= report.seq < _LARGEST_COUNT):
        return f"restart {report.restart} and seq {report.seq} must be from 0 to {_LARGEST_COUNT:.0f}"
    numbers: list[tuple[str, float | None]] = [
        ("t", report.t_s), ("energy_j", report.energy_j), ("net_bytes", report.net_bytes)
    ]  # fmt: skip
    for seen in report.observations:
        if seen.nodes < 1 or seen.gpus < 1 or seen.local_batch <= 0 or seen.accumulation < 0 or seen.count <= 0:
            return "steps need n > 0, local > 0, accum >= 0 and an allocation of at least one GPU"
        if max(seen.nodes, seen.gpus, seen.accumulation) >= _LARGEST_COUNT or not _is_type_name(seen.gpu_type):
            return "steps need a GPU type and counts of a size that exists"
        numbers += [
            ("local", seen.local_batch), ("n", seen.count), ("step", seen.step_sum_s),
            ("step2", seen.step_square_sum_s2), ("sync", seen.sync_sum_s),
        ]  # fmt: skip
    if report.gradient is not None:
        grad = report.gradient
        numbers += [("sqr", grad.square), ("var", grad.variance), ("scale", grad.scale), ("grad t", grad.t_s)]
    if report.progress is not None:
        done = report.progress
        numbers += [
            ("samples", done.samples), ("target", done.target_samples), ("checkpoint", done.checkpoint_samples),
            ("checkpoint t", done.checkpoint_t_s), ("progress t", done.t_s),
        ]  # fmt: skip
    if report.memory is not None:
        if report.memory.local_batch <= 0 or not _is_type_name(report.memory.gpu_type):
            return "mem needs a GPU type and a local batch above 0"
        numbers += [("peak", report.memory.peak_bytes), ("total", report.memory.total_bytes)]
    if report.restart_sample is not None:
        cost = report.restart_sample
        numbers += [
            ("save_s", cost.save_s), ("requeue_s", cost.requeue_s), ("load_s", cost.load_s),
            ("first_step_s", cost.first_step_s),
        ]  # fmt: skip
    for name, number in numbers:
        if number is not None and not 0 <= number <= _LARGEST:
            return f"{name} is {number}, which is not a finite number of at least 0"
    return ""
