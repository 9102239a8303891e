"""The whole daemon for a day: loop, rounds, models, store, moves, under random faults, deaths and users' deeds.

``python -m tests.stories.daemon_soak --hours 24`` prints rounds, moves, faults, violations, and resident memory after
the first virtual hour and at the end. The queue is full from the start and jobs that ended are judged and forgotten,
so that memory that grows is a leak. Every other death strikes in the act, just before or after a move is written.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))

from daemon_stage import NODES, TICK_S, Killed, Stage
from slurmsia_daemon.control import Wish
from slurmsia_daemon.upkeep import keep_heap_whole, trim

from slurmsia.cluster import JobId, JobState
from slurmsia.sim.honest_job import HonestJob, HonestSettings
from slurmsia.sim.shipped_truth import NAMES, shipped_truth
from slurmsia.sim.workloads import TraceJob
from slurmsia.slurm.client import SlurmError
from slurmsia.slurm.emulator import FaultKind, FixedWork, Latencies, Update

CALLS = ("jobs", "snapshot", "requeue", "reshape", "renew_leases", "signal", "end_lease", "clear_pins")
FAULTS = ("fails", "answer-lost", "rejected", "busy", "ignored")
DEEDS = ("cancel", "hold", "requeue", "undeclare", "fail-node", "drain", "preempt", "pause", "freeze", "bad-policy")
MOST_LIVE = 24
#: Honest physics counts in fractions of a second that epoch seconds cannot hold.
START_S = 0.0


@dataclass
class Soaked:
    """What a soak saw."""

    jobs: int = 0
    rounds: int = 0
    deaths: int = 0
    faults: int = 0
    deeds: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    deaths_in_the_act: int = 0
    rss_mb: list[float] = field(default_factory=list)
    """After each virtual hour, and at the end."""
    pruned: int = 0


class DaemonSoak:
    """Hours of one daemon's life, and of its successors'."""

    def __init__(self, hours: float, seed: int, folder: Path) -> None:
        self.hours = hours
        self.rng = random.Random(seed)
        self.seed = seed
        self.stage = Stage(
            folder,
            seed=seed,
            start_s=START_S,
            latencies=Latencies(schedule_s=1.0, completing_s=2.0),
            sections={
                "store": {"prune_every_s": 1800.0, "keep_round_bodies_days": 0.02, "keep_points_days": 0.05},
                "daemon": {"log_level": "error"},
            },
        )
        self.stage.lease_new_jobs()
        self.soaked = Soaked()
        self.declared: set[JobId] = set()
        self.undeclared: set[JobId] = set()
        self.excused: set[JobId] = set()
        self.held: set[JobId] = set()
        self._broken: set[tuple[JobId, str]] = set()
        self._number = 0
        self._relents: list[tuple[float, str]] = []

    def soak(self) -> Soaked:
        """Run the hours, then let everything end."""
        emulator, rng, seen = self.stage.emulator, self.rng, self.soaked
        until_s = START_S + self.hours * 3600.0
        next_job_s = next_hour_s = 0.0
        next_fault_s, next_deed_s = START_S + 90.0, START_S + 300.0
        next_death_s = START_S + 1500.0
        alive, revive_s = True, 0.0
        next_hour_s = START_S + 3600.0
        for _ in range(MOST_LIVE):
            self._submit()
        while emulator.now_s < until_s or not self._all_ended():
            now_s, quiet = emulator.now_s, emulator.now_s >= until_s
            if now_s > until_s + 12 * 3600.0:
                break
            if now_s >= next_job_s and not quiet:
                if sum(not self.stage.ended(job_id) for job_id in self.declared | self.undeclared) < MOST_LIVE:
                    self._submit()
                next_job_s = now_s + rng.uniform(60.0, 400.0)
            if now_s >= next_fault_s and not quiet:
                fault, call = rng.choice(FAULTS), rng.choice(CALLS)
                emulator.faults.clear()
                kind = FaultKind.REJECTED if fault == "busy" else FaultKind(fault)
                emulator.faults.inject(kind, call, times=rng.randint(1, 3), retryable=fault == "busy")
                seen.faults += 1
                next_fault_s = now_s + rng.expovariate(1 / 120.0)
            if now_s >= next_deed_s and not quiet:
                self._deed()
                next_deed_s = now_s + rng.expovariate(1 / 300.0)
            self._relent(everything=quiet)
            if alive and now_s >= next_death_s and not quiet:
                revive_s = now_s + rng.choice([5.0, 60.0, 900.0])
                next_death_s = revive_s + rng.expovariate(1 / 3600.0)
                if rng.random() < 0.5:
                    self.stage.daemon.log.doom(rng.randint(1, 4), before=rng.random() < 0.5)
                else:
                    alive = False
                    self._die()
            if not alive and now_s >= revive_s:
                alive = True
                self._successor()
            if alive:
                try:
                    self.stage.daemon.loop.turn()
                except Killed:
                    alive, revive_s = False, max(revive_s, emulator.now_s + 5.0)
                    seen.deaths_in_the_act += 1
                    self._die()
                else:
                    self._count()
            flying = alive and bool(self.stage.daemon.actor.flights)
            emulator.run_until(emulator.now_s + (TICK_S if flying else 10.0))
            if emulator.now_s >= next_hour_s:
                next_hour_s += 3600.0
                self._judge()
                seen.rss_mb.append(_rss_mb())
                told = f"{seen.rss_mb[-1]} MB, {len(seen.violations)} violations"
                print(f"hour {len(seen.rss_mb)}: {told}", file=sys.stderr, flush=True)
        self._judge(everything=True)
        self._die()
        seen.rss_mb.append(_rss_mb())
        return seen

    # deeds

    def _submit(self) -> None:
        rng, self._number = self.rng, self._number + 1
        if rng.random() < 0.25:
            gpus = rng.choice([1, 2, 4, 8])
            kind = rng.choice([name for name, _, size in NODES if size >= gpus])
            physics = FixedWork(gpus * rng.uniform(300.0, 3000.0), checkpoint_every_s=300.0)
            self.undeclared.add(self.stage.submit(gpus, words="", gpu_type=kind, physics=physics))
            return
        if rng.random() < 0.3:
            work = FixedWork(rng.uniform(1000.0, 8000.0), checkpoint_every_s=200.0, save_s=rng.uniform(1.0, 20.0))
            self.declared.add(self.stage.submit(rng.choice([1, 2, 4]), physics=work))
            return
        application = NAMES[self._number % len(NAMES)]
        probe = shipped_truth(application, 1.0)
        step_s, _ = probe.on("t4").step_and_sync_s((1,), min(probe.initial_batch, probe.on("t4").local_max))
        truth = shipped_truth(application, rng.uniform(1200.0, 7200.0) / step_s)
        trace = TraceJob(f"{application}-{self._number}", 0.0, application, 1, probe.initial_batch)
        words = (
            f"sia: gpus=1-16 types=t4,rtx,a100 level=adaptive batch={truth.initial_batch}:{truth.largest_batch} "
            f"local=8:{truth.on('a100').local_max} signal=USR1@120"
        )
        job = HonestJob(trace, truth, HonestSettings(seed=self.seed))
        self.declared.add(self.stage.submit(1, words=words, physics=job))

    def _deed(self) -> None:
        rng, emulator = self.rng, self.stage.emulator
        deed = rng.choice(DEEDS)
        live = [
            job_id for job_id in sorted(self.declared) if not self.stage.ended(job_id) and job_id not in self.excused
        ]
        if not live:
            return
        job_id, until_s = rng.choice(live), emulator.now_s + rng.uniform(100.0, 900.0)
        record = emulator.records[job_id]
        self.soaked.deeds[deed] += 1
        try:
            if deed == "cancel":
                emulator.user_cancel(job_id)
                self.excused.add(job_id)
            elif deed == "hold" and record.state is JobState.PENDING and not record.completing:
                emulator.user_hold(job_id)
                self.held.add(job_id)
                self._relents.append((until_s, f"release {job_id}"))
            elif deed == "requeue" and record.state is JobState.RUNNING:
                emulator.user_requeue(job_id)
            elif deed == "undeclare":
                emulator.user_edit(job_id, Update(comment=""))
            elif deed == "preempt" and record.state is JobState.RUNNING:
                emulator.preempt(job_id)
            elif deed in ("fail-node", "drain"):
                name = rng.choice(sorted(emulator.nodes))
                (emulator.fail_node if deed == "fail-node" else emulator.drain)(name)
                self._relents.append((until_s, f"resume {name}"))
            elif deed == "pause":
                self.stage.daemon.wishes.put(Wish("pause", "olga", reason="soak"))
                self._relents.append((until_s, "unpause"))
            elif deed == "freeze":
                (self.stage.folder / "freeze").write_text("soak")
                self._relents.append((until_s, "thaw"))
            elif deed == "bad-policy":
                self.stage.daemon.file = ["line 1: no such key"]
                self.stage.daemon.loop.reload()
        except SlurmError:
            return

    def _relent(self, everything: bool = False) -> None:
        emulator = self.stage.emulator
        due = [what for at_s, what in self._relents if everything or at_s <= emulator.now_s]
        self._relents = [] if everything else [(at, what) for at, what in self._relents if at > emulator.now_s]
        for what in due:
            deed, _, name = what.partition(" ")
            if deed == "release":
                self.held.discard(name)
                if not self.stage.ended(name) and emulator.records[name].hold == "user":
                    emulator.user_release(name)
            elif deed == "resume":
                emulator.resume(name)
            elif deed == "unpause":
                (self.stage.folder / "paused.json").unlink(missing_ok=True)
            elif deed == "thaw":
                (self.stage.folder / "freeze").unlink(missing_ok=True)

    def _successor(self) -> None:
        """A new daemon. The memory of the dead one is given back first, as by the end of a process."""
        del self.stage.daemon
        gc.collect()
        self.stage.start()

    def _die(self) -> None:
        self._count()
        daemon = self.stage.daemon
        self.soaked.deaths += 1
        self.soaked.pruned += int(daemon.metric("slurmsia_store_rows_pruned"))
        self.soaked.rounds += daemon.loop.rounds
        for family in daemon.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "slurmsia_moves_total":
                    self.soaked.moves[f"{sample.labels['kind']} {sample.labels['outcome']}"] += int(sample.value)
        daemon.kill()

    # the judgement

    def _count(self) -> None:
        for _, call, job_id in self.stage.daemon.client.writes:
            if job_id in self.undeclared:
                self._break(job_id, f"is undeclared and got {call}")
            elif len(known := self.stage.daemon.store.jobs_named(job_id)) > 1:
                self._break(job_id, f"is {len(known)} jobs in the store")
        self.stage.daemon.client.writes.clear()

    def _all_ended(self) -> bool:
        return all(self.stage.ended(job_id) for job_id in self.declared | self.undeclared)

    def _break(self, job_id: JobId, what: str) -> None:
        if (job_id, what) in self._broken:
            return
        self._broken.add((job_id, what))
        story = "; ".join(f"{t - START_S:.1f} {text}" for t, text in self.stage.emulator.story(job_id))
        self.soaked.violations.append(f"job {job_id} {what} [{story}]")

    def _judge(self, everything: bool = False) -> None:
        """Judge jobs that are over (``everything``: all), then forget them."""
        emulator = self.stage.emulator
        for job_id in sorted(self.declared | self.undeclared):
            record = emulator.records.get(job_id) or emulator.forgotten.get(job_id)
            if record is None:
                self._break(job_id, "is lost")
                continue
            if record.state is not JobState.ENDED:
                if record.hold not in ("", "launch-failure") and job_id not in self.held:
                    self._break(job_id, f"is held ({record.hold})")
                if everything:
                    self._break(job_id, f"never ended ({record.state.value}, {record.reason})")
                elif record.state is JobState.PENDING and job_id not in self.held:
                    self._judge_lease(job_id, record.begin_s)
                continue
            if record.ended_by == "CANCELLED" and job_id not in self.excused:
                self._break(job_id, "was cancelled, not by its user")
            elif record.ended_by != "COMPLETED" and job_id not in self.excused:
                self._break(job_id, f"ended as {record.ended_by}")
        for run in emulator.accounting:
            shape = run.allocation.shape
            if shape is None or run.job_id not in self.stage.chosen:
                continue
            if (shape.gpu_type, shape.nodes, shape.gpus) not in self.stage.chosen[run.job_id]:
                self._break(run.job_id, f"ran on {shape}, which nobody chose")
        self._forget([job_id for job_id in self.declared | self.undeclared if self.stage.ended(job_id)])

    def _judge_lease(self, job_id: JobId, begin_s: float | None) -> None:
        ahead_s = (begin_s or 0.0) - self.stage.emulator.now_s
        if ahead_s > self.stage.config.moves.lease_s + 1.0:
            self._break(job_id, f"is kept from starting for {ahead_s:.0f} s, longer than a lease")

    def _forget(self, over: list[JobId]) -> None:
        emulator = self.stage.emulator
        self.soaked.jobs += len(over)
        gone = set(over)
        emulator.accounting[:] = [run for run in emulator.accounting if run.job_id not in gone]
        for job_id in over:
            emulator.forgotten.pop(job_id, None)
            self.stage.chosen.pop(job_id, None)
        for known in (self.declared, self.undeclared, self.excused, self.held):
            known -= gone


def _rss_mb() -> float:
    """Resident memory after what the daemon itself does every 10 minutes, wherever in these this moment is."""
    gc.collect()
    trim()
    return round(psutil.Process().memory_info().rss / 2**20, 1)


def run(hours: float, seed: int) -> tuple[Soaked, float]:
    """Soak in a folder of its own; returns what was seen and the wall seconds."""
    logging.getLogger("slurmsia").setLevel(logging.CRITICAL)
    keep_heap_whole()  # as the daemon does when it starts, and then keeps what was imported out of collections
    gc.collect()
    gc.freeze()
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="slurmsia-soak-") as folder:
        seen = DaemonSoak(hours, seed, Path(folder)).soak()
    return seen, time.perf_counter() - began_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seen, wall_s = run(options.hours, options.seed)
    summary = {
        "virtual_hours": options.hours,
        "jobs": seen.jobs,
        "rounds": seen.rounds,
        "violations": len(seen.violations),
        "daemon_deaths": seen.deaths,
        "of_them_while_a_move_was_written": seen.deaths_in_the_act,
        "deeds": sum(seen.deeds.values()),
        "faults_armed": seen.faults,
        "moves": dict(sorted(seen.moves.items())),
        "rows_pruned": seen.pruned,
        "rss_first_hour_mb": seen.rss_mb[0],
        "rss_end_mb": seen.rss_mb[-1],
        "rss_growth": round(seen.rss_mb[-1] / seen.rss_mb[0] - 1.0, 4),
        "rss_by_hour_mb": seen.rss_mb,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(time.process_time(), 1),
        "speed": round(options.hours * 3600.0 / wall_s),
    }
    print(json.dumps(summary) if options.json else "\n".join(f"{key}: {value}" for key, value in summary.items()))
    for what in seen.violations[:20]:
        print(what, file=sys.stderr)
    return 1 if seen.violations else 0


if __name__ == "__main__":
    sys.exit(main())
