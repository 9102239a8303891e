"""The real daemon, told by a test where to move which job and where to stop: a breakpoint before or after any step.

Runs the production entry point with three seams: decisions for ordered jobs are replaced, and the move log and the
actor stop at breakpoints until the test lets them go on or kills the process. What a move does is never changed.
Usage: python -m tests.cluster.fear.driver CONFIG MODE
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slurmsia_daemon import __main__ as production
from slurmsia_daemon import cycle
from slurmsia_daemon.movelog import StoreMoveLog

from slurmsia.cluster import Job, JobState, Shape
from slurmsia.moves.act import Actor
from slurmsia.moves.move import Move
from slurmsia.plan import Plan, Target, TargetKind

FOLDER = Path("/var/lib/slurmsia-fear")
ORDERS = FOLDER / "orders.json"


def stop_at(job_id: str, phase: str, moment: str) -> None:
    """Wait at a breakpoint that the test has set (each stops once), until the test lets go."""
    mark = f"{job_id}.{phase}.{moment}"
    try:
        (FOLDER / f"break.{mark}").rename(FOLDER / f"reached.{mark}")
    except FileNotFoundError:
        return
    while not (FOLDER / f"go.{mark}").exists():
        time.sleep(0.05)


def told(target: Target, job: Job, order: Mapping[str, Any] | None) -> Target:
    """What the test wants of a job; without an order a running job stays and a waiting one is really decided."""
    if target.kind is TargetKind.LEAVE:
        return target
    held = job.allocation
    if order is not None and order.get("wait"):
        return replace(target, kind=TargetKind.QUEUE, shape=None, gpus_by_node=())
    if order is not None and order["run"] == job.restarts:
        shape = Shape(*order["shape"])
        nodes = tuple((name, gpus) for name, gpus in order["nodes"])
        there = held is not None and held.shape == shape and (not order["pin"] or held.gpus_by_node == nodes)
        if not there:
            kind = TargetKind.START if job.state is JobState.PENDING else TargetKind.MOVE
            return replace(target, kind=kind, shape=shape, gpus_by_node=nodes, pin=order["pin"], urgency=1.0)
    if job.state is JobState.RUNNING and held is not None:
        return replace(target, kind=TargetKind.KEEP, shape=held.shape, gpus_by_node=held.gpus_by_node)
    return target


def dictate() -> None:
    """Replace the targets of a round's plan by what the test ordered."""
    decide = cycle.decide

    def decided(snapshot: Any, *rest: Any, **options: Any) -> Plan:
        plan = decide(snapshot, *rest, **options)
        orders = json.loads(ORDERS.read_text()) if ORDERS.exists() else {}
        jobs = {job.id: job for job in snapshot.jobs}
        targets = tuple(told(target, jobs[target.job_id], orders.get(target.job_id)) for target in plan.targets)
        return replace(plan, targets=targets)

    cycle.decide = decided


def set_breakpoints() -> None:
    """Stop before a phase is written down, after that, and after the calls that it names."""
    begin, save, carry_out = StoreMoveLog.begin, StoreMoveLog.save, Actor._carry_out

    def begun(log: StoreMoveLog, moves: Sequence[Move]) -> Sequence[Move]:
        for move in moves:
            stop_at(move.job_id, move.phase.value, "before")
        durable = begin(log, moves)
        for move in durable:
            stop_at(move.job_id, move.phase.value, "saved")
        return durable

    def saved(log: StoreMoveLog, move: Move) -> None:
        stop_at(move.job_id, move.phase.value, "before")
        save(log, move)
        stop_at(move.job_id, move.phase.value, "saved")

    def carried_out(actor: Actor, one: Any, errors: list[str]) -> None:
        carry_out(actor, one, errors)
        stop_at(one.after.job_id, one.after.phase.value, "called")

    StoreMoveLog.begin = begun  # type: ignore[method-assign]
    StoreMoveLog.save = saved  # type: ignore[method-assign]
    Actor._carry_out = carried_out  # type: ignore[method-assign]


if __name__ == "__main__":
    dictate()
    set_breakpoints()
    sys.exit(production.serve(Path(sys.argv[1]), sys.argv[2]))
