"""Whatever the cluster looks like, a plan respects nodes, limits, pins and words, and is the same every time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slurmsia_cli.bench_decide import busy_cluster

from slurmsia.cluster import GpuLimit, JobState, NodeState, Shape, Snapshot
from slurmsia.config import Config
from slurmsia.config.policy import POLICIES
from slurmsia.declaration import Level, parse
from slurmsia.placement import check
from slurmsia.plan import Plan, TargetKind
from slurmsia.round import decide
from slurmsia.standing import Standing

_LEVELS = ("", " level=rigid", " level=moldable", " level=restartable")


def world(seed: int, jobs: int, nodes: int) -> tuple[Snapshot, dict, dict[str, Standing]]:
    """A busy cluster with drained nodes, a shared and a per-job limit, all levels of cooperation, and pins."""
    draw = Random(seed)
    snapshot, models = busy_cluster(jobs, nodes, seed)
    states = (NodeState.UP, NodeState.UP, NodeState.UP, NodeState.DRAINED, NodeState.RESERVED)
    machines = tuple(replace(node, state=draw.choice(states)) for node in snapshot.nodes)
    live, standing = [], {}
    for job in snapshot.jobs:
        if job.comment:
            job = replace(job, comment=job.comment + draw.choice(_LEVELS))
            if draw.random() < 0.15:
                pin = "operator pin" if draw.random() < 0.5 else ""
                standing[job.id] = Standing(job.id, job.submit_s, pinned_reason=pin, restoring=not pin)
        job = replace(job, account=draw.choice(("a", "b")), reason=job.reason and draw.choice(("Resources", "None")))
        live.append(job)
    limits = (
        GpuLimit("account a", draw.choice((2, 6, 20)), account="a"),
        GpuLimit("QOS per job", draw.choice((4, 8)), per_job=True),
    )
    return replace(snapshot, nodes=machines, jobs=tuple(live), limits=limits), models, standing


def broken(snapshot: Snapshot, standing: dict[str, Standing], plan: Plan) -> list[str]:
    """Every promise to a job or its user that the plan breaks."""
    wrong = list(check(snapshot, plan))
    jobs = {job.id: job for job in snapshot.jobs}
    held: dict[str, Shape | None] = {}
    for target in plan.targets:
        job = jobs[target.job_id]
        words = parse(job.comment)
        if words is None:
            wrong.append(f"{job.id}: undeclared and yet a target")
            continue
        running = job.state is JobState.RUNNING
        touched = target.kind in (TargetKind.MOVE, TargetKind.RESIZE, TargetKind.SUSPEND)
        mine = standing.get(job.id)
        if touched and (not running or words.level in (Level.RIGID, Level.MOLDABLE)):
            wrong.append(f"{job.id}: {target.kind} of a {words.level.value} job")
        if touched and mine is not None and (mine.pinned_reason or mine.restoring):
            wrong.append(f"{job.id}: pinned and yet {target.kind}")
        held[job.id] = target.shape
        if target.kind in (TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE) and target.shape is not None:
            if words.level is Level.RIGID and target.shape.gpus != job.request.gpus:
                wrong.append(f"{job.id}: rigid but {target.shape}")
            if words.level is not Level.RIGID and not words.min_gpus <= target.shape.gpus <= words.max_gpus:
                wrong.append(f"{job.id}: {target.shape} is outside gpus={words.min_gpus}-{words.max_gpus}")
            if any(limit.per_job and target.shape.gpus > limit.max_gpus for limit in snapshot.limits):
                wrong.append(f"{job.id}: {target.shape} breaks a limit per job")
    for limit in snapshot.limits:
        if limit.per_job:
            continue
        before = after = 0
        for job in snapshot.jobs:
            if job.account == limit.account:
                now = job.allocation.gpus if job.allocation is not None else 0
                before += now
                shape = held.get(job.id)
                after += now if job.id not in held else (shape.gpus if shape is not None else 0)
        if after > max(limit.max_gpus, before):
            wrong.append(f"{limit.what}: {after} GPUs planned, {limit.max_gpus} allowed, {before} held before")
    verdicts = [verdict.job_id for verdict in plan.verdicts]
    if sorted(verdicts) != sorted(job.id for job in snapshot.jobs):
        wrong.append("not exactly one verdict for each job")
    if [target.job_id for target in plan.targets] != sorted(job.id for job in snapshot.jobs if parse(job.comment)):
        wrong.append("not exactly one target for each declared job")
    return wrong


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 24), st.integers(1, 9))
def test_every_plan_respects_capacity_limits_pins_and_declarations(seed: int, jobs: int, nodes: int) -> None:
    snapshot, models, standing = world(seed, jobs, nodes)
    plan = decide(snapshot, models, standing, Config())
    assert broken(snapshot, standing, plan) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_a_valid_plan(policy: str) -> None:
    config = Config.model_validate({"policy": {"name": policy}})
    for seed in (1, 2, 3):
        snapshot, models, standing = world(seed, 18, 6)
        plan = decide(snapshot, models, standing, config)
        assert plan.stage != "previous", plan.stats.notes
        assert broken(snapshot, standing, plan) == []


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_managed_job_is_never_moved_within_its_first_seconds(seed: int) -> None:
    snapshot, models, standing = world(seed, 16, 6)
    young = replace(
        snapshot,
        jobs=tuple(
            replace(job, start_s=snapshot.taken_s - 5.0) if job.state is JobState.RUNNING else job
            for job in snapshot.jobs
        ),
    )
    plan = decide(young, models, standing, Config())
    touched = {TargetKind.MOVE, TargetKind.RESIZE, TargetKind.SUSPEND}
    assert not [target for target in plan.targets if target.kind in touched]


_PRINT_PLAN = """
import sys
sys.path.insert(0, {here!r})
from test_every_plan_holds import world
from slurmsia.config import Config
from slurmsia.round import decide
snapshot, models, standing = world(7, 60, 20)
plans = [decide(snapshot, models, standing, Config()) for _ in range(2)]
assert plans[0] == plans[1]
print(repr((plans[0].targets, plans[0].verdicts, plans[0].objective, plans[0].bound, plans[0].sentence)))
"""


def test_a_plan_is_byte_equal_whatever_the_hash_seed() -> None:
    here = os.path.dirname(__file__)
    printed = set()
    for seed in ("0", "1", "4242"):
        run = subprocess.run(
            [sys.executable, "-c", _PRINT_PLAN.format(here=here)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        printed.add(run.stdout)
    assert len(printed) == 1
    assert len(printed.pop()) > 1000
