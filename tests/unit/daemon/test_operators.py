"""Operators: pause, resume, freeze, reload, pin, release; each is obeyed between rounds and written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from daemon_stage import Stage
from slurmsia_daemon.control import Wish

from slurmsia.history import Observation, Report
from slurmsia.job.spool import SpoolBatch
from slurmsia.moves.act import Tick
from slurmsia.moves.move import Move, MoveKind, Phase
from slurmsia.slurm.emulator import FixedWork

MakeStage = Callable[..., Stage]


def _leased(scene: Stage) -> str:
    scene.play(5)
    scene.lease_new_jobs()
    return scene.submit(gpus=1, physics=FixedWork(7200.0))


def test_a_pause_stops_every_write_and_outlives_the_daemon(stage: MakeStage) -> None:
    scene = stage()
    _leased(scene)
    scene.daemon.wishes.put(Wish("pause", "olga", 0, reason="maintenance"))
    scene.play(5)
    writes = len(scene.daemon.client.writes)
    scene.submit(gpus=1)
    scene.play(200)
    assert scene.daemon.state.mode == "paused"
    assert scene.daemon.state.why_mode == "paused by olga: maintenance"
    assert len(scene.daemon.client.writes) == writes
    scene.daemon.kill()
    scene.start()
    scene.play(100)
    assert scene.daemon.state.mode == "paused"
    assert scene.daemon.client.writes == []


def test_resume_takes_up_work_at_once(stage: MakeStage) -> None:
    scene = stage()
    scene.daemon.wishes.put(Wish("pause", "olga"))
    scene.play(5)
    scene.play(20)
    rounds = scene.daemon.state.rounds
    assert not (scene.folder / "heartbeat").exists()
    scene.daemon.wishes.put(Wish("resume", "olga"))
    scene.play(5)
    assert scene.daemon.state.mode == "enforce"
    assert scene.daemon.state.rounds == rounds + 1
    assert (scene.folder / "heartbeat").exists()


def test_the_freeze_file_stops_every_write_whatever_resume_says(stage: MakeStage) -> None:
    scene = stage()
    (scene.folder / "freeze").write_text("power work until noon")
    scene.submit(gpus=1)
    scene.play(30)
    scene.daemon.wishes.put(Wish("resume", "olga"))
    scene.play(100)
    assert scene.daemon.state.mode == "paused"
    assert "power work until noon" in scene.daemon.state.why_mode
    assert scene.daemon.client.writes == []
    assert not (scene.folder / "heartbeat").exists()
    (scene.folder / "freeze").unlink()
    scene.play(10)
    assert scene.daemon.state.mode == "enforce" or scene.daemon.loop.mode()[0] == "enforce"


def test_a_bad_policy_file_keeps_the_old_one_and_is_said_everywhere(stage: MakeStage) -> None:
    scene = stage()
    scene.play(5)
    scene.daemon.file = ["slurmsia.toml line 3: unknown key policy.nmae; did you mean name?"]
    scene.daemon.loop.reload()
    scene.play(70)
    assert scene.daemon.cycle.parts.config == scene.config
    assert any("the old one stays in force" in warning and "nmae" in warning for warning in scene.daemon.state.warnings)
    scene.daemon.file = scene.config
    scene.daemon.wishes.put(Wish("reconfigure", "olga"))
    scene.play(5)
    assert not any("old one stays" in warning for warning in scene.daemon.state.warnings)


def test_a_good_policy_file_is_in_force_from_the_next_round(stage: MakeStage) -> None:
    scene = stage()
    scene.play(5)
    policy = scene.config.policy.model_copy(update={"name": "fifo"})
    scene.daemon.file = scene.config.model_copy(update={"policy": policy})
    scene.daemon.loop.reload()
    scene.submit(gpus=1)
    scene.play(5)
    assert scene.daemon.state.policy == "fifo"
    assert scene.daemon.state.plan is not None
    assert scene.daemon.state.plan.policy == "fifo"
    assert '"name":"fifo"' in scene.daemon.state.config_text


def test_a_pinned_job_is_not_moved_and_an_unpinned_one_may_be(stage: MakeStage) -> None:
    scene = stage()
    job_id = scene.submit(gpus=1, physics=FixedWork(10**6))
    scene.play(20)
    scene.daemon.wishes.put(Wish("pin", "olga", job_id=job_id, reason="a demo"))
    scene.play(10)
    standing = scene.daemon.book.get(job_id)
    assert standing is not None
    assert standing.pinned_reason == "pinned by olga: a demo"
    scene.play(300)
    assert ("requeue", job_id) not in {(call, written) for _, call, written in scene.daemon.client.writes}
    scene.daemon.wishes.put(Wish("unpin", "olga", job_id=job_id))
    scene.play(5)
    standing = scene.daemon.book.get(job_id)
    assert standing is not None
    assert standing.pinned_reason == ""


def test_wishes_are_written_to_the_audit_table(stage: MakeStage) -> None:
    scene = stage()
    scene.daemon.wishes.put(Wish("pause", "olga", 0, reason="why not"))
    scene.play(5)
    with scene.daemon.store.db.read() as connection:
        rows = connection.exec_driver_sql("SELECT who, what FROM operator_actions").all()
    assert [tuple(row) for row in rows] == [("olga", "pause")]


def test_a_full_queue_of_wishes_refuses_instead_of_growing(stage: MakeStage) -> None:
    scene = stage()
    wishes = scene.daemon.wishes
    taken = [wishes.put(Wish("pin", "mallory", job_id=str(number))) for number in range(150)]
    assert taken.count(True) == 100
    assert len(wishes.take_all()) == 100
    assert wishes.put(Wish("unpin", "mallory", job_id="1"))


def test_out_of_scope_jobs_are_left_alone(stage: MakeStage) -> None:
    scene = stage(sections={"scope": {"accounts": ["physics"]}})
    job_id = scene.submit(gpus=1)
    scene.play(130)
    assert scene.daemon.client.writes == []
    assert scene.daemon.state.plan is not None
    verdict = scene.daemon.state.plan.verdict(job_id)
    assert verdict is not None
    assert verdict.code == "out-of-scope"


def test_shutdown_says_stopping_saves_and_lets_another_daemon_lead_at_once(stage: MakeStage) -> None:
    scene = stage()
    job_id = scene.submit(gpus=1)
    scene.play(70)
    remembered = scene.daemon.book.get(job_id)
    first = scene.daemon
    first.loop.stop()
    first.loop.run()
    assert not (scene.folder / "heartbeat").exists()
    scene.start()
    scene.play(5)
    assert scene.daemon.leadership.leads
    assert remembered is not None
    again = scene.daemon.book.get(job_id)
    assert again is not None
    assert replace(again, service_gpu_s=0, gpu_h_used=0) == replace(remembered, service_gpu_s=0, gpu_h_used=0)


def test_what_jobs_said_since_the_last_round_is_stored_on_the_way_out(stage: MakeStage) -> None:
    scene = stage()
    job_id = scene.submit(gpus=1)
    scene.play(70)
    run = scene.job(job_id).restarts
    steps = Observation("t4", 1, 1, 32.0, 0, 1000.0, 500.0, 250.0)
    said = Report(job_id, run, 900_000, scene.emulator.now_s, "progress", observations=(steps,))
    scene.spool.poll = lambda known: SpoolBatch((said,), {})
    scene.daemon.cycle.intake.between({job_id: Move(job_id, MoveKind.MOVE, "r1", 0.0, run=run)}, {})
    assert scene.daemon.cycle.intake.held > 0
    scene.daemon.loop.stop()
    scene.daemon.loop.run()
    assert scene.daemon.cycle.intake.held == 0
    assert sum(seen.count for seen in scene.daemon.store.history([job_id])[job_id].observations) >= 1000.0


def test_what_jobs_said_since_the_last_round_is_stored_when_a_move_lands(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    job_id = scene.submit(gpus=1)
    scene.play(70)
    run = scene.job(job_id).restarts
    steps = Observation("t4", 1, 1, 32.0, 0, 1000.0, 500.0, 250.0)
    said = Report(job_id, run, 900_000, scene.emulator.now_s, "progress", observations=(steps,))
    scene.spool.poll = lambda known: SpoolBatch((said,), {})
    scene.daemon.cycle.intake.between({job_id: Move(job_id, MoveKind.MOVE, "r1", 0.0, run=run)}, {})
    landed = Move(job_id, MoveKind.START, "r1", scene.emulator.now_s, run=run, phase=Phase.VERIFIED)
    monkeypatch.setattr(type(scene.daemon.actor), "tick", lambda actor: Tick(steps=1, finished=(landed,)))
    scene.daemon.cycle.tick()
    assert scene.daemon.cycle.intake.held == 0
    assert sum(seen.count for seen in scene.daemon.store.history([job_id])[job_id].observations) >= 1000.0
