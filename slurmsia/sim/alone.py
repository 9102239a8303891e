"""How soon each job could end at best: alone on the whole cluster, told everything, started at once.

A bound for tables, never for a policy: per epoch the best batch at measured speeds, one configuration from start to
end, the application's load time once; no round, no noise, no move. Same slow-down and load time as honest physics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .applications import facts
from .clusters import SimCluster
from .honest_job import SAVE_SHARE
from .profiles import ApplicationTruth, Placement, Profiles
from .result import JobResult
from .workloads import Workload

#: Step between the micro-batches that are tried, and the accumulation steps.
_BATCH_STEP = 1.1
_ACCUMULATION = (0, 1, 3, 7)


def fastest_s(truth: ApplicationTruth, cluster: SimCluster) -> float:
    """Seconds of the application alone at its best configuration of the cluster; inf where none can run it."""
    best = math.inf
    for shape in cluster.artifact_shapes():
        if truth.has(shape.gpu_type):
            best = min(best, _work_s(truth, shape.gpu_type, (shape.gpus // shape.nodes,) * shape.nodes))
    known = facts(truth.name)
    return best * known.slowdown + (1.0 - SAVE_SHARE) * known.restart_s


def alone(workload: Workload, cluster: SimCluster, profiles: Profiles) -> tuple[JobResult, ...]:
    """Every job of a workload as if it were alone; GPU-seconds are not counted."""
    seconds = {name: fastest_s(profiles.application(name), cluster) for name in {j.application for j in workload.jobs}}
    return tuple(
        JobResult(
            name=job.name,
            application=job.application,
            submit_s=job.submit_s,
            start_s=job.submit_s,
            end_s=job.submit_s + seconds[job.application],
            restarts=0,
            gpu_s=0.0,
        )
        for job in workload.jobs
    )


def _work_s(truth: ApplicationTruth, gpu_type: str, placement: Placement) -> float:
    """Seconds of all epochs on one placement without slow-down, each at its best batch."""
    profile = truth.on(gpu_type)
    batches = _batches(profile.local_min, profile.placement_local_max(placement))
    total = before = 0.0
    for epoch in range(truth.epochs):
        speed = 0.0
        for local in batches:
            step_s, sync_s = profile.step_and_sync_s(placement, local)
            for extra in _ACCUMULATION:
                batch = sum(placement) * local * (extra + 1)
                if truth.initial_batch <= batch <= truth.largest_batch:
                    square, variance = truth.moments(batch, epoch)
                    gain = (variance + square) / (variance * truth.initial_batch / batch + square)
                    speed = max(speed, gain / (step_s + (step_s - sync_s) * extra))
        if not speed > 0:
            return math.inf
        total += (truth.progress[epoch] - before) / speed
        before = truth.progress[epoch]
    return total


def _batches(least: int, most: int) -> Sequence[int]:
    found: list[int] = []
    local = float(least)
    while local < most:
        if not found or int(local) > found[-1]:
            found.append(int(local))
        local *= _BATCH_STEP
    return [*found, most]
