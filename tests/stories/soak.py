"""One long story: hours of virtual time under random faults, with daemons dying and coming back all the while.

``python -m tests.stories.soak --hours 24`` prints moves, faults, violations, and resident memory after the first
virtual hour and at the end. Jobs that have ended are judged and forgotten, so that memory that grows is a leak.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import psutil

from slurmsia.cluster import JobState
from slurmsia.slurm.emulator import FaultKind

from .teller import CALLS, FAULTS, ROUND_S, SITE_DEEDS, TICK_S, USER_DEEDS, Killed, Story

_DEEDS = tuple(
    deed for deed in (*USER_DEEDS, *SITE_DEEDS) if deed not in ("hold", "launch-fails", "launch-kills", "reservation")
)


@dataclass
class Soaked:
    """What a soak saw."""

    hours: float
    jobs: int = 0
    deaths: int = 0
    deeds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    rss_first_hour_mb: float = 0.0
    rss_end_mb: float = 0.0


class Soak(Story):
    """A story without an end: jobs keep coming, faults keep striking."""

    def __init__(self, hours: float, seed: int) -> None:
        super().__init__(3 * seed)
        self.emulator.faults.clear()
        self.plot = replace(self.plot, end="lives", deed="hold-then-release", deed_call="")
        self.log.kill_at = None
        self.soaked = Soaked(hours)

    def soak(self) -> Soaked:
        """Run the hours, then let everything end."""
        rng, emulator, seen = self.rng, self.emulator, self.soaked
        until_s = seen.hours * 3600.0
        next_round_s = next_job_s = 0.0
        next_fault_s, next_deed_s, next_death_s, next_relent_s = 90.0, 200.0, 1500.0, 1200.0
        next_hour_s = 3600.0
        alive, revive_s = True, 0.0
        while emulator.now_s < until_s or not self._all_ended():
            now_s = emulator.now_s
            quiet = now_s >= until_s
            if now_s > until_s + 12 * 3600.0:
                break
            if now_s >= next_job_s and not quiet:
                if sum(record.state is not JobState.ENDED for record in emulator.records.values()) < 30:
                    self._submit_jobs()
                next_job_s = now_s + rng.uniform(200.0, 1200.0)
            if now_s >= next_fault_s and not quiet:
                fault, call = rng.choice(FAULTS), rng.choice(CALLS)
                kind = {"busy": FaultKind.REJECTED}.get(fault) or FaultKind(fault)
                emulator.faults.clear()
                emulator.faults.inject(kind, call, times=rng.randint(1, 3), retryable=fault == "busy")
                seen.faults[f"{call} {fault}"] += 1
                next_fault_s = now_s + rng.expovariate(1 / 120.0)
            if now_s >= next_deed_s and not quiet:
                self._random_deed()
                next_deed_s = now_s + rng.expovariate(1 / 200.0)
            if now_s >= next_relent_s:
                self.plot = replace(self.plot, deed="hold-then-release")
                self._relent()
                next_relent_s = now_s + 900.0
            if now_s >= next_death_s and alive and not quiet:
                seen.deaths += 1
                alive, revive_s = False, now_s + rng.choice([5.0, 60.0, 130.0, 900.0])
                next_death_s = revive_s + rng.expovariate(1 / 1800.0)
                self.log.kill_at = self.log.writes + rng.randint(1, 4)
                self.log.before = rng.random() < 0.5
                alive = self._die_in_the_act(next_round_s)
            if not alive and now_s >= revive_s:
                alive = True
                self.log.kill_at = None
                self.actor = self._daemon()
                self.actor.recover()
            if alive:
                due = now_s >= next_round_s
                if due:
                    next_round_s = now_s + ROUND_S
                self._live((0 if rng.random() < 0.15 else 99) if due else None)
            emulator.run_until(emulator.now_s + (TICK_S if alive and self.actor.flights else 10.0))
            for report in emulator.take_reports():
                self.channel.hear(report)
            if emulator.now_s >= next_hour_s:
                next_hour_s += 3600.0
                self._judge_and_forget()
                if not seen.rss_first_hour_mb:
                    seen.rss_first_hour_mb = _rss_mb()
        self._judge_and_forget(everything=True)
        seen.rss_end_mb = _rss_mb()
        seen.moves.update(self.ending.moves)
        seen.violations = self.ending.violations
        return seen

    def _die_in_the_act(self, next_round_s: float) -> bool:
        """Act until the log kills the daemon; ``True`` when it had nothing to write and lives on."""
        try:
            for number in (0, None, None, None):
                self._live(number)
                self.emulator.advance(TICK_S)
        except Killed:
            return False
        self.log.kill_at = None
        return True

    def _random_deed(self) -> None:
        live = [
            job_id
            for job_id in self.declared
            if job_id in self.emulator.records and self.emulator.records[job_id].state is not JobState.ENDED
        ]
        if not live:
            return
        deed = self.rng.choice(_DEEDS)
        self.plot = replace(self.plot, deed=deed, deed_job=self.rng.randrange(8))
        self.soaked.deeds[deed] += 1
        self._strike(self.rng.choice(live))

    def _judge_and_forget(self, everything: bool = False) -> None:
        emulator = self.emulator
        over = set(self.chosen) if everything else {job_id for job_id in self.chosen if job_id in emulator.forgotten}
        left = {job_id: shapes for job_id, shapes in self.chosen.items() if job_id not in over}
        self.chosen = {job_id: self.chosen[job_id] for job_id in sorted(over)}
        self.soaked.jobs += len(over)
        self.ending.died = True  # liars may have died while no daemon was there to requeue them
        self._judge(alive=False)
        self.chosen = left
        emulator.accounting[:] = [run for run in emulator.accounting if run.job_id not in over]
        self.client.writes.clear()
        for job_id in over:
            emulator.forgotten.pop(job_id, None)
            self.standings.pop(job_id, None)
            self.channel.forget(job_id)
            self.user_begin.pop(job_id, None)
            self.cancelled.discard(job_id)
            self.liars.discard(job_id)
        self.declared = [job_id for job_id in self.declared if job_id not in over]
        self.undeclared = [job_id for job_id in self.undeclared if job_id not in over]


def _rss_mb() -> float:
    gc.collect()
    return round(psutil.Process().memory_info().rss / 2**20, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began_s = time.perf_counter()
    seen = Soak(options.hours, options.seed).soak()
    wall_s = time.perf_counter() - began_s
    summary = {
        "virtual_hours": seen.hours,
        "jobs": seen.jobs,
        "violations": len(seen.violations),
        "daemon_deaths": seen.deaths,
        "deeds": sum(seen.deeds.values()),
        "faults_armed": sum(seen.faults.values()),
        "moves": dict(sorted(seen.moves.items())),
        "rss_first_hour_mb": seen.rss_first_hour_mb,
        "rss_end_mb": seen.rss_end_mb,
        "rss_growth": round(seen.rss_end_mb / seen.rss_first_hour_mb - 1.0, 4) if seen.rss_first_hour_mb else None,
        "wall_s": round(wall_s, 1),
        "speed": round(seen.hours * 3600.0 / wall_s),
    }
    print(json.dumps(summary) if options.json else "\n".join(f"{key}: {value}" for key, value in summary.items()))
    for what in seen.violations[:20]:
        print(what, file=sys.stderr)
    return 1 if seen.violations else 0


if __name__ == "__main__":
    sys.exit(main())
