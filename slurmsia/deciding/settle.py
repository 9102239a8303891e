"""From a solver's choice to seats that hold: place it, grant or refuse evictions, and drop what cannot be had.

A wish that finds no room, or that Slurm would refuse, falls back: a running job keeps what it has, a waiting job tries
its next best configuration and else waits on. Ends after few passes with seats that break nothing; never raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..cluster import JobId, Shape, Snapshot
from ..config import Config
from ..placement import Board, Conflict, Contention, Placement, Seats, Wish, find_seats, place, refuse
from ..reshape import Reshape, edit_for
from ..wouldstart import StartRules
from .demand import Demand, Row
from .traffic import neighbourhood, traffic_of

#: Passes in which refused wishes fall back one by one; after them nobody moves for another's sake.
_PASSES = 5
#: Next best configurations that a waiting job tries when its first choice finds no room.
_SECOND_CHOICES = 6


@dataclass(frozen=True, slots=True)
class Settled:
    """``choice`` [jobs]: column held at the end, -1 = none; ``seats`` by job; ``moved``: jobs whose shape stays but
    whose nodes change; ``dropped``: why the solver's choice for a job could not be had; ``pins``: jobs that need
    their node list written."""

    choice: NDArray[np.int64]
    seats: Mapping[JobId, Seats]
    moved: frozenset[JobId]
    dropped: Mapping[JobId, str] = field(default_factory=dict)
    pins: frozenset[JobId] = frozenset()


def settle(
    snapshot: Snapshot,
    demand: Demand,
    value: NDArray[np.float64],
    choice: NDArray[np.int64],
    config: Config,
    lasts_s: float | None = None,
) -> Settled:
    """Seats for the solver's ``choice``; ``value`` [jobs, columns] over staying queued decides what an eviction is
    worth and what a second choice is; ``lasts_s``: in which an eviction must be made good, else `policy.horizon_s`."""
    work = _Settling(snapshot, demand, value, choice, config, lasts_s)
    placement = work.placed(True)
    for _ in range(_PASSES):
        if not work.refused(placement):
            break
        placement = work.placed(True)
    else:
        work.keep_all()
        placement = work.placed(False)
        while work.refused(placement):
            placement = work.placed(False)
    seats = dict(placement.seats)
    work.second_choices(seats)
    return Settled(work.choice, seats, placement.moved, work.dropped, work.pins(seats, placement.moved))


class _Settling:
    """One plan in the making."""

    def __init__(
        self,
        snapshot: Snapshot,
        demand: Demand,
        value: NDArray[np.float64],
        choice: NDArray[np.int64],
        config: Config,
        lasts_s: float | None,
    ) -> None:
        self.lasts_s = lasts_s or config.policy.horizon_s
        self.snapshot, self.demand, self.config = snapshot, demand, config
        self.rows, self.shapes = demand.rows, demand.problem.shapes
        self.number = {row.job.id: number for number, row in enumerate(self.rows)}
        self.value = np.where(demand.problem.valid & np.isfinite(value), value, -np.inf)
        self.choice = choice.copy()
        self.dropped: dict[JobId, str] = {}
        self._wishes: dict[tuple[int, int], Wish] = {}
        self._edits: dict[tuple[JobId, Shape], Reshape] = {}
        self._answers: dict[tuple[JobId, Shape, Seats], str | None] = {}

    def wish(self, number: int) -> Wish | None:
        """What a row asks of the nodes; ``None`` when it holds nothing or stays put whatever happens."""
        row, column = self.rows[number], int(self.choice[number])
        if row.fixed or column < 0:
            return None
        known = self._wishes.get((number, column))
        if known is not None:
            return known
        keep = column == row.current
        self._wishes[number, column] = wish = Wish(
            job_id=row.job.id,
            shape=self.shapes[column],
            per_gpu=row.per_gpu,
            nodes=row.nodes,
            exact=row.exact,
            at=row.seats,
            keep=keep,
            movable=keep and not bool(self.demand.stays[column]),
        )
        return wish

    def placed(self, evict: bool) -> Placement:
        ranked = sorted(range(len(self.rows)), key=lambda number: (-self._worth(number), self.rows[number].job.id))
        wishes = [wish for number in ranked if (wish := self.wish(number)) is not None]
        one = self.config.placement.one_distributed_job_per_node
        approve = self.worth_it if evict else refuse
        return place(self.snapshot.nodes, self.demand.occupants, wishes, approve, one, self.contention())

    def contention(self) -> Contention | None:
        """What jobs on several nodes send in their chosen shapes, where the policy file asks for it."""
        if not self.config.placement.contention:
            return None
        batch = self.demand.problem.matrix.local_batch
        traffic, others = {}, {}
        for number, row in enumerate(self.rows):
            column = row.current if row.fixed else int(self.choice[number])
            own = traffic_of(row.model, self.shapes[column], int(batch[number, column])) if column >= 0 else None
            if own is not None:
                traffic[row.job.id] = own
                if row.fixed:
                    others[row.job.id] = row.seats
        return Contention(neighbourhood(self.snapshot.nodes, self.config.placement), traffic, others)

    def worth_it(self, conflict: Conflict) -> bool:
        """Whether a wish gains more than its victims' restarts cost while the choice lasts."""
        number = self.number[conflict.job_id]
        gain = self._worth(number) - max(self._held_worth(number), 0.0)
        cost = 0.0
        for victim, seats in conflict.moves:
            row = self.rows[self.number[victim]]
            if self._refusal(row, self.shapes[row.current], seats, self._rules()) is not None:
                return False
            worth = self._held_worth(self.number[victim])
            cost += max(worth, 0.0) * min(row.model.restart.mean_s / self.lasts_s, 1.0)
        return gain > cost

    def refused(self, placement: Placement) -> bool:
        """Let every wish that found no room, or that Slurm would refuse, fall back. True if there was any."""
        whys = {conflict.job_id: conflict.sentence for conflict in placement.conflicts}
        rules = self._rules()
        for job_id, seats in placement.seats.items():
            number = self.number[job_id]
            row, column = self.rows[number], int(self.choice[number])
            if row.managed is None or (column == row.current and job_id not in placement.moved):
                continue
            why = self._refusal(row, self.shapes[column], seats, rules)
            if why is not None:
                whys[job_id] = f"Slurm would not start it: {why}"
        if not whys:
            whys = self._over_reserve()
        for job_id in sorted(whys):
            number = self.number[job_id]
            row = self.rows[number]
            self.dropped[job_id] = whys[job_id]
            column = int(self.choice[number])
            if column >= 0 and column != row.current:
                self.value[number, column] = -np.inf
            self.choice[number] = row.current
        return bool(whys)

    def keep_all(self) -> None:
        """Nobody who runs moves: their places are free by construction, so only starts remain to be placed."""
        for number, row in enumerate(self.rows):
            if row.current >= 0 and self.choice[number] != row.current:
                self.dropped.setdefault(row.job.id, "too many moves stood in each other's way this round")
                self.choice[number] = row.current

    def second_choices(self, seats: dict[JobId, Seats]) -> None:
        """Waiting jobs whose first choice was dropped take the best configuration that fits what is left."""
        waiting = [
            self.number[job_id]
            for job_id in self.dropped
            if self.choice[self.number[job_id]] < 0 and self.rows[self.number[job_id]].managed is not None
        ]
        if not waiting:
            return
        board = Board(self.snapshot.nodes, self.config.placement.one_distributed_job_per_node)
        for occupant in self.demand.occupants:
            board.take(occupant.seats, occupant.per_gpu, occupant.distributed)
        for job_id, held in seats.items():
            row = self.rows[self.number[job_id]]
            board.take(held, row.per_gpu, len(held) > 1)
        rules = self._rules()
        best = {number: np.argsort(-self.value[number], kind="stable")[:_SECOND_CHOICES] for number in waiting}
        waiting.sort(key=lambda number: (-float(self.value[number].max(initial=-np.inf)), self.rows[number].job.id))
        left = self._reserved()
        for number in waiting:
            row = self.rows[number]
            for column in best[number]:
                shape = self.shapes[column]
                if not self.value[number, column] > 0 or left.get(shape.gpu_type, 0) < shape.gpus:
                    continue
                self.choice[number] = column
                wish = self.wish(number)
                found = find_seats(board, wish) if wish is not None else None
                if found is None or self._refusal(row, shape, found, rules) is not None:
                    self.choice[number] = -1
                    continue
                board.take(found, row.per_gpu, shape.nodes > 1)
                seats[row.job.id] = found
                left[shape.gpu_type] -= shape.gpus
                rules = self._rules() if self.snapshot.limits else rules
                break

    def pins(self, seats: Mapping[JobId, Seats], moved: frozenset[JobId]) -> frozenset[JobId]:
        """Jobs whose nodes must be written into the edit: the type cannot be steered otherwise, or a smaller job
        could land on nodes that this round gives to others whole."""
        sizes = {node.name: node.gpus for node in self.snapshot.nodes}
        starting = [
            (row, held)
            for job_id, held in seats.items()
            if (row := self.rows[self.number[job_id]]).managed is not None
            and (int(self.choice[self.number[job_id]]) != row.current or job_id in moved)
        ]
        wanted_whole = {
            self.shapes[int(self.choice[self.number[row.job.id]])].gpu_type
            for row, held in starting
            if all(sizes.get(name) == gpus for name, gpus in held)
        }
        types = len({node.gpu_type for node in self.snapshot.nodes if node.gpu_type is not None})
        pinned = set(moved)
        for row, held in starting:
            gpu_type = self.shapes[int(self.choice[self.number[row.job.id]])].gpu_type
            site = self.config.gpu_types.get(gpu_type)
            steered = types == 1 or (site is not None and bool(site.feature or site.partition))
            part = any(sizes.get(name) != gpus for name, gpus in held)
            if not steered or (part and gpu_type in wanted_whole):
                pinned.add(row.job.id)
        return frozenset(pinned)

    def _reserved(self) -> dict[str, int]:
        """GPUs by type that may still be given away without touching what is kept for undeclared jobs."""
        left = dict(self.demand.problem.capacity_gpus)
        for name in self.config.gpu_types:
            left[name] = left.get(name, 0) - self._kept_free(name)
        for number, row in enumerate(self.rows):
            column = int(self.choice[number])
            if column >= 0 and not row.fixed and not self.demand.stays[column]:
                shape = self.shapes[column]
                left[shape.gpu_type] = left.get(shape.gpu_type, 0) - shape.gpus
        return left

    def _kept_free(self, gpu_type: str) -> int:
        site = self.config.gpu_types.get(gpu_type)
        return site.reserve_for_unmanaged_gpus if site is not None else 0

    def _over_reserve(self) -> dict[JobId, str]:
        """Wishes to give up, least worth first, where refusals so far leave less of a type than must stay free."""
        left, found = self._reserved(), {}
        for number in sorted(range(len(self.rows)), key=lambda number: (self._worth(number), self.rows[number].job.id)):
            row, column = self.rows[number], int(self.choice[number])
            if row.managed is None or row.fixed or column < 0 or column == row.current:
                continue
            shape = self.shapes[column]
            if self._kept_free(shape.gpu_type) and left.get(shape.gpu_type, 0) < 0:
                held = self.shapes[row.current] if row.current >= 0 else None
                left[shape.gpu_type] += shape.gpus
                if held is not None and not self.demand.stays[row.current]:
                    left[held.gpu_type] = left.get(held.gpu_type, 0) - held.gpus
                found[row.job.id] = f"the {shape.gpu_type} GPUs that are left are kept for undeclared jobs"
        return found

    def _worth(self, number: int) -> float:
        column = int(self.choice[number])
        return float(self.value[number, column]) if column >= 0 else 0.0

    def _held_worth(self, number: int) -> float:
        column = self.rows[number].current
        return float(self.value[number, column]) if column >= 0 else 0.0

    def _rules(self) -> StartRules:
        held: dict[JobId, Shape | None] = {
            row.job.id: self.shapes[int(self.choice[number])] if self.choice[number] >= 0 else None
            for number, row in enumerate(self.rows)
            if row.managed is not None
        }
        return StartRules(self.snapshot, held)

    def _refusal(self, row: Row, shape: Shape, seats: Seats, rules: StartRules) -> str | None:
        asked = (row.job.id, shape, seats)
        # shared limits depend on what others hold in this pass; nothing else that is asked does
        if asked in self._answers and not self.snapshot.limits:
            return self._answers[asked]
        edit = self._edits.get(asked[:2])
        if edit is None:
            self._edits[asked[:2]] = edit = edit_of(row, shape, self.snapshot, self.config)
        self._answers[asked] = why = rules.refusal(row.job, edit, on=[name for name, _ in seats])
        return why


def edit_of(row: Row, shape: Shape, snapshot: Snapshot, config: Config, pin_to: Sequence[str] = ()) -> Reshape:
    """The edit that would give a row's job a shape."""
    assert row.managed is not None
    return edit_for(
        row.job,
        shape,
        config.gpu_types,
        declaration=row.managed.declaration,
        submitted=row.managed.request,
        pin_to=pin_to,
        partitions=snapshot.partitions,
    )
