"""Replays a site's own accounting records: what slurmsia would have done with the same jobs on the same cluster.

Records say how long a job ran on what it asked for, and nothing about other shapes; those are assumed, and the
assumptions are printed with every result. Must never present them as measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..cluster import Allocation
from ..config import Config
from ..history import Observation, Progress, Report, RestartSample
from ..slurm.emulator.physics import Exit, RunStart
from .clusters import SimCluster, load_cluster
from .honest import HonestOptions, Simulation
from .result import RunResult
from .sacct_records import COMMAND, SacctError, SacctRun, read_sacct
from .submissions import GROWTH
from .workloads import TraceJob, Workload

if TYPE_CHECKING:
    from .runner import RunSpec, Tick

#: Speed on n GPUs relative to one: n to this power.
SCALING = 0.9
#: Speed of one GPU of a type relative to a T4, from the package's fitted profiles; 1 for types not listed.
TYPE_SPEED: Mapping[str, float] = {"t4": 1.0, "rtx": 1.6, "quad": 1.7, "v100": 2.4, "a100": 4.0, "h100": 7.0}
#: Seconds to save and to start again.
SAVE_S, LOAD_S = 15.0, 45.0
#: Shorter GPU jobs are not worth a restart: they are replayed as they were.
SHORTEST_S = 600.0


def speed(gpu_type: str | None, gpus: int) -> float:
    """Assumed speed of a job on ``gpus`` GPUs of a type, relative to one T4."""
    return TYPE_SPEED.get(gpu_type or "", 1.0) * math.pow(gpus, SCALING)


@dataclass
class AssumedJob:
    """A job known only by its record: ``work`` at speed `speed`, saving on a signal; reports like a plain library."""

    work: float
    done: float = 0.0
    safe: float = 0.0
    silent: bool = False
    _run: RunStart | None = None
    _type: str | None = None
    _gpus: int = 1
    _nodes: int = 1
    _at_s: float = 0.0
    _saving_until_s: float | None = None
    _report_s: float = 0.0
    _gap_s: float = 60.0
    _window_s: float = 0.0
    _seq: int = 0

    def start(self, run: RunStart) -> None:
        self._run, self._seq = run, 0
        self.done = self.safe
        self._at_s = run.now_s + (LOAD_S if run.restart else 0.0)
        self._saving_until_s = None
        self._gap_s, self._window_s = 60.0, 0.0
        self._report_s = self._at_s + self._gap_s
        self.resize(run.allocation, run.now_s)
        self._emit("start", run.now_s)

    def resize(self, allocation: Allocation, now_s: float) -> None:
        self._accrue(now_s)
        self._type, self._gpus, self._nodes = allocation.gpu_type, max(allocation.gpus, 1), len(allocation.nodes)

    def next_s(self) -> float | None:
        if self._run is None:
            return None
        if self._saving_until_s is not None:
            return self._saving_until_s
        end_s = self._at_s + max(self.work - self.done, 0.0) / speed(self._type, self._gpus)
        return end_s if self.silent else min(end_s, self._report_s)

    def wake(self, now_s: float) -> Exit | None:
        if self._saving_until_s is not None:
            self._saving_until_s = None
            self._at_s, self.safe = now_s, self.done
            self._emit("checkpointed", now_s)
            return None
        self._accrue(now_s)
        if self.done >= self.work * (1.0 - 1e-12):
            self._emit("end", now_s)
            self._run = None
            return Exit(0)
        if now_s >= self._report_s:
            self._emit("progress", now_s)
            self._gap_s = min(2.0 * self._gap_s, 3600.0)
            self._report_s = now_s + self._gap_s
        return None

    def signal(self, name: str, now_s: float) -> Exit | None:
        if self.silent:
            self._run = None
            return Exit(138, name)
        if self._saving_until_s is None:
            self._accrue(now_s)
            self._saving_until_s = max(now_s, self._at_s) + SAVE_S
        return None

    def stop(self, now_s: float) -> float:
        if self._saving_until_s is None:
            self._accrue(now_s)
        self._run = None
        return 1.0

    def _accrue(self, now_s: float) -> None:
        if now_s > self._at_s:
            self.done = min(self.done + (now_s - self._at_s) * speed(self._type, self._gpus), self.work)
            self._window_s += now_s - self._at_s
            self._at_s = now_s

    def _emit(self, event: str, now_s: float) -> None:
        if self._run is None or self.silent:
            return
        self._seq += 1
        steps: tuple[Observation, ...] = ()
        if self._window_s > 1.0 and event != "start":
            per_step_s = self._gpus / speed(self._type, self._gpus)
            count = self._window_s / per_step_s
            steps = (
                Observation(
                    self._type or "?", self._nodes, self._gpus, 1, 0, count, self._window_s, self._window_s * per_step_s
                ),
            )
            self._window_s = 0.0
        sample = RestartSample(save_s=SAVE_S) if event == "checkpointed" else None
        if event == "progress" and self._run.restart and self._seq == 2:
            sample = RestartSample(load_s=LOAD_S)
        self._run.emit(
            Report(
                self._run.job_id,
                self._run.restart,
                self._seq,
                now_s,
                event,
                observations=steps,
                progress=Progress(now_s, self.done, self.work, self.safe, now_s),
                restart_sample=sample,
                handles_signal=True,
            )
        )


@dataclass(frozen=True)
class Replay:
    """Accounting records as a workload, the work of each job, and what had to be assumed."""

    workload: Workload
    work: Mapping[str, float]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def replay_of(runs: tuple[SacctRun, ...], cluster: SimCluster, name: str, left_out: tuple[str, ...] = ()) -> Replay:
    """One job per job id: its runs' times add up (a requeued job has several). Raises `SacctError` without GPU jobs."""
    by_job: dict[str, list[SacctRun]] = {}
    notes = list(left_out)
    no_gpus = unfinished = going = 0
    for run in runs:
        if run.gpus < 1:
            no_gpus += 1
        elif run.start_s is None or run.elapsed_s <= 0:
            unfinished += 1
        else:
            by_job.setdefault(run.job_id, []).append(run)
            going += run.state == "RUNNING"
    if not by_job:
        raise SacctError(f"no run with GPUs took any time among {len(runs)} records; make the file with: {COMMAND}")
    if no_gpus:
        notes.append(f"{no_gpus} runs without GPUs are left out")
    if unfinished:
        notes.append(f"{unfinished} runs that never ran or took no time are left out")
    if going:
        notes.append(f"{going} runs had not ended when the records were made: their jobs end there")
    first_s = min(run.submit_s for mine in by_job.values() for run in mine)
    names = {group.gpu_type for group in cluster.types}
    jobs, work, foreign = [], {}, set[str]()
    for job_id, mine in by_job.items():
        last = mine[-1]
        if last.gpu_type is not None and last.gpu_type not in names:
            foreign.add(last.gpu_type)
        gpu_type = last.gpu_type if last.gpu_type in names else None
        elapsed = sum(run.elapsed_s for run in mine)
        work[job_id] = sum(run.elapsed_s * speed(run.gpu_type, run.gpus) for run in mine)
        jobs.append(
            TraceJob(
                name=job_id,
                submit_s=min(run.submit_s for run in mine) - first_s,
                application=f"{last.user}/{last.name}",
                gpus=min(last.gpus, cluster.gpus),
                batch_size=1,
                category="adaptive" if elapsed >= SHORTEST_S else "rigid",
                declared=elapsed >= SHORTEST_S,
                gpu_type=gpu_type,
                run_s=elapsed,
            )
        )
    if foreign:
        notes.append(
            f"GPU types {', '.join(sorted(foreign))} are not in cluster {cluster.name}: those jobs take any type"
        )
    jobs.sort(key=lambda job: (job.submit_s, job.name))
    return Replay(Workload(name, tuple(jobs)), work, _assumptions(), tuple(notes))


