"""The one atomic edit that gives a pending job its new shape, and how it is built from what the user submitted.

Values and pure functions only. The edit always writes every count, because counts that are left out keep stale totals
(a job then ends in BadConstraints or starts with the wrong number of tasks). It must never invent a feature, node or
partition that the site's tables or the job itself do not name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .cluster import Job, Partition, Request, Shape
from .declaration import Declaration


@dataclass(frozen=True, slots=True)
class Reshape:
    """The whole shape of a pending job in one atomic edit, eligible at ``begin_s`` (``None`` = now).

    ``tasks`` and ``cpus`` are totals; ``features`` and ``required_nodes`` empty clear the field, ``None`` leaves it;
    ``partition`` ``None`` leaves it; ``time_limit_s`` ``None`` leaves it; ``memory_mb_per_node`` ``None`` leaves it.
    """

    shape: Shape
    tasks: int
    cpus: int
    memory_mb_per_node: int | None = None
    features: str | None = None
    required_nodes: tuple[str, ...] | None = None
    partition: str | None = None
    time_limit_s: float | None = None
    begin_s: float | None = None


class TypeAtSite(Protocol):
    """How Slurm knows one GPU type here: by node feature, by partition, or by neither (typed GRES only)."""

    @property
    def feature(self) -> str | None: ...

    @property
    def partition(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class PerGpu:
    """What one GPU of a job brings along. ``cpus`` and ``memory_mb`` may be fractions; ``None`` memory = unlimited.

    ``whole_nodes``: the job takes its nodes whole (``--exclusive`` or ``--mem=0``).
    """

    cpus: float
    memory_mb: float | None
    whole_nodes: bool = False


def per_gpu(request: Request, declaration: Declaration | None = None) -> PerGpu:
    """CPUs and memory per GPU: what the declaration says, else the submitted request divided by its GPUs (JOBS.md)."""
    gpus = max(request.gpus, 1)
    cpus = request.cpus / gpus
    memory = None if request.memory_mb is None else request.memory_mb / gpus
    whole = request.exclusive or request.memory_mb == 0
    if declaration is not None:
        if declaration.cpus_per_gpu is not None:
            cpus = float(declaration.cpus_per_gpu)
        if declaration.memory_mb_per_gpu is not None:
            memory = float(declaration.memory_mb_per_gpu)
    return PerGpu(cpus, memory, whole)


def tasks_for(request: Request, shape: Shape) -> int:
    """Tasks on a shape, scaled as the user submitted them: so many per node, or so many per GPU.

    One task per submitted node stays one per node; a multiple of the submitted GPUs scales with GPUs; anything else
    scales with nodes.
    """
    nodes, gpus, tasks = max(request.nodes, 1), max(request.gpus, 1), max(request.tasks, 1)
    if tasks <= nodes:
        return shape.nodes
    if tasks % gpus == 0:
        return tasks // gpus * shape.gpus
    return math.ceil(tasks / nodes) * shape.nodes


def cpus_for(request: Request, shape: Shape, tasks: int, declaration: Declaration | None = None) -> int:
    """CPUs in all on a shape: CPUs per GPU times GPUs, the same on every node, and enough for every task."""
    per_node = math.ceil(per_gpu(request, declaration).cpus * shape.gpus_per_node - 1e-9)
    tasks_per_node = math.ceil(tasks / shape.nodes)
    per_task = request.cpus_per_task or 1
    return max(per_node, tasks_per_node * per_task, 1) * shape.nodes


def memory_mb_per_node(request: Request, shape: Shape, declaration: Declaration | None = None) -> int | None:
    """Memory to write per node; 0 = the whole node's, ``None`` = leave the job's own form (unset, or per CPU)."""
    declared = declaration.memory_mb_per_gpu if declaration is not None else None
    if declared is None and (request.memory_mb is None or request.memory_per_cpu):
        return None
    if declared is None and request.memory_mb == 0:
        return 0
    memory = per_gpu(request, declaration).memory_mb
    assert memory is not None
    return max(math.ceil(memory * shape.gpus_per_node - 1e-9), 1)


def split_features(features: str, types: Mapping[str, TypeAtSite]) -> tuple[str, ...] | None:
    """The job's own features without those that only name a GPU type, or ``None`` if the expression is not a plain
    ``a&b`` (counts, alternatives and brackets are the user's own business and are never rewritten)."""
    type_features = {site.feature for site in types.values() if site.feature}
    tokens = [token for token in features.replace(",", "&").split("&") if token]
    if any(set(token) & set("|()[]*") for token in tokens):
        alternatives = features.strip("()").split("|")
        return () if all(token in type_features for token in alternatives) else None
    return tuple(token for token in tokens if token not in type_features)


def edit_for(
    job: Job,
    shape: Shape,
    types: Mapping[str, TypeAtSite],
    *,
    declaration: Declaration | None = None,
    submitted: Request | None = None,
    pin_to: Sequence[str] = (),
    partitions: Sequence[Partition] = (),
    time_limit_s: float | None = None,
) -> Reshape:
    """The portable edit for a job and a shape (SLURM.md, "The portable edit").

    ``types`` is the policy file's ``[gpu_types]``; ``submitted`` the request before any edit of ours (default: what
    Slurm has now); ``pin_to`` the nodes to require, empty to clear a pin of ours; ``time_limit_s`` what is left of a
    limit that counts in total. Pure; never raises.
    """
    request = submitted or job.request
    tasks = tasks_for(request, shape)
    site = types.get(shape.gpu_type)
    own = split_features(job.request.features, types)
    features: str | None = None
    if own is not None:
        wanted = "&".join([*own, site.feature] if site is not None and site.feature else own)
        features = None if wanted == job.request.features == "" else wanted
    required: tuple[str, ...] | None = tuple(sorted(pin_to)) or (() if job.request.required_nodes else None)
    return Reshape(
        shape=shape,
        tasks=tasks,
        cpus=cpus_for(request, shape, tasks, declaration),
        memory_mb_per_node=memory_mb_per_node(request, shape, declaration),
        features=features,
        required_nodes=required,
        partition=_partition(job, site, pin_to, partitions),
        time_limit_s=time_limit_s,
    )


def _partition(job: Job, site: TypeAtSite | None, pin_to: Sequence[str], partitions: Sequence[Partition]) -> str | None:
    """The partition to write, or ``None`` to leave the job's own (which may be several)."""
    if site is not None and site.partition and not site.feature and site.partition not in job.partitions[:1]:
        return site.partition
    if not pin_to:
        return None
    pinned = frozenset(pin_to)
    own = [partition for partition in partitions if partition.name in job.partitions]
    if not own or any(pinned <= partition.nodes for partition in own):
        return None
    return site.partition if site is not None else None
