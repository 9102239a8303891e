"""``slurmsia bench api``: clients polling ``status`` against live rounds, compared with a CPU burner in their place.

Three loads take turns over the same rounds: none, a CPU burner pinned to one core, and the clients pinned to that
core. What the clients slow the rounds down beyond the burner is the API's cost; short turns keep whatever else the
machine does out of the comparison.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import click

#: Every client's own query: no two get the same remembered answer, as if they were different users.
_REQUEST = "GET /v1/status?client={} HTTP/1.1\r\nHost: bench\r\n\r\n"
#: Each load prints a line once it is under way and ends with its standard input.
_QUIET = "import sys\nprint(flush=True)\nsys.stdin.read()"
_BURN = (
    "import os, sys, threading\nos.sched_setaffinity(0, {%d})\n"
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()\nprint(flush=True)\nwhile True: pass"
)
_LOADS = ("quiet", "burner", "api")


@click.command("api")
@click.option("--clients", default=500, show_default=True, help="Clients, each asking once a second.")
@click.option("--jobs", default=1000, show_default=True, help="Declared jobs in the queue.")
@click.option("--seconds", default=20.0, show_default=True, help="Length of each of the three phases, all turns.")
@click.option("--turns", default=5, show_default=True, help="Turns that each phase is cut into.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def api_bench(clients: int, jobs: int, seconds: float, turns: int, as_json: bool) -> None:
    """Answer times under many clients, and how much they slow a round down beyond a CPU burner in their place.

    \b
    Example:
      slurmsia bench api --clients 500 --jobs 1000
    """
    core = max(os.sched_getaffinity(0))
    rounds_of: dict[str, list[dict[str, float]]] = {name: [] for name in _LOADS}
    times: list[float] = []
    errors = 0
    turn_s = seconds / turns
    with tempfile.TemporaryDirectory(prefix="slurmsia-bench-") as folder:
        path = f"{folder}/api.sock"
        argvs = {
            "quiet": [sys.executable, "-c", _QUIET],
            "burner": [sys.executable, "-c", _BURN % core],
            "api": [sys.executable, "-m", "slurmsia_cli.bench_api", path, str(clients), str(core)],
        }
        rounds = subprocess.Popen(
            [sys.executable, "-m", "slurmsia_daemon.api.rounds_under_load", "--socket", path, "--jobs", str(jobs)],
            stdout=subprocess.PIPE,
        )
        try:
            _collect(rounds, 5.0, time.time())
            for turn in range(turns):
                # The order turns too, so that none always follows the same other one.
                for name in _LOADS[turn % 3 :] + _LOADS[: turn % 3]:
                    with _load(argvs[name]) as said:
                        rounds_of[name] += _collect(rounds, turn_s, time.time())
                    if name == "api":
                        found = json.loads(said[0])
                        times += found["times_s"]
                        errors += found["errors"]
        finally:
            rounds.terminate()
            rounds.wait(20)
    _print(clients, jobs, sorted(times), errors, rounds_of, as_json)


def _print(
    clients: int, jobs: int, times: list[float], errors: int, rounds_of: dict[str, list[dict[str, float]]],
    as_json: bool,
) -> None:  # fmt: skip
    def median_ms(key: str) -> dict[str, float]:
        return {name: round(1000 * statistics.median(row[key] for row in rows), 1) for name, rows in rounds_of.items()}

    wall, own = median_ms("round_s"), median_ms("cpu_s")
    found = {
        "schema": 1, "clients": clients, "jobs": jobs, "answers": len(times), "errors": errors,
        "p50_ms": _quantile_ms(times, 0.5), "p99_ms": _quantile_ms(times, 0.99),
        "rounds": {name: len(rows) for name, rows in rounds_of.items()}, "round_ms": wall, "round_cpu_ms": own,
        "slow_down_beyond_burner": round(wall["api"] / wall["burner"] - 1, 3),
        "cpu_beyond_burner": round(own["api"] / own["burner"] - 1, 3),
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{clients} clients, {jobs} jobs: {len(times)} answers, {errors} errors, p50 {found['p50_ms']} ms, "
        f"p99 {found['p99_ms']} ms"
    )
    for name, rows in rounds_of.items():
        click.echo(f"round, {name:<7} {wall[name]:8.1f} ms, {own[name]:8.1f} ms of CPU (median of {len(rows)})")
    click.echo(
        f"slow-down beyond the burner: {found['slow_down_beyond_burner']:+.1%}, of its own CPU time "
        f"{found['cpu_beyond_burner']:+.1%}"
    )


def _quantile_ms(times: list[float], share: float) -> float:
    return round(1000 * times[int(len(times) * share)], 1) if times else 0.0


@contextlib.contextmanager
def _load(argv: list[str]) -> Iterator[list[str]]:
    """The load is under way inside the block; what it says at its end is in the list after it."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said: list[str] = []
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield said
        said.append(process.communicate(timeout=60)[0])
    finally:
        process.kill()
        process.wait()


def _collect(rounds: subprocess.Popen[bytes], seconds: float, begin: float) -> list[dict[str, float]]:
    """Rounds that begin after ``begin`` (epoch) and end within so many seconds; at least one."""
    assert rounds.stdout is not None
    found: list[dict[str, float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or not found:
        ready, _, _ = select.select([rounds.stdout], [], [], 0.2)
        if ready:
            line = rounds.stdout.readline()
            if not line:
                raise click.ClickException("the rounds ended early; their error is above")
            row = json.loads(line)
            if row["t"] - row["round_s"] >= begin:
                found.append(row)
    return found


async def poll(path: str, clients: int) -> dict[str, object]:
    """Every client asks once a second over a connection that it keeps, until standard input ends."""
    times: list[float] = []
    errors = 0
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    doors = [await asyncio.open_unix_connection(path) for _ in range(clients)]
    print(flush=True)

    async def one(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal errors
        request = _REQUEST.format(number).encode()
        await asyncio.sleep(number / clients)
        while not ended.is_set():
            begun = time.monotonic()
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError, IndexError):
                errors += 1
                return
            if b" 200 " not in head.split(b"\r\n")[0]:
                errors += 1
            times.append(time.monotonic() - begun)
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - begun)))
        writer.close()

    await asyncio.gather(*(one(number, *door) for number, door in enumerate(doors)))
    return {"errors": errors, "times_s": times}


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[3])})
    print(json.dumps(asyncio.run(poll(sys.argv[1], int(sys.argv[2])))))
