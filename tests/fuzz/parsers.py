"""Mutates captured output of Slurm and feeds it to every parser of the clients; only the named errors may come out.

``python -m tests.fuzz.parsers --lines 1000000`` prints how many lines each parser took, the named refusals and the
slowest line, and ends with 1 when anything else was raised or a line took longer than `HANG_S`.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from slurmsia.sim import sacct_records
from slurmsia.slurm import json_form, json_stream, limits, sitefacts, text_form
from slurmsia.slurm import normalise as n

CORPUS = Path(__file__).parents[1] / "unit" / "slurm" / "corpus"
HANG_S = 5.0
NAMED = (json_stream.UnreadableAnswer, sacct_records.SacctError)
TYPES = json_form.NodeTypes({"a100": "a100"}, {"t4": "t4"}, {"rtx": "rtx"})

_TOKENS = (
    "(null)", "N/A", "UNLIMITED", "infinite", "=", "|", ",", "+", "-", "[", "]", "[1-3]", "[0-99999999999]", "((", ")",
    "gres/gpu:", "gpu:a100:", ":", "\x00", "\n", "\u202e", "é", "\ud800", "JobId=1", "9" * 30, "9" * 5000, "-1",
    "1e999", "NaN", "%s", "4294967294", "4294967295", "18446744073709551614", '"', "\\", "*", "n[1-9][1-9][1-9][1-9]",
    "[1-999999999]x[1-999999999]", "[" * 50, "&", "!", "@", "(IDX:0,3)", "(0/4,2/4)", "shard:", "K", "²", "٣",
)  # fmt: skip
_LEAVES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x", [], {}, [[]], [None],
    {"set": True, "infinite": False, "number": 5}, {"set": True, "number": "nan"}, {"set": False}, {"number": {}},
    "gpu:a100:2", "gres/gpu=4", "t4-[1-3]", "t4-[1-999999999]", ["RUNNING", "COMPLETING"], "PENDING", {"nodes": {}},
)  # fmt: skip


def _normalised(line: str) -> None:
    """Every function of `normalise` that takes text."""
    for function in (
        n.parse_gres, n.gpus_in, n.holds_shares, n.tres, n.node_set, n.number, n.count, n.moment, n.text, n.words,
        n.job_state, n.node_state, n.memory_mb, n.duration_s, n.key_values,
    ):  # fmt: skip
        function(line)  # type: ignore[operator]
    n.gpu_form(line, line, line, line)
    n.hold(line, line)
    n.job_id(1, line, line)
    n.script_hash(line, line)


def _qos(line: str) -> None:
    limits.qos_limits(limits.rows(line, 5))
    limits.association_limits(limits.rows(line, 6))


def _configuration(line: str) -> None:
    config = sitefacts.parse_config(line)
    sitefacts.requeue_delay_s(config)
    sitefacts.version_of(line)
    sitefacts.seconds(line, 1.0)


NODE_LINES = [
    "NodeName=t4-1 CPUEfctv=32 CPUTot=32 AvailableFeatures=t4 ActiveFeatures=t4 Gres=gpu:t4:4 RealMemory=131072 "
    "State=IDLE+DRAIN Partitions=batch,t4 Reason=broken fan = loud [root@2026-11-21T06:06:11]"
] * 20


def _reservations(line: str) -> None:
    json_form.reservation_lines([line])


WORD = "zw0rdz"


def _text_jobs(line: str) -> None:
    counted, _, written = line.partition("\x1d")
    text_form.jobs(counted.encode("utf-8", "replace"), written.encode("utf-8", "replace"), WORD, {"t4-1": "t4"})


def _squeue_text() -> list[str]:
    """Both reads of the text form, made from the captured JSON of every release."""
    seeds = []
    for folder in sorted(CORPUS.iterdir()):
        for record in json.loads((folder / "jobs.json").read_bytes())["jobs"][:30]:
            values = {key: n.text(record.get(key)) for _, _, key in text_form.COUNTED}
            values["array_task"], values["limit"], values["sharing"] = "N/A", "1:00:00", "OK"
            counted = "".join(f"{values[key][:width]:{width}}{WORD}" for _, width, key in text_form.COUNTED)
            written = WORD.join(n.text(record.get(key)) for _, key in text_form.WRITTEN) + WORD[::-1]
            seeds.append(f"{counted}\n\x1d{written}\n")
    return seeds


@dataclass(frozen=True)
class Target:
    """One parser: the captured lines it is for (whole JSON answers for `json_stream`) and how it is called."""

    name: str
    seeds: tuple[str, ...]
    parse: Callable[[str], object]
    weight: int
    structured: bool = False


def targets() -> list[Target]:
    """All parsers with the lines of every captured release."""
    lines: dict[str, list[str]] = {}
    records: dict[str, list[str]] = {"jobs": [], "nodes": []}
    for folder in sorted(CORPUS.iterdir()):
        for key, found in records.items():
            document = json.loads((folder / f"{key}.json").read_bytes())
            found += [json.dumps({key: [record], "meta": document.get("meta")}) for record in document[key][:40]]
        for file in sorted(folder.glob("*.txt")):
            text = file.read_text(errors="replace")
            lines.setdefault(file.stem, []).extend(text.splitlines()[:400])

    def jobs(line: str) -> object:
        return json_form.jobs(json_stream.records(line.encode("utf-8", "replace"), "jobs"), {"t4-1": "t4"})

    def nodes(line: str) -> object:
        return json_form.nodes(json_stream.records(line.encode("utf-8", "replace"), "nodes"), TYPES)

    sacct_head, *sacct_rows = (
        (CORPUS / sorted(p.name for p in CORPUS.iterdir())[-1] / "sacct.txt").read_text().split("\n")
    )
    everything = tuple(line for found in lines.values() for line in found)
    return [
        Target("json_form.jobs", tuple(records["jobs"]), jobs, 20, structured=True),
        Target("json_form.nodes", tuple(records["nodes"]), nodes, 10, structured=True),
        Target("json_form.partitions", tuple(lines["partitions"]), lambda line: json_form.partitions([line]), 10),
        Target("json_form.reservations", tuple(lines["reservations"]), _reservations, 10),
        Target("text_form.jobs", tuple(_squeue_text()), _text_jobs, 10),
        Target("text_form.nodes", tuple(lines["partitions"] + NODE_LINES), lambda ln: text_form.nodes([ln], TYPES), 5),
        Target("normalise", everything, _normalised, 10),
        Target("limits", ("gpu|gres/gpu=16|gres/gpu:a100=2,cpu=8|gres/gpu=4|", *lines["qos"]), _qos, 5),
        Target("association limits", ("a|root||root|gres/gpu=16|gres/gpu:a100=2", "b|||a|gres/gpu=1|"), _qos, 5),
        Target("sitefacts", tuple(lines["config"]), _configuration, 10),
        Target(
            "sacct_records",
            tuple(sacct_rows),
            lambda line: sacct_records.parse_sacct(f"{sacct_head}\n{line}", "captured"),
            5,
        ),
    ]  # fmt: skip


def mutated(rng: random.Random, line: str) -> str:
    """A line with one to four cuts, copies, swaps or foreign tokens."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(line))
        to = min(len(line), at + rng.randint(0, 12))
        kind = rng.randrange(6)
        if kind == 0:
            line = line[:at] + line[to:]
        elif kind == 1:
            line = line[:at] + rng.choice(_TOKENS) + line[at:]
        elif kind == 2:
            line = line[:at] + rng.choice(_TOKENS) + line[to:]
        elif kind == 3:
            line = line[:at] + line[at:to] * rng.randint(2, 5) + line[to:]
        elif kind == 4:
            line = (
                line[:at]
                + "".join(chr(rng.choice((rng.randrange(256), rng.randrange(0xD7FF)))) for _ in range(3))
                + line[to:]
            )
        else:
            line = line[:at]
    return line


