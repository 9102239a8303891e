"""The store goes away and comes back: deciding goes on, nothing is changed meanwhile, and no report is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from daemon_stage import Stage
from slurmsia_daemon.upkeep import Pruner

from slurmsia.config.store import StoreSection
from slurmsia.slurm.emulator import FixedWork
from slurmsia.store import Store

MakeStage = Callable[..., Stage]


def _take_away(scene: Stage) -> None:
    scene.daemon.store.db.engine.dispose()
    for name in ("stage.db", "stage.db-wal", "stage.db-shm"):
        if (scene.folder / name).exists():
            (scene.folder / name).rename(scene.folder / f"away-{name}")
    (scene.folder / "stage.db").mkdir()


def _bring_back(scene: Stage) -> None:
    scene.daemon.store.db.engine.dispose()
    (scene.folder / "stage.db").rmdir()
    for name in ("stage.db", "stage.db-wal", "stage.db-shm"):
        if (scene.folder / f"away-{name}").exists():
            (scene.folder / f"away-{name}").rename(scene.folder / name)


def test_the_daemon_keeps_deciding_without_its_store_and_acts_again_when_it_returns(stage: MakeStage) -> None:
    scene = stage()
    scene.play(70)
    _take_away(scene)
    scene.submit(gpus=1, physics=FixedWork(7200.0))
    writes = len(scene.daemon.client.writes)
    rounds = scene.daemon.state.rounds
    scene.play(400)
    assert scene.daemon.state.rounds > rounds + 4
    assert scene.daemon.state.plan is not None
    assert "1 declared job" in scene.daemon.state.sentence
    assert any("store is away" in warning for warning in scene.daemon.state.warnings)
    assert len(scene.daemon.client.writes) == writes
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="degraded") > 4
    _bring_back(scene)
    scene.play(130)
    assert not any("away" in warning for warning in scene.daemon.state.warnings)
    assert scene.daemon.state.round_id is not None


def test_reports_read_while_the_store_is_away_are_stored_when_it_returns(stage: MakeStage) -> None:
    scene = stage(mode="observe")
    job_id = scene.submit(gpus=1, physics=FixedWork(7200.0, report_every_s=30.0))
    scene.play(130)
    before = scene.daemon.metric("slurmsia_reports_total", outcome="accepted")
    assert before > 0
    _take_away(scene)
    scene.play(300)
    _bring_back(scene)
    scene.play(130)
    stored = scene.daemon.metric("slurmsia_reports_total", outcome="accepted")
    assert stored >= before + 12
    assert scene.daemon.store.history([job_id])[job_id] is not None


def test_pruning_runs_beside_rounds_and_removes_what_is_too_old(stage: MakeStage) -> None:
    scene = stage(mode="observe", sections={"store": {"prune_every_s": 600.0, "keep_round_bodies_days": 0.003}})
    scene.submit(gpus=1)
    scene.play(1000)
    for _ in range(100):
        scene.play(60)
        if scene.daemon.metric("slurmsia_store_rows_pruned"):
            break
        time.sleep(0.02)
    assert scene.daemon.metric("slurmsia_store_rows_pruned") > 0


def test_pruning_a_store_that_is_away_is_said_and_tried_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("prune")
    store = Store.open(f"sqlite:///{folder / 'p.db'}", "p", auto_upgrade=True)
    store.db.engine.dispose()
    (folder / "p.db").unlink()
    (folder / "p.db").mkdir()
    now = [0.0]
    pruner = Pruner(lambda: now[0])
    assert not pruner.turn(store, StoreSection(), 1e9)
    now[0] = 4000.0
    assert pruner.turn(store, StoreSection(), 1e9)
    pruner.close()
    assert "could not be removed" in pruner.problem
    now[0] = 8000.0
    assert pruner.turn(store, StoreSection(), 1e9)
    pruner.close()


def test_fits_are_stored_so_that_ratios_between_types_are_learnt(stage: MakeStage) -> None:
    from slurmsia.sim.honest_job import HonestJob, HonestSettings
    from slurmsia.sim.shipped_truth import shipped_truth
    from slurmsia.sim.workloads import TraceJob

    scene = stage(mode="observe")
    truth = shipped_truth("cifar10", 1e6)
    trace = TraceJob("cifar10", 0.0, "cifar10", 1, truth.initial_batch)
    job = HonestJob(trace, truth, HonestSettings(seed=1))
    words = f"sia: gpus=1-8 level=adaptive batch={truth.initial_batch}:{truth.largest_batch} signal=USR1@60"
    job_id = scene.submit(gpus=1, gpu_type="t4", words=words, physics=job)
    scene.play(600)
    (fit,) = scene.daemon.store.fits_of([job_id])[job_id]
    assert (fit.gpu_type, fit.source) == ("t4", "fit")
    assert fit.one_gpu_samples_per_s is not None
    assert fit.one_gpu_samples_per_s > 0
    assert 0.5 < scene.daemon.metric("slurmsia_goodput_ratio", gpu_type="t4") < 2.0
