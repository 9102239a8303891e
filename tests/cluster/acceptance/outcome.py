"""What came of an acceptance run: runs from Slurm's accounting, moves from the daemon's store, and how they agree.

A run of a declared job is explained by the latest move that had written its shape when the run started: it holds the
planned shape, or the former one where the move was given up. The job's own view of its GPUs must be the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness import PROJECT, VENV_PYTHON, ClusterHandle
from live import CONFIG, accounted_runs

Shape = tuple[str, int, int]
"""GPU type, nodes, GPUs in all."""
SUBMITTED_GPUS = 1


@dataclass(frozen=True)
class Run:
    """One run of a job as slurmdbd has it; times in seconds since the epoch, ``None`` where there is none (yet)."""

    state: str
    submitted_s: float
    eligible_s: float | None
    start_s: float | None
    end_s: float | None
    shape: Shape | None
    nodes: str


@dataclass(frozen=True)
class MoveMade:
    """One move, from the daemon's store."""

    job: int
    kind: str
    state: str
    before: Shape | None
    after: Shape | None
    planned: Shape | None
    created_s: float
    ended_s: float | None
    phases: tuple[tuple[str, float], ...]
    why: str
    outcome: str

    @property
    def edited_s(self) -> float | None:
        """When its shape was about to be written, if it came so far."""
        return next((at for phase, at in self.phases if phase == "edited"), None)

    def __str__(self) -> str:
        shapes = f"{_words(self.before)} -> {_words(self.after)}"
        took_s = (self.ended_s or self.created_s) - self.created_s
        running_s = next((at - self.created_s for phase, at in self.phases if phase in ("running", "verified")), None)
        there = f"{running_s:.1f}" if running_s is not None else "-"
        return f"{self.job:>5} {self.kind:<8}{shapes:<24}{self.state:<10}{there:>8}{took_s:>8.1f}  {self.why}" + (
            f" [{self.outcome}]" if self.state != "verified" else ""
        )


@dataclass(frozen=True)
class Outcome:
    """Everything that a judgement needs; `str` is the table to print."""

    declared: Mapping[int, str]
    undeclared: Sequence[int]
    runs: Mapping[int, Sequence[Run]]
    moves: Sequence[MoveMade]
    own_view: Mapping[int, Sequence[tuple[float, Shape]]]
    """By job: when its script began and the GPUs that it found."""
    jobs_of_id: Mapping[int, int]
    """By job with a move: how many jobs the store has under its id."""

    @property
    def changes(self) -> list[MoveMade]:
        """Verified moves of running jobs to another GPU type or another number of GPUs."""
        moved = [move for move in self.moves if move.kind in ("move", "shrink") and move.state == "verified"]
        return [move for move in moved if move.before is not None and move.after not in (None, move.before)]

    @property
    def between_types(self) -> int:
        return sum(move.before[0] != move.after[0] for move in self.changes if move.before and move.after)

    @property
    def between_sizes(self) -> int:
        return sum(move.before[2] != move.after[2] for move in self.changes if move.before and move.after)

    def waits_s(self, jobs: Sequence[int]) -> list[float]:
        """Seconds from eligibility to start, of each job's first run."""
        first = [self.runs[job][0] for job in jobs if self.runs.get(job)]
        return [run.start_s - run.submitted_s for run in first if run.start_s is not None]

    def __str__(self) -> str:
        head = f"{'job':>5} {'kind':<8}{'from -> to':<24}{'outcome':<10}{'there s':>8}{'done s':>8}  why"
        runs = sum(len(self.runs.get(job, ())) for job in self.declared)
        states = [f"{sum(move.state == state for move in self.moves)} {state}" for state in
                  ("verified", "restored", "aborted")]  # fmt: skip
        waits = self.waits_s(self.undeclared)
        return "\n".join(
            (
                f"{len(self.declared)} declared and {len(self.undeclared)} undeclared jobs",
                head,
                *(str(move) for move in self.moves),
                f"{len(self.moves)} moves: {', '.join(states)}; {len(self.changes)} verified changes of running jobs, "
                f"{self.between_types} to another type, {self.between_sizes} to another size",
                f"{runs} runs of declared jobs in accounting; undeclared jobs waited "
                f"{sum(waits) / max(len(waits), 1):.1f} s on average, {max(waits, default=0.0):.0f} s at most",
            )
        )


def _words(shape: Shape | None) -> str:
    if shape is None:
        return "-"
    return f"{shape[2]} {shape[0]}" + (f"/{shape[1]}" if shape[1] > 1 else "")


def _time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _run(row: Mapping[str, str]) -> Run:
    tres = dict(word.split("=", 1) for word in row["AllocTRES"].split(",") if "=" in word)
    held = [(key.split(":")[1], int(count)) for key, count in tres.items() if key.startswith("gres/gpu:")]
    # A job that waits, or that was cancelled while it waited, has no allocation.
    shape = (held[0][0], int(row["NNodes"]), held[0][1]) if len(held) == 1 else None
    submitted = _time(row["Submit"])
    assert submitted is not None, row
    return Run(
        row["State"].split()[0], submitted, _time(row["Eligible"]), _time(row["Start"]), _time(row["End"]), shape,
        row["NodeList"],
    )  # fmt: skip


def _shape(found: list[Any] | None) -> Shape | None:
    return None if found is None else (str(found[0]), int(found[1]), int(found[2]))


