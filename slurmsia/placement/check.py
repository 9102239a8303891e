"""Does a plan hold on the snapshot it was made from? Every violation as a sentence; none for a valid plan.

Independent of how placements are made: it counts again from the snapshot's own nodes and jobs. The round checks every
plan with it before anybody sees the plan. It never repairs anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from ..cluster import Job, JobId, JobState, Node, Snapshot
from ..declaration import Declaration, DeclarationError, parse
from ..plan import Plan, Target, TargetKind
from ..reshape import PerGpu, per_gpu
from .board import Seats

_SEATED = (TargetKind.KEEP, TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE)
_NEW = (TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE)


def check(snapshot: Snapshot, plan: Plan) -> tuple[str, ...]:
    """What is wrong with the plan's targets on this snapshot, one sentence each, in target order.

    Targets: known and live job, nodes of the shape's type, the shape's counts, new seats only on nodes that are up,
    KEEP exactly where the job is. Nodes: GPUs, CPUs and memory of all targets and of every job without a seat in the
    plan fit; at most one elastic multi-node job each.
    """
    return tuple(message for _, message in violations(snapshot, plan.targets))


def violations(
    snapshot: Snapshot, targets: Iterable[Target], one_distributed_per_node: bool = True
) -> tuple[tuple[JobId, str], ...]:
    """(job, sentence) of everything that is wrong; for a full node the newcomers on it are named."""
    nodes = {node.name: node for node in snapshot.nodes}
    jobs = {job.id: job for job in snapshot.jobs}
    found: list[tuple[JobId, str]] = []
    loads = {node.name: _Load(node) for node in snapshot.nodes}
    seen: set[JobId] = set()
    for target in targets:
        job = jobs.get(target.job_id)
        if job is None or job.state is JobState.ENDED:
            found.append((target.job_id, f"job {target.job_id}: not in the queue"))
            continue
        if target.kind is TargetKind.LEAVE and not target.gpus_by_node:
            continue
        seen.add(job.id)
        if target.kind not in _SEATED and target.kind is not TargetKind.LEAVE:
            continue
        found += [(job.id, f"job {job.id}: {why}") for why in _seat_errors(target, job, nodes)]
        needs = _needs(job)
        for name, gpus in target.gpus_by_node:
            if name in loads:
                distributed = len(target.gpus_by_node) > 1
                loads[name].add(job.id, gpus, needs, distributed, target.kind in _NEW)
    for job in snapshot.jobs:
        if job.id not in seen and job.allocation is not None and job.state is not JobState.ENDED:
            declared = _declaration(job) is not None
            needs = _needs(job) if declared else PerGpu(0.0, None, job.request.exclusive)
            for name, gpus in job.allocation.gpus_by_node:
                if name in loads:
                    loads[name].add(job.id, gpus, needs, False, False)
    for name in sorted(loads):
        found += loads[name].errors(one_distributed_per_node)
    return tuple(found)


class _Load:
    """What a plan puts on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.gpus = 0
        self.cpus = float(node.cpus_used_by_others)
        self.memory_mb = float(node.memory_mb_used_by_others)
        self.jobs: list[JobId] = []
        self.exclusive: list[JobId] = []
        self.distributed: list[JobId] = []
        self.new: list[JobId] = []

    def add(self, job_id: JobId, gpus: int, needs: PerGpu, distributed: bool, new: bool) -> None:
        self.gpus += gpus
        self.cpus += math.ceil(needs.cpus * gpus - 1e-9)
        self.memory_mb += (needs.memory_mb or 0.0) * gpus
        if gpus:
            self.jobs.append(job_id)
        if needs.whole_nodes:
            self.exclusive.append(job_id)
        if distributed:
            self.distributed.append(job_id)
        if new:
            self.new.append(job_id)

    def errors(self, one_distributed: bool) -> list[tuple[JobId, str]]:
        """Nothing is wrong with a node on which nothing is new: what runs there is Slurm's own business."""
        if not self.new:
            return []
        node, whys = self.node, []
        if self.gpus > node.gpus:
            whys.append(f"{self.gpus} GPUs planned on node {node.name}, which has {node.gpus}")
        if self.cpus > node.cpus:
            whys.append(f"{self.cpus:.0f} CPUs planned on node {node.name}, which has {node.cpus}")
        if self.memory_mb > node.memory_mb + 1e-6:
            whys.append(f"{self.memory_mb:.0f} MB planned on node {node.name}, which has {node.memory_mb}")
        if self.exclusive and len(self.jobs) > 1:
            whys.append(
                f"{self.exclusive[0]} wants node {node.name} alone, but {len(self.jobs)} jobs are planned there"
            )
        if one_distributed and len(self.distributed) > 1 and set(self.distributed) & set(self.new):
            whys.append(f"{len(self.distributed)} multi-node jobs planned on node {node.name}")
        return [(job_id, f"job {job_id}: {why}") for why in whys for job_id in self.new]


def _seat_errors(target: Target, job: Job, nodes: dict[str, Node]) -> list[str]:
    whys: list[str] = []
    shape, seats = target.shape, target.gpus_by_node
    if target.kind is TargetKind.LEAVE:
        return whys
    if shape is None:
        return [f"{target.kind.value} without a shape"]
    if len(seats) != shape.nodes or any(gpus != shape.gpus_per_node for _, gpus in seats):
        whys.append(f"seats {_seats_text(seats)} are not {shape}")
    if len({name for name, _ in seats}) != len(seats) or list(seats) != sorted(seats):
        whys.append(f"seats {_seats_text(seats)} are not sorted and distinct")
    held = job.allocation.gpus_by_node if job.allocation is not None else ()
    if target.kind is TargetKind.KEEP:
        if held != seats:
            whys.append(f"keeps {_seats_text(seats)} but holds {_seats_text(held)}")
        return whys
    for name, _ in seats:
        node = nodes.get(name)
        if node is None:
            whys.append(f"node {name} does not exist")
        elif node.gpu_type != shape.gpu_type:
            whys.append(f"node {name} has {node.gpu_type or 'no'} GPUs, not {shape.gpu_type}")
        elif not node.takes_work:
            whys.append(f"node {name} is {node.state.value}")
        elif name in job.request.excluded_nodes:
            whys.append(f"node {name} is excluded by the job")
    return whys


def _needs(job: Job) -> PerGpu:
    return per_gpu(job.request, _declaration(job))


def _declaration(job: Job) -> Declaration | None:
    return _parsed(job.comment)


@lru_cache(maxsize=1 << 14)
def _parsed(comment: str) -> Declaration | None:
    try:
        return parse(comment)
    except DeclarationError:
        return None


def _seats_text(seats: Seats) -> str:
    return ",".join(f"{name}:{gpus}" for name, gpus in seats) or "(nothing)"
