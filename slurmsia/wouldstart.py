"""Would Slurm start this job in this shape now? A requeue is only worth it when the answer is yes (SLURM.md).

Looks at what Slurm itself would refuse for: holds, partitions, time against reservations, features, node size, CPUs,
memory, association and QOS limits on GPUs, licences. It never asks whether GPUs are free: the plan frees them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from .cluster import GpuLimit, Job, JobId, JobState, Node, Partition, Shape, Snapshot
from .reshape import Reshape

_HOLDING = (JobState.RUNNING, JobState.SUSPENDED)


def would_start(job: Job, edit: Reshape, snapshot: Snapshot) -> str | None:
    """``None`` if Slurm would start ``job`` with ``edit`` now, else the sentence that says why not."""
    return StartRules(snapshot).refusal(job, edit)


def matches(limit: GpuLimit, job: Job) -> bool:
    """Whether a limit's scope covers a job."""
    return (
        (limit.account is None or limit.account == job.account)
        and (limit.accounts is None or job.account in limit.accounts)
        and (limit.user_id is None or limit.user_id == job.user_id)
        and (limit.qos is None or limit.qos == job.qos)
        and (limit.partition is None or limit.partition in job.partitions)
    )


@lru_cache(maxsize=4096)
def feature_match(expression: str, features: frozenset[str]) -> bool:
    """Whether a node with ``features`` satisfies a constraint; expressions with counts or brackets are not judged."""
    if not expression or set(expression) & set("[]*"):
        return True
    return all(
        any(option in features for option in term.strip("()").split("|"))
        for term in expression.replace(",", "&").split("&")
        if term
    )


def parse_licenses(text: str) -> dict[str, int]:
    """``"matlab:2,ansys"`` -> ``{"matlab": 2, "ansys": 1}``."""
    needs: dict[str, int] = {}
    for entry in text.replace(";", ",").split(","):
        name, _, count = entry.strip().partition(":")
        if name:
            needs[name] = needs.get(name, 0) + (int(count) if count.isdigit() else 1)
    return needs


