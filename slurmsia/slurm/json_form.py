"""Reads ``--json`` answers of squeue, sinfo and scontrol, whatever data-parser version wrote them.

JSON is unambiguous where text is not (a job may be *named* ``x UserId=0``), so it is preferred wherever a release has
it. Unknown fields are ignored, missing ones give the safe answer; a record that cannot be read at all is left out and
counted, never fatal. Pure functions over parsed records, which may come from `json_stream` one by one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cluster import Allocation, GpuForm, Job, JobState, Node, NodeState, Partition, Request, Reservation
from . import normalise as n
from .json_stream import Record

_PATTERN = re.compile(r"%(\d*)([Aajux%])")


@dataclass(frozen=True, slots=True)
class NodeTypes:
    """How the GPU type of a node is told: type by typed GRES, else by feature, else by partition."""

    by_gres: Mapping[str, str]
    by_feature: Mapping[str, str]
    by_partition: Mapping[str, str]

    def of(self, gres_type: str | None, features: frozenset[str], partitions: frozenset[str]) -> str | None:
        if gres_type is not None:
            return self.by_gres.get(gres_type, gres_type)
        for feature in sorted(features):
            if feature in self.by_feature:
                return self.by_feature[feature]
        for partition in sorted(partitions):
            if partition in self.by_partition:
                return self.by_partition[partition]
        return None


def jobs(records: Iterable[Record], types: Mapping[str, str | None]) -> tuple[tuple[Job, ...], int]:
    """Jobs sorted by id, and how many records could not be read. ``types``: GPU type by node name."""
    found: dict[str, Job] = {}
    unreadable = 0
    for record in records:
        try:
            job = _job(record, types)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            unreadable += 1
            continue
        found[job.id] = job
    return tuple(found[key] for key in sorted(found)), unreadable


def _job(record: Record, types: Mapping[str, str | None]) -> Job:
    plain_id = int(n.count(record["job_id"], -1))
    if plain_id <= 0:
        raise ValueError("no job id")
    state, completing, end_state = n.job_state(record.get("job_state"))
    reason, description = n.text(record.get("state_reason")), n.text(record.get("state_description"))
    limit = n.number(record.get("time_limit"))
    start = n.moment(record.get("start_time"))
    held = n.hold(reason, description) if state is JobState.PENDING else ""
    holds = state in (JobState.RUNNING, JobState.SUSPENDED)
    return Job(
        id=n.job_id(plain_id, record.get("array_job_id"), record.get("array_task_id")),
        user_id=n.count(record.get("user_id"), -1),
        state=state,
        submit_s=n.moment(record.get("submit_time")) or 0.0,
        name=n.text(record.get("name")),
        account=n.text(record.get("account")),
        qos=n.text(record.get("qos")),
        partitions=tuple(part for part in n.text(record.get("partition")).split(",") if part),
        comment=_comment(record.get("comment")),
        priority=n.number(record.get("priority")) or 0.0,
        reason=reason,
        hold=held,
        completing=completing,
        begin_s=n.moment(record.get("eligible_time")),
        start_s=start if state is not JobState.PENDING else None,
        end_s=n.moment(record.get("end_time")) if state is JobState.ENDED else None,
        time_limit_s=None if limit is None else limit * 60.0,
        restarts=n.count(record.get("restart_cnt")),
        requeue=bool(record.get("requeue", False)),
        request=_request(record),
        allocation=allocation(record, types) if holds or completing else None,
        sluid=_sluid(record),
        dependency=n.text(record.get("dependency")),
        reservation=n.text(record.get("resv_name")),
        script_hash=n.script_hash(n.text(record.get("command")), n.text(record.get("name"))),
        work_dir=n.text(record.get("current_working_directory")),
        exit_code=_exit_code(record.get("exit_code")) if state is JobState.ENDED else None,
        end_state=end_state,
        unmanageable=unmanageable(record),
        stdout_path=stdout_path(record),
    )


def stdout_path(record: Record) -> str:
    """Absolute path of the job's log, its patterns (sbatch, "filename pattern") filled in; empty when not said.

    Newer releases say it expanded; patterns of steps and nodes (``%N``, ``%t``) cannot name the batch script's log.
    """
    path = n.text(record.get("stdout_expanded")) or n.text(record.get("standard_output"))
    if not path:
        return ""
    array, task = n.count(record.get("array_job_id")), n.number(record.get("array_task_id"))
    plain_id = n.count(record.get("job_id"))
    values = {
        "A": str(array or plain_id),
        "a": "4294967294" if task is None else str(int(task)),
        "j": str(plain_id),
        "u": n.text(record.get("user_name")),
        "x": n.text(record.get("name")),
        "%": "%",
    }
    filled = _PATTERN.sub(lambda found: values[found[2]].rjust(min(int(found[1] or 0), 10), "0"), path)
    return os.path.join(n.text(record.get("current_working_directory")), filled)


def _sluid(record: Record) -> str:
    step = record.get("step_id")
    return n.text(step.get("sluid")) if isinstance(step, Mapping) else n.text(record.get("sluid"))


def _comment(value: Any) -> str:
    """The user's comment: a string, or in accounting-style documents an object of three."""
    return n.text(value.get("job")) if isinstance(value, Mapping) else n.text(value)


