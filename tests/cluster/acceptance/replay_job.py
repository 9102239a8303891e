"""A training job without a GPU: the real job library around step times replayed from the shipped models, sped up.

Runs as the batch script of the acceptance test. Keeps a checkpoint file, resumes from it, reports like a real job.
Usage: replay_job.py APPLICATION SAMPLES SPEEDUP LEVEL FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from slurmsia.job import Reporter, environment
from slurmsia.models.base import ThroughputParams
from slurmsia.models.shipped import applications
from slurmsia.models.throughput import step_time

TICK_S = 0.5


def main(application: str, samples: float, speedup: float, level: str, folder: Path) -> int:
    app = applications()[application]
    nodes = environment.nodes()
    gpus = nodes * max(environment.gpus_per_node(), 1)
    gpu_type = os.environ.get("SLURMD_NODENAME", "t4-1").split("-")[0]
    model = app.types[gpu_type]
    assert isinstance(model.params, ThroughputParams)
    job = os.environ.get("SLURM_JOB_ID", "0")
    checkpoint = folder / f"checkpoint.{job}"
    begun = time.time()
    done = json.loads(checkpoint.read_text())["samples"] if checkpoint.exists() else 0.0
    load_s = time.time() - begun
    with (folder / f"runs.{job}").open("a") as runs:
        runs.write(f"{time.time():.1f} {gpu_type} {nodes} {gpus} {done:.0f}\n")

    def save() -> None:
        temporary = folder / f"checkpoint.{job}.tmp"  # one a job: they save at the same time, in one folder
        temporary.write_text(json.dumps({"samples": done}))
        temporary.replace(checkpoint)

    handles = level in ("restartable", "adaptive")
    with Reporter(
        samples_done=done, target=samples, signal="USR1" if handles else None, gpus=gpus, period_s=3.0, look_s=1.0
    ) as reporter:
        if done:
            reporter.restored(done, load_s)
        while done < samples:
            directive = reporter.directive
            if level == "adaptive" and directive is not None and directive.local_batch:
                local, accum = float(directive.local_batch), directive.accumulation
            else:
                local, accum = max(1.0, app.batch.initial / gpus), 0
            local = min(local, float(model.local_max or local))
            seconds = float(step_time(model.params, nodes, gpus, local, accum))
            steps = max(1, round(TICK_S * speedup / seconds))
            for _ in range(min(steps, 50)):
                weight = steps / min(steps, 50)
                reporter.step(local=local, accum=accum, samples=weight * local * gpus * (accum + 1), seconds=seconds)
            done += steps * local * gpus * (accum + 1)
            reporter.gradient(app.efficiency.square, app.efficiency.variance, 1.0)
            time.sleep(TICK_S)
            if handles and reporter.stop_now():
                begun = time.time()
                time.sleep(0.3)
                save()
                reporter.checkpointed(time.time() - begun, samples=done)
                reporter.wait_for_requeue(60.0)
    save()
    with (folder / f"runs.{job}").open("a") as runs:
        runs.write(f"{time.time():.1f} done {done:.0f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4], Path(sys.argv[5])))
