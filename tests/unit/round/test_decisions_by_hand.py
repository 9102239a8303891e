"""Whole rounds small enough to work out by hand, and what users are told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slurmsia.cluster import Allocation, GpuType, Job, JobState, Node, NodeState, Request, Shape, Snapshot
from slurmsia.config import Config
from slurmsia.deciding.demand import Demand, collect
from slurmsia.deciding.eligibility import split_queue
from slurmsia.deciding.settle import settle
from slurmsia.models.base import BatchLimits, JobModel, RestartCost, ThroughputParams, TypeModel
from slurmsia.models.goodput import GoodputTable
from slurmsia.placement import check
from slurmsia.plan import Plan, TargetKind, Verdict
from slurmsia.round import capacity, decide
from slurmsia.standing import Standing
from slurmsia.wouldstart import StartRules

NOW = 50_000.0
WORDS = "sia: gpus=1-8 signal=USR1@60"


def job(job_id: str, node: str = "", gpus: int = 1, gpu_type: str = "t4", **change: object) -> Job:
    held = Allocation(gpu_type, ((node, gpus),)) if node else None
    made = Job(
        job_id,
        1000,
        JobState.RUNNING if held else JobState.PENDING,
        submit_s=NOW - 40_000,
        comment=WORDS,
        reason="" if held else "Resources",
        start_s=NOW - 30_000 if held else None,
        request=Request(gpus=gpus, cpus=gpus),
        allocation=held,
    )
    return replace(made, **change)


def model(job_id: str, seen: int = 4, fast: str = "a100") -> JobModel:
    """Perfect scaling; ``fast`` GPUs do twice the work."""
    types = {
        name: TypeModel(
            name, ThroughputParams(1e-8, 0.01 if name != fast else 0.005, 1e-8, 1e-8, 1e-8, 1e-8, 1.0), "fit", 0.05, 64,
            max_gpus_seen=seen,
        )
        for name in ("t4", "a100")
    }  # fmt: skip
    return JobModel(job_id, types, BatchLimits(64, 64, 1, 64), restart=RestartCost(60.0), known=True)


def nodes(*specs: tuple[str, str, int]) -> tuple[Node, ...]:
    return tuple(Node(name, kind, gpus, 64, 256_000) for name, kind, gpus in specs)


def planned(machines: tuple[Node, ...], *jobs: Job, standing: dict | None = None, **tables: dict) -> Plan:
    snapshot = Snapshot(NOW, machines, jobs, (GpuType("a100"), GpuType("t4")))
    models = {one.id: model(one.id) for one in jobs if one.comment}
    plan = decide(snapshot, models, standing or {}, Config.model_validate(tables))
    assert check(snapshot, plan) == ()
    return plan


def test_verdicts_left_out_change_nothing_that_is_decided() -> None:
    machines, jobs = nodes(("t1", "t4", 4), ("a1", "a100", 4)), (job("7", "t1", 4), job("8"))
    snapshot = Snapshot(NOW, machines, jobs, (GpuType("a100"), GpuType("t4")))
    models = {one.id: model(one.id) for one in jobs}
    said = decide(snapshot, models, {}, Config())
    silent = decide(snapshot, models, {}, Config(), verdicts=False)
    assert said.verdicts
    assert silent == replace(said, verdicts=())


def test_between_two_rounds_waiting_jobs_start_and_running_ones_keep_what_they_hold() -> None:
    machines = nodes(("t1", "t4", 4), ("t2", "t4", 2), ("a1", "a100", 4))
    jobs = (job("7", "t1", 4), job("8"), job("9", "t2", 1))
    snapshot = Snapshot(NOW, machines, jobs, (GpuType("a100"), GpuType("t4")))
    models = {one.id: model(one.id) for one in jobs}
    proper, between = (decide(snapshot, models, {}, Config(), starts_only=only) for only in (False, True))
    assert TargetKind.MOVE in {target.kind for target in proper.targets}
    assert {target.job_id: (target.kind, target.shape) for target in between.targets} == {
        "7": (TargetKind.KEEP, Shape("t4", 1, 4)),
        "8": (TargetKind.START, Shape("a100", 1, 4)),
        "9": (TargetKind.KEEP, Shape("t4", 1, 1)),
    }
    assert check(snapshot, between) == ()
    assert between.sentence.startswith("Between two rounds, starts only: 3 declared jobs: 2 keep, 1 start; ")
    assert proper.sentence.startswith("3 declared jobs: ")
    said = between.verdict("7")
    assert said is not None
    assert said.code == "keeps", "a code of its own would begin a new entry in every job's history twice a minute"
    assert said.sentence.startswith("keeps 4 t4 at ")


def test_between_two_rounds_nobody_makes_room_for_a_job_that_waits() -> None:
    plan_of = {"policy": {"name": "goodput"}}
    machines, jobs = nodes(("t1", "t4", 1)), (job("7", "t1", 1), job("8"))
    snapshot = Snapshot(NOW, machines, jobs, (GpuType("t4"),))
    models = {"7": with_left("7", 1e8), "8": with_left("8", 1e4)}
    proper, between = (
        decide(snapshot, models, {}, Config.model_validate(plan_of), starts_only=only) for only in (False, True)
    )
    assert [target.kind for target in proper.targets] == [TargetKind.SUSPEND, TargetKind.START]
    assert [target.kind for target in between.targets] == [TargetKind.KEEP, TargetKind.QUEUE]
    said = between.verdict("8")
    assert said is not None
    assert (said.code, said.term) == ("waits-for-capacity", "capacity"), "its lease is kept; the round may make room"


def demand_of(machines: tuple[Node, ...], *jobs: Job) -> Demand:
    snapshot, config = Snapshot(NOW, machines, jobs, (GpuType("a100"), GpuType("t4"))), Config()
    queue = split_queue(snapshot, {}, config.scope, config.moves.lease_s, ["a100", "t4"], config.moves.min_run_s)
    return collect(
        snapshot, queue, {one.id: model(one.id) for one in jobs}, config, StartRules(snapshot), GoodputTable()
    )


def test_a_lone_job_moves_to_the_faster_type_and_is_told_what_pays_for_it() -> None:
    plan = planned(nodes(("t1", "t4", 4), ("a1", "a100", 4)), job("7", "t1", 4))
    target, verdict = plan.targets[0], plan.verdicts[0]
    assert (target.kind, target.shape) == (TargetKind.MOVE, Shape("a100", 1, 4))
    assert verdict.code == "moves"
    assert "from 4 t4 to 4 a100: goodput 400 -> 800 samples/s pays back the 60 s restart in 60 s" in verdict.sentence


def test_a_waiting_job_starts_and_alternatives_are_named() -> None:
    plan = planned(nodes(("t1", "t4", 4)), job("7"))
    assert plan.targets[0].kind is TargetKind.START
    assert plan.targets[0].shape == Shape("t4", 1, 4)
    assert plan.verdicts[0].code == "starts"
    assert {alternative.shape.gpus for alternative in plan.verdicts[0].alternatives} == {1, 2}


def test_no_rate_is_made_up_for_a_job_that_was_never_measured() -> None:
    def said(machines: tuple[Node, ...], one: Job) -> Verdict:
        snapshot = Snapshot(NOW, machines, (one,), (GpuType("a100"), GpuType("t4")))
        plan = decide(snapshot, {"7": replace(model("7"), known=False)}, {}, Config())
        assert not any(alternative.goodput for alternative in plan.verdict("7").alternatives)
        return plan.verdict("7")

    starts = said(nodes(("t1", "t4", 4)), job("7"))
    assert (starts.code, "starts on 4 t4: speed not yet known" in starts.sentence) == ("starts", True)
    keeps = said(nodes(("t1", "t4", 4)), job("7", "t1", 4))
    assert (keeps.code, "keeps 4 t4 at a speed not yet known" in keeps.sentence) == ("keeps", True)
    moves = said(nodes(("t1", "t4", 4), ("a1", "a100", 4)), job("7", "t1", 4))
    assert moves.code == "moves"
    assert "4 a100: speed not yet known, by assumption 2 times as fast, pays back the 60 s" in moves.sentence
    assert "samples/s" not in starts.sentence + keeps.sentence + moves.sentence


def with_left(job_id: str, samples: float) -> JobModel:
    return replace(model(job_id), work_done=0.0, work_remaining=samples)


def test_a_job_that_gives_way_to_jobs_with_less_left_is_told_so() -> None:
    machines = nodes(("t1", "t4", 1))
    jobs = (job("7"), job("8"))
    snapshot = Snapshot(NOW, machines, jobs, (GpuType("t4"),))
    models = {"7": with_left("7", 1e8), "8": with_left("8", 1e6)}
    plan = decide(snapshot, models, {}, Config.model_validate({"policy": {"name": "goodput"}}))
    waits, starts = plan.verdict("7"), plan.verdict("8")
    assert (waits.code, waits.term) == ("waits-for-capacity", "short-first")
    assert "first 1 job that has less work left" in waits.sentence
    assert (starts.code, starts.term) == ("starts", "waited")
    assert "its wait counts it 12.1 times" in starts.sentence


def test_a_job_is_told_that_its_restart_or_bad_scaling_keeps_it_where_it_is() -> None:
    def kept(cost_s: float, **options: float) -> str:
        machines = nodes(("t1", "t4", 2))
        running = job("7", "t1", 1, start_s=NOW - 200)
        of = replace(with_left("7", 1e9), restart=RestartCost(cost_s))
        slow = {"t4": replace(of.types["t4"], params=ThroughputParams(1e-8, 0.01, 1e-8, 1e-8, 0.25, 1e-8, 1.0))}
        snapshot = Snapshot(NOW, machines, (running,), (GpuType("t4"),))
        config = Config.model_validate({"policy": {"name": "goodput", "goodput": options}})
        plan = decide(snapshot, {"7": replace(of, types=slow)}, {}, config)
        assert plan.targets[0].kind is TargetKind.KEEP
        return plan.verdict("7").term

    assert kept(400.0, gpu_price=0.0) == "restart-cost"
    assert kept(1.0, gpu_price=2.0) == "thrift"


def test_managed_jobs_shrink_for_an_undeclared_job_that_waits_for_room() -> None:
    neighbour = job("9", comment="", request=Request(gpus=2, cpus=2))
    plan = planned(nodes(("t1", "t4", 4)), job("7", "t1", 4), neighbour)
    assert [(target.job_id, target.shape) for target in plan.targets] == [("7", Shape("t4", 1, 2))]
    assert plan.verdict("9").code == "not-declared"


def test_an_undeclared_job_that_waits_for_something_else_takes_nothing() -> None:
    neighbour = job("9", comment="", reason="Dependency", request=Request(gpus=2, cpus=2))
    plan = planned(nodes(("t1", "t4", 4)), job("7", "t1", 4), neighbour)
    assert plan.targets[0].kind is TargetKind.KEEP


def test_gpus_reserved_for_undeclared_jobs_stay_free() -> None:
    plan = planned(nodes(("t1", "t4", 4)), job("7"), gpu_types={"t4": {"reserve_for_unmanaged_gpus": 2}})
    assert plan.targets[0].shape == Shape("t4", 1, 2)


def test_the_reserve_holds_on_a_type_without_a_shape_of_one_gpu() -> None:
    demand = demand_of(nodes(("t1", "t4", 4), ("t2", "t4", 4)), job("7"))
    kept = [c for c, shape in enumerate(demand.problem.shapes) if shape.gpus_per_node == 4]
    shapes = tuple(demand.problem.shapes[c] for c in kept)
    whole = replace(demand, problem=replace(demand.problem, shapes=shapes), stays=demand.stays[kept])
    rows = capacity(whole, Config.model_validate({"gpu_types": {"t4": {"reserve_for_unmanaged_gpus": 1}}}))
    one_node, two_nodes = shapes.index(Shape("t4", 1, 4)), shapes.index(Shape("t4", 2, 8))
    assert all(row.need[one_node] <= row.limit for row in rows)
    assert any(row.need[two_nodes] > row.limit for row in rows)


def test_the_reserve_holds_when_a_move_that_was_to_make_room_is_refused() -> None:
    """7 was to leave t4 for a100, but its partition has no a100 node, so 8 must not start on what must stay free."""
    machines = nodes(("t1", "t4", 4), ("a1", "a100", 4))
    tables = {"gpu_types": {"t4": {"reserve_for_unmanaged_gpus": 2}}}
    demand = demand_of(machines, job("7", "t1", 2), job("8"))
    wanted = {"7": Shape("a100", 1, 2), "8": Shape("t4", 1, 2)}
    choice = np.array([demand.problem.shapes.index(wanted[row.job.id]) for row in demand.rows])
    snapshot = Snapshot(NOW, machines, (job("7", "t1", 2), job("8")), (GpuType("a100"), GpuType("t4")))
    down = replace(snapshot, nodes=(machines[0], replace(machines[1], state=NodeState.DRAINED)))
    settled = settle(down, demand, np.ones(demand.problem.valid.shape), choice, Config.model_validate(tables))
    assert {job_id: sum(gpus for _, gpus in seats) for job_id, seats in settled.seats.items()} == {"7": 2}
    assert "kept for undeclared jobs" in settled.dropped["8"]


def test_a_restart_for_another_jobs_sake_is_charged_over_the_time_that_the_policy_says_a_choice_lasts() -> None:
    """9 fits only if 7 moves over to 8: 60 s of its 300 are 5 out of an hour, 20 out of 15 minutes; 9 is worth 10."""
    machines = nodes(("t1", "t4", 4), ("t2", "t4", 4))
    queue = (job("7", "t1", 2), job("8", "t2", 2), job("9"))
    demand = demand_of(machines, *queue)
    worth = {"7": 300.0, "8": 300.0, "9": 10.0}
    whole, half = (demand.problem.shapes.index(Shape("t4", 1, gpus)) for gpus in (4, 2))
    choice = np.array([whole if row.job.id == "9" else half for row in demand.rows])
    value = np.array([np.full(len(demand.problem.shapes), worth[row.job.id]) for row in demand.rows])
    snapshot = Snapshot(NOW, machines, queue, (GpuType("a100"), GpuType("t4")))
    for lasts_s, moved in ((None, 1), (900.0, 0)):
        settled = settle(snapshot, demand, value, choice, Config(), lasts_s)
        assert len(settled.moved) == moved
        assert ("9" in settled.dropped) is (not moved)


def test_waiting_undeclared_jobs_leave_running_managed_jobs_their_smallest_size() -> None:
    machines = nodes(("t1", "t4", 8))
    running = (
        job("7", "t1", 4, comment="sia: gpus=2-8 signal=USR1@60"),
        job("8", "t1", 2, comment="sia: gpus=2-2 signal=USR1@60"),
    )
    crowd = tuple(job(f"9{n}", comment="", request=Request(gpus=1, cpus=1), priority=500.0) for n in range(9))
    plan = planned(machines, running[0], *crowd)
    assert [target.shape for target in plan.targets] == [Shape("t4", 1, 2)]
    plan = planned(machines, running[1], *crowd)
    assert [target.kind for target in plan.targets] == [TargetKind.KEEP]
    free = planned(machines, *running, *crowd, policy={"unmanaged_may_suspend": True})
    assert {target.kind for target in free.targets} == {TargetKind.SUSPEND}


def test_a_waiting_undeclared_job_too_large_for_what_managed_jobs_can_spare_suspends_nobody() -> None:
    large = job("9", comment="", request=Request(gpus=4, cpus=4))
    plan = planned(nodes(("t1", "t4", 4)), job("7", "t1", 2), large)
    assert plan.targets[0].kind in (TargetKind.KEEP, TargetKind.RESIZE)


def promised(*specs: tuple[str, str, int]) -> tuple[Node, ...]:
    return tuple(replace(node, state=NodeState.PROMISED) for node in nodes(*specs))


def test_managed_jobs_shrink_on_the_node_that_backfill_promised_to_the_undeclared_job() -> None:
    neighbour = job("9", comment="", request=Request(gpus=2, cpus=2))
    plan = planned(promised(("t1", "t4", 4)), job("7", "t1", 4), neighbour)
    assert [(target.job_id, target.shape) for target in plan.targets] == [("7", Shape("t4", 1, 2))]


def test_no_managed_job_comes_to_a_node_that_is_promised_to_another() -> None:
    neighbour = job("9", comment="", request=Request(gpus=3, cpus=3))
    plan = planned(promised(("t1", "t4", 4)), job("7", "t1", 2), job("8"), neighbour)
    assert [(target.kind, target.shape) for target in plan.targets] == [
        (TargetKind.RESIZE, Shape("t4", 1, 1)), (TargetKind.QUEUE, None),
    ]  # fmt: skip
    verdict = plan.verdict("8")
    assert verdict is not None
    assert verdict.code == "waits-for-capacity"
    assert "promised" in verdict.sentence


def test_a_node_promised_to_a_job_without_gpus_is_closed() -> None:
    neighbour = job("9", comment="", request=Request(cpus=64))
    leased = job("8", reason="BeginTime", submit_s=NOW - 100.0, begin_s=NOW + 500.0)
    plan = planned(promised(("t1", "t4", 4)), job("7", "t1", 2), leased, neighbour)
    assert [target.kind for target in plan.targets] == [TargetKind.KEEP, TargetKind.QUEUE]


def test_a_job_on_a_draining_node_stays_and_nothing_starts_there() -> None:
    draining = tuple(replace(node, state=NodeState.DRAINED) for node in nodes(("t1", "t4", 4)))
    plan = planned(draining, job("7", "t1", 2), job("8"))
    assert [target.kind for target in plan.targets] == [TargetKind.KEEP, TargetKind.QUEUE]


def test_a_move_in_flight_holds_its_new_place() -> None:
    flying = {"7": Standing("7", 0.0, in_flight=Shape("t4", 1, 4), in_flight_nodes=(("t1", 4),))}
    plan = planned(nodes(("t1", "t4", 4)), job("7"), job("8"), standing=flying)
    assert [target.kind for target in plan.targets] == [TargetKind.LEAVE, TargetKind.QUEUE]
    assert plan.verdict("7").code == "moving"


def test_a_job_is_moved_for_a_larger_one_only_if_that_is_worth_its_restart() -> None:
    """Two crumbs of two GPUs; a 4-GPU rigid job fits only if one small job moves beside the other."""
    rigid = job("9", comment="sia: level=rigid", request=Request(gpus=4, cpus=4))
    small = [job(name, node, 2, comment="sia: gpus=2-2 signal=USR1@60") for name, node in (("7", "t1"), ("8", "t2"))]
    machines = nodes(("t1", "t4", 4), ("t2", "t4", 4))
    plan = planned(machines, *small, rigid)
    kinds = {target.job_id: target.kind for target in plan.targets}
    assert kinds["9"] is TargetKind.START
    assert sorted(kinds[name].value for name in ("7", "8")) == ["keep", "move"]
    moved = next(verdict for verdict in plan.verdicts if kinds[verdict.job_id] is TargetKind.MOVE)
    assert "so that a larger job finds room" in moved.sentence
    pinned = {name: Standing(name, 0.0, pinned_reason="operator pin") for name in ("7", "8")}
    held = planned(machines, *small, rigid, standing=pinned)
    assert {target.kind for target in held.targets} == {TargetKind.KEEP, TargetKind.QUEUE}


def test_no_declared_job_is_an_empty_round_and_not_an_error() -> None:
    plan = planned(nodes(("t1", "t4", 4)), job("9", "t1", 2, comment=""))
    assert plan.targets == ()
    assert "0 declared jobs beside 1 undeclared" in plan.sentence


def test_a_job_without_a_model_or_with_a_zero_one_still_gets_a_verdict() -> None:
    snapshot = Snapshot(NOW, nodes(("t1", "t4", 4)), (job("7", "t1", 2), job("8")), (GpuType("t4"),))
    plan = decide(snapshot, {}, {}, Config())
    assert check(snapshot, plan) == ()
    assert [verdict.job_id for verdict in plan.verdicts] == ["7", "8"]


def test_the_sentence_of_the_round_counts_what_happens() -> None:
    plan = planned(nodes(("t1", "t4", 4)), job("7", "t1", 4), job("8", comment="sia: gpus=4-4 signal=USR1@60"))
    assert plan.sentence.startswith("2 declared jobs: ")
    assert "of 4 GPUs" in plan.sentence


def test_a_waiting_job_that_fits_nothing_is_left_to_slurm_so_that_its_lease_runs_out() -> None:
    words = "sia: gpus=10-10 signal=USR1@60"
    plan = planned(nodes(("t1", "t4", 4), ("t2", "t4", 4)), job("7", comment=words))
    assert plan.targets[0].kind is TargetKind.LEAVE
    assert plan.verdicts[0].code == "no-configuration"