def _assumptions() -> tuple[str, ...]:
    listed = ", ".join(f"{name} {factor:g}" for name, factor in TYPE_SPEED.items())
    return (
        f"assumed: speed on n GPUs grows as n^{SCALING:g}; one GPU's speed relative to a T4: {listed}, others 1",
        f"assumed: a checkpoint takes {SAVE_S:.0f} s and a restart {LOAD_S:.0f} s more; jobs keep their total batch",
        f"assumed: jobs of {SHORTEST_S / 60:.0f} min and more carry a declaration (1 GPU to {GROWTH} times their "
        "request, any type); shorter ones stay as they were",
    )


def run_sacct(spec: RunSpec, config: Config, tick: Tick | None) -> RunResult:
    """Replay one accounting file under the policy of the spec (``slurm`` = as without slurmsia)."""
    from .runner import PLAIN_SLURM, RIGID_POLICIES
    from .workloads import label

    assert spec.sacct_file is not None
    cluster = load_cluster(spec.cluster)
    read = read_sacct(spec.sacct_file)
    replay = replay_of(read.runs, cluster, label(spec.sacct_file), read.left_out)
    managed = spec.policy != PLAIN_SLURM
    simulation = Simulation(
        cluster=cluster,
        workload=replay.workload,
        config=config,
        profiles=None,
        physics_of=lambda trace: AssumedJob(replay.work[trace.name], silent=not managed or not trace.declared),
        seed=spec.seed,
        managed=managed,
        rigid=not managed or spec.policy in RIGID_POLICIES,
        options=HonestOptions(),
    )
    total = len(replay.workload.jobs)
    simulation.run(None if tick is None else lambda done, now_s: tick(done, total, now_s))
    return RunResult(
        workload=replay.workload.name,
        policy=spec.name,
        settings=spec.settings(),
        jobs=simulation.results(),
        rounds=simulation.rounds,
        solve_ms=tuple(simulation.solve_ms),
        moves_uncharged=0,
        contention=tuple(simulation.contention),
        wall_s=0.0,
        peak_rss_mb=0.0,
        assumptions=replay.assumptions,
        notes=replay.notes,
    )
