"""A mistake of slurmsia's own, anywhere in the loop, costs a round or a step: it is said, logged, counted, survived."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import slurmsia_daemon.cycle as cycle_module
from daemon_stage import Stage
from slurmsia_daemon.control import Wish
from slurmsia_daemon.upkeep import Pruner

from slurmsia.config.store import StoreSection
from slurmsia.moves import act
from slurmsia.moves.act import Actor
from slurmsia.moves.move import Phase
from slurmsia.slurm.emulator import FixedWork
from slurmsia.slurm.emulator.client import EmulatorClient
from slurmsia.store import Store

MakeStage = Callable[..., Stage]


def _mistake(*_: Any, **__: Any) -> NoReturn:
    raise KeyError("a100")


def _break(monkeypatch: pytest.MonkeyPatch, scene: Stage, phase: str) -> None:
    """Put a mistake into one phase of the rounds to come."""
    target: tuple[Any, str] = {
        "observe": (EmulatorClient, "snapshot"),
        "ingest": (scene.daemon.cycle.intake, "round"),
        "learn": (scene.daemon.book, "observe"),
        "decide": (cycle_module, "decide"),
        "store": (Store, "save_round"),
        "act": (Actor, "submit"),
    }[phase]
    monkeypatch.setattr(*target, _mistake)


@pytest.mark.parametrize("phase", ["observe", "ingest", "learn", "decide", "store", "act"])
def test_a_mistake_in_any_phase_degrades_the_round_changes_nothing_and_the_next_round_goes_on(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, phase: str
) -> None:
    scene = stage()
    scene.play(65)
    done = scene.daemon.metric("slurmsia_rounds_total", outcome="done")
    job_id = scene.submit(gpus=2, words="sia: gpus=1-4 level=restartable", physics=FixedWork(7200.0))
    _break(monkeypatch, scene, phase)
    scene.daemon.client.writes.clear()
    with caplog.at_level(logging.ERROR):
        scene.play(200)
    assert scene.daemon.client.writes == []
    assert scene.daemon.state.sentence.startswith(
        f"Degraded: a mistake of slurmsia's own in {phase} (KeyError: 'a100')"
    )
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="done") == done
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="degraded") >= 3
    assert scene.daemon.metric("slurmsia_internal_errors_total", where=phase) >= 3
    told = [record for record in caplog.records if record.exc_info and phase in record.getMessage()]
    assert len(told) == 1, "the traceback is logged, and not at every round"
    assert any("start without a lease" in warning for warning in scene.daemon.state.warnings)
    assert not (scene.folder / "heartbeat").exists(), "nobody would start a job that were put on a lease now"
    monkeypatch.undo()
    scene.play(130)
    assert scene.daemon.metric("slurmsia_rounds_total", outcome="done") > done
    assert "1 declared job" in scene.daemon.state.sentence
    assert (scene.folder / "heartbeat").exists()
    scene.play(400)
    assert scene.daemon.state.warnings == ()
    assert scene.job(job_id).allocation is not None


def test_a_mistake_over_one_job_costs_neither_the_others_nor_the_round(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    odd = scene.submit(gpus=1, physics=FixedWork(7200.0))
    scene.play(70)
    estimator = scene.daemon.cycle.parts.estimator
    real = estimator.model
    monkeypatch.setattr(estimator, "model", lambda job_id, *rest: _mistake() if job_id == odd else real(job_id, *rest))
    other = scene.submit(gpus=1, physics=FixedWork(7200.0))
    scene.play(130)
    assert scene.daemon.state.round_id is not None
    assert set(scene.daemon.state.models) == {odd, other}
    assert scene.daemon.metric("slurmsia_internal_errors_total", where="model") >= 2
    assert any("Models of 1 jobs could not be computed" in said for said in scene.daemon.state.warnings)
    assert scene.job(other).allocation is not None


def test_a_mistake_between_rounds_leaves_moves_to_the_next_tick(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    scene.lease_new_jobs()
    scene.play(5)
    monkeypatch.setattr(Actor, "tick", _mistake)
    job_id = scene.submit(gpus=1, physics=FixedWork(600.0))
    scene.play(90)
    assert scene.daemon.actor.flights
    assert scene.daemon.metric("slurmsia_internal_errors_total", where="tick") > 5
    assert scene.job(job_id).allocation is None
    monkeypatch.undo()
    scene.play(30)
    assert scene.job(job_id).allocation is not None


@pytest.mark.parametrize("where", ["reading", "deciding", "writing", "calling"])
def test_a_mistake_over_one_move_costs_no_other_move(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    scene = stage()
    scene.lease_new_jobs()
    scene.play(5)
    odd = scene.submit(gpus=1, physics=FixedWork(6000.0))
    others = [scene.submit(gpus=1, physics=FixedWork(6000.0)) for _ in range(3)]

    def wrong_for_odd(real: Callable[..., Any], job_of: Callable[..., str]) -> Callable[..., Any]:
        return lambda *args: _mistake() if job_of(*args) == odd else real(*args)

    daemon = scene.daemon
    if where == "reading":
        monkeypatch.setattr(act, "_checkpointed", wrong_for_odd(act._checkpointed, lambda move, _: str(move.job_id)))
    elif where == "deciding":
        monkeypatch.setattr(act, "step", wrong_for_odd(act.step, lambda move, *_: str(move.job_id)))
    elif where == "writing":
        never = wrong_for_odd(daemon.log.save, lambda move: str(move.job_id) if move.phase is Phase.EDITED else "")
        monkeypatch.setattr(daemon.log, "save", never)
    else:
        monkeypatch.setattr(daemon.client, "reshape", wrong_for_odd(daemon.client.reshape, lambda job_id, _: job_id))
    with caplog.at_level(logging.ERROR):
        scene.play(100)
    assert all(scene.job(job_id).allocation is not None for job_id in others)
    assert scene.job(odd).allocation is None
    assert daemon.metric("slurmsia_internal_errors_total", where="tick") > 5
    assert any(f"in tick, over the move of job {odd}" in said for said in daemon.state.warnings)
    assert len([record for record in caplog.records if record.exc_info]) == 1
    monkeypatch.undo()
    scene.play(60)
    assert scene.job(odd).allocation is not None
    assert not daemon.actor.flights


def test_without_a_listener_a_mistake_over_one_move_is_raised(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    scene.lease_new_jobs()
    scene.play(5)
    scene.submit(gpus=1, physics=FixedWork(6000.0))
    scene.daemon.actor.on_mishap = None
    monkeypatch.setattr(act, "step", _mistake)
    scene.play(65)
    with pytest.raises(KeyError):
        scene.daemon.actor.tick()


def test_a_daemon_whose_every_tick_fails_keeps_no_job_beyond_its_lease(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    scene.lease_new_jobs()
    scene.play(5)
    monkeypatch.setattr(Actor, "tick", _mistake)
    monkeypatch.setattr(Actor, "submit", _mistake)
    job_id = scene.submit(gpus=1, physics=FixedWork(600.0))
    scene.play(scene.config.moves.lease_s + 60.0)
    assert scene.job(job_id).allocation is not None


@pytest.mark.parametrize("where", ["wish", "reload", "lead", "loop"])
def test_a_mistake_outside_rounds_does_not_end_the_loop(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    scene = stage()
    scene.play(65)
    daemon = scene.daemon
    rounds = daemon.state.rounds
    if where == "wish":
        monkeypatch.setattr(daemon.book, "pin", _mistake)
        daemon.wishes.put(Wish("pin", "olga", job_id="1"))
    elif where == "reload":
        monkeypatch.setattr(daemon.loop, "_reload", _mistake)
        daemon.loop.reload()
    elif where == "lead":
        monkeypatch.setattr(daemon.leadership, "renew", _mistake)
    else:
        monkeypatch.setattr(daemon.audience, "publish", _mistake)
    scene.play(130)
    assert daemon.metric("slurmsia_internal_errors_total", where=where) >= 1
    monkeypatch.undo()
    scene.play(70)
    assert daemon.state.rounds > rounds


@pytest.mark.parametrize("what", ["_measure", "prospect"])
def test_a_mistake_in_what_is_only_shown_spoils_no_round(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    scene = stage(mode="observe")
    monkeypatch.setattr(cycle_module.Cycle if what == "_measure" else cycle_module, what, _mistake)
    scene.play(70)
    assert scene.daemon.state.round_id is not None
    assert scene.daemon.metric("slurmsia_internal_errors_total", where=what.strip("_")) >= 1


def test_a_mistake_in_pruning_is_said(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = stage()
    scene.play(5)
    monkeypatch.setattr(Store, "prune", _mistake)
    clock = iter([0.0, 1e6, 1e6, 1e6])
    pruner = Pruner(lambda: next(clock))
    assert pruner.turn(scene.daemon.store, StoreSection(), 1e9)
    pruner.close()
    assert "mistake of slurmsia's own" in pruner.problem


def test_a_freeze_file_that_cannot_be_looked_at_freezes(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    scene = stage()
    scene.play(65)
    real = Path.exists

    def forbidden(path: Path) -> bool:
        if path.name == "freeze":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "exists", forbidden)
    scene.play(70)
    assert scene.daemon.state.mode == "paused"
    assert "cannot be looked at (Permission denied)" in scene.daemon.state.why_mode
