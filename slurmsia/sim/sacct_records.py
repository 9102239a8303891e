"""Slurm's accounting records as jobs: ``sacct -D --json`` or ``sacct -D --parsable2``, of 22.05 to 26.05.

Reads tolerantly: field shapes differ per release, and every run of a requeued job is a record of its own. What cannot
be read is counted and said; a site's history must never make the command fail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


class SacctError(ValueError):
    """A file that is not sacct output; the text says what to run."""


#: What to ask sacct for; any superset works.
COMMAND = (
    "sacct -D -a -X --parsable2 --starttime=... "
    "--format=JobID,JobName,User,Account,Partition,State,Submit,Eligible,Start,End,ElapsedRaw,ReqTRES,AllocTRES,"
    "NNodes,NodeList,Comment"
)


@dataclass(frozen=True, slots=True)
class SacctRun:
    """One run of one job. Times are epoch seconds; ``start_s`` ``None`` = it never ran.

    ``end_s`` of a run that had not ended is when the records were made.
    """

    job_id: str
    name: str
    user: str
    account: str
    partition: str
    state: str
    submit_s: float
    start_s: float | None
    end_s: float | None
    gpus: int
    gpu_type: str | None
    nodes: int
    comment: str = ""

    @property
    def elapsed_s(self) -> float:
        if self.start_s is None or self.end_s is None:
            return 0.0
        return max(self.end_s - self.start_s, 0.0)


@dataclass(frozen=True, slots=True)
class SacctRead:
    """Runs in order of submission, and sentences on what was left out."""

    runs: tuple[SacctRun, ...]
    left_out: tuple[str, ...]


def read_sacct(file: Path) -> SacctRead:
    """Read one file, JSON or parsable2 by its first character. Raises `SacctError` when it is neither."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SacctError(f"{file}: cannot be read ({error.strerror})") from None
    return parse_sacct(text, str(file))


