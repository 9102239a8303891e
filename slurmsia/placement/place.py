"""From configurations to nodes: keep what runs, best fit for the rest, and minimal eviction only where it is granted.

Whole-node shapes go first, then larger before smaller (SIA.md 4). A wish that would need another job to move becomes
a `Conflict`; the caller says whether it is worth it. A kept job never moves without that, and no result ever breaks
capacity, types, CPUs, memory or node state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..cluster import JobId, Node, Shape
from .board import Board, Occupant, Seats, Wish
from .contention import Neighbourhood, Traffic

#: Nodes tried for one blocked wish before it is given up, cheapest eviction first.
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Conflict:
    """A wish that fits only if the ``victims`` move (to ``moves``), or not at all (no victims)."""

    job_id: JobId
    shape: Shape
    victims: tuple[JobId, ...]
    moves: tuple[tuple[JobId, Seats], ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where every placed wish sits; ``moved``: kept jobs that now sit elsewhere; ``conflicts``: wishes not placed."""

    seats: Mapping[JobId, Seats]
    moved: frozenset[JobId] = frozenset()
    conflicts: tuple[Conflict, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Contention:
    """``traffic`` of every job on several nodes; ``others``: seats of those that are not among the wishes."""

    limits: Neighbourhood
    traffic: Mapping[JobId, Traffic]
    others: Mapping[JobId, Seats] = field(default_factory=dict)


def refuse(conflict: Conflict) -> bool:
    """The default answer: nobody is moved for another's sake."""
    return False


def place(
    nodes: Sequence[Node],
    occupants: Sequence[Occupant],
    wishes: Sequence[Wish],
    approve: Callable[[Conflict], bool] = refuse,
    one_distributed_per_node: bool = True,
    contention: Contention | None = None,
) -> Placement:
    """Seats for every wish that fits beside ``occupants``.

    ``wishes`` in order of precedence among equal sizes. ``approve`` is asked once for each conflict with victims and
    must be pure; granted victims are placed at the conflict's ``moves``. With ``contention``, new jobs on several nodes
    are placed anew where that slows fewer jobs down. Deterministic; never raises.
    """
    board = Board(nodes, one_distributed_per_node)
    for occupant in occupants:
        board.take(occupant.seats, occupant.per_gpu, occupant.distributed)
    run = _Run(board, approve)
    kept = [wish for wish in wishes if wish.keep]
    for wish in kept:
        run.sit(wish, wish.at)
    new = [wish for wish in wishes if not wish.keep]
    new.sort(key=lambda wish: (-wish.shape.nodes, -wish.shape.gpus))
    for wish in new:
        run.serve(wish)
    if contention is not None:
        from .refine import refined  # CP-SAT takes long to import and most sites never need it here

        held = {**dict(contention.others), **run.seats}
        traffic = {job_id: (held[job_id], own) for job_id, own in contention.traffic.items() if job_id in held}
        run.seats.update(refined(run.board, new, run.seats, traffic, contention.limits))
    return Placement(run.seats, frozenset(run.moved), tuple(run.conflicts))


def find_seats(board: Board, wish: Wish) -> Seats | None:
    """Best-fitting seats for one wish on what is free now, or ``None``."""
    room = board.roomy(wish).nonzero()[0]
    count, each = wish.shape.nodes, wish.shape.gpus_per_node
    if len(room) < count:
        return None
    # Tightest fit first, then the smaller node; Slurm's leftovers of the old run can disturb a restart on the same
    # node, so other nodes win ties. One number keeps that order; equal ones stay in the order of nodes.
    rank = ((board.free[room] - each) * (board.largest + 1) + board.size[room]) * 2
    for name, _ in wish.at:
        place_of = int(room.searchsorted(board.index.get(name, len(board.names))))
        if place_of < len(room) and room[place_of] == board.index.get(name):
            rank[place_of] += 1
    if count == 1:
        return board.seats(room[[int(rank.argmin())]], each)
    ranked = room[np.argsort(rank, kind="stable")]
    return board.seats(_few_leaves(board, [int(node) for node in ranked], count), each)


def _few_leaves(board: Board, ranked: Sequence[int], count: int) -> list[int]:
    """``count`` of the ranked nodes on as few leaf switches as possible, leaving large groups whole."""
    groups: dict[int, list[int]] = {}
    for node in ranked:
        groups.setdefault(int(board.leaf[node]), []).append(node)
    chosen: list[int] = []
    while len(chosen) < count:
        wanted = count - len(chosen)
        enough = [leaf for leaf, nodes in groups.items() if len(nodes) >= wanted]
        if enough:
            leaf = min(enough, key=lambda leaf: (len(groups[leaf]), leaf))
        else:
            leaf = max(groups, key=lambda leaf: (len(groups[leaf]), -leaf))
        chosen += groups.pop(leaf)[:wanted]
    return chosen


class _Run:
    """One placement in the making."""

    def __init__(self, board: Board, approve: Callable[[Conflict], bool]) -> None:
        self.board = board
        self.approve = approve
        self.seats: dict[JobId, Seats] = {}
        self.moved: set[JobId] = set()
        self.conflicts: list[Conflict] = []
        self._movable_on: dict[int, list[Wish]] = {}

    def sit(self, wish: Wish, seats: Seats) -> None:
        self.board.take(seats, wish.per_gpu, wish.distributed)
        self.seats[wish.job_id] = seats
        if wish.keep and wish.movable and wish.job_id not in self.moved:
            for name, _ in seats:
                if name in self.board.index:
                    self._movable_on.setdefault(self.board.index[name], []).append(wish)

    def serve(self, wish: Wish) -> None:
        seats = find_seats(self.board, wish)
        if seats is not None:
            self.sit(wish, seats)
            return
        found = self._evict(wish)
        if found is None:
            sentence = f"no room for {wish.shape}: free GPUs of that type lie in pieces that are too small"
            self.conflicts.append(Conflict(wish.job_id, wish.shape, (), (), sentence))
            return
        conflict, victims, seats, board = found
        if not self.approve(conflict):
            self.conflicts.append(conflict)
            return
        for victim in victims:
            for name, _ in self.seats[victim.job_id]:
                self._movable_on[self.board.index[name]].remove(victim)
        self.board = board
        self.seats[wish.job_id] = seats
        self.seats.update(dict(conflict.moves))
        self.moved |= set(conflict.victims)

    def _evict(self, wish: Wish) -> tuple[Conflict, list[Wish], Seats, Board] | None:
        """The cheapest eviction that makes room for the wish and whose victims all find room elsewhere."""
        for nodes, victims in self._options(wish):
            board = self.board.copy()
            for victim in victims:
                board.release(self.seats[victim.job_id], victim.per_gpu, victim.distributed)
            room = board.roomy(wish)
            if not all(room[node] for node in nodes):
                continue
            seats = board.seats(nodes, wish.shape.gpus_per_node)
            board.take(seats, wish.per_gpu, wish.distributed)
            moves = _replace(board, victims, self.seats)
            if moves is None:
                continue
            names = ", ".join(victim.job_id for victim in victims)
            sentence = f"{wish.shape} fits only if {names} {'moves' if len(victims) == 1 else 'move'} to other nodes"
            victim_ids = tuple(victim.job_id for victim in victims)
            return Conflict(wish.job_id, wish.shape, victim_ids, tuple(moves), sentence), victims, seats, board
        return None

    def _options(self, wish: Wish) -> list[tuple[list[int], list[Wish]]]:
        """(nodes, victims) worth trying, fewest GPUs disturbed first."""
        board, each, count = self.board, wish.shape.gpus_per_node, wish.shape.nodes
        priced: list[tuple[int, int, int, list[Wish]]] = []
        for node in map(int, np.flatnonzero(board.big_enough(wish))):
            victims = self._victims(node, wish)
            if victims is not None:
                disturbed = sum(victim.shape.gpus for victim in victims)
                priced.append((disturbed, int(board.free[node]) - each, node, victims))
        priced.sort(key=lambda option: option[:3])
        if count == 1:
            return [([node], victims) for _, _, node, victims in priced[:_TRIES]]
        if len(priced) < count:
            return []
        together: dict[JobId, Wish] = {victim.job_id: victim for option in priced[:count] for victim in option[3]}
        return [([option[2] for option in priced[:count]], list(together.values()))]

    def _victims(self, node: int, wish: Wish) -> list[Wish] | None:
        """Fewest GPUs' worth of kept jobs to take off a node so that one part of the wish fits; ``None`` = cannot."""
        board, each = self.board, wish.shape.gpus_per_node
        here = sorted(self._movable_on.get(node, ()), key=lambda job: (job.shape.gpus, job.job_id))
        missing = each - int(board.free[node])
        name = board.names[node]

        def gives(job: Wish) -> int:
            gpus = dict(self.seats[job.job_id])[name]
            return int(board.size[node]) if job.per_gpu.whole_nodes else gpus

        if missing <= 0 and not here:
            return [] if bool(board.roomy(wish)[node]) else None
        if missing > sum(gives(job) for job in here):
            return None
        single = [job for job in here if gives(job) >= missing]
        if missing > 0 and single and not wish.per_gpu.whole_nodes:
            return [min(single, key=lambda job: (job.shape.gpus, job.job_id))]
        if missing <= 0 and bool(board.roomy(wish)[node]):
            return []
        chosen: list[Wish] = []
        for job in sorted(here, key=lambda job: (-gives(job), job.job_id)):
            if missing <= 0 and not wish.per_gpu.whole_nodes:
                break
            chosen.append(job)
            missing -= gives(job)
        return chosen


def _replace(board: Board, victims: Sequence[Wish], seats: Mapping[JobId, Seats]) -> list[tuple[JobId, Seats]] | None:
    """New seats for evicted jobs, largest first, or ``None`` if one finds none. Takes them on ``board``."""
    moves: list[tuple[JobId, Seats]] = []
    for victim in sorted(victims, key=lambda job: (-job.shape.nodes, -job.shape.gpus, job.job_id)):
        found = find_seats(board, victim)
        if found is None:
            return None
        board.take(found, victim.per_gpu, victim.distributed)
        moves.append((victim.job_id, found))
    return moves