def _exit_code(value: Any) -> int | None:
    """The batch script's exit code, 128 + n where signal n ended it; 22.05 writes the plain wait status."""
    if isinstance(value, Mapping):
        signal = value.get("signal")
        if isinstance(signal, Mapping):
            signal = signal.get("id", signal.get("signal_id"))
        ended_by, code = n.number(signal), n.number(value.get("return_code"))
        if ended_by:
            return 128 + int(ended_by)
        return None if code is None else int(code)
    found = n.number(value)
    if found is None:
        return None
    status = int(found)
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8


def _request(record: Record) -> Request:
    asked = n.tres(n.text(record.get("tres_req_str")))
    nodes = max(1, int(asked.get("node", 0)) or n.count(record.get("node_count"), 1))
    tasks = max(1, n.count(record.get("tasks"), 1))
    form, gpu_type, per = n.gpu_form(
        n.text(record.get("tres_per_node")),
        n.text(record.get("tres_per_job")),
        n.text(record.get("tres_per_task")),
        n.text(record.get("tres_per_socket")),
    )
    factor = {GpuForm.TOTAL: 1, GpuForm.PER_TASK: tasks}.get(form, nodes)
    cpus = max(1, int(asked.get("cpu", 0)) or n.count(record.get("cpus"), 1))
    per_node, per_cpu = n.number(record.get("memory_per_node")), n.number(record.get("memory_per_cpu"))
    memory: int | None = None
    if per_cpu:
        memory = int(per_cpu * cpus)
    elif per_node is not None and per_node > 0:
        memory = int(per_node * nodes)
    elif "JOB_MEM_SET" in n.words(record.get("flags")) or per_node == 0:
        memory = 0
    return Request(
        nodes=nodes,
        tasks=tasks,
        cpus=cpus,
        memory_mb=memory,
        memory_per_cpu=bool(per_cpu),
        gpus=per * factor,
        gpu_type=gpu_type,
        gpu_form=form,
        features=n.text(record.get("features")),
        required_nodes=n.node_set(n.text(record.get("required_nodes"))),
        excluded_nodes=n.node_set(n.text(record.get("excluded_nodes"))),
        exclusive=_exclusive(record),
        tasks_per_node=n.count(record.get("tasks_per_node")) or None,
        cpus_per_task=n.count(record.get("cpus_per_task")) or None,
        licenses=n.text(record.get("licenses")),
    )


def _exclusive(record: Record) -> bool:
    """Whole nodes: said by ``shared`` in older releases, by the allocation itself in newer ones."""
    resources = record.get("job_resources")
    inner = resources.get("nodes") if isinstance(resources, Mapping) else None
    whole = isinstance(inner, Mapping) and inner.get("whole") is True
    return whole or bool(n.words(record.get("shared")) & {"NONE"})