def restructured(rng: random.Random, line: str) -> str:
    """A JSON document with one to three of its values replaced by something else."""
    document = json.loads(line)
    for _ in range(rng.randint(1, 3)):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and rng.random() < 0.85:
                place = inner
                continue
            if isinstance(inner, str) and rng.random() < 0.5:
                place[key] = mutated(rng, inner)
            elif rng.random() < 0.15 and isinstance(place, dict):
                del place[key]
            else:
                place[key] = copy.deepcopy(rng.choice(_LEAVES))
            break
    return json.dumps(document)


class Hang(BaseException):
    """A parser was still busy with one line after `HANG_S`."""


def _hang(_signal: int, _frame: FrameType | None) -> None:
    raise Hang


@dataclass
class Outcome:
    """What came of a run; ``faults`` are lines with an unnamed exception or a hang."""

    lines: Counter[str]
    refusals: Counter[str]
    faults: list[str]
    slowest_s: float = 0.0
    slowest: str = ""


def fuzz(lines: int, seed: int) -> Outcome:
    """Feed ``lines`` mutated lines to the parsers, by weight. Deterministic for a seed."""
    rng = random.Random(seed)
    chosen = targets()
    weights = [target.weight for target in chosen]
    outcome = Outcome(Counter(), Counter(), [])
    previous = signal.signal(signal.SIGALRM, _hang)
    try:
        for target in rng.choices(chosen, weights, k=lines):
            line = rng.choice(target.seeds)
            line = restructured(rng, line) if target.structured and rng.random() < 0.6 else mutated(rng, line)
            outcome.lines[target.name] += 1
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            begun = time.perf_counter()
            try:
                target.parse(line)
            except NAMED:
                outcome.refusals[target.name] += 1
            except (Exception, Hang) as error:
                outcome.faults.append(f"{target.name}: {type(error).__name__}: {error}: {line[:400]!r}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            took = time.perf_counter() - begun
            if took > outcome.slowest_s:
                outcome.slowest_s, outcome.slowest = took, f"{target.name}: {line[:120]!r}"
    finally:
        signal.signal(signal.SIGALRM, previous)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    begun = time.perf_counter()
    outcome = fuzz(options.lines, options.seed)
    took = time.perf_counter() - begun
    if options.json:
        print(json.dumps({"lines": options.lines, "seconds": round(took, 1), "faults": len(outcome.faults),
                          "slowest_ms": round(outcome.slowest_s * 1000, 1), "by_parser": outcome.lines}))  # fmt: skip
    else:
        for name, count in sorted(outcome.lines.items()):
            print(f"{name:<24} {count:>8} lines, {outcome.refusals[name]:>7} refused by name")
        print(f"slowest line {outcome.slowest_s * 1000:.1f} ms ({outcome.slowest})")
        print(f"{options.lines} mutated lines in {took:.0f} s: {len(outcome.faults)} faults")
        for fault in outcome.faults[:20]:
            print(fault)
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
