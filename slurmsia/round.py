"""One round: from a snapshot, models, our own memory and the policy file to a plan. Pure: same input, same plan.

`decide` does no I/O and reads no clock; time is the snapshot's. Slurm's answers, the store and the wall-clock
watchdog are the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .cluster import JobId, Snapshot
from .config import Config
from .deciding.demand import Demand, collect
from .deciding.eligibility import Queue, split_queue
from .deciding.settle import Settled, settle
from .deciding.targets import targets_of
from .deciding.verdicts import round_sentence, verdicts_of
from .models.base import JobModel
from .models.goodput import GoodputTable
from .placement.check import violations
from .plan import Plan, SolveStats, Target
from .policy.base import Order, Terms
from .policy.registry import policy
from .promised import keep_promises
from .solver import CapacityRow, Program, SideRow, Solution, SolverLimits, solve
from .solver.capacity import capacity_rows
from .solver.serve import serve, worth_of_wishes
from .standing import Standing
from .wouldstart import StartRules, matches


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy and the solver say: a column per row, and the worth of each column over staying queued.

    ``why``: the named parts of the worth as the policy gave them (`Terms.why`), for verdict sentences; ``lasts_s``: how
    long it takes a choice to last, where it says so.
    """

    choice: NDArray[np.int64]
    value: NDArray[np.float64]
    objective: float = 0.0
    bound: float = 0.0
    gap: float = 0.0
    stage: str = "order"
    notes: tuple[str, ...] = ()
    times_s: tuple[tuple[str, float], ...] = ()
    why: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    lasts_s: float | None = None


def decide(
    snapshot: Snapshot,
    models: Mapping[JobId, JobModel],
    standing: Mapping[JobId, Standing],
    config: Config,
    table: GoodputTable | None = None,
    verdicts: bool = True,
    starts_only: bool = False,
) -> Plan:
    """What every job should hold next, and one verdict for each live job.

    ``models`` by job id (a job without one is taken to scale linearly on every type); ``standing`` our memory by job
    id; ``table`` a goodput table kept between rounds, which changes time and nothing else; ``verdicts`` ``False``
    leaves them out, for callers that nobody reads: they decide nothing; ``starts_only``: a round between two rounds,
    in which waiting jobs start where there is room and running ones stay where they are. Never raises on bad data of
    a job: the job is left alone and its verdict says why.
    """
    known = sorted({kind.name for kind in snapshot.gpu_types} | set(config.gpu_types))
    moves = config.moves
    queue = split_queue(
        snapshot, standing, config.scope, moves.lease_s, known, moves.min_run_s, moves.only_proven, starts_only
    )
    snapshot, promised = keep_promises(snapshot, queue)
    rules = StartRules(snapshot)
    demand = collect(snapshot, queue, models, config, rules, table or GoodputTable(), promised)
    answer = ask(snapshot, demand, config)
    settled, targets, notes = _checked(snapshot, demand, queue, answer, config)
    return Plan(
        targets=targets,
        verdicts=verdicts_of(queue, demand, answer.choice, answer.value, settled, targets, config, answer.why)
        if verdicts
        else (),
        policy=config.policy.name,
        objective=answer.objective,
        bound=answer.bound,
        gap=answer.gap,
        stage=answer.stage,
        sentence=round_sentence(snapshot, queue, targets, config.policy.name, answer.stage, answer.gap, starts_only),
        stats=SolveStats(dict(answer.times_s), (*answer.notes, *notes)),
        starts_only=starts_only,
    )


