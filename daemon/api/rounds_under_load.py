"""Rounds over many emulated jobs with the API in its own process, as in production: the far side of ``bench api``.

``python -m slurmsia_daemon.api.rounds_under_load --socket PATH --jobs N`` prints one JSON line per round until ended.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from slurmsia.cluster import JobId
from slurmsia.sim.submissions import submission
from slurmsia.sim.workloads import TraceJob

from ..api_bridge import ApiBridge
from ..demo import SEED, bundled_workload
from .stage import Stage


def fill(stage: Stage, jobs: int) -> list[JobId]:
    """So many declared jobs of the bundled applications in the queue, ten of them ours, the rest of many users."""
    workload, truths = bundled_workload()
    every = max(1, jobs // 10)
    made: list[TraceJob] = [workload.jobs[number % len(workload.jobs)] for number in range(jobs)]
    return [
        stage.emulator.submit(
            replace(
                submission(
                    trace, truths[trace.name], stage.cluster, now_s=stage.emulator.now_s, managed=True, rigid=False,
                    seed=SEED,
                ),
                user_id=stage.users[0] if number % every == 0 else 20_000 + number % 97,
            )
        )
        for number, trace in enumerate(made)
    ]  # fmt: skip


@click.command()
@click.option("--socket", "path", required=True)
@click.option("--jobs", default=1000)
def main(path: str, jobs: int) -> None:
    """One round a second over JOBS jobs."""
    with tempfile.TemporaryDirectory(prefix="slurmsia-load-") as folder:
        stage = Stage(Path(folder))
        section = stage.config.api.model_copy(update={"socket": path, "requests_per_s": 1e6})
        stage.config = stage.config.model_copy(update={"api": section})
        file = Path(folder) / "slurmsia.toml"
        file.write_text(
            f'[api]\nsocket = "{path}"\nrequests_per_s = 1000000\n[store]\nurl = "{stage.config.store.url}"\n'
            f'[daemon]\nstate_dir = "{folder}"\n'
        )
        fill(stage, jobs)
        bridge = ApiBridge(stage.config, file)
        bridge.start()
        try:
            while True:
                begun, used = time.perf_counter(), time.process_time()
                outcome = stage.cycle.round("observe", "")
                bridge.publish(stage.published(outcome, "observe", ""))
                took = time.perf_counter() - begun
                own = time.process_time() - used
                print(json.dumps({"round_s": took, "cpu_s": own, "t": time.time()}), flush=True)
                time.sleep(max(0.0, 1.0 - took))
        finally:
            bridge.close()
            stage.close()


if __name__ == "__main__":
    main()
