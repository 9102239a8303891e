"""Rounds come on time or early, say what went wrong, and change nothing in doubt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import slurmsia_daemon.cycle as cycle_module
from daemon_stage import DECLARED, Stage

from slurmsia.cluster import JobState
from slurmsia.slurm.emulator import FixedWork, Latencies
from slurmsia.store import StoredRound

MakeStage = Callable[..., Stage]


def test_a_declared_job_is_leased_started_and_ends(stage: MakeStage) -> None:
    scene = stage()
    scene.play(5)
    scene.lease_new_jobs()
    job_id = scene.submit(gpus=1, physics=FixedWork(600.0))
    assert scene.job(job_id).begin_s is not None
    scene.play(1500)
    assert scene.job(job_id).ended_by == "COMPLETED"
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="done") > 10


def test_every_move_names_the_round_that_decided_it_and_that_rounds_plan_has_its_target(stage: MakeStage) -> None:
    scene = stage()
    scene.play(5)
    job_id = scene.submit(gpus=1, physics=FixedWork(600.0))
    scene.play(200)
    moves = scene.daemon.store.moves_of(job_id)
    assert moves
    for move in moves:
        assert move.round_id is not None
        decided = scene.daemon.store.round(move.round_id)
        assert isinstance(decided, StoredRound)
        target = decided.plan.target(job_id)
        assert target is not None
        assert target.shape is not None
        assert move.target["shape"]["gpus"] == target.shape.gpus


def test_observe_mode_writes_nothing_to_slurm_and_no_heartbeat(stage: MakeStage) -> None:
    scene = stage(mode="observe")
    scene.submit(gpus=2)
    scene.play(400)
    assert scene.daemon.client.writes == []
    assert not (scene.folder / "heartbeat").exists()
    assert scene.daemon.state.sentence.startswith("Observe mode, nothing is changed")


def test_enforce_mode_keeps_a_fresh_heartbeat_with_the_lease(stage: MakeStage) -> None:
    scene = stage()
    scene.play(10)
    written_s, lease_s = (scene.folder / "heartbeat").read_text().split()
    assert abs(int(written_s) - time.time()) < 60
    assert float(lease_s) == scene.config.moves.lease_s


def test_a_new_job_starts_a_round_early_but_not_sooner_than_the_limit(stage: MakeStage) -> None:
    scene = stage(sections={"policy": {"round_s": 300.0}})
    scene.play(20)
    before = scene.daemon.state.rounds
    scene.play(60)
    assert scene.daemon.state.rounds == before
    scene.submit(gpus=1)
    scene.play(16)
    assert scene.daemon.state.rounds == before + 1


def test_between_two_rounds_a_new_job_starts_and_nothing_that_runs_is_moved(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage(sections={"policy": {"round_s": 300.0}})
    real, rounds = cycle_module.decide, list[tuple[float, bool, tuple[str, ...]]]()

    def watched(snapshot: Any, *args: Any, starts_only: bool) -> Any:
        plan = real(snapshot, *args, starts_only=starts_only)
        kinds = tuple(f"{target.job_id} {target.kind.value}" for target in plan.targets)
        rounds.append((scene.emulator.now_s - begun_s, starts_only, kinds))
        return plan

    monkeypatch.setattr(cycle_module, "decide", watched)
    begun_s = scene.emulator.now_s
    scene.play(5)
    scene.lease_new_jobs()
    first = scene.submit(gpus=2, physics=FixedWork(5_000.0))
    scene.play(100)
    second = scene.submit(gpus=1, physics=FixedWork(5_000.0))
    scene.play(150)
    assert scene.job(second).state is JobState.RUNNING
    between = [kinds for at_s, starts_only, kinds in rounds if 100 < at_s < 250 and starts_only]
    assert f"{second} start" in between[0]
    assert {kind.split()[1] for kinds in between for kind in kinds} <= {"keep", "start", "leave"}
    assert scene.job(first).restarts == 0
    scene.play(100)
    full = [at_s for at_s, starts_only, _ in rounds if not starts_only]
    assert len(full) == 2, "one at the beginning and one after the interval, whatever came in between"
    assert 280 < full[1] - full[0] < 320


def test_moves_in_flight_do_not_keep_a_new_job_waiting(stage: MakeStage) -> None:
    scene = stage(latencies=Latencies(schedule_s=2_000.0), sections={"policy": {"round_s": 300.0}})
    scene.play(20)
    scene.lease_new_jobs()
    early = scene.submit(gpus=1, physics=FixedWork(50_000.0))
    scene.play(16)
    assert early in scene.daemon.actor.flights, "Slurm has not started it yet"
    late = scene.submit(gpus=1, physics=FixedWork(50_000.0))
    scene.play(16)
    assert {early, late} <= scene.daemon.actor.flights.keys()


def test_rounds_without_events_come_once_an_interval(stage: MakeStage) -> None:
    scene = stage()
    scene.play(5)
    scene.play(600)
    assert 9 <= scene.daemon.state.rounds <= 12


def test_an_unreachable_slurm_skips_the_round_and_says_so(stage: MakeStage) -> None:
    scene = stage()
    scene.play(5)
    scene.emulator.faults.inject("fails", "snapshot", times=2)
    scene.play(130)
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="skipped") == 2
    scene.play(130)
    assert "declared" in scene.daemon.state.sentence


def test_a_decision_that_takes_too_long_keeps_every_allocation(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage(sections={"daemon": {"solve_watchdog_s": 0.05}})
    real = cycle_module.decide

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return real(*args, **options)

    monkeypatch.setattr(cycle_module, "decide", slow)
    job_id = scene.submit(gpus=1)
    scene.sleep(10)
    held = scene.job(job_id).allocation
    scene.play(120)
    assert scene.daemon.state.sentence.startswith("Degraded: deciding took more than 0.05 s")
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="degraded") >= 1
    assert scene.job(job_id).allocation == held
    assert scene.daemon.client.writes == []


def test_a_round_longer_than_its_interval_is_said(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = stage()
    scene.play(5)
    round_ = scene.daemon.cycle.round

    def long_round(*args: Any) -> Any:
        scene.emulator.run_until(scene.emulator.now_s + 90.0)
        return round_(*args)

    monkeypatch.setattr(scene.daemon.cycle, "round", long_round)
    scene.play(100)
    assert any("longer than the interval" in warning for warning in scene.daemon.state.warnings)
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="overrun") >= 1


def test_finished_moves_are_handed_out_although_nothing_flies_any_more(stage: MakeStage) -> None:
    scene = stage()
    scene.lease_new_jobs()
    scene.play(5)
    scene.submit(gpus=1)
    scene.play(30)
    actor = scene.daemon.actor
    planned = next(iter(actor.flights), None)
    scene.play(300)
    assert planned is None or scene.daemon.book.get(planned) is not None
    assert actor.wake_after_s() is None
    assert scene.daemon.metric("slurmsia_moves_total", kind="start", outcome="verified") >= 1


def test_an_undeclared_job_is_never_touched(stage: MakeStage) -> None:
    scene = stage()
    ours = scene.submit(gpus=1)
    theirs = scene.submit(gpus=8, words="", gpu_type="a100", physics=FixedWork(8 * 900.0))
    scene.play(1200)
    assert theirs not in {job_id for _, _, job_id in scene.daemon.client.writes}
    assert scene.job(theirs).ended_by == "COMPLETED"
    assert scene.job(ours).state is not JobState.ENDED


def test_a_hook_that_rejects_every_edit_is_asked_less_and_less_and_the_job_starts_by_itself(stage: MakeStage) -> None:
    scene = stage()
    scene.play(5)
    scene.lease_new_jobs()
    job_id = scene.submit(gpus=1, physics=FixedWork(3600.0))
    fault = scene.emulator.faults.inject("rejected", "reshape", times=10**6, code=2102, why="the site says no")
    scene.play(3000)
    assert 1 <= fault.fired <= 6
    assert scene.job(job_id).state is not JobState.PENDING or scene.job(job_id).restarts


def test_with_no_declared_job_observe_mode_says_what_declaring_would_allow(stage: MakeStage) -> None:
    scene = stage(mode="observe")
    scene.submit(gpus=2, words="")
    scene.submit(gpus=16, nodes=2, words="", gpu_type="rtx")
    scene.play(20)
    assert "2 running and 0 waiting GPU jobs could be managed" in scene.daemon.state.sentence
    found = scene.daemon.state.prospect
    assert found is not None
    assert (found.running, found.idle_gpus, found.gpus) == (2, 14, 32)


def test_the_prospect_is_left_out_of_the_sentence_once_jobs_are_declared(stage: MakeStage) -> None:
    scene = stage(mode="observe")
    scene.submit(gpus=2, words="")
    scene.submit(gpus=2, words=DECLARED)
    scene.play(20)
    assert "could be managed" not in scene.daemon.state.sentence
    assert scene.daemon.state.prospect is not None


def test_dropping_caches_changes_no_decision(stage: MakeStage) -> None:
    scene = stage(mode="observe")
    for _ in range(6):
        scene.submit(gpus=2)
    scene.play(200)
    before = scene.daemon.cycle.round("observe", "")
    scene.daemon.cycle.drop_caches()
    after = scene.daemon.cycle.round("observe", "")
    assert before.plan is not None
    assert after.plan is not None
    assert before.plan.targets == after.plan.targets


def test_memory_above_the_limit_drops_caches_and_is_said(stage: MakeStage) -> None:
    scene = stage(mode="observe", sections={"daemon": {"memory_limit_mb": 1.0}})
    scene.submit(gpus=1)
    scene.play(70)
    assert any("caches were dropped" in warning for warning in scene.daemon.state.warnings)


def test_waits_of_undeclared_jobs_are_counted_when_they_start(stage: MakeStage) -> None:
    scene = stage(mode="observe", nodes=(("a100", 1, 8),))
    scene.submit(gpus=8, words="", gpu_type="a100", physics=FixedWork(8 * 300.0))
    scene.submit(gpus=8, words="", gpu_type="a100", physics=FixedWork(8 * 300.0))
    scene.play(700)
    assert scene.daemon.metric("slurmsia_undeclared_start_wait_seconds_count") == 1
    assert 250 < scene.daemon.metric("slurmsia_undeclared_start_wait_seconds_sum") < 400


def test_a_round_is_the_same_whatever_the_mode(stage: MakeStage) -> None:
    scene = stage(mode="observe")
    scene.submit(gpus=2)
    scene.play(20)
    plans = [scene.daemon.cycle.round(mode, "").plan for mode in ("observe", "paused")]
    assert plans[0] is not None
    assert plans[1] is not None
    assert replace(plans[0], sentence="") == replace(plans[1], sentence="")
