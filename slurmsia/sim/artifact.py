"""The public simulator's world: discrete rounds, its restart charges and none of Slurm's latencies (ARTIFACT.md 3).

Only the accounting is the artifact's. What decides is production's: a policy's terms become a `Program`, and
`solver.solve` solves it. Used for the fidelity comparison; `honest` physics is what results should be quoted from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..cluster import Shape
from ..models.base import (
    BatchLimits,
    EfficiencyModel,
    GoodputMatrix,
    JobModel,
    RestartCost,
    TypeModel,
)
from ..policy.base import Candidate, Policy, RoundProblem, Terms
from ..solver.program import CapacityRow, Program, Solution, SolverLimits
from ..solver.serve import serve
from .applications import facts
from .artifact_estimates import Columns
from .artifact_job import ArtifactJob, make_job
from .artifact_placement import gpus_on_nodes, place_fast
from .clusters import SimCluster
from .profiles import Profiles
from .result import JobResult
from .workloads import Workload

Solve = Callable[[Program, SolverLimits], Solution]

#: Rounded costs tie all the time and the public code leaves ties to its solver's branching. Here the larger
#: configuration wins them: the whole cluster is worth this much, well below one step of the rounding.
TIE_WORTH = 2e-3
#: Gap at which such ties are settled.
TIE_GAP = 1e-6
#: A simulation in which no job ends for so many rounds is stuck.
MOST_IDLE_ROUNDS = 20_000


@dataclass
class ArtifactRun:
    """What a run of the artifact's world leaves behind; `runner` turns it into a `RunResult`."""

    jobs: tuple[JobResult, ...] = ()
    rounds: int = 0
    solve_ms: list[float] = field(default_factory=list)
    moves_uncharged: int = 0
    contention: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ArtifactWorld:
    """Everything that stays the same during a run. ``project``: estimate types a job has not run on from one it has."""

    cluster: SimCluster
    profiles: Profiles
    policy: Policy
    solve: Solve
    limits: SolverLimits
    interval_s: float = 60.0
    project: bool = True
    rigid: bool = False


