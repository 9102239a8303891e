"""Runs simulations: one `RunSpec` in, one `RunResult` out; several of them in parallel processes.

A spec is plain data, so that it can be sent to another process or another node. What is simulated lives in
`artifact` and `honest`; this module only chooses, times and collects. It must never change a result by how it is run.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from ..config import Config
from .clusters import load_cluster
from .profiles import Profiles
from .result import JobResult, RunResult
from .settings import SettingError, config_from, split_options
from .workloads import Workload, load_workload, mixed

PHYSICS = ("honest", "artifact")

#: "Policy" without slurmsia: every job as its user wrote it, Slurm's own scheduling.
PLAIN_SLURM = "slurm"

#: Schedulers that never resize a job, and their published round length.
RIGID_POLICIES: Mapping[str, float] = {"gavel": 360.0, "fifo": 60.0, "las": 60.0, "srtf": 60.0}

#: (jobs finished, jobs in all, simulated seconds)
Tick = Callable[[int, int, float], None]


@dataclass(frozen=True)
class RunSpec:
    """One simulation. ``options`` are ``key=value`` texts of the policy file or of the simulation itself.

    ``interval_s`` ``None``: the policy's published round length (60 s; Gavel 360 s). ``undeclared``: share of jobs
    without a declaration. ``sacct_file`` replaces ``workload_file`` for accounting records.
    """

    policy: str
    cluster: str = "hetero64"
    workload_file: Path | None = None
    profiles_dir: Path | None = None
    physics: str = "honest"
    options: tuple[str, ...] = ()
    interval_s: float | None = None
    seed: int = 0
    jobs_scale: int = 1
    undeclared: float = 0.0
    sacct_file: Path | None = None
    rho: bool = False
    segments: bool = True
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.policy

    def settings(self) -> dict[str, Any]:
        """What a reader needs to run it again."""
        return {
            "policy": self.policy,
            "label": self.name,
            "cluster": self.cluster,
            "workload": str(self.workload_file or self.sacct_file or ""),
            "physics": self.physics,
            "options": list(self.options),
            "interval_s": self.round_s,
            "seed": self.seed,
            "jobs_scale": self.jobs_scale,
            "undeclared": self.undeclared,
        }

    @property
    def round_s(self) -> float:
        return self.interval_s if self.interval_s is not None else RIGID_POLICIES.get(self.policy, 60.0)


def run_one(spec: RunSpec, tick: Tick | None = None) -> RunResult:
    """Run one simulation in this process. Raises `WorkloadError`, `ProfileError`, `ClusterError`, `SettingError`."""
    begun, cpu_begun = time.perf_counter(), time.process_time()
    if spec.physics not in PHYSICS:
        raise SettingError(f"no physics `{spec.physics}`; there are: {', '.join(PHYSICS)}")
    options, own = split_options(spec.options)
    config = config_from(options, "sia" if spec.policy == PLAIN_SLURM else spec.policy, spec.round_s)
    if spec.sacct_file is not None:
        from .sacct_replay import run_sacct

        result = run_sacct(spec, config, tick)
    else:
        workload = workload_of(spec)
        if spec.profiles_dir is None:
            raise SettingError("name the folder with the applications' profiles: --profiles DIR")
        profiles = Profiles(spec.profiles_dir)
        run = _run_artifact if spec.physics == "artifact" else _run_honest
        result = run(spec, config, own, workload, profiles, tick)
        if spec.rho:
            result = replace(result, jobs=_with_rho(spec, result, workload, profiles))
    if not spec.segments:
        result = replace(result, jobs=tuple(replace(job, segments=()) for job in result.jobs))
    return replace(
        result,
        wall_s=time.perf_counter() - begun,
        cpu_s=time.process_time() - cpu_begun,
        peak_rss_mb=_peak_rss_mb(),
    )


def workload_of(spec: RunSpec) -> Workload:
    """The submissions of a spec, scaled and mixed as it says."""
    if spec.workload_file is None:
        raise SettingError("name a workload: --workload FILE")
    workload = load_workload(spec.workload_file, spec.jobs_scale)
    return mixed(workload, spec.undeclared, spec.seed) if spec.undeclared > 0 else workload


def _run_artifact(
    spec: RunSpec, config: Config, own: Mapping[str, str], workload: Workload, profiles: Profiles, tick: Tick | None
) -> RunResult:
    from ..policy.registry import policy
    from ..solver import SolverLimits, solve
    from .artifact import TIE_GAP, ArtifactWorld, simulate_artifact

    world = ArtifactWorld(
        cluster=load_cluster(spec.cluster),
        profiles=profiles,
        policy=policy(spec.policy, config.policy),
        solve=solve,
        limits=SolverLimits(gap=min(config.solver.gap, TIE_GAP), seed=spec.seed),
        interval_s=spec.round_s,
        project=own.get("project", "true") != "false",
        rigid=spec.policy in RIGID_POLICIES,
    )
    total = len(workload.jobs)
    run = simulate_artifact(world, workload, None if tick is None else lambda done, now_s: tick(done, total, now_s))
    return RunResult(
        workload=workload.name,
        policy=spec.name,
        settings=spec.settings(),
        jobs=run.jobs,
        rounds=run.rounds,
        solve_ms=tuple(run.solve_ms),
        moves_uncharged=run.moves_uncharged,
        contention=tuple(run.contention),
        wall_s=0.0,
        peak_rss_mb=0.0,
    )


def _with_rho(spec: RunSpec, result: RunResult, workload: Workload, profiles: Profiles) -> tuple[JobResult, ...]:
    from .fairness import with_rho

    rigid = spec.policy in RIGID_POLICIES or spec.policy == PLAIN_SLURM
    return with_rho(result.jobs, workload, load_cluster(spec.cluster), profiles, spec.round_s, rigid)


def _run_honest(
    spec: RunSpec, config: Config, own: Mapping[str, str], workload: Workload, profiles: Profiles, tick: Tick | None
) -> RunResult:
    from .honest import run_honest

    return run_honest(spec, config, own, workload, profiles, tick)


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024.0


@dataclass
class Progress:
    """News from the workers: ``kind`` is "tick" or "done"; ``error`` is a sentence when a run failed."""

    index: int
    kind: str
    finished: int = 0
    total: int = 0
    now_s: float = 0.0
    result: RunResult | None = None
    error: str = ""


@dataclass
class Batch:
    """Results so far of several specs, in the order of the specs; ``errors`` by index."""

    specs: Sequence[RunSpec]
    results: dict[int, RunResult] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    interrupted: bool = False

    def finished(self) -> list[RunResult]:
        return [self.results[index] for index in sorted(self.results)]


def run_many(specs: Sequence[RunSpec], workers: int, on_progress: Callable[[Progress], None] | None = None) -> Batch:
    """Run specs, at most ``workers`` at a time, each in a fresh process; one worker runs here.

    Ctrl-C keeps what is finished. A failing run becomes a sentence in ``errors``; the others go on.
    """
    batch = Batch(specs)
    try:
        for news in _here(specs, on_progress) if workers <= 1 else _elsewhere(specs, workers):
            if news.kind == "done":
                if news.result is not None:
                    batch.results[news.index] = news.result
                else:
                    batch.errors[news.index] = news.error
            if on_progress is not None:
                on_progress(news)
    except KeyboardInterrupt:
        batch.interrupted = True
    return batch


def _outcome(index: int, spec: RunSpec, tick: Tick | None) -> Progress:
    try:
        result = run_one(spec, tick)
    except Exception as error:  # one bad run must not end the others
        return Progress(index, "done", error=f"{spec.name} on {spec.workload_file or spec.sacct_file}: {error}")
    return Progress(index, "done", len(result.jobs), len(result.jobs), result=result)


def _here(specs: Sequence[RunSpec], on_progress: Callable[[Progress], None] | None) -> Iterator[Progress]:
    for index, spec in enumerate(specs):

        def tick(finished: int, total: int, now_s: float, index: int = index) -> None:
            if on_progress is not None:
                on_progress(Progress(index, "tick", finished, total, now_s))

        yield _outcome(index, spec, tick)


_news: SimpleQueue[Progress] | None = None


def _worker_start(queue: SimpleQueue[Progress]) -> None:
    global _news
    _news = queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _worker_run(task: tuple[int, RunSpec]) -> None:
    index, spec = task
    assert _news is not None
    news = _news
    last = [0.0]

    def tick(finished: int, total: int, now_s: float) -> None:
        moment = time.monotonic()
        if moment - last[0] > 0.5:
            last[0] = moment
            news.put(Progress(index, "tick", finished, total, now_s))

    news.put(_outcome(index, spec, tick))


def _elsewhere(specs: Sequence[RunSpec], workers: int) -> Iterator[Progress]:
    context = get_context("spawn")
    queue: SimpleQueue[Progress] = context.SimpleQueue()
    with context.Pool(workers, _worker_start, (queue,), maxtasksperchild=1) as pool:
        waiting = pool.map_async(_worker_run, list(enumerate(specs)), chunksize=1)
        left = len(specs)
        while left:
            while queue.empty():
                if waiting.ready() and not waiting.successful() and queue.empty():
                    waiting.get()
                time.sleep(0.05)
            news = queue.get()
            left -= news.kind == "done"
            yield news


def default_workers() -> int:
    """Processors this process may use."""
    try:
        return max(len(os.sched_getaffinity(0)), 1)
    except AttributeError:
        return os.cpu_count() or 1
