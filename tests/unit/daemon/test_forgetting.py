"""A daemon lives for years: what it keeps of a job goes when the job goes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from daemon_stage import Stage

from slurmsia.slurm.emulator import Emulator, FixedWork
from slurmsia.store.engine import Database

MakeStage = Callable[..., Stage]
FIRST_ID = 880_001


def _remembered(root: Any, names: set[str], outside: tuple[type, ...]) -> dict[str, list[str]]:
    """By name, the types of the containers reachable from ``root`` that hold it; ``outside`` is not looked into."""
    found: dict[str, list[str]] = {}
    seen: set[int] = set()
    todo: list[Any] = [root]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, *outside)):
            continue
        seen.add(id(one))
        parts: Iterable[Any] = gc.get_referents(one)
        for part in parts:
            if isinstance(part, str):
                if part in names:
                    found.setdefault(part, []).append(f"{type(one).__name__} {str(one)[:120]}")
            elif not isinstance(part, (int, float, bytes)):
                todo.append(part.__self__ if isinstance(part, MethodType) else part)
    return found


def test_nothing_of_a_job_that_slurm_has_forgotten_stays_in_the_daemon(stage: MakeStage) -> None:
    scene = stage()
    scene.emulator._next_id = FIRST_ID
    scene.lease_new_jobs()
    scene.play(5)
    jobs = [
        scene.submit(
            gpus=1 + number % 2,
            words="sia: gpus=1-8 types=t4,rtx,a100 level=restartable signal=USR1@30 progress='x=(\\d+)'",
            physics=FixedWork(900.0, handles_signal=number % 2 == 0, report_every_s=30.0),
            user_id=1001 + number,
        )
        for number in range(6)
    ]
    jobs.append(scene.submit(words="", gpus=1, gpu_type="t4", physics=FixedWork(300.0)))
    jobs.append(scene.submit(words="sia: gpus=no", gpus=1, physics=FixedWork(300.0)))
    scene.emulator.faults.inject("rejected", "reshape", times=3)
    scene.play(200)
    scene.emulator.user_cancel(jobs[0])
    scene.play(3000)
    assert all(scene.ended(job_id) for job_id in jobs)
    scene.play(600)
    assert all(job_id in scene.emulator.forgotten for job_id in jobs)
    scene.daemon.client.writes.clear()
    gc.collect()
    assert _remembered(scene.daemon.loop, set(jobs), (Stage, Emulator, Database)) == {}


def test_rounds_make_the_same_statements_over_and_over(stage: MakeStage) -> None:
    """SQLAlchemy keeps hundreds of compiled statements: one that is new in every round costs megabytes in hours."""
    scene = stage()
    scene.submit(gpus=1, physics=FixedWork(50_000.0))
    compiled = scene.daemon.store.db.engine._compiled_cache
    assert compiled is not None
    scene.play(900)
    before, rounds = len(compiled), scene.daemon.state.rounds
    scene.play(1200)
    assert scene.daemon.state.rounds >= rounds + 15
    assert len(compiled) <= before + 3
