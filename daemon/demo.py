"""The demo behind ``make run``: the daemon itself on an emulated 64-GPU cluster, SQLite, and a bundled workload.

Everything is the production code but the Slurm client (an in-memory slurmctld on a fast clock) and the spool (reports
are handed over in memory). Needs no root, no Docker, no Slurm; leaves nothing behind.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from slurmsia.cluster import Allocation, JobId, JobState
from slurmsia.config import Config, GpuTypeSection
from slurmsia.history import Report
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.job.spool import SpoolBatch
from slurmsia.models.estimator import Estimator
from slurmsia.moves.act import Actor
from slurmsia.moves.leases import limits_of
from slurmsia.moves.standings import StandingBook
from slurmsia.sim.clusters import SimCluster, load_cluster
from slurmsia.sim.honest import HonestOptions, Simulation, job_result
from slurmsia.sim.honest_job import HonestJob, HonestSettings
from slurmsia.sim.result import JobResult
from slurmsia.sim.shipped_truth import NAMES, ShippedTruth, shipped_truth
from slurmsia.sim.submissions import submission
from slurmsia.sim.workloads import TraceJob, Workload
from slurmsia.slurm.emulator import Emulator, RealClock, RunRecord, make_cluster
from slurmsia.store import Store

from .control import Wish, Wishes
from .cycle import Cycle, Parts
from .leader import Leadership
from .loop import Loop
from .metrics import Metrics
from .movelog import StoreMoveLog
from .published import Published, gpu_use
from .spool_channel import SpoolChannel
from .wiring import canonical

JOBS = 40
ARRIVALS_MIN = 50.0
SEED = 2023

#: Minutes of the job's work on the GPUs that its user asked for, and those GPUs, by application.
_LENGTHS_MIN = {"cifar10": 16, "bert": 22, "deepspeech2": 14, "yolov3": 35, "imagenet": 70}
_ASKED_GPUS = (1, 1, 1, 2, 2, 4, 4, 8)


class MemorySpool:
    """Reports of emulated jobs, handed to the daemon as the spool reader would."""

    def __init__(self) -> None:
        self._waiting: list[Report] = []
        self._lock = threading.Lock()

    def hear(self, report: Report) -> None:
        with self._lock:
            self._waiting.append(report)

    def poll(self, known: Mapping[tuple[JobId, int], tuple[int, Allocation | None]]) -> SpoolBatch:
        with self._lock:
            taken, self._waiting = self._waiting, []
        return SpoolBatch(tuple(taken))


def bundled_workload() -> tuple[Workload, dict[str, ShippedTruth]]:
    """About 40 jobs of five applications within an hour, and the truth of each: the same at every call."""
    draw = random.Random(SEED)
    jobs, truths = [], {}
    for number in range(JOBS):
        application = NAMES[number % len(NAMES)]
        submit_s = draw.uniform(0.0, ARRIVALS_MIN * 60.0)
        asked = draw.choice(_ASKED_GPUS)
        minutes = _LENGTHS_MIN[application] * draw.uniform(0.4, 1.6)
        probe = shipped_truth(application, 1.0)
        step_s, _ = probe.on("t4").step_and_sync_s((1,), min(probe.initial_batch, probe.on("t4").local_max))
        name = f"{application}-{number}"
        truths[name] = shipped_truth(application, minutes * 60.0 / step_s)
        jobs.append(TraceJob(name, submit_s, application, asked, probe.initial_batch * asked))
    return Workload("bundled", tuple(sorted(jobs, key=lambda job: job.submit_s))), truths


@dataclass
class Screen:
    """The live table; also tells when every job has ended."""

    emulator: Emulator
    live: Live | None
    total: int
    ended: int = 0
    state: Published | None = None
    moves_done: int = 0
    _seen: set[str] = field(default_factory=set)

    def publish(self, state: Published) -> None:
        self.state = state
        if self.live is not None:
            self.live.update(self.picture())

    def take_wishes(self) -> list[Wish]:
        return []

    def picture(self) -> Group:
        state = self.state
        head = Table.grid(padding=(0, 2))
        virtual_min = self.emulator.now_s / 60.0
        head.add_row(f"slurmsia demo  {virtual_min:5.0f} min  {self.ended}/{self.total} jobs ended")
        if state is None or state.snapshot is None or state.plan is None:
            return Group(head)
        head.add_row(state.sentence)
        managed = frozenset(target.job_id for target in state.plan.targets)
        gpus = Table("GPUs", "total", "managed", "free", title=None, box=None)
        for use in gpu_use(state.snapshot, managed):
            gpus.add_row(use.gpu_type, str(use.total), str(use.managed), str(use.free))
        jobs = Table("job", "name", "holds", "moves", "why", box=None, expand=True)
        verdicts = {verdict.job_id: verdict for verdict in state.plan.verdicts}
        for job in state.snapshot.jobs:
            if job.state is JobState.ENDED or job.id not in verdicts:
                continue
            shape = job.allocation.shape if job.allocation is not None else None
            standing = state.standings.get(job.id)
            moves = str(standing.moves) if standing is not None else ""
            jobs.add_row(job.id, job.name, str(shape or "waits"), moves, verdicts[job.id].sentence[:100])
            if jobs.row_count >= 24:
                break
        return Group(head, gpus, jobs)


def demo_config(folder: Path, cluster: SimCluster) -> Config:
    """The demo's policy file: enforce, everything else as shipped."""
    defaults = Config()
    return defaults.model_copy(
        update={
            "gpu_types": {group.gpu_type: GpuTypeSection(feature=group.gpu_type) for group in cluster.types},
            "daemon": defaults.daemon.model_copy(
                update={
                    "mode": "enforce",
                    "state_dir": str(folder),
                    "heartbeat_file": str(folder / "heartbeat"),
                    "freeze_file": str(folder / "freeze"),
                    "tick_s": 0.1,
                    "shutdown_s": 0.0,
                }
            ),
            "jobs": defaults.jobs.model_copy(update={"spool_dir": str(folder)}),
        }
    )