def ask(snapshot: Snapshot, demand: Demand, config: Config) -> Answer:
    """The policy's and the solver's choice; allocations stay as they are if the policy fails."""
    hint = np.array([row.current for row in demand.rows], dtype=np.int64)
    shape = demand.problem.valid.shape
    if not demand.rows:
        return Answer(hint, np.zeros(shape), stage="nothing to decide")
    rows, side = capacity(demand, config), (*side_rows(snapshot, demand), *minimum_rows(demand, config))
    try:
        said = policy(config.policy.name, config.policy).terms(demand.problem)
    except Exception as failure:  # a policy's mistake must cost a round at most, never an allocation
        note = f"policy {config.policy.name} failed ({type(failure).__name__}: {failure}); allocations stay"
        return Answer(hint, np.where(demand.problem.valid, 0.0, -np.inf), stage="previous", notes=(note,))
    if isinstance(said, Order):
        valid = demand.problem.valid
        value = worth_of_wishes(said, valid)
        held = np.flatnonzero(pinned(demand) >= 0)
        value[held, pinned(demand)[held]] = 1.0
        return Answer(serve(said, valid, pinned(demand), rows, side), value)
    return _solve(said, demand, rows, side, hint, config)


def _solve(
    terms: Terms,
    demand: Demand,
    rows: tuple[CapacityRow, ...],
    side: tuple[SideRow, ...],
    hint: NDArray[np.int64],
    config: Config,
) -> Answer:
    valid = demand.problem.valid & np.isfinite(terms.value)
    pins = pinned(demand)
    held = np.flatnonzero(pins >= 0)
    value = np.where(valid, terms.value, 0.0)
    valid[held, pins[held]] = True
    program = Program(value, valid, rows, side, pins, hint)
    section = config.solver
    solution: Solution = solve(
        program,
        SolverLimits(
            gap=section.gap,
            deterministic_time=section.deterministic_time,
            wall_s=section.wall_s,
            workers=section.workers,
            seed=section.seed,
            exact=section.exact,
        ),
    )
    return Answer(
        choice=np.array(solution.choice, dtype=np.int64),
        value=np.where(valid, value, -np.inf),
        objective=terms.sign * solution.objective + terms.offset,
        bound=terms.sign * solution.bound + terms.offset,
        gap=solution.gap,
        stage=solution.stage,
        notes=solution.notes,
        times_s=solution.times_s,
        why=terms.why,
        lasts_s=terms.lasts_s,
    )


def pinned(demand: Demand) -> NDArray[np.int64]:
    """[rows] the column of rows that stay put whatever is decided, -1 elsewhere."""
    return np.array([row.current if row.fixed else -1 for row in demand.rows], dtype=np.int64)


def capacity(demand: Demand, config: Config) -> tuple[CapacityRow, ...]:
    """Capacity rows over what is free or movable; columns of jobs that stay put need nothing; the reserve is kept."""
    nodes: dict[str, list[tuple[int, int]]] = {}
    for gpu_type, size, free in demand.node_room:
        nodes.setdefault(gpu_type, []).append((free, size))
    rows = capacity_rows(demand.problem.shapes, nodes)
    rows = tuple(replace(row, need=np.where(demand.stays, 0, row.need)) for row in rows)
    return _with_reserve(demand, config, rows)


def _with_reserve(demand: Demand, config: Config, rows: tuple[CapacityRow, ...]) -> tuple[CapacityRow, ...]:
    """The rows with the reserve of each type taken off the row that counts its GPUs, which is added where no shape
    takes a single GPU and the type has none."""
    found = {row.name: row for row in rows}
    for name, site in sorted(config.gpu_types.items()):
        if not site.reserve_for_unmanaged_gpus:
            continue
        row_name = f"{name} GPUs"
        of_type = [shape.gpus if shape.gpu_type == name else 0 for shape in demand.problem.shapes]
        row = found.get(row_name) or CapacityRow(
            row_name,
            np.where(demand.stays, 0, np.array(of_type, dtype=np.int64)),
            sum(free for gpu_type, _, free in demand.node_room if gpu_type == name),
        )
        found[row_name] = replace(row, limit=max(row.limit - site.reserve_for_unmanaged_gpus, 0))
    return tuple(found.values())