def parse_sacct(text: str, file: str) -> SacctRead:
    """What `read_sacct` does, on text already read; ``file`` names it in errors."""
    if not text.strip():
        raise SacctError(f"{file}: is empty; make it with: {COMMAND}")
    records: Iterable[Mapping[str, Any]]
    parse: Callable[[Mapping[str, Any]], SacctRun | None]
    if text.lstrip().startswith("{"):
        try:
            document = json.loads(text)
            records = document["jobs"]
        except (ValueError, KeyError, TypeError) as error:
            raise SacctError(f"{file}: is not `sacct --json` output ({error})") from None
        parse = _from_json
    else:
        head, *lines = text.split("\n")
        columns = head.rstrip("\r").split("|")
        missing = {"JobID", "Submit", "Start", "End"} - set(columns)
        if missing:
            raise SacctError(
                f"{file}: no column {', '.join(sorted(missing))}; make the file with: {COMMAND} (or --json)"
            )
        rows = [line.rstrip("\r").split("|") for line in lines if line.strip()]
        records, parse = [dict(zip(columns, row, strict=False)) for row in rows], _from_row
    runs: list[SacctRun] = []
    steps = bad = 0
    for record in records:
        try:
            run = parse(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            bad += 1
            continue
        if run is None:
            steps += 1
        else:
            runs.append(run)
    left_out = []
    if bad:
        left_out.append(f"{bad} records could not be read and are left out")
    if steps:
        left_out.append(f"{steps} lines are job steps, not jobs, and are left out")
    runs.sort(key=lambda run: (run.submit_s, run.start_s or 0.0, run.job_id))
    return SacctRead(tuple(runs), tuple(left_out))


def gpus_of(tres: str) -> tuple[int, str | None]:
    """GPUs and their type in a TRES text such as ``cpu=8,gres/gpu=4,gres/gpu:a100=4`` (22.05 writes ``gres:gpu``)."""
    total, by_type = 0, dict[str, int]()
    for name, count in re.findall(r"gres[/:]gpu((?::[^=,]+)?)=(\d+)", tres):
        if name:
            by_type[name.lstrip(":")] = int(count)
        else:
            total = int(count)
    kind = max(by_type, key=lambda name: by_type[name]) if by_type else None
    return max(total, sum(by_type.values())), kind


def _from_row(row: Mapping[str, str]) -> SacctRun | None:
    job_id = row["JobID"]
    if "." in job_id:
        return None
    allocated = gpus_of(row.get("AllocTRES") or row.get("AllocGRES") or "")
    gpus, kind = allocated if allocated[0] else gpus_of(row.get("ReqTRES") or row.get("ReqGRES") or "")
    submit = _time(row["Submit"])
    if submit is None:
        raise ValueError("no submit time")
    start, end = _time(row["Start"]), _time(row["End"])
    elapsed = row.get("ElapsedRaw") or ""
    if start is not None and elapsed.isdigit():
        end = start + int(elapsed)
    return SacctRun(
        job_id=job_id,
        name=row.get("JobName") or "",
        user=row.get("User") or "",
        account=row.get("Account") or "",
        partition=row.get("Partition") or "",
        state=(row.get("State") or "").split(" ")[0],
        submit_s=submit,
        start_s=start,
        end_s=end,
        gpus=gpus,
        gpu_type=kind,
        nodes=_count(row.get("NNodes") or row.get("AllocNodes") or "1"),
        comment=row.get("Comment") or "",
    )


def _from_json(record: Mapping[str, Any]) -> SacctRun | None:
    times = record["time"]
    submit = _number(times["submission"])
    start, end, elapsed = _number(times.get("start")), _number(times.get("end")), _number(times.get("elapsed"))
    if not submit:
        raise ValueError("no submit time")
    if start and elapsed is not None:
        end = start + elapsed
    tres = record.get("tres") or {}
    gpus, kind = _json_gpus(tres.get("allocated"))
    if not gpus:
        gpus, kind = _json_gpus(tres.get("requested"))
    state = record.get("state") or {}
    current = state.get("current") if isinstance(state, Mapping) else state
    if isinstance(current, Sequence) and not isinstance(current, str):
        current = current[0] if current else ""
    array = record.get("array") or {}
    task = _number(array.get("task_id")) if isinstance(array, Mapping) else None
    parent = _number(array.get("job_id")) if isinstance(array, Mapping) else None
    job_id = f"{parent:.0f}_{task:.0f}" if parent and task is not None else str(record["job_id"])
    comment = record.get("comment") or ""
    if isinstance(comment, Mapping):
        comment = comment.get("job") or ""
    return SacctRun(
        job_id=job_id,
        name=str(record.get("name") or ""),
        user=str(record.get("user") or ""),
        account=str(record.get("account") or ""),
        partition=str(record.get("partition") or ""),
        state=str(current or ""),
        submit_s=submit,
        start_s=start or None,
        end_s=end or None,
        gpus=gpus,
        gpu_type=kind,
        nodes=int(_number(record.get("allocation_nodes")) or 1),
        comment=str(comment),
    )


def _json_gpus(entries: Any) -> tuple[int, str | None]:
    if isinstance(entries, str):
        return gpus_of(entries)
    total, by_type = 0, dict[str, int]()
    for entry in entries or ():
        name = str(entry.get("name") or "")
        if entry.get("type") != "gres" or not (name == "gpu" or name.startswith("gpu:")):
            continue
        count = int(_number(entry.get("count")) or 0)
        if ":" in name:
            by_type[name.split(":", 1)[1]] = count
        else:
            total = count
    kind = max(by_type, key=lambda name: by_type[name]) if by_type else None
    return max(total, sum(by_type.values())), kind


def _number(value: Any) -> float | None:
    """A number as any release writes it: plain, text, or ``{"set": true, "infinite": false, "number": 5}``."""
    if isinstance(value, Mapping):
        if not value.get("set", True) or value.get("infinite"):
            return None
        value = value.get("number")
    if value is None or value == "":
        return None
    return float(value)


def _count(text: str) -> int:
    return max(int(re.sub(r"[^0-9].*$", "", text) or 1), 1)


def _time(text: str) -> float | None:
    """Epoch seconds of ``2026-11-21T05:00:00`` (taken as UTC), of a plain number, or ``None`` for Unknown and None."""
    text = text.strip()
    if text in ("", "Unknown", "None", "N/A"):
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    moment = datetime.fromisoformat(text)
    return (moment - datetime(1970, 1, 1)).total_seconds() if moment.tzinfo is None else moment.timestamp()
