"""A daemon dies for good with moves in every state; `release-all` without it leaves every job Slurm's own.

What the command does is called here as the command calls it: a client of Slurm, and what the store remembers. Jobs of
moves whose job runs again already have nothing of ours left to give back.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from daemon_stage import Killed, Stage
from slurmsia_daemon.movelog import StoreMoveLog

from slurmsia.cluster import JobState
from slurmsia.moves.move import Phase
from slurmsia.moves.release import release_all
from slurmsia.slurm.emulator import FixedWork, Latencies
from slurmsia.store import Store

JOBS = 14
MOVING = (Phase.PLANNED, Phase.WARNED, Phase.REQUEUED, Phase.EDITED)


def _crowd(scene: Stage, seed: int, phase: Phase, before: bool) -> list[str]:
    """More jobs than there is room for, started, moved, suspended and left waiting on leases until the daemon dies."""
    rng, jobs = random.Random(seed), []
    try:
        for number in range(JOBS):
            if number == 3:
                scene.daemon.log.doom(1, before, phase)
            signal = " signal=USR1@30" if number % 2 or phase is Phase.WARNED else ""
            words = f"sia: gpus=1-16 types=t4,rtx,a100 level=restartable{signal}"
            work = FixedWork(
                rng.uniform(1000.0, 6000.0),
                handles_signal=bool(signal),
                save_s=rng.uniform(1.0, 20.0),
                report_every_s=30.0,
            )
            gpus, user = rng.choice([1, 2, 4]), 1001 + number % 3
            jobs.append(scene.submit(gpus, words=words, physics=work, user_id=user))
            scene.play(rng.uniform(30.0, 240.0))
        scene.play(3600.0)
    except Killed:
        return jobs
    pytest.fail(f"no move was ever {phase.value}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", MOVING, ids=[phase.value for phase in MOVING])
@pytest.mark.parametrize("before", [True, False], ids=["before-it-is-written", "when-it-is-written"])
def test_release_all_after_a_death_at_every_phase_leaves_no_lease_no_pin_and_every_job_eligible(
    tmp_path: Path, phase: Phase, before: bool
) -> None:
    seed = list(Phase).index(phase)
    scene = Stage(tmp_path, seed=seed, latencies=Latencies(schedule_s=1.0, completing_s=2.0))
    scene.lease_new_jobs()
    scene.play(5)
    jobs = _crowd(scene, seed, phase, before)
    scene.daemon.kill()
    scene.emulator.faults.clear()
    with Store.open(scene.url, "stage") as store:
        moves, standings = StoreMoveLog(store).unfinished(), store.standing()
    client = scene.emulator.client("operator")
    done = release_all(client, moves, standings, scene.config.moves.lease_s, wait_s=60.0, sleep=scene.emulator.advance)
    assert done.left == {}
    waiting = [record for record in scene.emulator.records.values() if record.state is JobState.PENDING]
    for record in waiting:
        job = scene.emulator.job(record.id)
        assert job.hold == ""
        assert not job.completing
        assert job.begin_s is None or job.begin_s <= scene.emulator.now_s
        assert job.request.required_nodes == ()
    assert set(done.leases_ended) <= set(scene.emulator.records)
    scene.sleep(12 * 3600.0)
    assert {scene.job(job_id).ended_by for job_id in jobs} == {"COMPLETED"}
