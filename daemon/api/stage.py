"""The real API over an embedded, emulated cluster: for the tutorial, the README's screens, benches and tests.

``python -m slurmsia_daemon.api.stage --socket PATH`` builds the same scene at every call (an in-memory slurmctld on a
virtual clock, the production rounds, SQLite in a temporary folder), prints "ready" and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from slurmsia import __version__
from slurmsia.cluster import JobId
from slurmsia.config import Config
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.models.estimator import Estimator
from slurmsia.moves.act import Actor
from slurmsia.moves.leases import limits_of
from slurmsia.moves.standings import StandingBook
from slurmsia.sim.clusters import SimCluster, load_cluster
from slurmsia.sim.honest_job import HonestJob, HonestSettings
from slurmsia.sim.submissions import submission
from slurmsia.slurm.emulator import Emulator, VirtualClock, make_cluster
from slurmsia.slurm.emulator.job import Submission, gang
from slurmsia.store import Store

from ..control import PauseMark, Wish
from ..cycle import Cycle, Outcome, Parts
from ..demo import SEED, MemorySpool, bundled_workload, demo_config
from ..metrics import Metrics
from ..movelog import StoreMoveLog
from ..published import Published
from ..spool_channel import SpoolChannel
from ..wiring import canonical
from .app import Api, make_app
from .callers import CallerCheck
from .records import Records
from .serve import doors, serve
from .state import Holder

#: The scene begins at nine on the epoch's first day: outputs never change, and the emulated jobs keep the precision
#: that they need for steps of microseconds.
START_S = 9 * 3600.0
_TICK_S = 5.0


class Stage:
    """An emulated cluster under the production cycle, moved by hand. Not thread-safe."""

    def __init__(
        self, folder: Path, config: Config | None = None, cluster: SimCluster | None = None, users: tuple[int, ...] = ()
    ) -> None:
        self.folder = folder
        (folder / "directives").mkdir(exist_ok=True)
        self.cluster = cluster or load_cluster("hetero64")
        self.spool = MemorySpool()
        spec = make_cluster([(group.gpu_type, group.nodes, group.gpus_per_node) for group in self.cluster.types])
        self.emulator = Emulator(spec, clock=VirtualClock(START_S), seed=SEED, on_report=self.spool.hear)
        self.config = demo_config(folder, self.cluster)
        self.config = self.config.model_copy(
            update={
                "store": self.config.store.model_copy(update={"url": f"sqlite:///{folder / 'stage.db'}"}),
                "api": self.config.api.model_copy(update={"socket": str(folder / "api.sock")}),
            }
        )
        if config is not None:
            self.config = self.config.model_copy(update={"api": config.api})
        self.store = Store.open(self.config.store.url, "embedded", auto_upgrade=True)
        client = self.emulator.client("stage")
        channel = SpoolChannel(DirectiveWriter(folder))
        log = StoreMoveLog(self.store)
        actor = Actor(client, log, limits=limits_of(self.config), types=self.config.gpu_types, channel=channel)
        book = StandingBook(self.config.moves.lease_s)
        self.parts = Parts(
            self.config, client, self.store, Estimator(), book, actor, log, self.spool, channel, Metrics()
        )  # fmt: skip
        self.cycle = Cycle(self.parts, canonical(self.config))
        self.pause = PauseMark(self.config.daemon.state_dir, self.config.daemon.freeze_file)
        self.users = users or (os.getuid(),)
        self.holder = Holder()
        self.rounds = 0
        self.wishes: list[Wish] = []
        self._physics: dict[JobId, HonestJob] = {}
        workload, self._truths = bundled_workload()
        self._waiting = list(reversed(workload.jobs))
        self._submitted = 0

    def play(self, minutes: float) -> Published:
        """Let so much of the scene happen: arrivals, ticks, a round each minute."""
        end = self.emulator.now_s + minutes * 60.0
        state = self.holder.view().state
        while self.emulator.now_s < end - 1e-6:
            state = self.round()
            for _ in range(int(60.0 / _TICK_S)):
                self._advance(_TICK_S)
                self.cycle.tick()
        return state

    def round(self) -> Published:
        """One round, published."""
        why = self.pause.why()
        mode = "paused" if why else "enforce"
        outcome = self.cycle.round(mode, why)
        self.rounds += 1
        state = self.published(outcome, mode, why)
        self.holder.put(state)
        return state

    def neighbours(self, count: int, gpus: int = 2) -> None:
        """Undeclared jobs of other people, each an hour long."""
        for _ in range(count):
            self.emulator.submit(Submission(gang(gpus), user_id=self._user(), name="notebook", time_limit_s=3600.0))

    def wish(self, wish: Wish) -> bool:
        """What the loop does with a wish, as far as the scene shows it."""
        self.wishes.append(wish)
        if wish.kind == "pause":
            self.pause.pause(wish)
        elif wish.kind == "resume":
            self.pause.resume()
        elif wish.kind in ("pin", "unpin"):
            self.parts.book.pin(wish.job_id, f"pinned by {wish.who}" if wish.kind == "pin" else "")
        return True

    def api(self, check: CallerCheck | None = None, clock: Callable[[], float] | None = None) -> Api:
        """The API over the scene, with the scene's own clock."""
        return Api(
            self.config, self.holder, Records(lambda: self.store), check or CallerCheck(self.config.api), self.wish,
            clock or (lambda: self.emulator.now_s + 12.0),
        )  # fmt: skip

    def close(self) -> None:
        self.cycle.close()
        self.store.close()

    def _user(self) -> int:
        self._submitted += 1
        return self.users[self._submitted % len(self.users)]

    def _advance(self, seconds: float) -> None:
        emulator = self.emulator
        emulator.run_until(emulator.now_s + seconds)
        while self._waiting and START_S + self._waiting[-1].submit_s <= emulator.now_s:
            trace = self._waiting.pop()
            asked = submission(
                trace, self._truths[trace.name], self.cluster, now_s=emulator.now_s, managed=True, rigid=False,
                seed=SEED,
            )  # fmt: skip
            job = HonestJob(trace, self._truths[trace.name], HonestSettings(seed=SEED))
            self._physics[emulator.submit(replace(asked, user_id=self._user()), job)] = job
        for job_id, job in self._physics.items():
            job.batch = self.parts.channel.batch_of(job_id)

    def published(self, outcome: Outcome, mode: str, why: str) -> Published:
        """The state after a round, as the loop makes it."""
        now_s = self.emulator.now_s
        return Published(
            mode=mode, sentence=outcome.sentence, cluster="embedded", why_mode=why, published_s=now_s,
            started_s=START_S, round_id=outcome.round_id, rounds=self.rounds, next_round_s=now_s + 60.0,
            snapshot=outcome.snapshot, plan=outcome.plan, models=outcome.models,
            standings=self.parts.book.standings(), moves=tuple(self.parts.actor.flights.values()),
            problems=outcome.problems, put_off=outcome.put_off, times_s=outcome.times_s,
            warnings=tuple(outcome.warnings), policy=self.config.policy.name, config_text=self.cycle.config_text,
            metrics=self.parts.metrics.text(), version=__version__,
        )  # fmt: skip


