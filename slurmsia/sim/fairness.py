"""Finish-time fairness: how long a job took against how long it would have taken alone on its fair share (SIA.md 5).

Alone means: no other job, on N_gpus / N_avg GPUs of each type (N_avg: mean number of jobs in the system during its
life), same estimates, same restart charge and rounding, averaged over types by their share of GPUs. Alone a job takes
the configuration that it believes best, discounted for a restart, so no solver is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .applications import PROFILED_NODES
from .artifact_estimates import Columns
from .artifact_job import make_job
from .clusters import SimCluster, TypeNodes
from .profiles import Placement, Profiles
from .result import JobResult
from .workloads import TraceJob, Workload

#: After so many rounds without a change, time goes on in bigger steps.
_SETTLED_ROUNDS = 5
_BIG_STEP = 20


def with_rho(
    jobs: Sequence[JobResult],
    workload: Workload,
    cluster: SimCluster,
    profiles: Profiles,
    interval_s: float,
    rigid: bool = False,
) -> tuple[JobResult, ...]:
    """The results with ``alone_s`` and ``rho``; jobs without a profile or of unknown contention keep ``None``."""
    alone = _Alone(cluster, profiles, interval_s, rigid)
    traces = {trace.name: trace for trace in workload.jobs}
    found = []
    for job in jobs:
        trace = traces.get(job.name)
        if trace is None or job.contention <= 0 or not job.declared:
            found.append(job)
            continue
        seconds = alone.seconds(trace, job.contention)
        found.append(replace(job, alone_s=seconds, rho=job.jct_s / seconds))
    return tuple(found)


@dataclass
class _Alone:
    cluster: SimCluster
    profiles: Profiles
    interval_s: float
    rigid: bool
    _known: dict[tuple[str, int, int, str, int], float] = field(default_factory=dict)

    def seconds(self, trace: TraceJob, contention: float) -> float:
        """Completion time alone on the fair share of every type, averaged by share of GPUs."""
        truth = self.profiles.application(trace.application)
        total = weighted = 0.0
        for group in self.cluster.types:
            if truth.has(group.gpu_type):
                weighted += group.gpus * self._on_type(trace, group, group.gpus / max(contention, 1.0))
                total += group.gpus
        return weighted / total

    def _on_type(self, trace: TraceJob, group: TypeNodes, share: float) -> float:
        sizes = _sizes(group)
        if share <= sizes[0]:
            return self._time(trace, group, sizes[0]) * sizes[0] / share
        if share >= sizes[-1]:
            return self._time(trace, group, sizes[-1])
        high = next(i for i, size in enumerate(sizes) if size >= share)
        if sizes[high] == share:
            return self._time(trace, group, sizes[high])
        part = (share - sizes[high - 1]) / (sizes[high] - sizes[high - 1])
        below, above = self._time(trace, group, sizes[high - 1]), self._time(trace, group, sizes[high])
        return below + part * (above - below)

    def _time(self, trace: TraceJob, group: TypeNodes, gpus: int) -> float:
        key = (trace.application, trace.batch_size, trace.gpus if self.rigid else 0, group.gpu_type, gpus)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _alone_s(trace, self.profiles, group, gpus, self.interval_s, self.rigid)
        return found


def _sizes(group: TypeNodes) -> tuple[int, ...]:
    """GPU counts for which a time alone is computed: powers of two on a node, then whole nodes."""
    sizes = []
    size = 1
    while size < group.gpus_per_node:
        sizes.append(size)
        size *= 2
    most = min(group.nodes, PROFILED_NODES.get(group.gpu_type, group.nodes))
    return (*sizes, *(n * group.gpus_per_node for n in range(1, most + 1)))


def _alone_s(trace: TraceJob, profiles: Profiles, group: TypeNodes, gpus: int, interval_s: float, rigid: bool) -> float:
    nodes = max(gpus // group.gpus_per_node, 1)
    mine = SimCluster("alone", (TypeNodes(group.gpu_type, nodes, min(gpus, group.gpus_per_node)),))
    shapes = mine.artifact_shapes()
    columns = Columns(shapes, (group.gpu_type,), {group.gpu_type: group.gpus_per_node})
    job = make_job(trace, profiles.application(trace.application), columns, project=True, rigid=rigid)
    now_s = interval_s / 2.0
    settled = 0
    while job.end_s is None:
        before = job.config
        if job.restoring_s <= 0 or job.config < 0:
            goodput = job.estimate.goodput_row().copy()
            if rigid:
                goodput[columns.gpus > max(trace.gpus, 1)] = 0.0
            if job.config >= 0:
                cost_s, age_s = job.restart_s, now_s
                factor = 1.0 if age_s < cost_s else max(age_s - (job.restarts or 0) * cost_s, 0.0) / (age_s + cost_s)
                goodput[np.arange(len(shapes)) != job.config] *= factor
            best = int(np.argmax(goodput))
            shape = shapes[best]
            placement: Placement = (shape.gpus_per_node,) * shape.nodes
            job.place(now_s, group.gpu_type, placement, best)
        settled = settled + 1 if job.config == before and job.restoring_s <= 0 else 0
        step_s = interval_s * (_BIG_STEP if settled > _SETTLED_ROUNDS else 1)
        job.advance(now_s, step_s)
        now_s += step_s
    return job.end_s
