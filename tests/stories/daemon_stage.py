"""The whole daemon on a stage: the real Loop and Cycle, a SQLite store, an emulated cluster on a virtual clock.

Everything is what `slurmsia-daemon` runs but the Slurm client and the spool (reports are handed over in memory).
A daemon can be killed without any farewell and another one started on the same folder and cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slurmsia_daemon.control import Wish, Wishes
from slurmsia_daemon.cycle import Cycle, Parts
from slurmsia_daemon.demo import MemorySpool
from slurmsia_daemon.leader import Leadership
from slurmsia_daemon.loop import Loop
from slurmsia_daemon.metrics import Metrics
from slurmsia_daemon.movelog import StoreMoveLog
from slurmsia_daemon.published import Published
from slurmsia_daemon.spool_channel import SpoolChannel
from slurmsia_daemon.wiring import apply_config, canonical

from slurmsia.cluster import JobId, JobState, Request
from slurmsia.config import Config, ConfigError
from slurmsia.config.site import GpuTypeSection
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.models.estimator import Estimator
from slurmsia.moves.act import Actor
from slurmsia.moves.leases import limits_of
from slurmsia.moves.move import Move, Phase
from slurmsia.moves.standings import StandingBook
from slurmsia.slurm.emulator import (
    Emulator,
    FixedWork,
    JobPhysics,
    Latencies,
    Submission,
    VirtualClock,
    gang,
    lease_at_submit,
    make_cluster,
)
from slurmsia.store import Store

START_S = 1_790_000_000.0
NODES = (("t4", 2, 4), ("rtx", 2, 8), ("a100", 1, 8))
DECLARED = "sia: gpus=1-16 types=t4,rtx,a100 level=restartable signal=USR1@30"
TICK_S = 1.5


class Killed(BaseException):
    """kill -9."""


class MortalMoveLog(StoreMoveLog):
    """A move log whose process is killed just before or just after its n-th write from when `doom` was called, of
    any move or of one in a certain phase."""

    _left = 0
    _before = False
    _phase: Phase | None = None

    def doom(self, writes: int, before: bool, phase: Phase | None = None) -> None:
        self._left, self._before, self._phase = writes, before, phase

    def begin(self, moves: Sequence[Move]) -> Sequence[Move]:
        """New moves are one write: the process dies before it, or after it, wherever its n-th move is among them."""
        counted = [move for move in moves if self._phase in (None, move.phase)]
        struck = 0 < self._left <= len(counted)
        self._left -= len(counted)
        if struck and self._before:
            raise Killed
        begun = super().begin(moves)
        if struck:
            raise Killed
        return begun

    def save(self, move: Move) -> None:
        self._left -= self._phase in (None, move.phase)
        struck = self._left == 0 and self._phase in (None, move.phase)
        if struck and self._before:
            raise Killed
        super().save(move)
        if struck:
            raise Killed


class Audience:
    """Keeps the last published state; ``on_state`` sees every one."""

    def __init__(self, on_state: Callable[[Published], None] | None = None) -> None:
        self.state: Published | None = None
        self.count = 0
        self._on_state = on_state

    def publish(self, state: Published) -> None:
        self.state, self.count = state, self.count + 1
        if self._on_state is not None:
            self._on_state(state)

    def take_wishes(self) -> list[Wish]:
        return []


class Daemon:
    """One daemon process, as objects. `loop.turn` is one pass of it."""

    def __init__(self, stage: Stage, config: Config, host: str = "one") -> None:
        self.stage = stage
        self.config = config
        self.store = Store.open(stage.url, "stage", auto_upgrade=True, busy_timeout_s=1.0)
        self.client = stage.emulator.client(f"daemon-{host}")
        self.channel = SpoolChannel(DirectiveWriter(stage.folder))
        self.log = log = MortalMoveLog(self.store)
        self.actor = Actor(self.client, log, limits=limits_of(config), types=config.gpu_types, channel=self.channel)
        self.book = StandingBook(config.moves.lease_s)
        parts = Parts(
            config, self.client, self.store, Estimator(), self.book, self.actor, log, stage.spool, self.channel,
            Metrics(),
        )  # fmt: skip
        self.metrics = parts.metrics
        self.cycle = Cycle(parts, canonical(config))
        self.audience = Audience(stage.saw)
        self.wishes = Wishes()
        self.file: Config | list[str] = config
        self.leadership = Leadership(str(stage.folder if host == "one" else stage.folder / host))
        self.leadership.holder = f"{host}:{os.getpid()}:{stage.next_daemon()}"
        self.loop = Loop(
            self.cycle, self.leadership, self.audience, self.wishes, reload=self._read,
            apply=lambda new: apply_config(self.cycle, new), clock=lambda: stage.emulator.now_s, seed=1,
        )  # fmt: skip

    def _read(self) -> Config:
        if isinstance(self.file, list):
            raise ConfigError(self.file)
        return self.file

    @property
    def state(self) -> Published:
        assert self.audience.state is not None, "nothing was published yet"
        return self.audience.state

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the daemon's own registry, 0 when there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def kill(self) -> None:
        """kill -9: locks of the process vanish, nothing is finished, nothing is said."""
        fd = self.leadership._lock_fd
        if fd is not None:
            os.close(fd)
        self.leadership._lock_fd = None
        self.loop._pruner.close()  # a dead process has no threads; this one would open the store again
        self.cycle.close()
        self.store.close()


class Stage:
    """A cluster, a folder, and the daemons on it."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: str = "enforce",
        nodes: tuple[tuple[str, int, int], ...] = NODES,
        latencies: Latencies | None = None,
        seed: int = 1,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        start_s: float = START_S,
    ) -> None:
        self.folder = folder
        (folder / "directives").mkdir(parents=True, exist_ok=True)
        self.url = f"sqlite:///{folder / 'stage.db'}"
        self.spool = MemorySpool()
        self.emulator = Emulator(
            make_cluster(list(nodes)), latencies=latencies or Latencies(), clock=VirtualClock(start_s), seed=seed,
            on_report=self.spool.hear,
        )  # fmt: skip
        given = {name: dict(section) for name, section in (sections or {}).items()}
        daemon = {
            "mode": mode, "state_dir": str(folder), "heartbeat_file": str(folder / "heartbeat"),
            "freeze_file": str(folder / "freeze"), "tick_s": TICK_S, "shutdown_s": 0.0, "standby_s": 0.01,
        }  # fmt: skip
        given["daemon"] = {**daemon, **given.get("daemon", {})}
        given["jobs"] = {"spool_dir": str(folder), **given.get("jobs", {})}
        given["store"] = {"url": self.url, **given.get("store", {})}
        config = Config.model_validate(given)
        self.config = config.model_copy(
            update={"gpu_types": {name: GpuTypeSection(feature=name) for name, _, _ in nodes}}
        )
        self.chosen: dict[JobId, set[tuple[str, int, int]]] = {}
        self._daemons = 0
        self.daemon = self.start()

    def next_daemon(self) -> int:
        self._daemons += 1
        return self._daemons

    def start(self, host: str = "one", **changes: Any) -> Daemon:
        """Another daemon on this folder; ``host`` "two" shares the store but not the lock file."""
        config = self.config
        if changes:
            config = config.model_copy(update={"daemon": config.daemon.model_copy(update=changes)})
        self.daemon = Daemon(self, config, host)
        return self.daemon

    def lease_new_jobs(self) -> None:
        """Let the submit plugin lease declared jobs, as contrib/job_submit.lua does while the heartbeat is there."""

        def beat() -> float | None:
            return self.emulator.now_s if (self.folder / "heartbeat").exists() else None

        self.emulator.submit_hook = lease_at_submit(beat, self.config.moves.lease_s)

    def saw(self, state: Published) -> None:
        """Every shape that some round chose, for the judgement of runs."""
        if state.plan is None:
            return
        for target in state.plan.targets:
            if target.shape is not None:
                self._choose(target.job_id, target.shape.gpu_type, target.shape.nodes, target.shape.gpus)

    def _choose(self, job_id: JobId, gpu_type: str, nodes: int, gpus: int) -> None:
        self.chosen.setdefault(job_id, set()).add((gpu_type, nodes, gpus))

    def submit(
        self,
        gpus: int = 1,
        nodes: int = 1,
        words: str = DECLARED,
        gpu_type: str = "",
        physics: JobPhysics | None = None,
        user_id: int = 1001,
    ) -> JobId:
        """sbatch by a user."""
        request: Request = gang(gpus, nodes, features=gpu_type)
        asked = Submission(request=request, comment=words, user_id=user_id)
        job_id = self.emulator.submit(asked, physics or FixedWork(gpus * 3600.0))
        for name in (gpu_type,) if gpu_type else [name for name, _, _ in NODES]:
            self._choose(job_id, name, nodes, request.gpus)
        return job_id

    def play(self, seconds: float, daemon: Daemon | None = None) -> None:
        """Let time pass; the daemon takes a pass every tick while something flies, every 5 s otherwise."""
        end = self.emulator.now_s + seconds
        while self.emulator.now_s < end - 1e-6:
            acting = daemon or self.daemon
            step = TICK_S if acting.actor.flights else 5.0
            self.emulator.run_until(min(end, self.emulator.now_s + step))
            acting.loop.turn()

    def sleep(self, seconds: float) -> None:
        """Let time pass without any daemon."""
        self.emulator.run_until(self.emulator.now_s + seconds)

    def job(self, job_id: JobId) -> Any:
        """The emulator's record of a job, also of one that Slurm has forgotten."""
        return self.emulator.records.get(job_id) or self.emulator.forgotten[job_id]

    def ended(self, job_id: JobId) -> bool:
        record = self.emulator.records.get(job_id)
        return record is None or record.state is JobState.ENDED
