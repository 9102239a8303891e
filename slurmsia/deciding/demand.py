"""The rows of a round: managed jobs and, as rigid demand, the undeclared jobs that wait only for room.

Turns eligibility, models and the nodes into the problem a policy sees, with everything that placing needs beside it.
What stays put whatever is decided (neighbours, pinned jobs, moves in flight) is taken out of the capacity here. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..cluster import Job, JobId, JobState, Shape, Snapshot
from ..config import Config
from ..declaration import Level
from ..models.base import GoodputMatrix, JobModel
from ..models.goodput import GoodputTable
from ..placement import Occupant, Seats
from ..policy.base import Candidate, RoundProblem
from ..reshape import PerGpu, per_gpu, split_features
from ..wouldstart import StartRules, feature_match, matches
from .configurations import Choices, ShapeTable, all_shapes, allowed, unit_shapes
from .eligibility import BETWEEN_ROUNDS, LeftAlone, Managed, Queue, submitted_shape
from .traffic import placement_factors, traffic_of

_UNDECLARED = PerGpu(0.0, None)


@dataclass(frozen=True, slots=True)
class Row:
    """One job of the round. ``managed`` is ``None`` for rigid demand; ``nodes``: where Slurm would let it start.

    ``current``: column it holds now or -1; ``seats``: where; ``fixed``: keeps both whatever happens.
    """

    job: Job
    managed: Managed | None
    model: JobModel
    per_gpu: PerGpu
    nodes: frozenset[str] | None
    exact: bool
    current: int = -1
    seats: Seats = ()
    fixed: bool = False
    later: frozenset[str] | None = None
    """`nodes` and those that are promised to others now."""


@dataclass(frozen=True, slots=True)
class Demand:
    """All rows with the problem for the policy. ``stays``: [columns] that use no free capacity (see `collect`);
    ``behind_promises``: managed jobs that may start on no node but those promised to others."""

    rows: tuple[Row, ...]
    problem: RoundProblem
    stays: NDArray[np.bool_]
    occupants: tuple[Occupant, ...]
    node_room: tuple[tuple[str, int, int], ...]
    """(GPU type, GPUs, GPUs free or held by jobs that may move) of every node with GPUs, in the snapshot's order."""
    behind_promises: frozenset[JobId] = frozenset()
    table: GoodputTable = field(default_factory=GoodputTable)
    """What goodputs were read from."""
    between_rounds: bool = False
    """Whether some jobs stay only until the next round, so that there may be room then where there is none now."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row before columns exist."""

    job: Job
    managed: Managed | None
    per_gpu: PerGpu
    nodes: frozenset[str] | None
    exact: bool
    shape: Shape | None
    seats: Seats
    fixed: bool
    stays: bool
    later: frozenset[str] | None


