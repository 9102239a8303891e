"""``slurmsia bench spool``: reading a spool that hostile users have filled, beside the same spool without them."""

from __future__ import annotations

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from slurmsia.cluster import Allocation
from slurmsia.config import JobsSection
from slurmsia.job.spool import Expected, SpoolReader

_HELD = Allocation("a100", (("n1", 4), ("n2", 4)))


@click.command("spool")
@click.option("--jobs", default=1000, show_default=True, type=click.IntRange(1), help="Honest running jobs.")
@click.option("--strays", default=100_000, show_default=True, type=click.IntRange(0), help="Files of nobody.")
@click.option("--polls", default=20, show_default=True, type=click.IntRange(1), help="Rounds to read.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where to build it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def spool_bench(jobs: int, strays: int, polls: int, folder: Path | None, as_json: bool) -> None:
    """Time and memory of reading JOBS files a round, alone and among links, FIFOs, floods and STRAYS other files.

    \b
    Example:
      slurmsia bench spool --strays 1000000 --json
    """
    with tempfile.TemporaryDirectory(dir=folder) as path:
        honest = _measure(Path(path) / "honest", jobs, 0, polls, hostile=False)
        crowded = _measure(Path(path) / "besieged", jobs, strays, polls, hostile=False)
        besieged = _measure(Path(path) / "besieged", jobs, 0, polls, hostile=True, after=crowded["marks"])
    result = {
        "schema": 1,
        "jobs": jobs,
        "strays": strays,
        "honest_ms": honest["median_ms"],
        "hostile_ms": besieged["median_ms"],
        "hostile_max_ms": besieged["max_ms"],
        "ratio": besieged["median_ms"] / honest["median_ms"],
        "honest_cpu_ms": honest["cpu_ms"],
        "crowded_ms": crowded["median_ms"],
        "crowded_cpu_ms": crowded["cpu_ms"],
        "hostile_cpu_ms": besieged["cpu_ms"],
        "strays_removed": crowded["strays_removed"] + besieged["strays_removed"],
        "cleanup_polls": crowded["cleanup_polls"] + besieged["cleanup_polls"],
        "memory_growth_mb": besieged["growth_mb"],
        "reports": besieged["reports"],
        "reports_expected": jobs * polls,
        "problems": besieged["problems"],
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(
        f"{jobs} jobs a round: {result['honest_ms']:.1f} ms alone, {result['crowded_ms']:.1f} among {strays} strays, "
        f"{result['hostile_ms']:.1f} ms with {len(besieged['problems'])} hostile jobs too (longest "
        f"{result['hostile_max_ms']:.1f} ms); processor time of the round {result['honest_cpu_ms']:.1f}, "
        f"{result['crowded_cpu_ms']:.1f} and {result['hostile_cpu_ms']:.1f} ms; "
        f"{result['memory_growth_mb']:.1f} MB more memory, {result['reports']} of {jobs * polls} honest lines read, "
        f"{result['strays_removed']} strays removed beside {result['cleanup_polls']} rounds"
    )
    if besieged["folder_problem"]:
        click.echo(f"  to the operator: {besieged['folder_problem']}")
    for job, sentences in besieged["problems"].items():
        click.echo(f"  {job}: {'; '.join(sentences)}")


def _measure(
    path: Path, jobs: int, strays: int, polls: int, hostile: bool, after: dict[str, tuple[int, int, int]] | None = None
) -> dict[str, Any]:
    reports = path / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    uid = os.getuid()
    known = {(str(job), 0): Expected(uid, _HELD) for job in range(1, jobs + 1)}
    for number in range(strays):
        os.close(os.open(reports / f"{10**9 + number}.0.{uid}.jsonl", os.O_CREAT | os.O_WRONLY))
    if hostile:
        known.update(_besiege(reports, uid))
    # as five minutes later, when strays are old enough to be removed
    reader = SpoolReader(path, JobsSection(), marks=after, clock=lambda: time.time() + 300.0)
    times_ms: list[float] = []
    cpu_ms: list[float] = []
    read = 0
    problems: dict[str, tuple[str, ...]] = {}
    folder_problem = ""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for turn in range(polls if after else 0, polls if not after else 2 * polls):
        for job in range(1, jobs + 1):
            with (reports / f"{job}.0.{uid}.jsonl").open("ab") as file:
                file.write(_line(job, turn))
        with _attacked(reports, uid, hostile):
            begun, cpu_begun = time.perf_counter(), time.thread_time()
            batch = reader.poll(known)
            cpu_ms.append((time.thread_time() - cpu_begun) * 1e3)
            times_ms.append((time.perf_counter() - begun) * 1e3)
        read += sum(int(report.job_id) <= jobs for report in batch.reports)
        for job_id, sentences in batch.problems.items():
            if int(job_id) > jobs:
                problems[job_id] = sentences
        folder_problem = batch.folder_problem or folder_problem
    for _ in range(3):
        read += sum(int(report.job_id) <= jobs for report in reader.poll(known).reports)
    after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "median_ms": statistics.median(times_ms),
        "max_ms": max(times_ms),
        "cpu_ms": statistics.median(cpu_ms),
        "strays_removed": reader.finish_cleanup()[1],
        "cleanup_polls": polls + 3,
        "folder_problem": folder_problem,
        "marks": reader.marks(),
        "growth_mb": (after_kb - before_kb) / 1e3,
        "reports": read,
        "problems": problems,
    }


def _line(job: int, seq: int) -> bytes:
    steps = [{"local": 32, "accum": 0, "n": 410, "step": 61.2, "step2": 9.15, "sync": 11.8}]
    record = {"v": 1, "job": job, "restart": 0, "seq": seq, "t": time.time(), "ev": "progress", "steps": steps}
    return json.dumps(record).encode() + b"\n"


def _besiege(reports: Path, uid: int) -> dict[tuple[str, int], Expected]:
    """One known job for every kind of attack; ids from 900001 on."""

    def file(job: int) -> Path:
        return reports / f"{job}.0.{uid}.jsonl"

    file(900001).symlink_to("/etc/passwd")
    os.mkfifo(file(900002))
    file(900003).symlink_to("/dev/zero")
    with suppress(OSError):
        os.mknod(file(900004), 0o020666, os.makedev(1, 5))
    with file(900005).open("wb") as sparse:
        sparse.truncate(10 * 10**9)
    bad = {
        900006: b"[" * 10_000,
        900007: b'{"v":1,"x":NaN}',
        900008: b'{"v":' + b"9" * 10_000 + b"}",
        900009: b"\xff\xfe\xff",
        900010: b"\0" * 5_000_000,
        900011: b'{"v":1}\n' * 500_000,
    }
    for job, content in bad.items():
        file(job).write_bytes(content + b"\n")
    file(900012).mkdir()
    file(900013).write_bytes(_line(900013, 0))
    known = {(str(job), 0): Expected(uid, _HELD) for job in range(900001, 900014)}
    other = reports / f"900014.0.{uid + 1}.jsonl"
    other.write_bytes(_line(900014, 0))
    known["900014", 0] = Expected(uid + 1, _HELD)
    return known


@contextmanager
def _attacked(reports: Path, uid: int, hostile: bool) -> Iterator[None]:
    """While a poll runs, another process swaps a report file for a link and back as fast as it can."""
    if not hostile:
        yield
        return
    name = reports / f"900013.0.{uid}.jsonl"
    swapping, swaps = os.pipe()
    child = os.fork()
    if child == 0:
        link, plain = Path(f"{name}.link"), Path(f"{name}.plain")
        told = False
        while True:
            with suppress(OSError):
                link.unlink(missing_ok=True)  # the last attacker may have been killed before it renamed its own
                link.symlink_to("/etc/passwd")
                os.rename(link, name)
                if not told:
                    told = os.write(swaps, b".") == 1
                plain.write_bytes(_line(900013, 0))
                os.rename(plain, name)
    os.close(swaps)
    os.read(swapping, 1)
    os.close(swapping)
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
