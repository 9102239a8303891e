"""Places new jobs on several nodes anew where that lowers contention: CP-SAT on a small neighbourhood of nodes.

Starts from the greedy placement, hints all of it and returns it unless something better is found, so that it never
does worse. It touches only jobs that are about to start or move anyway, on nodes that stay free otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from ortools.sat.python import cp_model

from ..cluster import JobId
from .board import Board, Seats, Wish
from .contention import Neighbourhood, Traffic, ratios

#: Units of a link's capacity, and of a job's goodput, in the whole-number model.
_LINK, _GOODPUT = 100, 1_000_000
#: A stretch is counted in steps of this many units, up to this many times the network time.
_STEP, _LONGEST = 10, 64
#: Less than this much of one job's goodput is not worth another place.
_WORTH_IT = 1e-6


def refined(
    board: Board,
    new: Sequence[Wish],
    seats: Mapping[JobId, Seats],
    traffic: Mapping[JobId, tuple[Seats, Traffic]],
    limits: Neighbourhood,
) -> dict[JobId, Seats]:
    """Seats of the new jobs on several nodes that lower contention: only those that change.

    ``board`` as it stands with everything placed; ``seats`` of the ``new`` wishes on it; ``traffic`` of every placed
    job on several nodes, new ones included. The sum of all ratios never falls. Deterministic; never raises.
    """
    changed: dict[JobId, Seats] = {}
    groups: dict[tuple[str, int], list[Wish]] = {}
    for wish in new:
        if wish.distributed and wish.whole and wish.job_id in seats and wish.job_id in traffic:
            groups.setdefault((wish.shape.gpu_type, wish.shape.gpus_per_node), []).append(wish)
    for _, wishes in sorted(groups.items()):
        now = {job_id: (changed.get(job_id, held), own) for job_id, (held, own) in traffic.items()}
        before = ratios(limits.uplinks, now)
        wishes.sort(key=lambda wish: (before[wish.job_id], wish.job_id))
        if not wishes or before[wishes[0].job_id] >= 1.0:
            continue
        found = _refine_group(board, wishes, now, limits)
        after = ratios(limits.uplinks, {**now, **{job_id: (held, now[job_id][1]) for job_id, held in found.items()}})
        if sum(after.values()) > sum(before.values()) + _WORTH_IT:
            for wish in wishes:
                if wish.job_id in found:
                    board.release(now[wish.job_id][0], wish.per_gpu, True)
            for wish in wishes:
                if wish.job_id in found:
                    board.take(found[wish.job_id], wish.per_gpu, True)
            changed.update(found)
    return changed


def _refine_group(
    board: Board, wishes: Sequence[Wish], now: Mapping[JobId, tuple[Seats, Traffic]], limits: Neighbourhood
) -> dict[JobId, Seats]:
    """New seats for as many of the wishes (worst off first) as the neighbourhood holds."""
    trial = board.copy()
    moving: list[Wish] = []
    held: list[int] = []
    for wish in wishes:
        own = [board.index[name] for name, _ in now[wish.job_id][0]]
        if len(held) + len(own) <= limits.nodes:
            moving.append(wish)
            held += own
            trial.release(now[wish.job_id][0], wish.per_gpu, True)
    roomy = {wish.job_id: trial.roomy(wish) for wish in moving}
    free = [int(node) for node in np.flatnonzero(np.any([*roomy.values()], axis=0)) if int(node) not in set(held)]
    by_leaf = np.bincount(board.leaf[[*held, *free]] + 1) if held or free else np.zeros(1, dtype=np.int64)
    free.sort(key=lambda node: (-int(by_leaf[board.leaf[node] + 1]), int(board.leaf[node]), node))
    nodes = sorted([*held, *free[: limits.nodes - len(held)]])
    return _solved(board, moving, nodes, roomy, now, limits) if moving else {}


def _solved(
    board: Board,
    moving: Sequence[Wish],
    nodes: Sequence[int],
    roomy: Mapping[JobId, np.ndarray],
    now: Mapping[JobId, tuple[Seats, Traffic]],
    limits: Neighbourhood,
) -> dict[JobId, Seats]:
    uplinks, model = limits.uplinks, cp_model.CpModel()
    leaf_of = {node: uplinks.leaf.get(board.names[node], "") for node in nodes}
    leaves = sorted(set(leaf_of.values()))
    load: dict[str, list[cp_model.LinearExprT]] = {leaf: [] for leaf in uplinks.nodes}
    users: dict[str, list[tuple[JobId, cp_model.LiteralT]]] = {leaf: [] for leaf in uplinks.nodes}
    taken: dict[tuple[JobId, int], cp_model.IntVar] = {}
    inside = {wish.job_id for wish in moving}
    for job_id, (seats, own) in sorted(now.items()):
        if job_id not in inside:
            for leaf, count in uplinks.spread(seats).items():
                load[leaf].append(round(_LINK * own.sensitivity * count / uplinks.nodes[leaf]))
                users[leaf].append((job_id, model.new_constant(1)))
    for wish in moving:
        job_id, own, count = wish.job_id, now[wish.job_id][1], wish.shape.nodes
        mine = {node: model.new_bool_var("") for node in nodes if roomy[job_id][node]}
        sits = {board.index[name] for name, _ in now[job_id][0]}
        at = {leaf: [mine[node] for node in mine if leaf_of[node] == leaf] for leaf in leaves}
        before = uplinks.spread(now[job_id][0])
        here = {leaf: sum(1 for node in sits if leaf_of[node] == leaf) for leaf in leaves}
        model.add(sum(mine.values()) == count)
        for node, variable in mine.items():
            model.add_hint(variable, node in sits)
            taken[job_id, node] = variable
        used = {leaf: model.new_bool_var("") for leaf in leaves}
        crosses = model.new_bool_var("")
        model.add_hint(crosses, bool(before))
        model.add(sum(used.values()) <= 1).only_enforce_if(~crosses)
        for leaf in leaves:
            model.add_hint(used[leaf], here[leaf] > 0)
            model.add(sum(at[leaf]) <= count * used[leaf])
            sends, both = model.new_int_var(0, count, ""), model.new_bool_var("")
            model.add(sends >= sum(at[leaf])).only_enforce_if(crosses)
            model.add_bool_or(~used[leaf], ~crosses, both)
            model.add_hint(sends, before.get(leaf, 0))
            model.add_hint(both, leaf in before)
            load[leaf].append(round(_LINK * own.sensitivity / uplinks.nodes[leaf]) * sends)
            users[leaf].append((job_id, both))
    for node in nodes:
        model.add_at_most_one(taken[job_id, node] for job_id in inside if (job_id, node) in taken)
    _add_losses(model, load, users, now, limits)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = limits.deterministic_time
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return {}
    return {
        wish.job_id: board.seats(
            [n for n in nodes if (wish.job_id, n) in taken and solver.boolean_value(taken[wish.job_id, n])],
            wish.shape.gpus_per_node,
        )
        for wish in moving
    }


def _add_losses(
    model: cp_model.CpModel,
    load: Mapping[str, list[cp_model.LinearExprT]],
    users: Mapping[str, list[tuple[JobId, cp_model.LiteralT]]],
    now: Mapping[JobId, tuple[Seats, Traffic]],
    limits: Neighbourhood,
) -> None:
    """Minimise the goodput lost by all jobs; of equal placements any is as good."""
    before = ratios(limits.uplinks, now)
    heaviest = sum(
        own.sensitivity * len(seats) / min(limits.uplinks.nodes.values(), default=1.0) for seats, own in now.values()
    )
    most = math.ceil(min(heaviest, _LONGEST) * _LINK / _STEP) + 2
    losses = []
    for job_id, (_, own) in sorted(now.items()):
        links = [(leaf, flag) for leaf, using in users.items() for user, flag in using if user == job_id]
        if not links:
            continue
        stretch = model.new_int_var(0, most, "")
        for leaf, flag in links:
            model.add(_LINK + _STEP * stretch >= sum(load[leaf])).only_enforce_if(flag)
        table = [round(_GOODPUT * (1.0 - own.ratio(1.0 + step * _STEP / _LINK))) for step in range(most + 1)]
        loss = model.new_int_var(0, _GOODPUT, "")
        model.add_element(stretch, table, loss)
        model.add_hint(loss, round(_GOODPUT * (1.0 - before[job_id])))
        losses.append(loss)
    model.minimize(sum(losses))