def simulate_artifact(
    world: ArtifactWorld, workload: Workload, tick: Callable[[int, float], None] | None = None
) -> ArtifactRun:
    """Run one workload to its end. ``tick(jobs finished, simulated seconds)`` is called once a round.

    Each step advances the jobs by one round and then decides, as the public simulator does.
    """
    shapes = () if world.rigid else world.cluster.artifact_shapes()
    asked = [job.gpus for job in workload.jobs if world.rigid or job.category == "rigid"]
    shapes = (*shapes, *(shape for shape in requested_shapes(world.cluster, asked) if shape not in shapes))
    columns = Columns(
        shapes,
        tuple(group.gpu_type for group in world.cluster.types),
        {group.gpu_type: group.gpus_per_node for group in world.cluster.types},
        0 if world.rigid else len(world.cluster.artifact_shapes()),
    )
    jobs = [
        make_job(
            trace,
            world.profiles.application(trace.application),
            columns,
            world.project,
            world.rigid,
        )
        for trace in workload.jobs
    ]
    rows = capacity_rows(world.cluster, shapes)
    run = ArtifactRun()
    nodes_held: dict[str, tuple[str, tuple[int, ...]]] = {}
    now_s, arrived, finished, idle_rounds = 0.0, 0, 0, 0
    live: list[ArtifactJob] = []
    while finished < len(jobs):
        for job in live:
            job.advance(now_s, world.interval_s)
        now_s += world.interval_s
        ended = sum(job.end_s is not None for job in live)
        finished += ended
        idle_rounds = 0 if ended else idle_rounds + 1
        live = [job for job in live if job.end_s is None]
        while arrived < len(jobs) and jobs[arrived].trace.submit_s <= now_s:
            live.append(jobs[arrived])
            arrived += 1
        if live:
            run.rounds += 1
            run.contention.append(len(live))
            for job in live:
                job.contention_sum += len(live)
                job.rounds += 1
            choice = _decide(world, columns, rows, live, now_s, run)
            nodes_held = _apply(world, shapes, live, choice, now_s, nodes_held, run)
        elif arrived < len(jobs):
            idle = int((jobs[arrived].trace.submit_s - now_s) // world.interval_s)
            now_s += max(idle, 0) * world.interval_s
            idle_rounds = 0
        if tick is not None:
            tick(finished, now_s)
        if idle_rounds > MOST_IDLE_ROUNDS:
            raise RuntimeError(
                f"{workload.name}: no job has ended for {idle_rounds} rounds under policy {world.policy.name}; "
                f"{len(live)} are unfinished, the first is {live[0].trace.name}"
            )
    run.jobs = tuple(job.result(now_s) for job in jobs)
    return run


def requested_shapes(cluster: SimCluster, sizes: Sequence[int]) -> tuple[Shape, ...]:
    """For jobs that are never resized: every size that is asked for, on every type that is big enough."""
    return tuple(
        Shape(group.gpu_type, -(-size // group.gpus_per_node), size)
        for group in cluster.types
        for size in sorted(set(sizes))
        if size <= group.gpus
    )


def capacity_rows(cluster: SimCluster, shapes: Sequence[Shape]) -> tuple[CapacityRow, ...]:
    """One row per GPU type over its total GPUs: the public program's only capacity (it places what fits in sum)."""
    return tuple(
        CapacityRow(
            group.gpu_type,
            np.array([shape.gpus if shape.gpu_type == group.gpu_type else 0 for shape in shapes], dtype=np.int64),
            group.gpus,
        )
        for group in cluster.types
    )


def _decide(
    world: ArtifactWorld,
    columns: Columns,
    rows: tuple[CapacityRow, ...],
    live: Sequence[ArtifactJob],
    now_s: float,
    run: ArtifactRun,
) -> Sequence[int]:
    problem = _problem(world, columns, live, now_s)
    begun = time.perf_counter()
    said = world.policy.terms(problem)
    pinned = np.array([c.current if c.pinned else -1 for c in problem.candidates], dtype=np.int64)
    if isinstance(said, Terms):
        hint = np.array([c.current for c in problem.candidates], dtype=np.int64)
        value = said.value + TIE_WORTH * tie_order(world.cluster, columns)
        program = Program(value, problem.valid, rows, (), pinned, hint)
        choice: Sequence[int] = world.solve(program, world.limits).choice
    else:
        choice = serve(said, problem.valid, pinned, rows).tolist()
    run.solve_ms.append((time.perf_counter() - begun) * 1000.0)
    return choice


def tie_order(cluster: SimCluster, columns: Columns) -> NDArray[np.float64]:
    """[configurations] in [0, 1]: larger ones first, among equals the type with more GPUs."""
    total = {group.gpu_type: group.gpus for group in cluster.types}
    pool = np.array([total[name] for name in columns.types])[columns.type_index]
    return np.asarray((columns.gpus + 0.1 * pool / cluster.gpus) / (1.1 * cluster.gpus))


def _problem(world: ArtifactWorld, columns: Columns, live: Sequence[ArtifactJob], now_s: float) -> RoundProblem:
    ids = tuple(job.trace.name for job in live)
    goodput = np.array([job.estimate.goodput_row() for job in live])
    valid = goodput > 0
    for i, job in enumerate(live):
        fixed_size = world.rigid or job.trace.category == "rigid"
        if fixed_size:
            valid[i] = columns.gpus == job.trace.gpus
        else:
            valid[i] &= columns.elastic
        if job.config >= 0:
            valid[i, job.config] = True
            if goodput[i, job.config] <= 0:
                goodput[i, job.config] = goodput[i][goodput[i] > 0].min(initial=1.0)
    nothing = np.zeros(goodput.shape, dtype=np.int64)
    matrix = GoodputMatrix(ids, goodput, goodput, nothing, nothing, np.zeros(goodput.shape))
    totals = {group.gpu_type: group.gpus for group in world.cluster.types}
    return RoundProblem(
        now_s=now_s,
        round_s=world.interval_s,
        candidates=tuple(_candidate(job, now_s) for job in live),
        shapes=columns.shapes,
        matrix=matrix,
        valid=valid,
        models={job.trace.name: model(job) for job in live},
        capacity_gpus=totals,
        total_gpus=totals,
    )


def _candidate(job: ArtifactJob, now_s: float) -> Candidate:
    return Candidate(
        job_id=job.trace.name,
        current=job.config,
        pinned=job.restoring_s > 0 and job.config >= 0,
        age_s=now_s - job.trace.submit_s,
        waited_s=0.0 if job.placement else now_s - max(job.last_held_s, job.trace.submit_s),
        service_gpu_s=job.service_gpu_s,
        restarts=job.restarts or 0,
        requested=Shape("", 1, job.trace.gpus),
        max_gpus=64,
    )


def model(job: ArtifactJob) -> JobModel:
    """The job's estimate in the form every policy takes; work is what a job that declares its target would report."""
    known = job.estimate.params
    moments = job.estimate.moments
    return JobModel(
        job_id=job.trace.name,
        types={
            name: TypeModel(name, params, "fit", 0.1, max_gpus_seen=job.estimate.seen.get(name, 0))
            for name, params in known.items()
        },
        batch=BatchLimits(job.truth.initial_batch, job.estimate.cap, 1, None, job.fixed_batch is None),
        efficiency=EfficiencyModel() if moments is None else EfficiencyModel(*moments),
        restart=RestartCost(facts(job.truth.name).restart_believed_s, 0.0, "artifact"),
        known=bool(known),
        units=dict.fromkeys(job.estimate.columns.types, job.trace.gpus) if job.trace.category == "rigid" else {},
        work_remaining=job.work_remaining,
        remaining_source="declared",
    )


def _apply(
    world: ArtifactWorld,
    shapes: Sequence[Shape],
    live: Sequence[ArtifactJob],
    choice: Sequence[int],
    now_s: float,
    held: Mapping[str, tuple[str, tuple[int, ...]]],
    run: ArtifactRun,
) -> dict[str, tuple[str, tuple[int, ...]]]:
    nodes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for group in world.cluster.types:
        wanted = [
            (job.trace.name, shapes[c].gpus)
            for job, c in zip(live, choice, strict=False)
            if c >= 0 and shapes[c].gpu_type == group.gpu_type
        ]
        for name, where in place_fast(group, wanted).items():
            nodes[name] = (group.gpu_type, where)
    for job, c in zip(live, choice, strict=False):
        name = job.trace.name
        if c < 0:
            job.place(now_s, None, (), -1)
            continue
        gpu_type, where = nodes[name]
        placement = gpus_on_nodes(where)
        if (gpu_type, placement) == (job.gpu_type, job.placement) and held.get(name) != nodes[name]:
            run.moves_uncharged += 1
        job.place(now_s, gpu_type, placement, c)
    return nodes