def collect(
    snapshot: Snapshot,
    queue: Queue,
    models: Mapping[JobId, JobModel],
    config: Config,
    rules: StartRules,
    table: GoodputTable,
    promised: frozenset[str] = frozenset(),
) -> Demand:
    """The rows of a round. ``promised``: nodes that no managed job may come to.

    Columns are the configurations there are, then one more for each shape that some job holds without using free
    capacity (it is pinned, or its node takes no new work): such a job's current column is that one.
    """
    up = {node.name: node.takes_work for node in snapshot.nodes}
    places = _Places(snapshot, config, rules)
    free_of_promises = frozenset(up) - promised if promised else None
    drafts = [_draft(managed, places, up, free_of_promises) for managed in queue.managed]
    drafts += [
        _Draft(other.job, None, per_gpu(other.job.request), places.of(other.job), True, None, (), False, False, None)
        for other in queue.left_alone
        if other.waits_for_room
    ]
    shapes = all_shapes(snapshot.nodes, _extra_shapes(snapshot, drafts))
    staying = sorted({draft.shape for draft in drafts if draft.stays and draft.shape is not None})
    base = {shape: column for column, shape in enumerate(shapes)}
    own = {shape: len(shapes) + number for number, shape in enumerate(staying)}
    rows = tuple(
        Row(
            job=draft.job,
            managed=draft.managed,
            model=models.get(draft.job.id) or JobModel(draft.job.id),
            per_gpu=draft.per_gpu,
            nodes=draft.nodes,
            exact=draft.exact,
            current=-1 if draft.shape is None else (own if draft.stays else base)[draft.shape],
            seats=draft.seats,
            fixed=draft.fixed,
            later=draft.later,
        )
        for draft in drafts
    )
    columns = np.array([*range(len(shapes)), *(base[shape] for shape in staying)], dtype=np.int64)
    shape_table = ShapeTable.of(shapes, snapshot.nodes)
    from_history = config.policy.name == "goodput" and config.policy.goodput.from_history
    valid = _valid(rows, shape_table, rules, from_history)
    behind = [row for number, row in enumerate(rows) if promised and row.managed and not valid[number].any()]
    could = _valid([replace(row, nodes=row.later) for row in behind], shape_table, rules, from_history)
    matrix = _matrix(rows, models, shapes, valid, table)
    goodput = matrix.goodput[:, columns]
    valid = valid[:, columns] & (np.arange(len(columns)) < len(shapes))[None, :] & (goodput > 0)
    for number, row in enumerate(rows):
        if row.current >= 0:
            if not goodput[number, row.current] > 0:
                # It runs there, so a model that calls it infeasible is wrong; the least it could be is what we assume.
                known = goodput[number][goodput[number] > 0]
                goodput[number, row.current] = known.min() if len(known) else 1.0
            if row.fixed:
                valid[number] = False
            valid[number, row.current] = True
    if config.placement.contention:
        _slow_down(snapshot, config, rows, (*shapes, *staying), matrix.local_batch[:, columns], goodput)
    matrix = GoodputMatrix(
        matrix.job_ids,
        goodput,
        matrix.throughput[:, columns],
        matrix.local_batch[:, columns],
        matrix.accumulation[:, columns],
        matrix.rel_error[:, columns],
    )
    occupants = _occupants(snapshot, queue.left_alone, rows)
    free = _free(snapshot, occupants)
    capacity: dict[str, int] = {}
    total: dict[str, int] = {}
    for node in snapshot.nodes:
        if node.gpu_type is not None:
            total[node.gpu_type] = total.get(node.gpu_type, 0) + node.gpus
            capacity[node.gpu_type] = capacity.get(node.gpu_type, 0) + free.get(node.name, 0)
    room = tuple((node.gpu_type, node.gpus, free[node.name]) for node in snapshot.nodes if node.gpu_type is not None)
    problem = RoundProblem(
        now_s=snapshot.taken_s,
        round_s=config.policy.round_s,
        candidates=_candidates(rows, snapshot),
        shapes=(*shapes, *staying),
        matrix=matrix,
        valid=valid,
        models={row.job.id: row.model for row in rows},
        capacity_gpus=capacity,
        total_gpus=total,
        gpu_types={kind.name: kind for kind in snapshot.gpu_types},
    )
    waits = frozenset(row.job.id for row, fits in zip(behind, could, strict=True) if fits.any())
    between = any(managed.stays_code == BETWEEN_ROUNDS for managed in queue.managed)
    return Demand(rows, problem, np.arange(len(columns)) >= len(shapes), occupants, room, waits, table, between)


