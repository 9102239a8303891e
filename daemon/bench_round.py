"""``slurmsia bench round``: the daemon's whole round on a busy emulated cluster with a SQLite store, by phase.

The cluster, the queue and what jobs reported are drawn from a seed. Nothing here is used outside benches.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from random import Random

import click

from .upkeep import Body, keep_heap_whole, undisturbed

#: name, GPUs per node, seconds per sample relative to the middle type
_TYPES = (("a100", 8, 0.5), ("rtx", 8, 1.0), ("t4", 4, 2.0))
_TIMES = ("observe", "ingest", "learn", "decide", "to_plan", "store", "act", "measure", "total", "cpu", "tidy")
_USERS = 37
_KINDS = 60


@click.command()
@click.option("--jobs", default=1000, show_default=True, help="Live jobs, four in five of them declared.")
@click.option("--nodes", default=250, show_default=True, help="Nodes, in thirds of three GPU types.")
@click.option("--rounds", default=9, show_default=True, help="Rounds measured after the queue has settled.")
@click.option("--mode", default="enforce", show_default=True, type=click.Choice(["observe", "enforce"]))
@click.option("--seed", default=1, show_default=True, help="Seed of the cluster, the jobs and their reports.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def round_bench(jobs: int, nodes: int, rounds: int, mode: str, seed: int, as_json: bool) -> None:
    """Time and memory of a whole round: observe, learn, decide, store; medians over rounds that follow on each other.

    Every round each running declared job reports, so that histories, models and goodput change as they do on a site.
    """
    import gc

    import psutil

    from .log import set_up

    set_up("text", "error")
    keep_heap_whole()
    with tempfile.TemporaryDirectory(prefix="slurmsia-bench-") as folder:
        bench = _Bench(Path(folder), jobs, nodes, seed)
        bench.settle(mode)
        rows = [bench.round(mode) for _ in range(rounds)]
        gc.collect()
        rss_mb = psutil.Process().memory_info().rss / 2**20
        bench.close()
    result: dict[str, object] = {
        f"{key}_ms": round(statistics.median(row[key] for row in rows) * 1e3, 1) for key in _TIMES
    }
    result |= {
        "worst_total_ms": round(max(row["total"] for row in rows) * 1e3, 1),
        "rss_mb": round(rss_mb, 1),
        "jobs": jobs,
        "declared": bench.declared,
        "nodes": nodes,
        "rounds": rounds,
        "reports_per_round": bench.reports,
        "mode": mode,
        "last_round": bench.sentence,
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(bench.sentence)
    click.echo(
        f"round of {jobs} jobs on {nodes} nodes, median of {rounds}: observe {result['observe_ms']} ms, ingest "
        f"{result['ingest_ms']} ms ({bench.reports} reports), learn {result['learn_ms']} ms, decide "
        f"{result['decide_ms']} ms: observation to plan {result['to_plan_ms']} ms; store {result['store_ms']} ms, act "
        f"{result['act_ms']} ms; total {result['total_ms']} ms (worst {result['worst_total_ms']} ms; CPU "
        f"{result['cpu_ms']} ms), then {result['tidy_ms']} ms of tidying, {result['rss_mb']} MB resident"
    )


class _Bench:
    """The daemon's cycle over an emulated cluster whose jobs report every round."""

    def __init__(self, folder: Path, jobs: int, nodes: int, seed: int) -> None:
        from slurmsia.config import Config, GpuTypeSection
        from slurmsia.job.directive_writer import DirectiveWriter
        from slurmsia.models.estimator import Estimator
        from slurmsia.moves.act import Actor
        from slurmsia.moves.leases import limits_of
        from slurmsia.moves.standings import StandingBook
        from slurmsia.slurm.emulator import Emulator, VirtualClock, make_cluster
        from slurmsia.store import Store

        from .cycle import Cycle, Parts
        from .demo import MemorySpool
        from .metrics import Metrics
        from .movelog import StoreMoveLog
        from .spool_channel import SpoolChannel
        from .wiring import canonical

        self._draw = Random(seed)
        counts = [nodes // 3 + (1 if number < nodes % 3 else 0) for number in range(3)]
        spec = make_cluster([(name, count, gpus) for (name, gpus, _), count in zip(_TYPES, counts, strict=True)])
        self._spool = MemorySpool()
        self._emulator = Emulator(spec, clock=VirtualClock(1_790_000_000.0), seed=seed, on_report=lambda report: None)
        (folder / "directives").mkdir()
        config = Config().model_copy(
            update={
                "gpu_types": {name: GpuTypeSection(feature=name) for name, _, _ in _TYPES},
                "jobs": Config().jobs.model_copy(update={"spool_dir": str(folder)}),
            }
        )
        self._store = Store.open(f"sqlite:///{folder / 'bench.db'}", "bench", auto_upgrade=True)
        self._client = self._emulator.client("bench")
        channel, log = SpoolChannel(DirectiveWriter(folder)), StoreMoveLog(self._store)
        self._actor = Actor(self._client, log, limits=limits_of(config), types=config.gpu_types, channel=channel)
        parts = Parts(
            config, self._client, self._store, Estimator(), StandingBook(config.moves.lease_s), self._actor, log,
            self._spool, channel, Metrics(),
        )  # fmt: skip
        self._cycle = Cycle(parts, canonical(config))
        self._body = Body()
        self._seq = 0
        self._speeds: dict[str, float] = {}
        self._samples: dict[str, float] = {}
        self.declared = 0
        self.reports = 0
        self.sentence = ""
        for _ in range(jobs):
            self._submit()

    def _submit(self) -> None:
        from slurmsia.slurm.emulator import FixedWork, Submission, gang

        draw = self._draw
        ours = draw.random() < 0.8
        most, kind = draw.choice((2, 4, 8, 16, 32)), draw.randrange(_KINDS)
        words = f"sia: gpus=1-{most} batch=128:4096 local=16:256 level=adaptive signal=USR1@60" if ours else ""
        asked = Submission(
            request=gang(1 if ours else draw.choice((1, 2, 4))),
            user_id=1000 + kind % _USERS,
            name=f"train-{kind}",
            comment=words,
            script_hash=f"kind{kind}",
        )
        job_id = self._emulator.submit(asked, FixedWork(1e9, report_every_s=None))
        self.declared += ours
        self._speeds[job_id] = draw.lognormvariate(0.0, 0.7) * (1.0 + 0.1 * kind)

    def settle(self, mode: str) -> None:
        """Rounds until models of every job are warm and the first rush of moves is over."""
        for _ in range(5):
            self.round(mode)

    def round(self, mode: str) -> dict[str, float]:
        """A minute of ticks and reports, then one round; seconds by phase."""
        for _ in range(30):
            self._emulator.advance(2.0)
            if self._actor.flights:
                self._cycle.tick()
        self._report()
        begun, cpu = time.perf_counter(), time.process_time()
        with undisturbed():
            outcome = self._cycle.round(mode, "")
        total, cpu = time.perf_counter() - begun, time.process_time() - cpu
        tidied = time.perf_counter()
        self._body.tidy()
        self.sentence = outcome.sentence
        times = {key: outcome.times_s.get(key, 0.0) for key in ("observe", "ingest", "learn", "decide")}
        times["to_plan"] = sum(times.values())
        times |= {key: outcome.times_s.get(key, 0.0) for key in ("store", "act", "measure")}
        return {**times, "total": total, "cpu": cpu, "tidy": time.perf_counter() - tidied}

    def _report(self) -> None:
        """What each running declared job says of its last minute."""
        from slurmsia.cluster import JobState
        from slurmsia.history import Gradient, Observation, Progress, Report

        slow = {name: factor for name, _, factor in _TYPES}
        now_s, self._seq, self.reports = self._emulator.now_s, self._seq + 1, 0
        for job in self._emulator.jobs():
            shape = job.allocation.shape if job.allocation is not None else None
            if job.state is not JobState.RUNNING or shape is None or "sia:" not in job.comment:
                continue
            step_s = self._speeds[job.id] * 0.1 * slow[shape.gpu_type] * self._draw.gauss(1.0, 0.05)
            step_s += 0.02 * (shape.gpus > 1) + 0.01 * shape.nodes
            local, count = 64.0, max(1, int(60.0 / step_s))
            self._samples[job.id] = self._samples.get(job.id, 0.0) + count * local * shape.gpus
            steps = Observation(
                shape.gpu_type, shape.nodes, shape.gpus, local, 0, count, count * step_s, count * step_s * step_s * 1.01
            )
            self._spool.hear(
                Report(
                    job.id, job.restarts, self._seq, now_s, "progress", observations=(steps,),
                    gradient=Gradient(now_s, 1e-3, 5e-3 * self._speeds[job.id], 1.0),
                    progress=Progress(now_s, self._samples[job.id]),
                )
            )  # fmt: skip
            self.reports += 1

    def close(self) -> None:
        """Close the store and end the cycle's helpers."""
        self._cycle.close()
        self._store.close()


if __name__ == "__main__":
    round_bench(prog_name="slurmsia bench round")
