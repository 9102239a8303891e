"""Two daemons: one acts, the other stands by and takes over; who lost the lease stops at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from daemon_stage import Daemon, Stage
from slurmsia_daemon import leader

from slurmsia.slurm.emulator import FixedWork
from slurmsia.store.engine import Database

MakeStage = Callable[..., Stage]


def _pass(scene: Stage, *daemons: Daemon, seconds: float = 60.0) -> None:
    for _ in range(int(seconds / 5)):
        scene.sleep(5)
        for daemon in daemons:
            daemon.loop.turn()


@pytest.fixture
def end_leases(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Two leases' time passes, without waiting for it, on the clocks by which leases are kept."""
    passed = [0.0]
    monkeypatch.setattr(Database, "now_s", lambda *_: time.time() + passed[0])

    def end(*daemons: Daemon) -> None:
        passed[0] += 2 * leader.LEASE_S
        for daemon in daemons:
            daemon.leadership._renewed -= 2 * leader.LEASE_S

    return end


def test_on_one_host_the_second_daemon_stands_by_and_writes_nothing(stage: MakeStage) -> None:
    scene = stage()
    first = scene.daemon
    scene.submit(gpus=1)
    scene.play(5)
    second = scene.start()
    _pass(scene, first, second)
    assert second.state.mode == "standby"
    assert "another daemon on this host" in second.state.sentence
    assert second.client.writes == []
    assert first.metric("slurmsia_leader") == 1
    assert second.metric("slurmsia_leader") == 0
    first.kill()


def test_the_standby_takes_over_when_the_leader_is_killed_and_finishes_its_moves(stage: MakeStage) -> None:
    scene = stage()
    first = scene.daemon
    scene.play(5)
    scene.lease_new_jobs()
    job_id = scene.submit(gpus=1, physics=FixedWork(900.0))
    second = scene.start()
    while not first.actor.flights:
        _pass(scene, first, second, seconds=5)
    first.kill()
    _pass(scene, second, seconds=2400)
    assert second.leadership.leads
    assert scene.job(job_id).ended_by == "COMPLETED"
    assert not second.actor.flights


def test_on_two_hosts_the_lease_decides_and_its_heir_fences_the_old_leader(
    stage: MakeStage, end_leases: Callable[..., None]
) -> None:
    scene = stage()
    first = scene.daemon
    scene.submit(gpus=1)
    scene.play(5)
    second = scene.start("two")
    _pass(scene, second, seconds=5)
    assert second.state.mode == "standby"
    assert "holds the lease" in second.state.sentence
    end_leases(first, second)
    second.loop.turn()
    assert second.leadership.leads
    writes = len(first.client.writes)
    first.loop.turn()
    assert not first.leadership.leads
    assert len(first.client.writes) == writes
    assert first.metric("slurmsia_leader") == 0
    first.kill()


def test_a_fenced_daemon_forgets_its_moves_and_reads_them_again_when_it_leads_again(
    stage: MakeStage, end_leases: Callable[..., None]
) -> None:
    scene = stage()
    first = scene.daemon
    scene.play(5)
    scene.lease_new_jobs()
    scene.submit(gpus=1)
    while not first.actor.flights:
        _pass(scene, first, seconds=5)
    causes = {move.cause for move in first.actor.flights.values()}
    second = scene.start("two")
    end_leases(first, second)
    second.loop.turn()
    assert second.leadership.leads
    first.loop.turn()
    assert first.actor.flights == {}
    second.kill()
    end_leases(first, second)
    recovered: set[str] = set()
    for _ in range(40):
        _pass(scene, first, seconds=5)
        recovered |= {move.cause for move in first.actor.flights.values()}
    assert first.leadership.leads
    assert causes <= recovered or not first.store.unfinished_moves()
    scene.daemon = first


def test_a_store_that_is_away_at_the_start_means_standing_by(stage: MakeStage) -> None:
    scene = stage()
    (scene.folder / "stage.db").rename(scene.folder / "away.db")
    (scene.folder / "stage.db").mkdir()
    scene.daemon.store.db.engine.dispose()
    scene.submit(gpus=1)
    scene.play(20)
    assert scene.daemon.state.mode == "standby"
    assert "the store is away" in scene.daemon.state.sentence
    assert scene.daemon.client.writes == []