def read_outcome(cluster: ClusterHandle, declared: Mapping[int, str], undeclared: Sequence[int]) -> Outcome:
    """Read accounting (once it has every end), the daemon's store, and what the jobs wrote of themselves.

    No move may be made meanwhile: the daemon is stopped, or every declared job has ended.
    """
    jobs = {*declared, *undeclared}

    def accounted() -> dict[int, list[Run]]:
        runs: dict[int, list[Run]] = {}
        for row in accounted_runs(cluster):
            if row["JobID"].isdigit() and int(row["JobID"]) in jobs:
                runs.setdefault(int(row["JobID"]), []).append(_run(row))
        living = {int(row["job"]) for row in cluster.squeue()}
        settled = all(
            runs.get(job) and (job in living or runs[job][-1].state not in ("RUNNING", "PENDING")) for job in jobs
        )
        return runs if settled else {}

    cluster.wait_for(accounted, 60, "accounting to know how every job ended", every=1.0)
    argv = ["env", "-C", PROJECT, VENV_PYTHON, "-m", "tests.cluster.acceptance.ledger", CONFIG]
    ledger = json.loads(cluster.run(argv, user="slurm").stdout)
    moves = [
        MoveMade(
            entry["job"], entry["kind"], entry["state"], _shape(entry["before"]), _shape(entry["after"]),
            _shape(entry["planned"]), entry["created_s"], entry["ended_s"],
            tuple((phase, at) for phase, at in entry["phases"]), entry["why"], entry["outcome"],
        )
        for entry in ledger["moves"]
    ]  # fmt: skip
    made = [
        (move.job, move.edited_s)
        for move in moves
        if move.state == "verified" and move.kind in ("start", "move") and move.edited_s is not None
    ]

    def complete() -> dict[int, list[Run]]:
        # slurmctld may tell slurmdbd of a start only later; accounting knows whole seconds
        runs = accounted()
        behind = all(any((run.start_s or 0.0) > at_s - 1.0 for run in runs.get(job, ())) for job, at_s in made)
        return runs if behind else {}

    runs = cluster.wait_for(complete, 60, "accounting to know the run behind every verified move", every=1.0)
    view: dict[int, list[tuple[float, Shape]]] = {}
    for job in declared:
        for line in cluster.read(f"/home/alice/runs.{job}").splitlines():
            words = line.split()
            if words[1] != "done":
                view.setdefault(job, []).append((float(words[0]), (words[1], int(words[2]), int(words[3]))))
    known = {int(job): count for job, count in ledger["jobs_of_id"].items()}
    return Outcome(dict(declared), list(undeclared), runs, moves, view, known)


def judge(outcome: Outcome, ended: bool = True) -> list[str]:
    """One sentence for everything that is not as promised; ``ended``: declared jobs must have completed."""
    said = []
    for job in outcome.undeclared:
        said += _judge_end(job, outcome.runs[job])
        if len(outcome.runs[job]) != 1:
            said.append(f"undeclared job {job} was restarted: {outcome.runs[job]}")
        if any(move.job == job for move in outcome.moves):
            said.append(f"undeclared job {job} has a move")
    for job, level in outcome.declared.items():
        if ended:
            said += _judge_end(job, outcome.runs[job])
        if level in ("rigid", "moldable") and len(outcome.runs[job]) != 1:
            said.append(f"{level} job {job} was restarted: {outcome.runs[job]}")
        said += _judge_shapes(job, outcome)
    said += [
        f"the store took job {job} for {count} jobs" for job, count in sorted(outcome.jobs_of_id.items()) if count != 1
    ]
    said += [
        f"move of job {move.job} wrote {move.after}, its round planned {move.planned}"
        for move in outcome.moves
        if move.kind != "suspend" and move.after != move.planned
    ]
    return said


def _judge_end(job: int, runs: Sequence[Run]) -> list[str]:
    said = [] if runs[-1].state == "COMPLETED" else [f"job {job} ended as {runs[-1].state}"]
    return said + [f"a run of job {job} ended as {run.state}" for run in runs[:-1] if run.state != "REQUEUED"]


def _judge_shapes(job: int, outcome: Outcome) -> list[str]:
    """Every run holds what was planned for it, and its script saw just that."""
    said = []
    mine = [move for move in outcome.moves if move.job == job]
    # Accounting knows whole seconds, rounded down.
    started = [(run.start_s, run) for run in outcome.runs[job] if run.start_s is not None and run.shape is not None]
    explained: dict[float, Shape | None] = {}
    for start_s, run in started:
        written = [move for move in mine if move.edited_s is not None and move.edited_s < start_s + 1.0]
        last = written[-1] if written else None
        if last is None:
            fits = run.shape is not None and run.shape[1:] == (1, SUBMITTED_GPUS)
        elif last.state in ("restored", "aborted"):
            fits = run.shape in (last.after, last.before)
        else:
            fits = run.shape == last.after
            explained[last.created_s] = run.shape
        if not fits:
            said.append(f"job {job} ran as {run.shape} from {start_s:.0f} on; the move behind it: {last}")
        for at, found in outcome.own_view.get(job, ()):
            if start_s <= at < (run.end_s or float("inf")) and found != run.shape:
                said.append(f"job {job} found {found} at {at:.0f}, accounting says {run.shape}")
    said += [
        f"job {job}: no run in accounting for the verified move {move}"
        for move in mine
        if move.state == "verified" and move.kind in ("start", "move") and move.created_s not in explained
    ]
    return said