class StartRules:
    """The rules of one snapshot, indexed once so that a whole round can ask job by job.

    ``held``: what jobs will hold instead of what the snapshot says (a plan's targets), for limits that several jobs
    share. Holds no state beyond that; every answer is pure.
    """

    def __init__(self, snapshot: Snapshot, held: Mapping[JobId, Shape | None] | None = None) -> None:
        self._now_s = snapshot.taken_s
        self._nodes = {node.name: node for node in snapshot.nodes}
        self._partitions = {partition.name: partition for partition in snapshot.partitions}
        self._reservations = tuple(sorted(snapshot.reservations, key=lambda item: item.start_s))
        self.limits = snapshot.limits
        self._licenses = {name: (total, used) for name, total, used in snapshot.site.licenses}
        self._gpus_held: list[dict[JobId, int]] = []
        holders = [(job, _holding(job, held)) for job in snapshot.jobs] if self.limits else []
        for limit in self.limits:
            self._gpus_held.append(
                {
                    job.id: gpus
                    for job, by_type in holders
                    if (gpus := _counted(limit, by_type)) and not limit.per_job and matches(limit, job)
                }
            )
        self._totals = [sum(gpus.values()) for gpus in self._gpus_held]

    def refusal(self, job: Job, edit: Reshape, on: Iterable[str] | None = None) -> str | None:
        """Why Slurm would not start the job in this shape now, or ``None``.

        ``on``: judge these nodes (a placement that is already made) instead of every node the job might get.
        """
        return (
            self._held(job)
            or self._nodes_and_partition(job, edit, on)
            or self._over_limit(job, edit.shape)
            or self._unlicensed(job)
        )

    def limit_refusal(self, job: Job, shape: Shape) -> str | None:
        """The limit that the job would break by holding ``shape`` beside what everybody else holds, or ``None``."""
        return self._over_limit(job, shape)

    def usable_nodes(self, job: Job, time_limit_s: float | None = None) -> frozenset[str] | None:
        """Nodes on which the job could start now, whatever it asks of them; ``None`` = no rule excludes any node.

        Partitions of the job that are down, closed to it or too short do not count; nor do nodes that a reservation
        takes before the job's time limit ends.
        """
        excluded = frozenset(job.request.excluded_nodes)
        limit_s = time_limit_s if time_limit_s is not None else job.time_limit_s
        clear = self._reserved(self._now_s, limit_s)
        if not self._partitions or not job.partitions:
            return None if not (excluded or clear) else frozenset(self._nodes) - excluded - clear
        nodes: set[str] = set()
        for name in job.partitions:
            partition = self._partitions.get(name)
            if partition is not None and self._closed(partition, job, limit_s) is None:
                own = limit_s if limit_s is not None else partition.max_time_s
                nodes |= partition.nodes - (clear if limit_s is not None else self._reserved(self._now_s, own))
        return frozenset(nodes) - excluded

    def _held(self, job: Job) -> str | None:
        if job.hold in ("user", "admin"):
            return f"job {job.id} is held by its {'owner' if job.hold == 'user' else 'administrator'}"
        if job.state is JobState.PENDING and job.reason == "Dependency":
            return f"job {job.id} waits for its dependency {job.dependency or 'on other jobs'}"
        if job.reservation:
            return f"job {job.id} belongs to reservation {job.reservation}"
        return None

    def _closed(self, partition: Partition, job: Job, limit_s: float | None) -> str | None:
        name = partition.name
        if not partition.up:
            return f"partition {name} is down"
        if partition.allow_accounts and job.account not in partition.allow_accounts:
            return f"partition {name} does not admit account {job.account or '(none)'}"
        if job.account in partition.deny_accounts:
            return f"partition {name} denies account {job.account}"
        if partition.allow_qos and job.qos not in partition.allow_qos:
            return f"partition {name} does not admit QOS {job.qos or '(none)'}"
        if job.qos in partition.deny_qos:
            return f"partition {name} denies QOS {job.qos}"
        if limit_s is not None and partition.max_time_s is not None and limit_s > partition.max_time_s:
            return (
                f"the time limit of {limit_s / 60:.0f} min is over partition {name}'s {partition.max_time_s / 60:.0f}"
            )
        return None

    def _reserved(self, start_s: float, limit_s: float | None) -> frozenset[str]:
        """Nodes that a reservation takes before a run from ``start_s`` of ``limit_s`` would end."""
        end_s = float("inf") if limit_s is None else start_s + limit_s
        taken: frozenset[str] = frozenset()
        for reservation in self._reservations:
            if reservation.start_s < end_s and reservation.end_s > start_s:
                taken |= reservation.nodes
        return taken

    def _nodes_and_partition(self, job: Job, edit: Reshape, on: Iterable[str] | None) -> str | None:
        names = (edit.partition,) if edit.partition else job.partitions
        if not self._partitions or not names:
            return self._too_few_nodes(job, edit, None, on)
        why: str | None = None
        for name in names:
            partition = self._partitions.get(name)
            if partition is None:
                why = why or f"partition {name} is unknown to Slurm"
                continue
            limit_s = edit.time_limit_s if edit.time_limit_s is not None else job.time_limit_s
            closed = self._closed(partition, job, limit_s)
            if closed is None and partition.max_nodes is not None and edit.shape.nodes > partition.max_nodes:
                closed = f"partition {name} allows {partition.max_nodes} nodes a job, {edit.shape} needs more"
            closed = closed or self._too_few_nodes(job, edit, partition, on)
            if closed is None:
                return None
            why = why or closed
        return why

    def _too_few_nodes(
        self, job: Job, edit: Reshape, partition: Partition | None, on: Iterable[str] | None
    ) -> str | None:
        shape = edit.shape
        names = tuple(on) if on is not None else (edit.required_nodes or tuple(self._nodes))
        start_s = max(edit.begin_s or self._now_s, self._now_s)
        limit_s = edit.time_limit_s if edit.time_limit_s is not None else job.time_limit_s
        if limit_s is None and partition is not None:
            limit_s = partition.max_time_s
        reserved = self._reserved(start_s, limit_s)
        features = job.request.features if edit.features is None else edit.features
        other_type = _other_type(shape)
        refused: dict[str, int] = {}
        good = 0
        for name in names:
            node = self._nodes.get(name)
            why = self._unfit(node, name, job, edit, partition, features, reserved)
            if why is None:
                good += 1
            else:
                refused[why] = refused.get(why, 0) + 1
        if good >= shape.nodes:
            return None
        telling = {why: count for why, count in refused.items() if why != other_type} or refused
        most = max(sorted(telling), key=lambda why: telling[why]) if telling else "there are no such nodes"
        return f"only {good} of {shape.nodes} nodes could take {shape}: {most}"

    def _unfit(
        self,
        node: Node | None,
        name: str,
        job: Job,
        edit: Reshape,
        partition: Partition | None,
        features: str,
        reserved: frozenset[str],
    ) -> str | None:
        shape = edit.shape
        if node is None:
            return f"node {name} is unknown to Slurm"
        if node.gpu_type != shape.gpu_type or node.gpus < shape.gpus_per_node:
            return _other_type(shape)
        if not node.takes_work:
            return f"nodes are {node.state.value}"
        if partition is not None and name not in partition.nodes:
            return f"nodes are outside partition {partition.name}"
        if name in job.request.excluded_nodes:
            return "nodes are excluded by the job"
        if name in reserved:
            return "a reservation begins before the job's time limit ends"
        if not feature_match(features, node.features):
            return f"nodes lack the feature {features}"
        if edit.cpus // shape.nodes > node.cpus:
            return f"nodes have {node.cpus} CPUs, the job needs {edit.cpus // shape.nodes} on each"
        if (edit.memory_mb_per_node or 0) > node.memory_mb:
            return f"nodes have {node.memory_mb} MB, the job needs {edit.memory_mb_per_node} on each"
        return None

    def _over_limit(self, job: Job, shape: Shape) -> str | None:
        for index, limit in enumerate(self.limits):
            if limit.gpu_type not in (None, shape.gpu_type) or not matches(limit, job):
                continue
            others = 0 if limit.per_job else self._totals[index] - self._gpus_held[index].get(job.id, 0)
            if others + shape.gpus > limit.max_gpus:
                used = f" ({others} held by others)" if others else ""
                return f"{limit.what} allows {limit.max_gpus} GPUs{used}, {shape} would break it"
        return None

    def _unlicensed(self, job: Job) -> str | None:
        if not job.request.licenses or not self._licenses:
            return None
        for name, need in parse_licenses(job.request.licenses).items():
            total, used = self._licenses.get(name, (0, 0))
            own = need if job.state is JobState.RUNNING else 0
            if total - used + own < need:
                return f"licence {name}: {need} needed, {max(total - used + own, 0)} of {total} free"
        return None


def _other_type(shape: Shape) -> str:
    return f"other nodes have no {shape.gpus_per_node} {shape.gpu_type}"


def _holding(job: Job, held: Mapping[JobId, Shape | None] | None) -> tuple[tuple[str | None, int], ...]:
    if held is not None and job.id in held:
        shape = held[job.id]
        return () if shape is None else ((shape.gpu_type, shape.gpus),)
    if job.allocation is None or job.state not in _HOLDING:
        return ()
    return ((job.allocation.gpu_type, job.allocation.gpus),)


def _counted(limit: GpuLimit, by_type: tuple[tuple[str | None, int], ...]) -> int:
    return sum(gpus for gpu_type, gpus in by_type if limit.gpu_type in (None, gpu_type))