def side_rows(snapshot: Snapshot, demand: Demand) -> tuple[SideRow, ...]:
    """Limits that several jobs share (association, QOS, partition) as rows of the program.

    What others hold is taken off; what our jobs hold already stays legal even over a limit, because Slurm lets it run.
    """
    ours = {row.job.id: number for number, row in enumerate(demand.rows)}
    shapes = demand.problem.shapes
    found = []
    for limit in snapshot.limits:
        if limit.per_job:
            continue
        others = held = 0
        covered = []
        for job in snapshot.jobs:
            if not matches(limit, job):
                continue
            number = ours.get(job.id)
            if number is not None:
                covered.append(number)
                column = demand.rows[number].current
                if column >= 0 and limit.gpu_type in (None, shapes[column].gpu_type):
                    held += shapes[column].gpus
            elif job.allocation is not None and limit.gpu_type in (None, job.allocation.gpu_type):
                others += job.allocation.gpus
        counted = np.array([limit.gpu_type in (None, shape.gpu_type) for shape in shapes], dtype=np.bool_)
        gpus = np.array([shape.gpus for shape in shapes], dtype=np.int64)
        jobs, columns = np.nonzero(demand.problem.valid[covered] & counted[None, :])
        room = max(limit.max_gpus - others, held, 0)
        found.append(
            SideRow(
                limit.what,
                np.array(covered, dtype=np.int64)[jobs],
                columns.astype(np.int64),
                gpus[columns],
                room,
            )
        )
    return tuple(found)


def minimum_rows(demand: Demand, config: Config) -> tuple[SideRow, ...]:
    """What waiting undeclared jobs may take of each type, so that every running managed job can keep the smallest
    size that it may have on its type; none where the policy lets them suspend managed jobs."""
    waiting = np.array([row.managed is None for row in demand.rows], dtype=np.bool_)
    if config.policy.unmanaged_may_suspend or not waiting.any():
        return ()
    shapes, valid = demand.problem.shapes, demand.problem.valid
    gpus = np.array([shape.gpus for shape in shapes], dtype=np.int64)
    room: dict[str, int] = {}
    for gpu_type, _, free in demand.node_room:
        room[gpu_type] = room.get(gpu_type, 0) + free
    for number, row in enumerate(demand.rows):
        if row.current >= 0 and not row.fixed and not demand.stays[row.current]:
            held = shapes[row.current]
            same = np.array([shape.gpu_type == held.gpu_type for shape in shapes], dtype=np.bool_)
            room[held.gpu_type] -= int(gpus[valid[number] & same].min(initial=held.gpus))
    found = []
    for gpu_type, left in sorted(room.items()):
        of_type = np.array([shape.gpu_type == gpu_type for shape in shapes], dtype=np.bool_)
        jobs, columns = np.nonzero(valid & waiting[:, None] & of_type[None, :])
        if len(jobs):
            name = f"{gpu_type} GPUs for undeclared jobs beside the smallest sizes of managed ones"
            found.append(SideRow(name, jobs, columns, gpus[columns], max(left, 0)))
    return tuple(found)


def _checked(
    snapshot: Snapshot, demand: Demand, queue: Queue, answer: Answer, config: Config
) -> tuple[Settled, tuple[Target, ...], tuple[str, ...]]:
    """Settled targets that pass the independent check; whatever fails it loses its wish for this round."""
    one = config.placement.one_distributed_job_per_node
    choice, notes = answer.choice, tuple[str, ...]()
    settled = settle(snapshot, demand, answer.value, choice, config, answer.lasts_s)
    targets = targets_of(queue, demand, answer.value, settled)
    wrong = violations(snapshot, targets, one)
    if wrong:
        notes = tuple(why for _, why in wrong)
        bad = {job_id for job_id, _ in wrong}
        choice = np.array(
            [
                row.current if row.current >= 0 or row.job.id in bad else column
                for row, column in zip(demand.rows, choice, strict=True)
            ],
            dtype=np.int64,
        )
        settled = settle(snapshot, demand, answer.value, choice, config, answer.lasts_s)
        targets = targets_of(queue, demand, answer.value, settled)
        wrong = violations(snapshot, targets, one)
    if wrong:
        choice = np.array([row.current for row in demand.rows], dtype=np.int64)
        settled = settle(snapshot, demand, np.full_like(answer.value, -np.inf), choice, config)
        targets = targets_of(queue, demand, answer.value, settled)
    return settled, targets, notes
