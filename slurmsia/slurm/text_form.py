"""Reads the queue as text where a site's Slurm cannot print JSON, so that no user's text can pass for a field.

squeue puts a word of our own, new for every read, after each field; nobody who wrote a job's name or comment can have
known it. What cannot be told apart all the same (a value cut at its width, a job in one of the two reads only) is left
unmanaged, and its GPUs are counted as held. Pure functions; the records are shaped like ``squeue --json``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..cluster import Job, Node
from . import json_form
from . import normalise as n

#: Fields of the first read, in squeue's ``-O`` names, with widths and the key of our records. No user text is in them.
COUNTED: tuple[tuple[str, int, str], ...] = (
    ("JobID", 12, "job_id"),
    ("ArrayJobID", 12, "array_job_id"),
    ("ArrayTaskID", 64, "array_task"),
    ("UserID", 12, "user_id"),
    ("State", 24, "job_state"),
    ("PriorityLong", 24, "priority"),
    ("NumNodes", 16, "node_count"),
    ("NumCPUs", 16, "cpus"),
    ("NumTasks", 16, "tasks"),
    ("cpus-per-task", 12, "cpus_per_task"),
    ("NTPerNode", 12, "tasks_per_node"),
    ("SubmitTime", 24, "submit_time"),
    ("EligibleTime", 24, "eligible_time"),
    ("StartTime", 24, "start_time"),
    ("EndTime", 24, "end_time"),
    ("TimeLimit", 24, "limit"),
    ("RestartCnt", 12, "restart_cnt"),
    ("Requeue", 8, "requeue"),
    ("BatchFlag", 8, "batch_flag"),
    ("OverSubscribe", 12, "sharing"),
    ("exit_code", 16, "exit_code"),
    ("HetJobID", 12, "het_job_id"),
    ("SiblingsActive", 64, "federation_siblings_active"),
    ("MinMemory", 24, "min_memory"),
    ("tres-per-job", 128, "tres_per_job"),
    ("tres-per-task", 128, "tres_per_task"),
    ("tres-per-socket", 128, "tres_per_socket"),
    ("tres-alloc", 512, "tres_alloc_str"),
)
#: Fields of the second read, in squeue's ``-o`` letters: as long as they are, user text among them.
WRITTEN: tuple[tuple[str, str], ...] = (
    ("%A", "job_id"),
    ("%j", "name"),
    ("%k", "comment"),
    ("%a", "account"),
    ("%q", "qos"),
    ("%P", "partition"),
    ("%r", "state_reason"),
    ("%f", "features"),
    ("%n", "required_nodes"),
    ("%x", "excluded_nodes"),
    ("%N", "nodes"),
    ("%b", "tres_per_node"),
    ("%E", "dependency"),
    ("%v", "resv_name"),
    ("%W", "licenses"),
    ("%o", "command"),
    ("%Z", "current_working_directory"),
)
_NOTHING = frozenset({"", "N/A", "NA", "(null)", "n/s"})
_CUT = "Slurm's text was cut short, so what it asks for cannot be told (this Slurm prints no JSON)"
_ONE_READ = "it came or went between two reads of the queue (this Slurm prints no JSON)"


def separator() -> str:
    """A word that no text written before this read can hold; it begins and ends with a letter."""
    return f"z{secrets.token_hex(12)}z"


def counted_arguments(word: str) -> list[str]:
    """Arguments of squeue for the first read."""
    fields = ",".join(f"{name}:{width}{word}" for name, width, _ in COUNTED)
    return ["--all", "--states=all", "--noheader", f"--Format={fields}"]


def written_arguments(word: str) -> list[str]:
    """Arguments of squeue for the second read; a record ends with the word backwards."""
    return ["--all", "--states=all", "--noheader", f"--format={word.join(letter for letter, _ in WRITTEN)}{word[::-1]}"]


def jobs(
    counted: bytes, written: bytes, word: str, types: Mapping[str, str | None]
) -> tuple[tuple[Job, ...], int]:  # fmt: skip
    """Jobs of the two reads sorted by id, and how many records could not be read. ``types``: GPU type by node."""
    first, bad_first = _counted(counted.decode("utf-8", "replace"), word)
    second, bad_second = _written(written.decode("utf-8", "replace"), word)
    records, doubts = [], dict[str, str]()
    for job_id in sorted(first.keys() | second.keys()):
        numbers, texts = first.get(job_id), second.get(job_id)
        record = _record(numbers or {}, texts or {}, job_id)
        doubt = _ONE_READ if numbers is None or texts is None else _CUT if numbers.pop("cut", "") else ""
        if doubt:
            doubts[str(n.job_id(int(job_id), record["array_job_id"], record["array_task_id"]))] = doubt
        records.append(record)
    found, unreadable = json_form.jobs(records, types)
    told = tuple(replace(job, unmanageable=job.unmanageable or doubts.get(job.id, "")) for job in found)
    return told, unreadable + bad_first + bad_second


def _counted(text: str, word: str) -> tuple[dict[str, dict[str, str]], int]:
    found: dict[str, dict[str, str]] = {}
    bad = 0
    for line in text.splitlines():
        values = line.split(word)
        if len(values) != len(COUNTED) + 1:
            bad += bool(line.strip())
            continue
        record: dict[str, str] = {}
        for value, (_, width, key) in zip(values, COUNTED, strict=False):
            record[key] = value.strip()
            if len(value.rstrip()) >= width:
                record["cut"] = key
        if _is_id(record["job_id"]):
            found[record["job_id"]] = record
        else:
            bad += 1
    return found, bad


def _written(text: str, word: str) -> tuple[dict[str, dict[str, str]], int]:
    found: dict[str, dict[str, str]] = {}
    bad = 0
    for entry in text.split(word[::-1]):
        if not entry.strip():
            continue
        values = entry.removeprefix("\n").split(word)
        if len(values) == len(WRITTEN) and _is_id(values[0]):
            found[values[0]] = {key: value for value, (_, key) in zip(values, WRITTEN, strict=True)}
        else:
            bad += 1
    return found, bad


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _record(numbers: Mapping[str, str], texts: Mapping[str, str], job_id: str) -> dict[str, Any]:
    """One job in the shape of ``squeue --json``."""
    record: dict[str, Any] = {key: value for key, value in numbers.items() if value not in _NOTHING}
    record |= {key: "" if value in ("(null)", "N/A") else value for key, value in texts.items()}
    record["job_id"] = job_id
    task = numbers.get("array_task", "")
    record["array_task_id"] = int(task) if _is_id(task) else None
    record["array_task_string"] = "" if task in _NOTHING or _is_id(task) else task
    record["array_job_id"] = record.get("array_job_id") if task not in _NOTHING else 0
    for key in ("node_count", "cpus", "tasks"):
        record[key] = numbers.get(key, "").split("-")[0]
    if numbers.get("job_state") == "PENDING":
        # Of a waiting job squeue prints here what it asks for; NumNodes still counts the nodes of its last run.
        record["tres_req_str"] = record.pop("tres_alloc_str", "")
    if not numbers:
        record["node_count"] = len(n.node_set(texts.get("nodes"))) or 1
    limit_s = n.duration_s(numbers.get("limit"))
    record["time_limit"] = None if limit_s is None else limit_s / 60.0
    record["requeue"] = numbers.get("requeue") == "1"
    record["batch_flag"] = numbers.get("batch_flag") == "1"
    record["shared"] = "none" if numbers.get("sharing") == "NO" else ""
    code, newer, signal = numbers.get("exit_code", "").partition(":")
    # 22.05 prints the plain wait status.
    record["exit_code"] = {"return_code": code, "signal": {"id": signal}} if newer else code
    memory = n.tres(numbers.get("tres_alloc_str", "")).get("mem")
    if n.memory_mb(numbers.get("min_memory")) == 0:
        record["memory_per_node"] = 0
    elif memory is not None:
        record["memory_per_node"] = -(-int(memory) // max(1, n.count(record["node_count"], 1)))
    return record


def whole_nodes(raw: bytes) -> dict[str, bool]:
    """Whether jobs have whole nodes to themselves, from columns of job id, array id, task and ``Exclusive``.

    ``TOPO`` (a whole block) counts too; a line that is not four words is left out.
    """
    found: dict[str, bool] = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) == 4 and _is_id(words[0]):
            task = int(words[2]) if _is_id(words[2]) else None
            array = int(words[1]) if _is_id(words[1]) and task is not None else 0
            found[n.job_id(int(words[0]), array, task)] = words[3] in ("NODE", "TOPO")
    return found


def nodes(lines: Sequence[str], types: json_form.NodeTypes) -> tuple[Node, ...]:
    """Nodes of ``scontrol -o show node`` lines: that text is the administrator's."""
    records = []
    for line in lines:
        fields = n.key_values(line)
        records.append(
            {
                "name": fields.get("NodeName"),
                "state": fields.get("State"),
                "gres": fields.get("Gres"),
                "features": fields.get("AvailableFeatures"),
                "active_features": fields.get("ActiveFeatures"),
                "partitions": fields.get("Partitions"),
                "effective_cpus": fields.get("CPUEfctv"),
                "cpus": fields.get("CPUTot"),
                "real_memory": fields.get("RealMemory"),
                "reason": fields.get("Reason", ""),
            }
        )
    return json_form.nodes(records, types)
