"""``slurmsia bench decide``: time of one whole decision on a made-up busy cluster, without any Slurm.

The cluster and its jobs are drawn from a seed, so that runs on two machines see the same rounds. Never used outside
benches.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from random import Random

import click

from slurmsia.cluster import (
    Allocation,
    GpuForm,
    GpuType,
    Job,
    JobId,
    JobState,
    Node,
    Partition,
    Request,
    Snapshot,
)
from slurmsia.models.base import BatchLimits, EfficiencyModel, JobModel, RestartCost, ThroughputParams, TypeModel

#: name, GPUs per node, seconds per sample relative to the middle type
_TYPES = (("a100", 8, 0.5), ("rtx", 8, 1.0), ("t4", 4, 2.0))


@click.command()
@click.option("--jobs", default=1000, show_default=True, help="Live jobs, four in five of them declared.")
@click.option("--nodes", default=250, show_default=True, help="Nodes, in thirds of three GPU types.")
@click.option("--rounds", default=7, show_default=True, help="Rounds measured.")
@click.option("--seed", default=1, show_default=True, help="Seed of the cluster and the jobs.")
@click.option("--policy", default="sia", show_default=True, help="Policy that decides.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def decide_bench(jobs: int, nodes: int, rounds: int, seed: int, policy: str, as_json: bool) -> None:
    """Time of `decide` by part: the first round with an empty goodput table, then rounds that follow on each other.

    \b
    Example:
      slurmsia bench decide --jobs 1000 --nodes 250
    """
    from slurmsia.config import Config
    from slurmsia.models.goodput import GoodputTable
    from slurmsia.placement import check
    from slurmsia.round import decide

    config = Config.model_validate({"policy": {"name": policy}})
    snapshot, models = busy_cluster(jobs, nodes, seed)
    table = GoodputTable()
    begun = time.perf_counter()
    plan = decide(snapshot, models, {}, config, table)
    first_ms = (time.perf_counter() - begun) * 1e3
    times_ms, cpu_ms, solve_ms, errors, gaps = [], [], [], len(check(snapshot, plan)), []
    for number in range(rounds):
        snapshot = followed(snapshot, plan, seed + number)
        begun, worked = time.perf_counter(), time.process_time()
        plan = decide(snapshot, models, {}, config, table)
        times_ms.append((time.perf_counter() - begun) * 1e3)
        cpu_ms.append((time.process_time() - worked) * 1e3)
        solve_ms.append(sum(plan.stats.times_s.values()) * 1e3)
        errors += len(check(snapshot, plan))
        gaps.append(plan.gap)
    result = {
        "jobs": jobs,
        "nodes": nodes,
        "policy": policy,
        "first_ms": round(first_ms, 1),
        "median_ms": round(statistics.median(times_ms), 1),
        "worst_ms": round(max(times_ms), 1),
        "median_cpu_ms": round(statistics.median(cpu_ms), 1),
        "worst_cpu_ms": round(max(cpu_ms), 1),
        "solve_median_ms": round(statistics.median(solve_ms), 1),
        "rest_median_ms": round(statistics.median([a - b for a, b in zip(times_ms, solve_ms, strict=True)]), 1),
        "gap_worst": max(gaps),
        "invalid_placements": errors,
        "last_round": plan.sentence,
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(plan.sentence)
    click.echo(
        f"decide, {jobs} jobs on {nodes} nodes: first {first_ms:.0f} ms, then median {result['median_ms']} ms, worst "
        f"{result['worst_ms']} ms of {rounds} (processor {result['median_cpu_ms']} and {result['worst_cpu_ms']} ms; "
        f"solver {result['solve_median_ms']} ms, the rest "
        f"{result['rest_median_ms']} ms); {errors} invalid placements"
    )


def busy_cluster(jobs: int, nodes: int, seed: int) -> tuple[Snapshot, dict[JobId, JobModel]]:
    """A cluster of three GPU types with running and waiting jobs, each with a model of its own."""
    draw = Random(seed)
    machines = sorted(
        (
            _node(f"{name}-{number // 3:04d}", name, gpus)
            for number in range(nodes)
            for name, gpus, _ in [_TYPES[number % 3]]
        ),
        key=lambda node: node.name,
    )
    free = {node.name: node.gpus for node in machines}
    live = [_job(str(1000 + number), draw, machines, free) for number in range(jobs)]
    models = {job.id: _model(job.id, draw) for job in live}
    snapshot = Snapshot(
        taken_s=40_000.0,
        nodes=tuple(machines),
        jobs=tuple(sorted(live, key=lambda job: job.id)),
        gpu_types=tuple(GpuType(name) for name, _, _ in _TYPES),
        partitions=(Partition("gpu", nodes=frozenset(node.name for node in machines)),),
    )
    return snapshot, models


def followed(snapshot: Snapshot, plan: object, seed: int) -> Snapshot:
    """The same cluster a round later: the plan is carried out and one running job in twenty has ended."""
    from dataclasses import replace

    from slurmsia.plan import Plan, TargetKind

    assert isinstance(plan, Plan)
    draw = Random(seed)
    targets = {target.job_id: target for target in plan.targets}
    jobs = []
    for job in snapshot.jobs:
        if draw.random() < 0.05 and job.state is JobState.RUNNING:
            continue
        target = targets.get(job.id)
        if target is not None and target.kind in (TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE):
            assert target.shape is not None
            held = Allocation(target.shape.gpu_type, target.gpus_by_node)
            request = _request(target.shape.gpus, target.shape.nodes)
            job = replace(job, state=JobState.RUNNING, start_s=snapshot.taken_s, allocation=held, request=request)
        elif target is not None and target.kind is TargetKind.SUSPEND:
            job = replace(job, state=JobState.PENDING, start_s=None, allocation=None)
        jobs.append(job)
    return replace(snapshot, taken_s=snapshot.taken_s + 300.0, jobs=tuple(jobs))


def _node(name: str, gpu_type: str, gpus: int) -> Node:
    return Node(name, gpu_type, gpus, gpus * 8, gpus * 64_000, partitions=frozenset({"gpu"}), leaf_switch=name[:-1])


def _request(gpus: int, nodes: int = 1) -> Request:
    return Request(nodes, nodes, 4 * gpus, 8_000 * gpus, gpus=gpus, gpu_form=GpuForm.PER_NODE_UNTYPED)


def _job(job_id: JobId, draw: Random, machines: list[Node], free: dict[str, int]) -> Job:
    declared = draw.random() < 0.8
    most = draw.choice((2, 4, 8, 16, 32))
    node, gpus = draw.choice(machines), min(draw.choice((1, 1, 2, 4)), most)
    held = None
    if draw.random() < 0.5 and free[node.name] >= gpus:
        free[node.name] -= gpus
        held = Allocation(node.gpu_type, ((node.name, gpus),))
    return Job(
        id=job_id,
        user_id=1000 + int(job_id) % 37,
        state=JobState.RUNNING if held else JobState.PENDING,
        submit_s=draw.uniform(0.0, 30_000.0),
        comment=f"sia: gpus=1-{most} batch=128:4096 local=16:256 signal=USR1@60" if declared else "",
        partitions=("gpu",),
        priority=draw.uniform(1.0, 1000.0),
        reason="" if held else "Resources",
        start_s=30_000.0 if held else None,
        request=_request(gpus if held else 1),
        allocation=held,
    )


def _model(job_id: JobId, draw: Random) -> JobModel:
    speed, network = draw.lognormvariate(0.0, 0.7), draw.lognormvariate(0.0, 0.8)
    types: Mapping[str, TypeModel] = {
        name: TypeModel(
            name,
            ThroughputParams(
                alpha_c=0.02 * speed,
                beta_c=0.001 * slow * speed * draw.uniform(0.7, 1.4),
                alpha_n=0.05 * network,
                beta_n=0.002 * network,
                alpha_r=0.02 * network,
                beta_r=0.001 * network,
                gamma=draw.uniform(1.2, 4.0),
            ),
            "fit",
            0.05,
            256,
            1.0,
            draw.choice((1, 2, 4, 8, 16)),
            100.0,
        )
        for name, _, slow in _TYPES
    }
    return JobModel(
        job_id,
        types,
        BatchLimits(128, 4096, 16, 256, True),
        EfficiencyModel(1e-3, draw.lognormvariate(-5.5, 1.0)),
        RestartCost(draw.uniform(30.0, 250.0)),
        known=True,
    )
