"""Feeds generated requests to the API of a running daemon and compares the daemon's rounds with those of a quiet one.

``python -m tests.fuzz.api --cases 10000`` runs the same scene three times: nobody asks, a user asks (schemathesis, half
of the cases, from the published OpenAPI), an operator asks (the other half). It prints the cases, what failed, and how
rounds went, and ends with 1 on a server error, a schema violation, a plan of a round that a user changed, or a wish of
somebody who is no operator. An operator's pauses, pins and releases are wishes that rounds obey, so there only their
rhythm is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt

HERE = Path(__file__).parent
SETTINGS = HERE / "schemathesis.toml"
#: One emulated minute and one round each so many seconds.
ROUND_EVERY_S = 1.0
USER_ID = 65534
_SCHEMATHESIS = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]


@dataclass
class Rounds:
    """What a scene's rounds did: each plan, when each began (seconds), and the wishes that came."""

    plans: list[Any] = field(default_factory=list)
    begun_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    wishes: list[str] = field(default_factory=list)

    def took_ms(self, rounds: int) -> float:
        """A round with its emulated minute, median of the first so many."""
        return round(1000 * statistics.median(self.took_s[:rounds]), 1) if self.took_s else 0.0

    def late_ms(self, rounds: int) -> float:
        """How much later than its time a round begins, median of the first so many."""
        gaps = [later - sooner for sooner, later in zip(self.begun_s, self.begun_s[1 : rounds + 1], strict=False)]
        return round(1000 * (statistics.median(gaps) - ROUND_EVERY_S), 1) if gaps else 0.0


@dataclass
class Asked:
    """One run of schemathesis: cases sent, failures by title, answers by status."""

    cases: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    errors: int = 0


