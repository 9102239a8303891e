"""``slurmsia bench moves``: what the emulated cluster and the driver of moves cost, without models and solver.

A stream of jobs runs on the heterogeneous 64-GPU cluster; every round a trivial planner starts what fits and moves one
job in eight at random. What is left of a simulation's time when deciding costs nothing.
"""

from __future__ import annotations

import json
import random
import resource
import time
from collections import Counter

import click

from slurmsia.cluster import JobState, Shape, Snapshot
from slurmsia.config.site import GpuTypeSection
from slurmsia.moves.act import Actor
from slurmsia.moves.channel import ReportedJobs
from slurmsia.moves.log import MemoryMoveLog
from slurmsia.plan import Plan, Target, TargetKind
from slurmsia.slurm.emulator import Emulator, FixedWork, Submission, gang

_WORDS = "sia: gpus=1-8 level=restartable signal=USR1@60"


def _plan(snapshot: Snapshot, actor: Actor, rng: random.Random) -> Plan:
    free = {node.name: node.gpus for node in snapshot.nodes}
    kinds = {node.name: node.gpu_type or "" for node in snapshot.nodes}
    for job in snapshot.jobs:
        for name, gpus in job.allocation.gpus_by_node if job.allocation else ():
            free[name] -= gpus
    for move in actor.flights.values():
        for name, gpus in move.gpus_by_node:
            free[name] -= gpus
    targets = []
    for job in snapshot.jobs:
        if job.state is JobState.ENDED or job.completing:
            continue
        if job.id in actor.flights:
            move = actor.flights[job.id]
            targets.append(Target(job.id, TargetKind.MOVE, move.target, move.gpus_by_node))
            continue
        pending = job.state is JobState.PENDING
        if not pending and rng.random() > 0.125:
            targets.append(Target(job.id, TargetKind.KEEP))
            continue
        size = rng.choice((1, 2, 4, 8))
        node = next((name for name, gpus in free.items() if gpus >= size), None)
        if node is None:
            targets.append(Target(job.id, TargetKind.QUEUE if pending else TargetKind.KEEP))
            continue
        free[node] -= size
        kind = TargetKind.START if pending else TargetKind.MOVE
        targets.append(Target(job.id, kind, Shape(kinds[node], 1, size), ((node, size),)))
    return Plan(tuple(targets), (), "bench", 0.0, 0.0, 0.0, "", "")


@click.command("moves")
@click.option("--jobs", default=960, show_default=True, help="Jobs in all.")
@click.option("--hours", default=50.0, show_default=True, help="Virtual hours over which they arrive.")
@click.option("--seed", default=0, show_default=True, help="Seed of the arrivals and of the planner.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def moves_bench(jobs: int, hours: float, seed: int, as_json: bool) -> None:
    """Emulated cluster and driver of moves: time by part, moves by outcome, memory.

    \b
    Example:
      slurmsia bench moves --jobs 960 --hours 50
    """
    rng = random.Random(seed)
    channel = ReportedJobs()
    emulator = Emulator("hetero64", seed=seed, on_report=channel.hear)
    types = {name: GpuTypeSection(feature=name) for name in emulator.cluster.gpus}
    actor = Actor(emulator.client(), MemoryMoveLog(), types=types, channel=channel)
    arrivals = sorted(rng.uniform(0.0, hours * 3600.0) for _ in range(jobs))
    spent: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    rounds = ticks = 0

    def timed(part: str, begun: float) -> float:
        now = time.perf_counter()
        spent[part] += now - begun  # type: ignore[assignment]
        return now

    began = clock = time.perf_counter()
    next_round_s = 60.0
    while arrivals or any(job.state is not JobState.ENDED for job in emulator.jobs()):
        until_s = next_round_s if not actor.flights else min(next_round_s, emulator.now_s + 2.0)
        while arrivals and arrivals[0] <= until_s:
            emulator.run_until(arrivals.pop(0))
            work = FixedWork(rng.lognormvariate(8.5, 1.2), save_s=10.0, load_s=20.0, report_every_s=60.0)
            emulator.submit(Submission(gang(rng.choice((1, 2, 4))), comment=_WORDS), work)
        emulator.run_until(until_s)
        clock = timed("emulator", clock)
        if emulator.now_s >= next_round_s:
            snapshot = actor.client.snapshot()
            clock = timed("snapshot", clock)
            plan = _plan(snapshot, actor, rng)
            clock = timed("planner", clock)
            actor.submit(plan, snapshot)
            clock = timed("submit", clock)
            next_round_s += 60.0
            rounds += 1
        done = actor.tick()
        ticks += 1
        outcomes.update(f"{move.kind.value} {move.phase.value}" for move in done.finished)
        clock = timed("tick", clock)
    result: dict[str, object] = {
        "jobs": jobs,
        "virtual_hours": round(emulator.now_s / 3600.0, 1),
        "rounds": rounds,
        "ticks": ticks,
        "events": emulator.events,
        "wall_s": round(time.perf_counter() - began, 2),
        "wall_s_by_part": {part: round(seconds, 2) for part, seconds in sorted(spent.items())},
        "us_per_event": round(1e6 * spent["emulator"] / max(emulator.events, 1), 1),
        "us_per_tick": round(1e6 * spent["tick"] / max(ticks, 1), 1),
        "moves": dict(sorted(outcomes.items())),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0, 1),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    for key, value in result.items():
        click.echo(f"{key}: {value}")