class _Places:
    """Nodes on which each job could start, remembered by what decides it, because most jobs share it."""

    def __init__(self, snapshot: Snapshot, config: Config, rules: StartRules) -> None:
        self._snapshot = snapshot
        self._types = config.gpu_types
        self._rules = rules
        self._by_type = tuple(
            sorted(site.partition for site in self._types.values() if site.partition and not site.feature)
        )
        self._known: dict[tuple[object, ...], frozenset[str] | None] = {}

    def of(self, job: Job, own_pins: bool = False) -> frozenset[str] | None:
        """``own_pins``: the required nodes it has now were written by us and do not bind."""
        request = job.request
        required = () if own_pins else request.required_nodes
        key = (
            job.partitions,
            job.account,
            job.qos,
            job.time_limit_s,
            request.excluded_nodes,
            request.features,
            required,
            bool(job.comment),
        )
        if key not in self._known:
            self._known[key] = self._find(job, required)
        return self._known[key]

    def _find(self, job: Job, required: Sequence[str]) -> frozenset[str] | None:
        wider = replace(job, partitions=(*job.partitions, *self._by_type)) if job.partitions and job.comment else job
        usable = self._rules.usable_nodes(wider)
        own = split_features(job.request.features, self._types)
        expression = job.request.features if own is None else "&".join(own)
        if expression:
            having = {node.name for node in self._snapshot.nodes if feature_match(expression, node.features)}
            usable = frozenset(having if usable is None else usable & having)
        if required:
            usable = frozenset(required) if usable is None else usable & frozenset(required)
        return usable


def _draft(
    managed: Managed, places: _Places, up: Mapping[str, bool], free_of_promises: frozenset[str] | None
) -> _Draft:
    """``free_of_promises``: nodes to which a job may come that holds nothing elsewhere, ``None`` = all."""
    job, standing = managed.job, managed.standing
    needs = per_gpu(managed.request, managed.declaration)
    ours = standing.moves > 0 or standing.in_flight is not None or standing.submitted is not None
    own_pins = ours and not (standing.submitted is not None and standing.submitted.required_nodes)
    nodes = places.of(job, own_pins)
    exact = managed.declaration.level is Level.RIGID
    shape: Shape | None = None
    seats: Seats = ()
    if standing.in_flight is not None:
        shape, seats = standing.in_flight, standing.in_flight_nodes
    elif managed.running and job.allocation is not None:
        shape, seats = job.allocation.shape, job.allocation.gpus_by_node
    later = nodes
    # Jobs that sit on a promised node may stay, shrink or grow there; the solver gives waiting jobs their GPUs first.
    if free_of_promises is not None and free_of_promises.issuperset(name for name, _ in seats):
        nodes = free_of_promises if nodes is None else nodes & free_of_promises
    fixed = bool(managed.stays) and shape is not None
    stays = fixed or not all(up.get(name, False) for name, _ in seats)
    return _Draft(job, managed, needs, nodes, exact, shape, seats, fixed, stays and shape is not None, later)


def _extra_shapes(snapshot: Snapshot, drafts: Sequence[_Draft]) -> set[Shape]:
    sizes: dict[str, set[int]] = {}
    for node in snapshot.nodes:
        if node.gpu_type is not None and node.gpus:
            sizes.setdefault(node.gpu_type, set()).add(node.gpus)
    extra: set[Shape] = set()
    for draft in drafts:
        if draft.shape is not None:
            extra.add(draft.shape)
        if draft.managed is None or draft.exact:
            request = draft.job.request if draft.managed is None else draft.managed.request
            nodes = max(request.nodes, 1)
            if request.gpus and request.gpus % nodes == 0:
                extra |= {Shape(gpu_type, nodes, request.gpus) for gpu_type in sizes}
        elif draft.managed.declaration.unit_gpus:
            for gpu_type, found in sizes.items():
                extra |= set(unit_shapes(gpu_type, draft.managed.declaration.unit_for(gpu_type), sorted(found)))
    return extra


