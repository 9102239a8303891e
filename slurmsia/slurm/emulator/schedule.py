"""Which pending jobs of the emulator start now: multifactor-like order, cons_tres-like node choice, backfill.

`plan_starts` looks at every eligible pending job, managed or not, as slurmctld does, and says what starts where and
why the others wait. It never changes a job; the controller carries the result out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...cluster import GpuForm, GpuLimit, JobId, Node, NodeState, Partition, Request, Reservation
from .job import JobRecord

_FOREVER_S = 365.0 * 86400.0
#: Seconds a completing job is assumed to need until its GPUs are free.
_COMPLETING_GUESS_S = 5.0

Need = tuple[int, int, int]
"""GPUs, CPUs, MB on one node."""
Grants = tuple[tuple[str, int, int, int], ...]


@dataclass(slots=True)
class NodeRecord:
    """A node and what is free on it now. ``holders``: jobs running or completing there and their grants."""

    spec: Node
    state: NodeState
    reason: str = ""
    free_gpus: int = 0
    free_cpus: int = 0
    free_mb: int = 0
    holders: dict[JobId, Need] = field(default_factory=dict)
    reserved_now: bool = False
    view: Node | None = None

    def take(self, job_id: JobId, need: Need) -> None:
        self.holders[job_id] = need
        self.free_gpus -= need[0]
        self.free_cpus -= need[1]
        self.free_mb -= need[2]
        self.view = None

    def give_back(self, job_id: JobId) -> None:
        need = self.holders.pop(job_id)
        self.free_gpus += need[0]
        self.free_cpus += need[1]
        self.free_mb += need[2]
        self.view = None


@dataclass(slots=True)
class _Promise:
    """Backfill's promise to a blocked job on one node: from ``at_s`` on, only ``spare`` is left for others."""

    at_s: float
    spare: list[int]


@dataclass(slots=True)
class _Pass:
    """One scheduling pass: the cluster, running jobs, and the promises made so far."""

    now_s: float
    nodes: Mapping[str, NodeRecord]
    records: Mapping[JobId, JobRecord]
    reservations: Sequence[Reservation]
    promises: dict[str, list[_Promise]] = field(default_factory=dict)
    taken: dict[str, list[int]] = field(default_factory=dict)

    def free(self, node: NodeRecord) -> tuple[int, int, int]:
        taken = self.taken.get(node.spec.name)
        if taken is None:
            return node.free_gpus, node.free_cpus, node.free_mb
        return node.free_gpus - taken[0], node.free_cpus - taken[1], node.free_mb - taken[2]


def features_match(expression: str, features: frozenset[str]) -> bool:
    """Slurm's ``--constraint`` with ``&``, ``,`` and ``|`` (no counts, no brackets): alternatives of conjunctions."""
    if not expression:
        return True
    for alternative in expression.replace("[", "").replace("]", "").split("|"):
        words = alternative.replace(",", "&").split("&")
        if all(word.strip() in features for word in words if word.strip()):
            return True
    return False


