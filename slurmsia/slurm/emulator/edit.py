"""What slurmctld does with an update of a pending job: accept it whole, refuse it with a code, or spoil the job.

The rules are those measured on real releases: atomic, GPUs keep the form of the submission, node counts
without task and CPU counts keep stale totals, running and completing jobs refuse. Nothing here schedules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...cluster import GpuForm, JobId, JobState, Partition, Request
from ..client import NotPending, Reshape, SlurmRejected
from .job import JobRecord
from .schedule import NodeRecord

#: Codes of slurm_errno.h.
ESLURM_INVALID_PARTITION_NAME = 2000
ESLURM_REQUESTED_NODE_CONFIG_UNAVAILABLE = 2014
ESLURM_INVALID_JOB_ID = 2017
ESLURM_INVALID_NODE_NAME = 2018
ESLURM_TRANSITION_STATE_NO_UPDATE = 2020
ESLURM_ALREADY_DONE = 2021
ESLURM_INVALID_FEATURE = 2029
ESLURM_NOT_SUPPORTED = 2036
ESLURM_DISABLED = 2037
ESLURM_INVALID_GRES = 2072
ESLURM_JOB_NOT_PENDING = 2073
ESLURM_JOB_NOT_RUNNING = 2085


@dataclass(frozen=True, slots=True)
class Update:
    """One ``scontrol update``: ``None`` leaves a field. ``gres``: (type or ``None``, GPUs per node).

    ``required_nodes`` and ``features`` empty clear the field. ``total_gpus`` is ``--gpus`` (0 drops the request).
    """

    nodes: int | None = None
    tasks: int | None = None
    cpus: int | None = None
    gres: tuple[str | None, int] | None = None
    total_gpus: int | None = None
    memory_mb_per_node: int | None = None
    features: str | None = None
    required_nodes: tuple[str, ...] | None = None
    excluded_nodes: tuple[str, ...] | None = None
    partition: str | None = None
    time_limit_s: float | None = None
    begin_s: float | None = None
    comment: str | None = None


def portable_edit(job_id: JobId, request: Request, edit: Reshape, now_s: float) -> Update:
    """The one update that writes the whole shape, in the GPU form that the job was submitted with."""
    if request.gpu_form in (GpuForm.NONE, GpuForm.PER_TASK):
        raise SlurmRejected(
            ESLURM_INVALID_GRES,
            f"job {job_id}: Invalid GRES specification (its request is {request.gpu_form.value!r})",
            job_id,
        )
    total = request.gpu_form is GpuForm.TOTAL
    typed = edit.shape.gpu_type if request.gpu_form is GpuForm.PER_NODE_TYPED else None
    return Update(
        nodes=edit.shape.nodes,
        tasks=edit.tasks,
        cpus=edit.cpus,
        gres=None if total else (typed, edit.shape.gpus_per_node),
        total_gpus=edit.shape.gpus if total else None,
        memory_mb_per_node=edit.memory_mb_per_node,
        features=edit.features,
        required_nodes=edit.required_nodes,
        partition=edit.partition,
        time_limit_s=edit.time_limit_s,
        begin_s=now_s if edit.begin_s is None else edit.begin_s,
    )


def apply_update(
    record: JobRecord,
    update: Update,
    *,
    nodes: Mapping[str, NodeRecord],
    partitions: Mapping[str, Partition],
) -> None:
    """Carry out the update on a pending job, whole or not at all. Raises `SlurmRejected` with Slurm's code."""
    job_id = record.id
    shape_fields = (
        update.nodes, update.tasks, update.cpus, update.gres, update.total_gpus, update.required_nodes,
        update.features, update.partition, update.begin_s, update.memory_mb_per_node,
    )  # fmt: skip
    if record.state is JobState.ENDED:
        raise NotPending(ESLURM_ALREADY_DONE, f"job {job_id}: Job/step already completing or completed", job_id)
    if any(value is not None for value in shape_fields):
        if record.state is not JobState.PENDING:
            raise NotPending(ESLURM_JOB_NOT_PENDING, f"job {job_id}: Job is no longer pending execution", job_id)
        if record.completing:
            raise NotPending(
                ESLURM_TRANSITION_STATE_NO_UPDATE, f"job {job_id}: Job is in transition state, no update", job_id
            )
    request = _checked(record, update, nodes, partitions)
    stale = False
    if update.nodes is not None and (update.tasks is None or update.cpus is None):
        stale = request.tasks < request.nodes or update.nodes > record.request.nodes
    if update.nodes is not None or update.tasks is not None:
        record.bad_constraints = stale or request.tasks < request.nodes
    record.request = request
    if update.partition is not None:
        record.partitions = tuple(update.partition.split(","))
    if update.time_limit_s is not None:
        record.time_limit_s = update.time_limit_s
    if update.begin_s is not None:
        record.begin_s = update.begin_s
    if update.comment is not None:
        record.comment = update.comment


