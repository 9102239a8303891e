"""``slurmsia bench api``: clients polling ``status`` against live rounds, compared with a CPU burner in their place.

Three phases over the same rounds: quiet, a CPU burner pinned to one core, and the clients pinned to that core. What
the clients slow the rounds down beyond the burner is the API's cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time

import click

_REQUEST = b"GET /v1/status HTTP/1.1\r\nHost: bench\r\n\r\n"
_BURN = "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"


@click.command("api")
@click.option("--clients", default=500, show_default=True, help="Clients, each asking once a second.")
@click.option("--jobs", default=1000, show_default=True, help="Declared jobs in the queue.")
@click.option("--seconds", default=20.0, show_default=True, help="Length of each of the three phases.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def api_bench(clients: int, jobs: int, seconds: float, as_json: bool) -> None:
    """Answer times under many clients, and how much they slow a round down beyond a CPU burner in their place.

    \b
    Example:
      slurmsia bench api --clients 500 --jobs 1000
    """
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="slurmsia-bench-") as folder:
        path = f"{folder}/api.sock"
        rounds = subprocess.Popen(
            [sys.executable, "-m", "slurmsia_daemon.api.rounds_under_load", "--socket", path, "--jobs", str(jobs)],
            stdout=subprocess.PIPE,
        )
        try:
            _collect(rounds, 5.0)
            quiet = _collect(rounds, seconds)
            burner = subprocess.Popen([sys.executable, "-c", _BURN % core])
            try:
                burnt = _collect(rounds, seconds)
            finally:
                burner.kill()
                burner.wait()
            argv = [sys.executable, "-m", "slurmsia_cli.bench_api", path, str(clients), str(seconds), str(core)]
            load = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            loaded = _collect(rounds, seconds)
            out, _ = load.communicate(timeout=seconds + 60)
        finally:
            rounds.terminate()
            rounds.wait(20)
    answers = json.loads(out)
    medians = {name: statistics.median(found) for name, found in (("quiet", quiet), ("burner", burnt), ("api", loaded))}
    found = {
        "schema": 1, "clients": clients, "jobs": jobs, "answers": answers["answers"], "errors": answers["errors"],
        "p50_ms": answers["p50_ms"], "p99_ms": answers["p99_ms"], "rounds": [len(quiet), len(burnt), len(loaded)],
        "round_ms": {name: round(1000 * value, 1) for name, value in medians.items()},
        "slow_down_beyond_burner": round(medians["api"] / medians["burner"] - 1, 3),
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{clients} clients, {jobs} jobs: {found['answers']} answers, {found['errors']} errors, "
        f"p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms"
    )
    for name, value in medians.items():
        click.echo(f"round, {name:<7} {1000 * value:8.1f} ms (median)")
    click.echo(f"slow-down beyond the burner: {found['slow_down_beyond_burner']:+.1%}")


def _collect(rounds: subprocess.Popen[bytes], seconds: float) -> list[float]:
    """Seconds of the rounds that end within this time; at least one."""
    assert rounds.stdout is not None
    found: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or not found:
        ready, _, _ = select.select([rounds.stdout], [], [], 0.2)
        if ready:
            line = rounds.stdout.readline()
            if not line:
                raise click.ClickException("the rounds ended early; their error is above")
            found.append(json.loads(line)["round_s"])
    return found


async def poll(path: str, clients: int, seconds: float) -> dict[str, float]:
    """Every client asks once a second over a connection that it keeps."""
    times: list[float] = []
    errors = 0
    end = time.monotonic() + seconds

    async def one(offset_s: float) -> None:
        nonlocal errors
        await asyncio.sleep(offset_s)
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError:
            errors += 1
            return
        while time.monotonic() < end:
            begun = time.monotonic()
            try:
                writer.write(_REQUEST)
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

    await asyncio.gather(*(one(number / clients) for number in range(clients)))
    times.sort()
    return {
        "answers": len(times),
        "errors": errors,
        "p50_ms": round(1000 * times[len(times) // 2], 1) if times else 0.0,
        "p99_ms": round(1000 * times[int(len(times) * 0.99)], 1) if times else 0.0,
    }


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[4])})
    print(json.dumps(asyncio.run(poll(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))
