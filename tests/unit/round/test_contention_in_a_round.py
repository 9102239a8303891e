"""The contention term in whole rounds: crowded jobs count as slower; where nothing is crowded it changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.cluster import Allocation, GpuType, Job, JobState, Node, Request, Snapshot
from slurmsia.config import Config
from slurmsia.models.base import BatchLimits, JobModel, RestartCost, ThroughputParams, TypeModel
from slurmsia.placement import check
from slurmsia.plan import Plan
from slurmsia.round import decide

NOW = 50_000.0
NODES = tuple(Node(f"{leaf}{i}", "a100", 4, 64, 256_000, leaf_switch=leaf) for leaf in ("a", "b") for i in (0, 1))


def running(job_id: str, *names: str, minimum: int = 8) -> Job:
    held = Allocation("a100", tuple((name, 4) for name in names)) if names else None
    return Job(
        job_id,
        1000,
        JobState.RUNNING if held else JobState.PENDING,
        submit_s=NOW - 40_000,
        comment=f"sia: gpus={minimum}-8 signal=USR1@60",
        reason="" if held else "Resources",
        start_s=NOW - 30_000 if held else None,
        request=Request(nodes=2, gpus=8, cpus=8),
        allocation=held,
    )


def model(job_id: str, network_s: float) -> JobModel:
    params = ThroughputParams(1e-8, 0.01, network_s, 1e-8, 1e-8, 1e-8, 1.0)
    kind = TypeModel("a100", params, "fit", 0.05, 64, max_gpus_seen=8)
    return JobModel(job_id, {"a100": kind}, BatchLimits(64, 512, 1, 64), restart=RestartCost(60.0), known=True)


def planned(jobs: tuple[Job, ...], network_s: dict[str, float], **placement: object) -> Plan:
    snapshot = Snapshot(NOW, NODES, jobs, (GpuType("a100"),))
    models = {job.id: model(job.id, network_s[job.id]) for job in jobs}
    plan = decide(snapshot, models, {}, Config.model_validate({"placement": placement}))
    assert check(snapshot, plan) == ()
    return plan


def test_jobs_that_crowd_each_other_count_as_slower_than_their_models_say() -> None:
    jobs = (running("7", "a0", "b0"), running("8", "a1", "b1"))
    network_s = {"7": 6.4, "8": 6.4}
    alone = planned(jobs, network_s)
    crowded = planned(jobs, network_s, contention=True, oversubscription=2.0)
    for before, after in zip(alone.targets, crowded.targets, strict=True):
        assert after.shape == before.shape
        assert 0.5 < after.current_goodput / before.current_goodput < 0.6
    roomy = planned(jobs, network_s, contention=True, oversubscription=1.0)
    assert roomy == alone


def test_under_one_switch_the_option_changes_no_byte_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_contention_in_a_round.NODES", tuple(replace(node, leaf_switch="a") for node in NODES))
    jobs = (running("7", "a0", "b0"), running("8"))
    network_s = {"7": 6.4, "8": 6.4}
    off, on = planned(jobs, network_s), planned(jobs, network_s, contention=True, oversubscription=8.0)
    assert repr((off.targets, off.verdicts)) == repr((on.targets, on.verdicts))
    assert {target.kind.value for target in off.targets} == {"keep", "start"}


def test_a_job_without_network_time_is_not_discounted() -> None:
    jobs = (running("7", "a0", "b0"), running("8", "a1", "b1"))
    plan = planned(jobs, {"7": 1e-8, "8": 1e-8}, contention=True, oversubscription=8.0)
    alone = planned(jobs, {"7": 1e-8, "8": 1e-8})
    for before, after in zip(alone.targets, plan.targets, strict=True):
        assert after.current_goodput == pytest.approx(before.current_goodput, rel=1e-6)
