"""Kills a process that writes to a store, again and again at random moments, and counts what was lost or doubled.

    python tests/unit/store/kill_writers.py --url sqlite:////tmp/killed.db --kills 100 [--kind ingest|rounds]

A writer acknowledges what a call of the store has returned from; after a kill the next one offers again everything
that was not acknowledged, as the spool reader does. Exit code 0: nothing lost, doubled or torn.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from store_values import job, noisy_report, plan, round_record, snapshot

from slurmsia.history import JobKind, Observation
from slurmsia.plan import Verdict
from slurmsia.store import ReportContext, RoundRecord, Store, StoredRound
from slurmsia.store.engine import Database, database_url
from slurmsia.store.upgrade import migrate

_JOBS = [str(number) for number in range(1, 21)]
_BATCH = 5
_CONTEXT = ReportContext(user_id=7, submit_s=100.0, script_hash="abc", name="train")
_STEP = Observation("a100", 1, 1, 32.0, 0, 1.0, 0.5, 0.26)


def _round(number: int) -> RoundRecord:
    taken_s = 1000.0 + number
    said = tuple(Verdict(job_id, "keeps" if number % 7 else "moves", f"round {number}") for job_id in _JOBS)
    seen = snapshot(*(job(job_id) for job_id in _JOBS), taken_s=taken_s)
    return round_record(taken_s, snapshot=seen, plan=plan(*said, sentence=f"round {number}"))


def _write_for_ever(url: str, kind: str, acknowledged: Path) -> None:
    store = Store.open(url)
    number = _acknowledged(acknowledged)
    with acknowledged.open("ab", buffering=0) as acks:
        while True:
            if kind == "ingest":
                seqs = range(number * _BATCH, (number + 1) * _BATCH)
                offered = [
                    (noisy_report(seq, job_id, samples=10.0 * (seq + 1), observations=(_STEP,)), _CONTEXT)
                    for job_id in _JOBS
                    for seq in seqs
                ]
                result = store.ingest(offered)
                assert result.accepted + result.duplicates == len(offered), result
            else:
                store.save_round(_round(number))
            number += 1
            acks.write(b".")


def _acknowledged(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill(url: str, kind: str, kills: int, seed: int) -> dict[str, int]:
    """Kill ``kills`` writers; what was acknowledged, stored, lost, doubled and torn."""
    draw = random.Random(seed)
    with TemporaryDirectory() as folder:
        acks = Path(folder) / "acks"
        for _ in range(kills):
            before = _acknowledged(acks)
            child = os.fork()
            if child == 0:
                try:
                    _write_for_ever(url, kind, acks)
                finally:
                    os._exit(3)
            deadline = time.monotonic() + 30
            while _acknowledged(acks) == before and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), f"the writer ended by itself ({status})"
        calls = _acknowledged(acks)
    with Store.open(url) as store:
        return {"kills": kills, **(_count_reports if kind == "ingest" else _count_rounds)(store, calls)}


def _count_reports(store: Store, calls: int) -> dict[str, int]:
    lost = doubled = stored = 0
    known = store.history(_JOBS)
    with store.db.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT jobs.slurm_id, runs.last_seq FROM runs JOIN jobs ON jobs.id = runs.job_id"
        )
        last = {row[0]: int(row[1]) for row in rows}
    for job_id in _JOBS:
        count = int(sum(seen.count for seen in known[job_id].observations))
        stored += count
        lost += max(0, max(calls * _BATCH, last[job_id] + 1) - count)
        doubled += max(0, count - (last[job_id] + 1))
    similar = store.similar(JobKind(7, "abc"))
    assert similar is not None
    for pooled in (similar.observations, similar.noise):
        learnt = int(sum(part.count for part in pooled))
        lost, doubled = lost + max(0, stored - learnt), doubled + max(0, learnt - stored)
    return {"acknowledged": calls * _BATCH * len(_JOBS), "stored": stored, "lost": lost, "doubled": doubled}


def _count_rounds(store: Store, calls: int) -> dict[str, int]:
    heads = store.rounds_between()
    torn = 0
    for head in heads:
        stored = store.round(head.id)
        whole = isinstance(stored, StoredRound) and stored.plan.sentence == head.sentence == (
            f"round {int(head.taken_s - 1000)}"
        )
        torn += not whole
    for job_id in _JOBS:
        torn += sum(span.rounds for span in store.verdicts_of(job_id, limit=100_000)) != len(heads)
    numbers = {head.taken_s for head in heads}
    lost = sum(1000.0 + number not in numbers for number in range(calls))
    return {
        "acknowledged": calls,
        "stored": len(heads),
        "lost": lost,
        "doubled": len(heads) - len(numbers),
        "torn": torn,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--url", required=True, help="an empty store, or one that does not exist yet")
    options.add_argument("--kind", choices=["ingest", "rounds"], action="append")
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    db = Database(database_url(chosen.url))
    migrate(db, "head")
    db.close()
    counts = {kind: kill(chosen.url, kind, chosen.kills, chosen.seed) for kind in chosen.kind or ["ingest", "rounds"]}
    sys.stdout.write(json.dumps(counts) + "\n")
    return int(any(found.get(bad, 0) for found in counts.values() for bad in ("lost", "doubled", "torn")))


if __name__ == "__main__":
    sys.exit(main())
