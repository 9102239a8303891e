"""From settled seats to targets: what each declared job is to do, in the words of the plan. Pure.

Only START, MOVE, RESIZE and SUSPEND lead to calls; a job that stays put for a reason of ours keeps, one with a move in
flight is left alone with its new place named, so that nobody else is planned there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..plan import BatchChoice, Target, TargetKind
from .batches import batches_of
from .demand import Demand, Row
from .eligibility import Queue
from .settle import Settled


def targets_of(queue: Queue, demand: Demand, value: NDArray[np.float64], settled: Settled) -> tuple[Target, ...]:
    """One target for every declared live job, sorted by job id. ``value`` [jobs, columns] orders the moves."""
    managed = [(number, row) for number, row in enumerate(demand.rows) if row.managed is not None]
    kinds = {
        number: kind_of(row, int(settled.choice[number]), demand, row.job.id in settled.moved)
        for number, row in managed
    }
    batches = batches_of(demand, settled.choice, kinds)
    targets = [
        _target(row, number, demand, value, settled, kinds[number], batches.get(number)) for number, row in managed
    ]
    targets += [Target(other.job.id, TargetKind.LEAVE) for other in queue.left_alone if other.declared]
    return tuple(sorted(targets, key=lambda target: target.job_id))


def kind_of(row: Row, column: int, demand: Demand, moved: bool) -> TargetKind:
    """What holding ``column`` (-1 = nothing) means for a job that holds ``row.current`` now."""
    if row.managed is not None and row.managed.standing.in_flight is not None:
        return TargetKind.LEAVE
    if column < 0:
        return TargetKind.SUSPEND if row.current >= 0 else TargetKind.QUEUE
    if row.current < 0:
        return TargetKind.START
    if column == row.current:
        return TargetKind.MOVE if moved else TargetKind.KEEP
    before, after = demand.problem.shapes[row.current], demand.problem.shapes[column]
    resized = before.gpu_type == after.gpu_type and before.gpus != after.gpus
    return TargetKind.RESIZE if resized else TargetKind.MOVE


def _target(
    row: Row,
    number: int,
    demand: Demand,
    value: NDArray[np.float64],
    settled: Settled,
    kind: TargetKind,
    batch: BatchChoice | None,
) -> Target:
    column = int(settled.choice[number])
    goodput = demand.problem.matrix.goodput[number]
    now = float(goodput[row.current]) if row.current >= 0 else 0.0
    if column < 0:
        if kind is TargetKind.QUEUE and _fits_nothing(row, number, demand):
            # Its lease must run out, so that Slurm starts it as it was submitted.
            kind = TargetKind.LEAVE
        return Target(row.job.id, kind, current_goodput=now)
    gain = float(value[number, column]) - (float(value[number, row.current]) if row.current >= 0 else 0.0)
    return Target(
        job_id=row.job.id,
        kind=kind,
        shape=demand.problem.shapes[column],
        gpus_by_node=row.seats if row.fixed else settled.seats.get(row.job.id, ()),
        batch=batch,
        expected_goodput=float(goodput[column]),
        current_goodput=now,
        urgency=round(gain, 9) if np.isfinite(gain) else 0.0,
        pin=row.job.id in settled.pins,
    )


def _fits_nothing(row: Row, number: int, demand: Demand) -> bool:
    """Nodes of its types are in service and none of their configurations is one that it may have."""
    if row.managed is None or demand.problem.valid[number].any() or row.job.id in demand.behind_promises:
        return False
    if demand.between_rounds:
        return False
    wanted = row.managed.declaration.types
    return any(free > 0 and (not wanted or gpu_type in wanted) for gpu_type, _, free in demand.node_room)
