"""A small profiles folder made from formulas, so that simulator tests need no reference data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LOCAL = (8, 16, 32, 64, 128)
#: suffix -> (seconds per sample, GPUs per node, whole nodes profiled)
TYPES = {"aws": (0.004, 4, 6), "rtx": (0.002, 8, 3), "dgx-ext": (0.001, 8, 2)}
EPOCHS = 6
BATCHES = (32, 128, 512)


def step_and_sync(seconds_per_sample: float, nodes: int, gpus: int, local: float) -> tuple[float, float]:
    sync = 0.0 if gpus == 1 else (0.01 if nodes == 1 else 0.03) + 0.001 * gpus
    return 0.01 + seconds_per_sample * local + sync, sync


def placements(node: int, nodes: int) -> Iterator[tuple[int, ...]]:
    size = 1
    while size <= node:
        yield (size,)
        size *= 2
    for count in range(2, nodes + 1):
        if count * node <= 16:
            yield (node,) * count


def write_profiles(folder: Path, application: str = "small", epoch_iterations: float = 2000.0) -> Path:
    """One application on t4, rtx and a100 with three validated batch sizes; returns the profiles folder."""
    home = folder / application
    home.mkdir(parents=True, exist_ok=True)
    for suffix, (per_sample, node, nodes) in TYPES.items():
        lines = ["placement,local_bsz,step_time,sync_time"]
        for placement in placements(node, nodes):
            for local in LOCAL:
                step, sync = step_and_sync(per_sample, len(placement), sum(placement), local)
                lines.append(f"{''.join(map(str, placement))},{local},{step},{sync}")
        (home / f"placements-{suffix}.csv").write_text("\n".join(lines) + "\n")
        lines = ["num_nodes,num_replicas,local_bsz,step_time,sync_time"]
        for count in range(2, nodes + 1):
            for gpus in (count, count * node):
                for local in LOCAL:
                    step, sync = step_and_sync(per_sample, count, gpus, local)
                    lines.append(f"{count},{gpus},{local},{step},{sync}")
        (home / f"scalability-{suffix}.csv").write_text("\n".join(lines) + "\n")
    for number, batch in enumerate(BATCHES):
        lines = ["progress,iteration,metric,grad_sqr,grad_var"]
        for epoch in range(EPOCHS):
            done = epoch_iterations * (epoch + 1)
            lines.append(f"{done},{done / (number + 1)},0.5,{1.0 / (epoch + 1 + number)},{2.0 * (epoch + 1)}")
        (home / f"validation-{batch}.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_workload(file: Path, jobs: int = 12, gap_s: float = 90.0, application: str = "small") -> Path:
    """``jobs`` submissions of one application, ``gap_s`` apart."""
    lines = ["name,time,application,num_replicas,batch_size"]
    for i in range(jobs):
        lines.append(f"{application}-{i},{i * gap_s},{application},{(1, 2, 4)[i % 3]},{(128, 256, 512)[i % 3]}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file