@click.command()
@click.option("--socket", "path", required=True, help="Unix socket to serve on.")
@click.option("--minutes", default=25.0, show_default=True, help="How far into the scene to begin.")
@click.option("--listen", default="", help="Also serve on this host:port.")
@click.option("--jwt-key-file", default="", help="Key of tokens that are accepted.")
@click.option("--requests-per-s", default=20.0, show_default=True, help="Rate limit of one user.")
@click.option("--live", is_flag=True, help="Let the scene go on, one emulated minute every two seconds.")
def main(path: str, minutes: float, listen: str, jwt_key_file: str, requests_per_s: float, live: bool) -> None:
    """Serve the API over the embedded cluster until ended."""
    with tempfile.TemporaryDirectory(prefix="slurmsia-stage-") as folder:
        stage = Stage(Path(folder), users=(os.getuid(), os.getuid(), 65534))
        stage.play(5.0)
        stage.neighbours(3)
        stage.play(max(0.0, minutes - 5.0))
        stage.round()
        section = stage.config.api.model_copy(
            update={
                "socket": path, "listen": listen, "jwt_key_file": jwt_key_file, "requests_per_s": requests_per_s,
            }
        )  # fmt: skip
        stage.config = stage.config.model_copy(update={"api": section})
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(2.0):
                stage.play(1.0)

        if live:
            threading.Thread(target=go_on, daemon=True).start()
        app = make_app(stage.api())
        try:
            asyncio.run(serve(app, section, doors(section), lambda: print("ready", flush=True)))
        finally:
            ended.set()
            stage.close()


if __name__ == "__main__":
    main()