def run_demo(speed: float = 60.0, console: Console | None = None) -> int:
    """Run the demo to its end or to Ctrl-C; returns the exit code."""
    console = console or Console()
    workload, truths = bundled_workload()
    cluster = load_cluster("hetero64")
    console.print(
        f"slurmsia demo: {len(workload.jobs)} elastic jobs on {cluster.gpus} emulated GPUs "
        f"({', '.join(f'{g.nodes}x{g.gpus_per_node} {g.gpu_type}' for g in cluster.types)}) at {speed:g}x speed. "
        "Ctrl-C ends it."
    )
    with tempfile.TemporaryDirectory(prefix="slurmsia-demo-") as folder:
        jobs = _run_live(console, workload, truths, cluster, speed, Path(folder))
    if jobs is None:
        console.print("Ended by Ctrl-C; nothing is left behind.")
        return 0
    rigid = _run_rigid(workload, truths, cluster)
    _compare(console, jobs, rigid)
    return 0


def _run_live(
    console: Console,
    workload: Workload,
    truths: Mapping[str, ShippedTruth],
    cluster: SimCluster,
    speed: float,
    folder: Path,
) -> tuple[JobResult, ...] | None:
    (folder / "directives").mkdir()
    spool = MemorySpool()
    clock = RealClock(speed=speed, start_s=0.0)
    spec = make_cluster([(group.gpu_type, group.nodes, group.gpus_per_node) for group in cluster.types])
    emulator = Emulator(spec, clock=clock, seed=SEED, on_report=spool.hear)
    config = demo_config(folder, cluster)
    store = Store.open(f"sqlite:///{folder / 'demo.db'}", "demo", auto_upgrade=True)
    client = emulator.client("demo")
    channel = SpoolChannel(DirectiveWriter(folder))
    log = StoreMoveLog(store)
    book = StandingBook(config.moves.lease_s)
    actor = Actor(client, log, limits=limits_of(config), types=config.gpu_types, channel=channel)
    parts = Parts(
        config, client, store, Estimator(), book, actor, log, spool, channel, Metrics()
    )  # fmt: skip
    cycle = Cycle(parts, canonical(config))
    interactive = console.is_terminal
    live = Live(console=console, refresh_per_second=4, transient=True) if interactive else None
    screen = Screen(emulator, live, len(workload.jobs))
    loop = Loop(
        cycle, Leadership(str(folder)), screen, Wishes(), reload=lambda: config, apply=lambda _: None,
        clock=lambda: emulator.now_s, seed=SEED,
    )  # fmt: skip
    physics: dict[JobId, HonestJob] = {}
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        loop.stop()

    old = signal.signal(signal.SIGINT, interrupt)
    feeder = threading.Thread(
        target=_feed,
        args=(emulator, clock, workload, truths, cluster, channel, physics, screen, loop, console),
        daemon=True,
    )
    try:
        if live is not None:
            live.start()
        feeder.start()
        loop.run()
    finally:
        if live is not None:
            live.stop()
        signal.signal(signal.SIGINT, old)
        feeder.join(timeout=5.0)
        store.close()
    if interrupted.is_set():
        return None
    return _results(emulator, physics)