def _checked(
    record: JobRecord, update: Update, nodes: Mapping[str, NodeRecord], partitions: Mapping[str, Partition]
) -> Request:
    """The request after the update; raises before anything has changed."""
    job_id = record.id
    request = record.request
    if update.partition is not None and not set(update.partition.split(",")) <= partitions.keys():
        raise SlurmRejected(ESLURM_INVALID_PARTITION_NAME, f"job {job_id}: Invalid partition name specified", job_id)
    for name in (*(update.required_nodes or ()), *(update.excluded_nodes or ())):
        if name not in nodes:
            raise SlurmRejected(ESLURM_INVALID_NODE_NAME, f"job {job_id}: Invalid node name specified: {name}", job_id)
    if update.features:
        known = {word for node in nodes.values() for word in node.spec.features}
        words = update.features.replace("|", "&").replace(",", "&").split("&")
        unknown = [word for word in words if word.strip() not in known]
        if unknown:
            raise SlurmRejected(
                ESLURM_INVALID_FEATURE, f"job {job_id}: Invalid feature specification: {unknown[0]}", job_id
            )
    count = request.nodes if update.nodes is None else update.nodes
    wanted = request.required_nodes if update.required_nodes is None else update.required_nodes
    if count < 1 or len(wanted) > count:
        raise SlurmRejected(
            ESLURM_REQUESTED_NODE_CONFIG_UNAVAILABLE,
            f"job {job_id}: Requested node configuration is not available ({len(wanted)} of {count} nodes required)",
            job_id,
        )
    changes = replace(
        request,
        nodes=count,
        tasks=request.tasks if update.tasks is None else update.tasks,
        cpus=request.cpus if update.cpus is None else update.cpus,
        features=request.features if update.features is None else update.features,
        required_nodes=tuple(sorted(wanted)),
        excluded_nodes=request.excluded_nodes if update.excluded_nodes is None else update.excluded_nodes,
    )
    if update.memory_mb_per_node is not None:
        changes = replace(changes, memory_mb=update.memory_mb_per_node * count)
    return _with_gpus(record, update, changes)


def _with_gpus(record: JobRecord, update: Update, request: Request) -> Request:
    submitted = record.submission.request.gpu_form
    refused = SlurmRejected(ESLURM_INVALID_GRES, f"job {record.id}: Invalid GRES specification", record.id)
    if update.gres is not None:
        gpu_type, per_node = update.gres
        typed = submitted is GpuForm.PER_NODE_TYPED
        if submitted not in (GpuForm.PER_NODE_TYPED, GpuForm.PER_NODE_UNTYPED) or typed != (gpu_type is not None):
            raise refused
        return replace(request, gpus=per_node * request.nodes, gpu_type=gpu_type)
    if update.total_gpus is not None:
        if submitted is not GpuForm.TOTAL:
            raise refused
        return replace(request, gpus=update.total_gpus)
    if update.nodes is not None and submitted in (GpuForm.PER_NODE_TYPED, GpuForm.PER_NODE_UNTYPED):
        per_node = record.request.gpus // max(record.request.nodes, 1)
        return replace(request, gpus=per_node * request.nodes)
    return request
