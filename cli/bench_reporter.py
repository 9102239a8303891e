"""``slurmsia bench reporter``: what a training step pays for being reported, and the memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys

import click

_SCRIPT = r"""
import os, sys, tempfile, time

def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

import array, json, random, threading
before = rss_bytes()
os.environ.update(SLURM_JOB_ID="1", SLURM_JOB_NUM_NODES="1", SLURM_GPUS_ON_NODE="8", SLURM_PROCID="0")
os.environ.pop("RANK", None)
with tempfile.TemporaryDirectory() as spool:
    os.mkdir(spool + "/reports"); os.mkdir(spool + "/directives")
    from slurmsia.job import Reporter
    steps = int(sys.argv[1])
    times = array.array("d", bytes(8 * steps))
    clock = time.perf_counter
    with Reporter(spool=spool, period_s=0.2, look_s=0.1, target=1e9) as reporter:
        for index in range(steps):
            if index % 50 == 0:
                time.sleep(0.0005)
            begun = clock()
            reporter.step(local=32, samples=256, sync=1e-6)
            times[index] = clock() - begun
        after = rss_bytes() - 8 * steps
    lines = sum(1 for _ in open(spool + "/reports/1.0.%d.jsonl" % os.getuid()))
ordered = sorted(times)
print(json.dumps({"steps": steps, "lines": lines, "p50_us": ordered[steps // 2] * 1e6,
    "p99_us": ordered[steps * 99 // 100] * 1e6, "max_us": ordered[-1] * 1e6, "rss_mb": max(after - before, 0) / 1e6}))
"""


@click.command("reporter")
@click.option("--steps", default=200_000, show_default=True, type=click.IntRange(1000), help="Steps to report.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reporter_bench(steps: int, as_json: bool) -> None:
    """Time of Reporter.step and memory of the reporter, in a process of its own that writes five lines a second.

    \b
    Example:
      slurmsia bench reporter --json
    """
    done = subprocess.run([sys.executable, "-c", _SCRIPT, str(steps)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(done.stderr.strip().splitlines()[-1] if done.stderr else "the bench process failed")
    result = json.loads(done.stdout)
    if as_json:
        click.echo(json.dumps({"schema": 1, **result}))
        return
    click.echo(
        f"{result['steps']} steps, {result['lines']} lines written: p50 {result['p50_us']:.2f} us, "
        f"p99 {result['p99_us']:.2f} us, longest {result['max_us']:.0f} us, {result['rss_mb']:.1f} MB resident"
    )