def _feed(
    emulator: Emulator,
    clock: RealClock,
    workload: Workload,
    truths: Mapping[str, ShippedTruth],
    cluster: SimCluster,
    channel: SpoolChannel,
    physics: dict[JobId, HonestJob],
    screen: Screen,
    loop: Loop,
    console: Console,
) -> None:
    """The users: submit each job in time, read directives for it, notice when all have ended."""
    waiting = list(reversed(workload.jobs))
    settings = HonestSettings(seed=SEED)
    said = 0
    while True:
        time.sleep(0.05)
        with emulator.lock:
            emulator.run_until(clock.wall_s())
            while waiting and waiting[-1].submit_s <= emulator.now_s:
                trace = waiting.pop()
                asked = submission(
                    trace, truths[trace.name], cluster, now_s=emulator.now_s, managed=True, rigid=False, seed=SEED
                )
                job = HonestJob(trace, truths[trace.name], settings)
                physics[emulator.submit(replace(asked, user_id=os.getuid()), job)] = job
            for job_id, job in physics.items():
                job.batch = channel.batch_of(job_id)
            screen.ended = sum(record.state is JobState.ENDED for record in emulator.records.values()) + len(
                emulator.forgotten
            )
        if not console.is_terminal and int(emulator.now_s // 600) > said and screen.state is not None:
            said = int(emulator.now_s // 600)
            console.print(
                f"{emulator.now_s / 60:4.0f} min: {screen.ended}/{screen.total} ended. {screen.state.sentence}"
            )
        if not waiting and screen.ended >= screen.total:
            loop.stop()
            return


def _results(emulator: Emulator, physics: Mapping[JobId, HonestJob]) -> tuple[JobResult, ...]:
    runs: dict[JobId, list[RunRecord]] = {}
    for run in emulator.accounting:
        runs.setdefault(run.job_id, []).append(run)
    return tuple(job_result(job.trace, runs.get(job_id, []), [0, 1]) for job_id, job in physics.items())


def _run_rigid(workload: Workload, truths: Mapping[str, ShippedTruth], cluster: SimCluster) -> tuple[JobResult, ...]:
    """The same jobs as their users asked for them, first come first served, by Slurm alone."""
    settings = HonestSettings(seed=SEED)
    plain = Simulation(
        cluster,
        workload,
        Config(),
        None,
        lambda trace: HonestJob(trace, truths[trace.name], settings, fixed_batch=trace.batch_size, silent=True),
        seed=SEED,
        managed=False,
        rigid=True,
        options=HonestOptions(),
    )
    plain.run()
    return plain.results()


def _compare(console: Console, ours: tuple[JobResult, ...], rigid: tuple[JobResult, ...]) -> None:
    table = Table("", "mean JCT", "slowest job", "makespan", "GPU-h per job", "restarts per job", box=None)
    for name, jobs in (("slurmsia", ours), ("rigid FIFO", rigid)):
        jct = sorted(job.jct_s for job in jobs)
        span = max(job.end_s for job in jobs) - min(job.submit_s for job in jobs)
        table.add_row(
            name,
            f"{sum(jct) / len(jct) / 60:.1f} min",
            f"{jct[-1] / 60:.0f} min",
            f"{span / 60:.0f} min",
            f"{sum(job.gpu_s for job in jobs) / len(jobs) / 3600:.2f}",
            f"{sum(job.restarts for job in jobs) / len(jobs):.1f}",
        )
    console.print(table)
    ratio = (sum(j.jct_s for j in ours) / len(ours)) / (sum(j.jct_s for j in rigid) / len(rigid))
    console.print(
        f"Mean completion time is {ratio:.2f} of rigid FIFO's (emulated, shipped step-time models, one seed)."
    )