def unmanageable(record: Record) -> str:
    """Why a job of this kind is never ours; empty when it may be."""
    if n.count(record.get("het_job_id")):
        return "it is part of a heterogeneous job"
    if n.text(record.get("array_task_string")) and n.number(record.get("array_task_id")) is None:
        return "it is an array record that Slurm has not split into tasks yet"
    if record.get("batch_flag") is False:
        return "it is interactive (no batch script)"
    if not record.get("requeue", False):
        return "it was submitted with --no-requeue"
    if n.text(record.get("resv_name")):
        return f"it runs in the reservation {n.text(record.get('resv_name'))}"
    if n.text(record.get("federation_siblings_active")) or n.text(record.get("federation_siblings_viable")):
        return "it is a federated job"
    if n.text(record.get("cron")) or "CRON_JOB" in n.words(record.get("flags")):
        return "it is a cron job"
    if n.gpus_in(n.text(record.get("tres_per_task")))[0] or n.gpus_in(n.text(record.get("tres_per_socket")))[0]:
        return "it asks for GPUs per task or per socket, which Slurm cannot edit; ask with --gres=gpu:N per node"
    if n.holds_shares(n.text(record.get("tres_per_node"))) or n.holds_shares(n.text(record.get("tres_per_job"))):
        return "it asks for parts of GPUs (shards or MPS)"
    return ""