def _valid(rows: Sequence[Row], table: ShapeTable, rules: StartRules, from_history: bool = False) -> NDArray[np.bool_]:
    valid = np.zeros((len(rows), len(table.shapes)), dtype=np.bool_)
    fits: dict[tuple[object, ...], NDArray[np.bool_]] = {}
    choices: dict[tuple[object, ...], Choices] = {}  # jobs of one kind share a declaration, so most of them repeat
    for number, row in enumerate(rows):
        if row.fixed:
            continue
        key = (row.nodes, row.per_gpu, row.exact)
        if key not in fits:
            fits[key] = table.fit(row.nodes, row.per_gpu, row.exact)
        if row.managed is not None:
            known = row.model if row.model.types else None
            asked = row.managed.request
            which = (key, id(row.managed.declaration), asked.gpu_type, asked.gpus, asked.nodes)
            if which not in choices:
                choices[which] = Choices.of(row.managed, table, fits[key])
            valid[number] = allowed(row.managed, table, choices[which], known, from_history=from_history)
        else:
            request = row.job.request
            valid[number] = fits[key] & (table.gpus == request.gpus) & (table.nodes == max(request.nodes, 1))
            if request.gpu_type is not None:
                valid[number] &= table.type_index == (
                    table.types.index(request.gpu_type) if request.gpu_type in table.types else -1
                )
        for limit in rules.limits:
            if limit.per_job and matches(limit, row.job):
                counted = np.array([limit.gpu_type in (None, name) for name in table.types])[table.type_index]
                valid[number] &= ~counted | (table.gpus <= limit.max_gpus)
    return valid


def _matrix(
    rows: Sequence[Row],
    models: Mapping[JobId, JobModel],
    shapes: tuple[Shape, ...],
    valid: NDArray[np.bool_],
    table: GoodputTable,
) -> GoodputMatrix:
    """Goodput by the models; linear in GPUs for a managed job without one, and 1 wherever rigid demand may start."""
    found = table.refresh([row.model for row in rows if row.managed is not None], shapes)
    ours = [number for number, row in enumerate(rows) if row.managed is not None]
    filled = {}
    for name in ("goodput", "throughput", "local_batch", "accumulation", "rel_error"):
        source = getattr(found, name)
        filled[name] = np.zeros((len(rows), len(shapes)), dtype=source.dtype)
        filled[name][ours] = source
    gpus = np.array([shape.gpus for shape in shapes], dtype=np.float64)
    for number, row in enumerate(rows):
        if row.managed is None:
            filled["goodput"][number] = valid[number]
        elif not row.model.types:
            filled["goodput"][number] = filled["throughput"][number] = gpus
            filled["rel_error"][number] = 1.0
    return GoodputMatrix(tuple(row.job.id for row in rows), **filled)


def _slow_down(
    snapshot: Snapshot,
    config: Config,
    rows: Sequence[Row],
    shapes: Sequence[Shape],
    local_batch: NDArray[np.int64],
    goodput: NDArray[np.float64],
) -> None:
    """Multiply goodput on several nodes of a type by what a job's place among its neighbours leaves of it now."""
    jobs = {}
    for number, row in enumerate(rows):
        if row.current >= 0:
            own = traffic_of(row.model, shapes[row.current], int(local_batch[number, row.current]))
            if own is not None:
                jobs[row.job.id] = (row.seats, own)
    factors = placement_factors(snapshot.nodes, config.placement, jobs)
    for number, row in enumerate(rows):
        if row.job.id in factors:
            held = shapes[row.current].gpu_type
            wide = np.array([shape.nodes > 1 and shape.gpu_type == held for shape in shapes], dtype=np.bool_)
            goodput[number, wide] *= factors[row.job.id]


