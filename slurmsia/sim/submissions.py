"""Trace jobs as Slurm submissions: what their users would write, with and without ``sia:`` words. Pure.

A declared elastic job asks for one GPU and says how far it may grow; for schedulers that never resize, and for
undeclared jobs, the request is the one in the trace.
"""

from __future__ import annotations

import random

from ..cluster import Request
from ..slurm.emulator import Submission, gang
from .applications import LARGEST_JOB_GPUS, facts
from .clusters import SimCluster, TypeNodes
from .profiles import ApplicationTruth
from .workloads import TraceJob

#: Seconds the job_submit plugin puts a declared job on its lease.
LEASE_S = 600.0
#: How far a job known only from accounting may grow, as a multiple of its request.
GROWTH = 4
#: Seconds of grace that the simulated jobs declare for a checkpoint.
GRACE_S = 300


def words(trace: TraceJob, truth: ApplicationTruth, cluster: SimCluster, rigid: bool) -> str:
    """The declaration of a job: sizes, batch range and that it saves on a signal."""
    local_min = min(truth.on(group.gpu_type).local_min for group in cluster.types if truth.has(group.gpu_type))
    local_max = max(truth.on(group.gpu_type).local_max for group in cluster.types if truth.has(group.gpu_type))
    if rigid or trace.category == "rigid":
        sizes, batch, level = f"{trace.gpus}-{trace.gpus}", f"{trace.batch_size}:{trace.batch_size}", "restartable"
        if all(shape.gpus != trace.gpus for shape in cluster.artifact_shapes()):
            level = "rigid"
    else:
        most = min(LARGEST_JOB_GPUS, cluster.gpus, max(truth.largest_batch // local_min, 1))
        sizes, batch, level = f"1-{most}", f"{truth.initial_batch}:{truth.largest_batch}", "adaptive"
        if trace.category == "scale-gpus":
            most = min(most, trace.gpus)
            sizes, batch, level = f"1-{most}", f"{trace.batch_size}:{trace.batch_size}", "restartable"
    units = facts(truth.name).stages
    unit = f" unit={','.join(f'{name}:{gpus}' for name, gpus in sorted(units.items()))}" if units else ""
    types = ",".join(sorted(group.gpu_type for group in cluster.types if truth.has(group.gpu_type)))
    return (
        f"sia: gpus={sizes} types={types} level={level} batch={batch} local={local_min}:{local_max}{unit} "
        f"signal=USR1@{GRACE_S}"
    )


def assumed_words(trace: TraceJob, cluster: SimCluster, rigid: bool) -> str:
    """What a job known only from accounting might declare: any type, up to `GROWTH` times its request."""
    most = trace.gpus if rigid else min(trace.gpus * GROWTH, cluster.gpus)
    least = trace.gpus if rigid else 1
    return f"sia: gpus={least}-{most} level=restartable signal=USR1@{GRACE_S}"


def asked_type(trace: TraceJob, cluster: SimCluster, seed: int) -> TypeNodes:
    """The GPU type a user without slurmsia asks for: drawn by size, among types that are big enough."""
    if trace.gpu_type is not None:
        for group in cluster.types:
            if group.gpu_type == trace.gpu_type:
                return group
    able = [group for group in cluster.types if group.gpus >= trace.gpus] or list(cluster.types)
    draw = random.Random(f"{seed}/type/{trace.name}")
    return draw.choices(able, weights=[group.gpus for group in able])[0]


def plain_request(trace: TraceJob, group: TypeNodes) -> Request:
    """The trace's request as its user writes it: whole GPUs per node, a type by feature."""
    gpus = min(trace.gpus, group.gpus)
    nodes = -(-gpus // group.gpus_per_node)
    while gpus % nodes:
        gpus += 1
    if nodes * group.gpus_per_node < gpus or nodes > group.nodes:
        nodes, gpus = group.nodes, group.gpus
    return gang(gpus, nodes, features=group.gpu_type)


def submission(
    trace: TraceJob,
    truth: ApplicationTruth | None,
    cluster: SimCluster,
    *,
    now_s: float,
    managed: bool,
    rigid: bool,
    seed: int,
) -> Submission:
    """One sbatch. ``managed`` False: nobody runs slurmsia, so every job is an ordinary one."""
    common = {"name": trace.name, "script_hash": trace.application}
    if not managed or not trace.declared:
        return Submission(request=plain_request(trace, asked_type(trace, cluster, seed)), **common)  # type: ignore[arg-type]
    if rigid:
        request = plain_request(trace, asked_type(trace, cluster, seed))
    else:
        request = gang(1)
    declaration = assumed_words(trace, cluster, rigid) if truth is None else words(trace, truth, cluster, rigid)
    return Submission(
        request=request,
        comment=declaration,
        begin_s=now_s + LEASE_S,
        **common,  # type: ignore[arg-type]
    )
