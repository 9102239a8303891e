"""Runs inside a test cluster's controller: uses one client without pause while slurmctld or the worker is attacked.

``drive.py CLIENT SECONDS KILLS DEADLINE`` prints one JSON object: answers, refusals by name, the longest call beyond
its deadline, and the longest delay of a 50 ms heartbeat thread in the same process, with and without what the machine
itself adds, beside that of an idle process on every processor. KILLS > 0 kills the pyslurm worker that often in the
middle of its calls.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from slurmsia.config import Config
from slurmsia.slurm.client import NoSuchJob, SlurmError, SlurmRejected, SlurmUnavailable
from slurmsia.slurm.command import CommandClient
from slurmsia.slurm.pyslurm_client import PyslurmClient

BEAT_S = 0.05
SITE = Config.model_validate(
    {
        "slurm": {"accept_pyslurm_of_another_release": True, "writes_per_s": 50},
        "gpu_types": {name: {"feature": name} for name in ("t4", "rtx", "a100")},
    }
)


class Heartbeat(threading.Thread):
    """Beats every 50 ms and remembers its longest delay, and its longest one but for the time in which it could run and
    the machine gave it no processor (what the kernel counts; the interpreter's lock is no part of that)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.worst_late_s = 0.0
        self.worst_own_late_s = 0.0
        self.beats = 0

    def run(self) -> None:
        waited_s = waited_for_processor_s()
        while True:
            begun = time.monotonic()
            time.sleep(BEAT_S)
            late_s = time.monotonic() - begun - BEAT_S
            before_s, waited_s = waited_s, waited_for_processor_s()
            self.worst_late_s = max(self.worst_late_s, late_s)
            self.worst_own_late_s = max(self.worst_own_late_s, late_s - (waited_s - before_s))
            self.beats += 1


def waited_for_processor_s() -> float:
    """Seconds for which this thread could run and had no processor (proc(5), schedstat); 0 where it is not counted."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Collections:
    """The longest pause of Python's cyclic garbage collector, which holds the interpreter's lock."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._begun = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begun = time.monotonic()
        else:
            self.worst_s = max(self.worst_s, time.monotonic() - self._begun)


class Starts:
    """The longest start of a process: CPython holds the interpreter's lock until the new program is loaded."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._fork_exec = subprocess._fork_exec  # type: ignore[attr-defined]
        subprocess._fork_exec = self._timed  # type: ignore[attr-defined]

    def _timed(self, *args: object) -> int:
        begun = time.monotonic()
        try:
            return int(self._fork_exec(*args))
        finally:
            self.worst_s = max(self.worst_s, time.monotonic() - begun)


class Killer(threading.Thread):
    """Kills the worker of a pyslurm client in the middle of a call, so many times; each new worker may answer twice
    first (one that is killed at its start again and again is restarted with longer and longer pauses, by design)."""

    def __init__(self, client: PyslurmClient, kills: int) -> None:
        super().__init__(daemon=True)
        self._client, self._left = client, kills
        self.done = 0

    def run(self) -> None:
        worker = self._client._worker
        seen: int | None = None
        calls = 0
        while self.done < self._left:
            time.sleep(0.002)
            pid = worker.pid
            if pid != seen:
                seen, calls = pid, worker.calls
            if pid is None or worker.calls < calls + 4 or not worker._lock.locked():
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.done += 1
            calls += 1_000_000


#: One thread on each processor, so that a pause of any of them (the hypervisor's, a page to be read) is seen here, too.
_IDLE = """
import os, sys, threading, time
worst = {}
def beat(processor):
    os.sched_setaffinity(0, {processor})
    while True:
        begun = time.monotonic()
        time.sleep(0.05)
        worst[processor] = max(worst.get(processor, 0.0), time.monotonic() - begun - 0.05)
for processor in os.sched_getaffinity(0):
    threading.Thread(target=beat, args=(processor,), daemon=True).start()
sys.stdin.read()
print(max(worst.values()))
"""


def submit() -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", "--hold", "-p", "batch", "--gres=gpu:1", "--output=/dev/null", "--wrap", "true"],
        capture_output=True, text=True, check=True, cwd="/tmp",
    )  # fmt: skip
    return done.stdout.strip().split(";")[0]


def main(kind: str, seconds: float, kills: int, deadline_s: float) -> None:
    client = PyslurmClient(SITE) if kind == "pyslurm" else CommandClient(SITE)
    client.snapshot(60.0)
    job_id = submit()
    killer = None
    if kills:
        assert isinstance(client, PyslurmClient)
        killer = Killer(client, kills)
    heart, collections, starts = Heartbeat(), Collections(), Starts()
    idle = subprocess.Popen([sys.executable, "-c", _IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    heart.start()
    if killer is not None:
        killer.start()
    print("ready", flush=True)
    calls = {
        "jobs": lambda: client.jobs(deadline_s),
        "nodes": lambda: client.nodes(deadline_s),
        "renew": lambda: raise_first(client.renew_leases({job_id: time.time() + 600}, deadline_s)),
        "end_lease": lambda: client.end_lease(job_id, deadline_s),
        "requeue": lambda: client.requeue(job_id, deadline_s),
        "health": lambda: client.health(deadline_s),
    }
    outcome: Counter[str] = Counter()
    worst_over_s = 0.0
    strange: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and (killer is None or killer.is_alive()):
        for name, call in calls.items():
            begun = time.monotonic()
            try:
                call()
                outcome["answered"] += 1
            except SlurmUnavailable:
                outcome["unavailable"] += 1
            except NoSuchJob:
                outcome["no such job"] += 1
            except SlurmRejected:
                outcome["rejected"] += 1
            except Exception as error:
                strange.append(f"{name}: {type(error).__name__}: {error}")
            worst_over_s = max(worst_over_s, time.monotonic() - begun - deadline_s)
        time.sleep(0.02)
    recovered = False
    again = time.monotonic() + 40.0
    while not recovered and time.monotonic() < again:
        try:
            recovered = bool(client.snapshot().nodes) and client.health().up
        except SlurmError:
            time.sleep(0.2)
    subprocess.run(["scancel", job_id], check=False)
    client.close()
    idle_late_s = float(idle.communicate(timeout=30)[0])
    found = {
        "client": kind,
        **outcome,
        "strange": strange[:10],
        "worst_beyond_deadline_s": round(worst_over_s, 3),
        "heartbeat_worst_late_ms": round(heart.worst_late_s * 1000, 1),
        "heartbeat_worst_late_without_waiting_for_a_processor_ms": round(heart.worst_own_late_s * 1000, 1),
        "idle_process_worst_late_ms": round(idle_late_s * 1000, 1),
        "longest_garbage_collection_ms": round(collections.worst_s * 1000, 1),
        "longest_start_of_a_process_ms": round(starts.worst_s * 1000, 1),
        "beats": heart.beats,
        "kills": killer.done if killer is not None else 0,
        "recovered": recovered,
    }
    print(json.dumps(found), flush=True)


def raise_first(failures: dict[str, SlurmError]) -> None:
    for error in failures.values():
        raise error


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