class Scene:
    """The rounds of the embedded cluster in a process of their own, their API in another one, as in production."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.rounds = Rounds()
        self.key = os.urandom(32)
        (folder / "key").write_bytes(self.key)
        argv = [sys.executable, "-m", "tests.fuzz.api_scene", str(folder), str(minutes), str(ROUND_EVERY_S)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise SystemExit("the scene did not start; its error is above")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            row = json.loads(line)
            self.rounds.plans.append(row["plan"])
            self.rounds.begun_s.append(row["begun_s"])
            self.rounds.took_s.append(row["took_s"])
            self.rounds.wishes += row["wishes"]

    def token(self, user_id: int) -> str:
        name = pwd.getpwuid(user_id).pw_name
        return jwt.encode({"sun": name, "exp": int(time.time()) + 7200}, self.key, "HS256")

    def runs(self) -> bool:
        return self._process.poll() is None

    def close(self) -> Rounds:
        if not self.runs():
            raise SystemExit(f"the rounds ended with status {self._process.returncode}; their error is above")
        self._process.terminate()
        self._process.wait(30)
        self._reader.join(10)
        return self.rounds


def ask(address: str, token: str, examples: int, seed: int, phases: str, folder: Path) -> Asked:
    """One run of schemathesis with every check that it has."""
    report = folder / f"report-{seed}.json"
    argv = [
        *_SCHEMATHESIS, "--config-file", str(SETTINGS), "run", f"{address}/v1/openapi.json",
        "-H", f"Authorization: Bearer {token}", "-n", str(examples), "--seed", str(seed), "--phases", phases,
        "--generation-database", "none", "--suppress-health-check", "all", "--continue-on-failure", "--no-color",
        "--report", "json", "--report-json-path", str(report),
    ]  # fmt: skip
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if not report.exists():
        raise SystemExit(f"schemathesis did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    said = json.loads(report.read_text())
    failures = {f"{failure['title']} ({failure['type']})": int(failure["count"]) for failure in said["failures"]}
    if failures:
        print(done.stdout[-6000:], file=sys.stderr)
    return Asked(said["test_cases"]["generated"], failures, len(said["errors"]))


def ask_until(address: str, token: str, cases: int, seed: int, folder: Path) -> Asked:
    """Coverage once, then fuzzing with new seeds until so many cases were sent."""
    whole = ask(address, token, 1, seed, "coverage", folder)
    while whole.cases < cases:
        seed += 1
        more = ask(address, token, max(2, min(200, (cases - whole.cases) // 20 + 1)), seed, "fuzzing", folder)
        whole.cases += more.cases
        whole.errors += more.errors
        for title, count in more.failures.items():
            whole.failures[title] = whole.failures.get(title, 0) + count
    return whole


def scene(minutes: float, cases: int, user_id: int | None, seed: int, rounds: int) -> tuple[Asked, Rounds]:
    """One run of the scene; without a user until so many rounds are over."""
    with tempfile.TemporaryDirectory(prefix="slurmsia-fuzz-") as name:
        folder = Path(name)
        stage = Scene(folder, minutes)
        try:
            asked = Asked()
            if user_id is not None:
                asked = ask_until(stage.address, stage.token(user_id), cases, seed, folder)
            while user_id is None and len(stage.rounds.plans) < rounds and stage.runs():
                time.sleep(0.1)
        finally:
            done = stage.close()
    return asked, done


def first_difference(ours: Any, theirs: Any, where: str = "plan") -> str:
    """Where two JSON values part; empty when they are the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        parts = [first_difference(ours[key], theirs[key], f"{where}.{key}") for key in ours]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        parts = [first_difference(*both, f"{where}[{at}]") for at, both in enumerate(zip(ours, theirs, strict=True))]
    else:
        parts = [] if ours == theirs else [f"{where}: {str(ours)[:200]} / {str(theirs)[:200]}"]
    return next((part for part in parts if part), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=5.0, help="how far into the scene to begin")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    half = -(-options.cases // 2)
    asked: dict[str, Asked] = {}
    rounds: dict[str, Rounds] = {}
    asked["user"], rounds["user"] = scene(options.minutes, half, USER_ID, options.seed, 0)
    asked["operator"], rounds["operator"] = scene(options.minutes, half, os.getuid(), options.seed + 1000, 0)
    _, rounds["nobody"] = scene(options.minutes, 0, None, 0, min(100, len(rounds["user"].plans)))
    compared = min(len(rounds["user"].plans), len(rounds["nobody"].plans))
    apart = [at for at in range(compared) if rounds["user"].plans[at] != rounds["nobody"].plans[at]]
    where = ""
    if apart:
        where = first_difference(rounds["user"].plans[apart[0]], rounds["nobody"].plans[apart[0]])
        where = f"round {apart[0]}: {where}"
    found = {
        "cases": {who: one.cases for who, one in asked.items()},
        "failures": {who: one.failures for who, one in asked.items()},
        "errors": sum(one.errors for one in asked.values()),
        "rounds": {who: len(one.plans) for who, one in rounds.items()},
        "different_plans": len({json.dumps(plan) for plan in rounds["nobody"].plans[:compared]}),
        "compared": compared,
        "apart": where,
        "late_ms": {who: one.late_ms(compared) for who, one in rounds.items()},
        "took_ms": {who: one.took_ms(compared) for who, one in rounds.items()},
        "wishes": {who: len(one.wishes) for who, one in rounds.items()},
    }
    if options.json:
        print(json.dumps(found))
    else:
        for who, one in asked.items():
            bad = ", ".join(f"{title}: {count}" for title, count in one.failures.items()) or "none"
            print(f"{who:<9} {one.cases:>6} cases; failures: {bad}; errors: {one.errors}")
        for who, them in rounds.items():
            print(
                f"rounds while {who:<8} asks: {len(them.plans):>4}, {len(them.wishes):>4} wishes; "
                f"the first {compared}: {them.took_ms(compared):>7} ms each, {them.late_ms(compared):>6} ms late"
            )
        words = f"NOT the same, first in {where}" if where else "the same"
        print(
            f"plans of the first {compared} rounds ({found['different_plans']} different ones) with a user asking and "
            f"with nobody: {words}"
        )
    good = not where and compared and not found["errors"] and not any(found["failures"].values())
    return 0 if good and not rounds["user"].wishes else 1


if __name__ == "__main__":
    sys.exit(main())