def need_per_node(request: Request, node: Node) -> Need:
    """What the job takes on one of its nodes (for ``--gpus`` totals: the even share, rounded up)."""
    if request.exclusive:
        return node.gpus, node.cpus, node.memory_mb if request.memory_mb == 0 else _memory(request, node)
    gpus = -(-request.gpus // request.nodes)
    return gpus, -(-request.cpus // request.nodes), _memory(request, node)


def _memory(request: Request, node: Node) -> int:
    if request.memory_mb is None:
        return 0
    return node.memory_mb if request.memory_mb == 0 else -(-request.memory_mb // request.nodes)


def could_ever_hold(node: Node, request: Request) -> bool:
    """Whether an idle node has the type, features and sizes that the request asks of each of its nodes."""
    if request.gpus and (node.gpu_type is None or (request.gpu_type or node.gpu_type) != node.gpu_type):
        return False
    if not features_match(request.features, node.features) or node.name in request.excluded_nodes:
        return False
    need = need_per_node(request, node)
    if request.gpu_form is GpuForm.TOTAL:
        return node.gpus > 0 and need[1] <= node.cpus and need[2] <= node.memory_mb
    return need[0] <= node.gpus and need[1] <= node.cpus and need[2] <= node.memory_mb


def _time_limit(record: JobRecord, partition: Partition) -> float:
    return record.time_limit_s or partition.max_time_s or _FOREVER_S


def _open_to(record: JobRecord, partition: Partition) -> str:
    """Empty, or Slurm's reason why the job may not run in the partition."""
    given = record.submission
    if not partition.up:
        return "PartitionDown"
    accounts_shut = partition.allow_accounts and given.account not in partition.allow_accounts
    if accounts_shut or given.account in partition.deny_accounts:
        return "AccountNotAllowed"
    if (partition.allow_qos and given.qos not in partition.allow_qos) or given.qos in partition.deny_qos:
        return "QOSNotAllowed"
    if partition.max_time_s is not None and (record.time_limit_s or 0.0) > partition.max_time_s:
        return "PartitionTimeLimit"
    if partition.max_nodes is not None and record.request.nodes > partition.max_nodes:
        return "PartitionNodeLimit"
    return ""


def _usable(run: _Pass, record: JobRecord, partition: Partition) -> list[NodeRecord]:
    """Nodes of the partition that are up, suit the request, and are clear of reservations for its time limit."""
    ends_s = run.now_s + _time_limit(record, partition)
    shut: set[str] = set()
    for reservation in run.reservations:
        mine = reservation.name == record.submission.reservation
        if reservation.end_s > run.now_s and reservation.start_s < ends_s and not mine:
            shut |= reservation.nodes
    mine_only: frozenset[str] | None = None
    if record.submission.reservation:
        mine_only = next(
            (r.nodes for r in run.reservations if r.name == record.submission.reservation and r.start_s <= run.now_s),
            frozenset(),
        )
    return [
        node
        for name in partition.nodes
        if (node := run.nodes[name]).state is NodeState.UP
        and name not in shut
        and (mine_only is None or name in mine_only)
        and could_ever_hold(node.spec, record.request)
    ]


def _fits(run: _Pass, node: NodeRecord, need: Need, ends_s: float) -> bool:
    gpus, cpus, memory = run.free(node)
    if need[0] > gpus or need[1] > cpus or need[2] > memory:
        return False
    for promise in run.promises.get(node.spec.name, ()):
        if ends_s > promise.at_s and any(want > left for want, left in zip(need, promise.spare, strict=True)):
            return False
    return True


def _choose(run: _Pass, record: JobRecord, usable: list[NodeRecord], ends_s: float) -> Grants | None:
    """Nodes for the job now: required ones first, then the tightest fit; ``None`` when it does not fit."""
    request = record.request
    required = set(request.required_nodes)
    if request.gpu_form is GpuForm.TOTAL and not request.exclusive:
        return _choose_total(run, request, usable, ends_s)
    fitting: list[tuple[bool, int, str, Need]] = []
    for node in usable:
        if request.exclusive and node.holders:
            continue
        need = need_per_node(request, node.spec)
        if _fits(run, node, need, ends_s):
            fitting.append((node.spec.name not in required, run.free(node)[0], node.spec.name, need))
    if len(fitting) < request.nodes:
        return None
    fitting.sort()
    chosen = fitting[: request.nodes]
    if required and sum(1 for entry in chosen if not entry[0]) < len(required):
        return None
    return tuple(sorted((name, *need) for _, _, name, need in chosen))


def _choose_total(run: _Pass, request: Request, usable: list[NodeRecord], ends_s: float) -> Grants | None:
    """``--gpus=N`` on exactly ``nodes`` nodes: the even split where it fits, else as many as each node can give."""
    required = set(request.required_nodes)
    order = sorted(usable, key=lambda n: (n.spec.name not in required, -run.free(n)[0], n.spec.name))
    for even in (True, False):
        grants: list[tuple[str, int, int, int]] = []
        left = request.gpus
        for node in order:
            missing = request.nodes - len(grants)
            if missing == 0:
                break
            _, cpus, memory = need_per_node(request, node.spec)
            share = -(-left // missing) if even else left
            gpus = min(share, run.free(node)[0], left - (missing - 1))
            if gpus >= 1 and _fits(run, node, (gpus, cpus, memory), ends_s):
                grants.append((node.spec.name, gpus, cpus, memory))
                left -= gpus
        if not left and len(grants) == request.nodes and required <= {name for name, *_ in grants}:
            return tuple(sorted(grants))
    return None


def _promise(run: _Pass, record: JobRecord, usable: list[NodeRecord]) -> None:
    """Promise the blocked job the nodes where it can start first (backfill's reservation)."""
    request = record.request
    required = set(request.required_nodes)
    earliest: list[tuple[bool, float, str, list[int]]] = []
    for node in usable:
        need = need_per_node(request, node.spec)
        free = list(run.free(node))
        for promise in run.promises.get(node.spec.name, ()):
            free = [min(have, left) for have, left in zip(free, promise.spare, strict=True)]
        ends = sorted((_expected_end(run, job_id), grant) for job_id, grant in node.holders.items())
        at_s = run.now_s
        for end_s, grant in [(run.now_s, (0, 0, 0)), *ends]:
            free = [have + back for have, back in zip(free, grant, strict=True)]
            at_s = max(at_s, end_s)
            if all(want <= have for want, have in zip(need, free, strict=True)):
                spare = [have - want for have, want in zip(free, need, strict=True)]
                earliest.append((node.spec.name not in required, at_s, node.spec.name, spare))
                break
    if len(earliest) < request.nodes:
        return
    earliest.sort()
    chosen = earliest[: request.nodes]
    start_s = max(at_s for _, at_s, _, _ in chosen)
    for _, _, name, spare in chosen:
        run.promises.setdefault(name, []).append(_Promise(start_s, spare))


def _expected_end(run: _Pass, job_id: JobId) -> float:
    record = run.records[job_id]
    if record.completing or record.start_s is None:
        return run.now_s + _COMPLETING_GUESS_S
    return max(record.start_s + (record.time_limit_s or _FOREVER_S), run.now_s)


def _over_limit(
    record: JobRecord,
    gpu_types: frozenset[str | None],
    gpus: int,
    limits: Sequence[GpuLimit],
    held: Iterable[JobRecord],
) -> str:
    """Empty, or Slurm's reason for the first limit of account, user, QOS or partition that the start would break."""
    given = record.submission
    for limit in limits:
        if limit.account not in (None, given.account) or limit.user_id not in (None, given.user_id):
            continue
        if limit.qos not in (None, given.qos) or limit.partition not in (None, *record.partitions):
            continue
        if limit.accounts is not None and given.account not in limit.accounts:
            continue
        if limit.gpu_type is not None and limit.gpu_type not in gpu_types:
            continue
        used = 0
        if not limit.per_job:
            for other in held:
                theirs = other.submission
                if (
                    limit.account in (None, theirs.account)
                    and (limit.accounts is None or theirs.account in limit.accounts)
                    and limit.user_id in (None, theirs.user_id)
                    and limit.qos in (None, theirs.qos)
                    and limit.partition in (None, *other.partitions)
                    and other.allocation is not None
                    and limit.gpu_type in (None, other.allocation.gpu_type)
                ):
                    used += other.allocation.gpus
        if used + gpus > limit.max_gpus:
            scope = "QOS" if limit.qos is not None else "Assoc"
            return f"{scope}MaxGRESPerJob" if limit.per_job else f"{scope}GrpGRES"
    return ""


def _licences_short(record: JobRecord, free: Mapping[str, int]) -> bool:
    for word in filter(None, record.request.licenses.split(",")):
        name, _, count = word.partition(":")
        if free.get(name, 0) < int(count or 1):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Started:
    """A job that starts now, and where."""

    job_id: JobId
    partition: str
    grants: Grants


def plan_starts(
    queue: Sequence[JobRecord],
    *,
    now_s: float,
    nodes: Mapping[str, NodeRecord],
    records: Mapping[JobId, JobRecord],
    partitions: Mapping[str, Partition],
    reservations: Sequence[Reservation],
    limits: Sequence[GpuLimit],
    licences_free: Mapping[str, int],
    test_depth: int = 500,
    promise_depth: int = 20,
) -> tuple[list[Started], dict[JobId, str], frozenset[str]]:
    """What starts now; for every other job of ``queue`` (eligible, in priority order) Slurm's pending reason; and the
    nodes that backfill promised to some of them."""
    run = _Pass(now_s, nodes, records, reservations)
    starts: list[Started] = []
    reasons: dict[JobId, str] = {}
    started: list[JobRecord] = []
    holding = [other for other in records.values() if other.allocation is not None] if limits else []
    licences = dict(licences_free)
    promised = 0
    for record in queue[:test_depth]:
        if record.bad_constraints:
            reasons[record.id] = "BadConstraints"
            continue
        if _licences_short(record, licences):
            reasons[record.id] = "Licenses"
            continue
        why = "Resources"
        for name in record.partitions:
            partition = partitions.get(name)
            if partition is None:
                why = "PartitionDown"
                continue
            shut = _open_to(record, partition)
            if shut:
                why = shut
                continue
            usable = _usable(run, record, partition)
            grants = _choose(run, record, usable, now_s + _time_limit(record, partition))
            if grants is None:
                why = _why_blocked(record, partition, nodes, usable, promised)
                if why in ("Resources", "Priority") and promised < promise_depth:
                    _promise(run, record, usable)
                    promised += 1
                continue
            if limits:
                types = frozenset(nodes[node].spec.gpu_type for node, *_ in grants)
                gpus = sum(grant[1] for grant in grants)
                over = _over_limit(record, types, gpus, limits, [*holding, *started])
                if over:
                    why = over
                    continue
            why = ""
            starts.append(Started(record.id, name, grants))
            started.append(record)
            for node, *need in grants:
                taken = run.taken.setdefault(node, [0, 0, 0])
                for kind in range(3):
                    taken[kind] += need[kind]
                for promise in run.promises.get(node, ()):
                    if now_s + _time_limit(record, partition) > promise.at_s:
                        promise.spare = [left - want for left, want in zip(promise.spare, need, strict=True)]
            for word in filter(None, record.request.licenses.split(",")):
                licence, _, count = word.partition(":")
                licences[licence] = licences.get(licence, 0) - int(count or 1)
            break
        if why:
            reasons[record.id] = why
    for record in queue[test_depth:]:
        reasons[record.id] = "Priority"
    return starts, reasons, frozenset(run.promises)


def _why_blocked(
    record: JobRecord,
    partition: Partition,
    nodes: Mapping[str, NodeRecord],
    usable: list[NodeRecord],
    promised: int,
) -> str:
    request = record.request
    suited = [name for name in partition.nodes if could_ever_hold(nodes[name].spec, request)]
    if len(suited) < request.nodes or any(name not in suited for name in request.required_nodes):
        return "BadConstraints"
    names = {node.spec.name for node in usable}
    missing = [name for name in request.required_nodes if name not in names]
    if missing:
        return f"ReqNodeNotAvail, UnavailableNodes:{','.join(missing)}"
    if len(usable) < request.nodes:
        return "ReqNodeNotAvail, Reserved for maintenance or drained"
    return "Priority" if promised else "Resources"
