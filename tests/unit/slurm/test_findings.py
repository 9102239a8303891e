"""Every finding of the preflight check: what makes it good, and what makes it warn or fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slurmsia.cluster import Node, NodeState, Partition, Site
from slurmsia.slurm import findings as f
from slurmsia.slurm.findings import Finding, Level
from slurmsia.slurm.sitefacts import SiteFacts

GOOD = {
    "JobRequeue": "1",
    "JobFileAppend": "1",
    "RequeueExitHold": "",
    "SchedulerParameters": "bf_interval=30",
    "SlurmctldParameters": "",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageTRES": "cpu,mem,gres/gpu,gres/gpu:a100",
    "AccountingStorageEnforce": "associations,limits,qos",
    "MinJobAge": "300 sec",
    "JobSubmitPlugins": "lua",
    "AuthInfo": "cred_expire=120",
    "PreemptMode": "OFF",
}
SITE = Site(slurm_version=(24, 11, 5), requeue_delay_s=121.0, kill_wait_s=30.0)


def facts(site: Site = SITE, **config: str) -> SiteFacts:
    return SiteFacts(site, {**GOOD, **config})


def node(name: str = "n1", **more: object) -> Node:
    made = Node(name=name, gpu_type="a100", gpus=8, cpus=64, memory_mb=1000, state=NodeState.UP)
    return replace(made, **more)  # type: ignore[arg-type]


def level_of(found: Finding | list[Finding], check: str) -> Level:
    listed = found if isinstance(found, list) else [found]
    return next(one.level for one in listed if one.check == check)


CHECKS: list[tuple[str, Callable[[SiteFacts], Finding | list[Finding]]]] = [
    ("slurm-version", f.version),
    ("requeue-delay", lambda given: f.requeue_delay(given, 60.0)),
    ("job-requeue", f.job_requeue),
    ("job-file-append", f.job_file_append),
    ("kill-wait", f.kill_wait),
    ("requeue-exit-hold", f.requeue_exit_hold),
    ("defer", f.scheduler_parameters),
    ("sched-min-interval", f.scheduler_parameters),
    ("accounting", f.accounting),
    ("limits", f.accounting),
    ("min-job-age", lambda given: f.min_job_age(given, 60.0)),
    ("job-submit", f.submit_hooks),
    ("preemption", f.preemption),
]


@pytest.mark.parametrize(("check", "examine"), CHECKS, ids=[name for name, _ in CHECKS])
def test_a_well_kept_site_has_nothing_to_mend(
    check: str, examine: Callable[[SiteFacts], Finding | list[Finding]]
) -> None:  # fmt: skip
    found = examine(facts())
    assert level_of(found, check) is Level.OK
    for one in found if isinstance(found, list) else [found]:
        assert one.level is Level.OK, one
        assert one.mend == ""


@pytest.mark.parametrize(
    ("check", "level", "given"),
    [
        ("slurm-version", Level.FAIL, facts(replace(SITE, slurm_version=(21, 8, 0)))),
        ("slurm-version", Level.WARN, facts(replace(SITE, slurm_version=(27, 5, 0)))),
        ("requeue-delay", Level.FAIL, facts(replace(SITE, requeue_delay_s=5.0))),
        ("requeue-delay", Level.WARN, facts(replace(SITE, requeue_delay_s=45.0))),
        ("requeue-delay", Level.WARN, facts(replace(SITE, requeue_delay_s=3600.0))),
        ("job-requeue", Level.WARN, facts(JobRequeue="0")),
        ("job-file-append", Level.WARN, facts(JobFileAppend="0")),
        ("kill-wait", Level.WARN, facts(replace(SITE, kill_wait_s=300.0))),
        ("requeue-exit-hold", Level.WARN, facts(RequeueExitHold="75")),
        ("defer", Level.WARN, facts(SchedulerParameters="defer,bf_interval=30")),
        ("sched-min-interval", Level.WARN, facts(SchedulerParameters="sched_min_interval=9000000")),
        ("job-shrink", Level.WARN, facts(replace(SITE, job_shrink_allowed=False))),
        ("extra-constraints", Level.OK, facts(SchedulerParameters="extra_constraints")),
        ("rate-limiting", Level.WARN, facts(SlurmctldParameters="rl_enable")),
        ("accounting", Level.WARN, facts(AccountingStorageType="(null)")),
        ("accounting-tres", Level.WARN, facts(AccountingStorageTRES="cpu,mem,gres/gpu")),
        ("limits", Level.WARN, facts(AccountingStorageEnforce="associations")),
        ("min-job-age", Level.WARN, facts(MinJobAge="30 sec")),
        ("job-submit", Level.WARN, facts(JobSubmitPlugins="")),
        ("job-submit", Level.WARN, facts(JobSubmitPlugins="require_timelimit")),
        ("preemption", Level.WARN, facts(PreemptMode="REQUEUE", PreemptType="preempt/partition_prio")),
    ],
)
def test_every_trouble_is_found_with_what_to_change(check: str, level: Level, given: SiteFacts) -> None:
    examined = [examine(given) for _, examine in CHECKS]
    listed = [one for found in examined for one in (found if isinstance(found, list) else [found])]
    found = [one for one in listed if one.check == check]
    assert found, check
    assert {one.level for one in found} == {level}
    assert all(one.what for one in found)
    assert all(bool(one.mend) is (level is not Level.OK) for one in found)


def test_the_explicit_requeue_delay_and_cred_expire_are_told_apart() -> None:
    both = facts(SchedulerParameters="requeue_delay=60", AuthInfo="cred_expire=120")
    found = f.requeue_delay(SiteFacts(replace(SITE, requeue_delay_s=60.0), both.config), 30.0)
    assert found.level is Level.WARN
    assert "cred_expire" in found.what


def test_partitions_of_different_tiers_warn_only_where_they_share_nodes() -> None:
    low = Partition("low", nodes=frozenset({"n1", "n2"}), priority_tier=1)
    high = Partition("high", nodes=frozenset({"n2"}), priority_tier=5)
    apart = Partition("apart", nodes=frozenset({"n9"}), priority_tier=9)
    assert f.partition_tiers([low, apart]).level is Level.OK
    found = f.partition_tiers([low, apart, high])
    assert found.level is Level.WARN
    assert "low" in found.what
    assert "high" in found.what


def test_gpu_nodes_without_one_known_type_are_a_failure() -> None:
    assert level_of(f.gpu_types([node()]), "gpu-types") is Level.OK
    unknown = node("n2", gpu_type=None, state=NodeState.UNUSABLE, reason="the GPU type cannot be told")
    found = f.gpu_types([node(), unknown])
    assert [one.level for one in found] == [Level.FAIL]
    assert "n2" in found[0].what
    assert level_of(f.gpu_types([]), "gpu-types") is Level.FAIL


def test_unusable_nodes_are_counted_and_named() -> None:
    assert f.node_states([node()]).level is Level.OK
    down = [node(f"n{number}", state=NodeState.UNUSABLE) for number in range(6)]
    found = f.node_states([node(), *down])
    assert found.level is Level.WARN
    assert found.what.startswith("6 GPU nodes")


def test_the_exit_code_is_that_of_the_worst_finding() -> None:
    assert f.exit_code([f.ok("a", "")]) == 0
    assert f.exit_code([f.ok("a", ""), f.warn("b", "", "x")]) == 1
    assert f.exit_code([f.warn("b", "", "x"), f.fail("c", "", "y")]) == 2