def allocation(record: Record, types: Mapping[str, str | None]) -> Allocation | None:
    """GPUs held by node. Right with and without accounting: read from the per-node GRES detail.

    A job that holds shards, or whose detail is missing although it asked for GPUs, counts with every node it holds and
    the GPUs it asked for, so that what others hold is never under-counted.
    """
    resources = record.get("job_resources")
    listed = n.text(record.get("nodes"))
    if not listed and isinstance(resources, Mapping):
        inner = resources.get("nodes")
        listed = n.text(inner.get("list")) if isinstance(inner, Mapping) else n.text(inner)
    names = n.node_set(listed)
    if not names:
        return None
    ordered = _allocation_order(resources) or names
    detail = record.get("gres_detail")
    per_node: list[tuple[str, int]] = []
    seen_types: set[str | None] = set()
    if isinstance(detail, (list, tuple)) and len(detail) == len(ordered):
        for name, held in zip(ordered, detail, strict=True):
            entries = n.parse_gres(n.text(held))
            gpus, gpu_type = n.gpus_in(n.text(held))
            shares = max((entry.shared_of or 1 for entry in entries if entry.kind in ("shard", "mps")), default=0)
            per_node.append((name, max(gpus, shares)))
            if gpus or shares:
                seen_types.add(types.get(name) or gpu_type)
    else:
        asked = _request(record)
        gpus, gpu_type = n.gpus_in(n.text(record.get("tres_alloc_str")))
        total = gpus or asked.gpus
        share = -(-total // len(names)) if total else 0
        per_node = [(name, share) for name in names]
        seen_types = {types.get(name) or gpu_type for name in names} if total else set()
    only = seen_types.pop() if len(seen_types) == 1 else None
    return Allocation(only, tuple(sorted(per_node)))


def _allocation_order(resources: Any) -> tuple[str, ...]:
    """Nodes in the order of the per-node detail, where the document lists them."""
    if not isinstance(resources, Mapping):
        return ()
    listed: Any = resources.get("allocated_nodes")
    inner = resources.get("nodes")
    if listed is None and isinstance(inner, Mapping):
        listed = inner.get("allocation")
    if not isinstance(listed, (list, tuple)):
        return ()
    names = [n.text(node.get("nodename") or node.get("name")) for node in listed if isinstance(node, Mapping)]
    return tuple(names) if all(names) else ()


def nodes(records: Iterable[Record], types: NodeTypes) -> tuple[Node, ...]:
    """Nodes sorted by name; a record without a name is left out. ``leaf_switch`` and use by others come later."""
    found: dict[str, Node] = {}
    for record in records:
        name = n.text(record.get("name"))
        if name:
            found[name] = _node(name, record, types)
    return tuple(found[key] for key in sorted(found))


def _node(name: str, record: Record, types: NodeTypes) -> Node:
    features = _listed(record.get("active_features")) or _listed(record.get("features"))
    partitions = _listed(record.get("partitions"))
    gres = n.text(record.get("gres"))
    gpus, gres_type = n.gpus_in(gres)
    kinds = {entry.type for entry in n.parse_gres(gres) if entry.kind == "gpu"}
    state, shown = n.node_state(record.get("state"), record.get("state_flags"))
    node = Node(
        name=name,
        gpu_type=types.of(gres_type, features, partitions) if gpus else None,
        gpus=gpus,
        cpus=n.count(record.get("effective_cpus")) or n.count(record.get("cpus")),
        memory_mb=n.count(record.get("real_memory")),
        state=state,
        reason=n.text(record.get("reason")) or shown,
        features=features,
        partitions=partitions,
    )
    return with_gpu_doubt(node, len(kinds))


def with_gpu_doubt(node: Node, kinds: int) -> Node:
    """The node, made unusable for management when it mixes GPU types or its type cannot be told."""
    if node.gpus and kinds > 1:
        return replace(node, state=NodeState.UNUSABLE, gpu_type=None, reason="the node mixes several GPU types")
    if node.gpus and node.gpu_type is None:
        why = "the GPU type cannot be told: type the GRES, or name a feature or partition in [gpu_types]"
        return replace(node, state=NodeState.UNUSABLE, reason=why)
    return node


def _listed(value: Any) -> frozenset[str]:
    items = value if isinstance(value, (list, tuple)) else n.text(value).split(",")
    return frozenset(text for item in items if (text := n.text(item).strip()))


def reservation_lines(lines: Sequence[str]) -> tuple[Reservation, ...]:
    """Reservations from ``scontrol -o show reservation`` lines (times as epoch seconds), sorted by name."""
    found = []
    for line in lines:
        fields = n.key_values(line)
        if "ReservationName" not in fields:
            continue
        end = n.moment(fields.get("EndTime"))
        found.append(
            Reservation(
                name=fields["ReservationName"],
                nodes=frozenset(n.node_set(fields.get("Nodes"))),
                start_s=n.moment(fields.get("StartTime")) or 0.0,
                end_s=float("inf") if end is None else end,
                flags=n.words(fields.get("Flags")),
            )
        )
    return tuple(sorted(found, key=lambda reservation: reservation.name))


def partitions(lines: Sequence[str]) -> tuple[Partition, ...]:
    """Partitions from ``scontrol -o show partition`` lines: that text is the administrator's in every release."""
    found = [_partition(n.key_values(line)) for line in lines if line.strip()]
    return tuple(sorted((part for part in found if part.name), key=lambda part: part.name))


def _partition(fields: Mapping[str, str]) -> Partition:
    def names(key: str) -> frozenset[str]:
        value = fields.get(key, "")
        return frozenset() if value in ("", "ALL", "(null)", "N/A") else frozenset(value.split(","))

    nodes_max = n.number(fields.get("MaxNodes"))
    return Partition(
        name=fields.get("PartitionName", ""),
        up=fields.get("State", "") == "UP",
        nodes=frozenset(n.node_set(fields.get("Nodes"))),
        max_time_s=n.duration_s(fields.get("MaxTime")),
        max_nodes=None if nodes_max is None else int(nodes_max),
        priority_tier=n.count(fields.get("PriorityTier"), 1),
        allow_accounts=names("AllowAccounts"),
        deny_accounts=names("DenyAccounts"),
        allow_qos=names("AllowQos"),
        deny_qos=names("DenyQos"),
        exclusive=fields.get("OverSubscribe", "") == "EXCLUSIVE",
    )