def _candidates(rows: Sequence[Row], snapshot: Snapshot) -> tuple[Candidate, ...]:
    priorities = sorted(row.job.priority for row in rows if row.managed is not None and row.job.priority > 0)
    middle = priorities[len(priorities) // 2] if priorities else 0.0
    demand = sorted({row.job.priority for row in rows if row.managed is None})
    rank = {priority: 1.0 + 0.5 * (number + 1) / len(demand) for number, priority in enumerate(demand)}
    return tuple(_candidate(row, snapshot.taken_s, middle, rank) for row in rows)


def _candidate(row: Row, now_s: float, middle: float, rank: Mapping[float, float]) -> Candidate:
    job, managed = row.job, row.managed
    if managed is None:
        gpus = job.request.gpus
        age_s = max(now_s - job.submit_s, 0.0)
        return Candidate(
            job.id,
            managed=False,
            age_s=age_s,
            waited_s=age_s,
            weight=rank[job.priority],
            priority=job.priority,
            min_gpus=gpus,
            max_gpus=gpus,
        )
    standing, declaration = managed.standing, managed.declaration
    started_s = standing.run_started_s if standing.run_started_s is not None else job.start_s
    run_s = max(now_s - started_s, 0.0) if managed.running and started_s is not None else 0.0
    since_s = standing.wait_since_s if standing.wait_since_s is not None else job.submit_s
    weight = declaration.weight
    if middle > 0 and job.priority > 0:
        weight *= min(max(job.priority / middle, 0.25), 4.0)
    left_h = None if declaration.max_gpu_h is None else max(declaration.max_gpu_h - standing.gpu_h_used, 0.0)
    walltime_s = None
    if managed.running and job.time_limit_s is not None:
        walltime_s = max(job.end_s - now_s if job.end_s is not None else job.time_limit_s - run_s, 0.0)
    return Candidate(
        job.id,
        current=row.current,
        pinned=row.fixed,
        may_move=not row.fixed,
        age_s=max(now_s - standing.first_submit_s, 0.0),
        run_s=run_s,
        waited_s=0.0 if row.current >= 0 else max(now_s - since_s, 0.0),
        service_gpu_s=standing.service_gpu_s,
        restarts=standing.restarts,
        weight=weight,
        priority=job.priority,
        requested=submitted_shape(managed),
        min_gpus=declaration.min_gpus,
        max_gpus=declaration.max_gpus,
        gpu_h_left=left_h,
        walltime_left_s=walltime_s,
        min_efficiency=declaration.min_efficiency,
    )


def _occupants(snapshot: Snapshot, left_alone: Sequence[LeftAlone], rows: Sequence[Row]) -> tuple[Occupant, ...]:
    """Everything that holds GPUs whatever is decided; a move in flight holds its old place and its new one."""
    found = []
    for other in left_alone:
        if other.job.allocation is not None and other.job.allocation.gpus:
            # CPUs and memory of undeclared jobs are already in the node's use by others.
            needs = per_gpu(other.job.request) if other.declared else _UNDECLARED
            needs = replace(needs, whole_nodes=other.job.request.exclusive)
            found.append(Occupant(other.job.id, other.job.allocation.gpus_by_node, needs))
    for job in snapshot.jobs:
        if job.state is JobState.ENDED and job.completing and job.allocation is not None:
            found.append(Occupant(job.id, job.allocation.gpus_by_node, _UNDECLARED))
    for row in rows:
        if not row.fixed:
            continue
        seats = dict(row.seats)
        if row.job.allocation is not None:
            for name, gpus in row.job.allocation.gpus_by_node:
                seats[name] = max(seats.get(name, 0), gpus)
        found.append(Occupant(row.job.id, tuple(sorted(seats.items())), row.per_gpu, len(row.seats) > 1))
    return tuple(found)


def _free(snapshot: Snapshot, occupants: Sequence[Occupant]) -> dict[str, int]:
    """GPUs of every node that takes new work which are free, or held by a job that may move."""
    sizes = {node.name: node.gpus for node in snapshot.nodes}
    free = {node.name: node.gpus if node.takes_work else 0 for node in snapshot.nodes}
    for occupant in occupants:
        for name, gpus in occupant.seats:
            if name in free:
                free[name] -= sizes[name] if occupant.per_gpu.whole_nodes else gpus
    return {name: max(gpus, 0) for name, gpus in free.items()}
