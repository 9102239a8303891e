"""One place where Slurm's many spellings become ours: GRES strings, node sets, states, times, memory, job ids.

Every function takes what some release of Slurm printed and returns plain values; text that means nothing gives the
safe answer (no GPUs asked, a whole node held, an unusable node), never an exception. No I/O here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

from ..cluster import GpuForm, JobState, NodeState

#: Node sets longer than this are refused: no site has them, a typo or an attack does.
LARGEST_NODE_SET = 200_000

_COUNT = re.compile(r"^(\d{1,18})([KMGkmg]?)$", re.ASCII)
_DETAIL = re.compile(r"\(([^)]*)\)")
_MULTIPLIER = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, slots=True)
class Gres:
    """One entry of a GRES or TRES string. ``kind`` is ``gpu``, ``shard``, ``mps``...; ``type`` ``None`` = untyped.

    ``shared_of`` counts the devices that a shard or mps entry touches, ``None`` where Slurm does not say.
    """

    kind: str
    type: str | None
    count: int
    shared_of: int | None = None


def split_outside_parentheses(text: str) -> list[str]:
    """Comma-separated entries; commas inside parentheses (``IDX:0,3``) do not separate."""
    entries, depth, start = [], 0, 0
    for position, char in enumerate(text):
        if char == "(":
            depth += 1
        elif char == ")":
            depth = max(0, depth - 1)
        elif char == "," and depth == 0:
            entries.append(text[start:position])
            start = position + 1
    entries.append(text[start:])
    return [entry.strip() for entry in entries if entry.strip()]


def parse_gres(text: str | None) -> tuple[Gres, ...]:
    """Entries of a GRES string of any release, unreadable ones left out.

    Reads ``gpu:a100:2(S:0-1)``, ``gpu:2``, ``gres:gpu:2``, ``gres/gpu:a100:2``, ``gres/gpu=2``, ``gres/gpu:a100=2``,
    ``gpu:t4:2(IDX:0,3)``, ``shard:t4:2(0/4,2/4)``, and whole TRES strings (``cpu=1,mem=8G,gres/gpu=2``).
    """
    if not text or text in ("(null)", "N/A"):
        return ()
    return tuple(gres for entry in split_outside_parentheses(text) if (gres := _gres_entry(entry)) is not None)


def _gres_entry(entry: str) -> Gres | None:
    detail = _DETAIL.search(entry)
    bare = entry.split("(", 1)[0]
    if bare.startswith(("gres/", "gres:")):
        bare = bare[5:]
    elif "=" in bare:
        return None
    parts = [part for part in re.split(r"[:=]", bare) if part and part != "no_consume"]
    if not parts:
        return None
    count = 1
    if len(parts) > 1 and (match := _COUNT.match(parts[-1])):
        count = int(match[1]) * _MULTIPLIER[match[2].upper()]
        parts = parts[:-1]
    kind, gpu_type = parts[0], parts[1] if len(parts) > 1 else None
    shared_of = None
    if kind in ("shard", "mps") and detail is not None:
        shared_of = sum(1 for part in detail[1].split(",") if re.match(r"^\s*[1-9]\d*/", part))
    return Gres(kind, gpu_type, count, shared_of)


def gpus_in(text: str | None) -> tuple[int, str | None]:
    """GPUs counted by a string and their type (``None`` = untyped or several types).

    Typed entries win over the untyped total that TRES strings add beside them.
    """
    entries = [gres for gres in parse_gres(text) if gres.kind == "gpu"]
    typed = [gres for gres in entries if gres.type is not None]
    chosen = typed or entries
    types = {gres.type for gres in chosen}
    return sum(gres.count for gres in chosen), types.pop() if len(types) == 1 else None


def holds_shares(text: str | None) -> bool:
    """Whether a string grants parts of GPUs (shards, MPS) rather than whole ones."""
    return any(gres.kind in ("shard", "mps") for gres in parse_gres(text))


def tres(text: str) -> dict[str, float]:
    """Plain counts of a TRES string (``cpu=4,mem=8G,node=1``): cpu and node as numbers, mem in MB."""
    found: dict[str, float] = {}
    for entry in split_outside_parentheses(text):
        key, _, value = entry.partition("=")
        if key == "mem":
            megabytes = memory_mb(value)
            if megabytes is not None:
                found[key] = megabytes
        elif key in ("cpu", "node") and number(value) is not None:
            found[key] = count(value)
    return found


def gpu_form(per_node: str, per_job: str, per_task: str, per_socket: str) -> tuple[GpuForm, str | None, int]:
    """How GPUs were asked for: form, type, and the count of that form (per node, per task, or in all)."""
    for text, form in ((per_job, GpuForm.TOTAL), (per_task, GpuForm.PER_TASK), (per_socket, GpuForm.PER_TASK)):
        count, gpu_type = gpus_in(text)
        if count:
            return form, gpu_type, count
    count, gpu_type = gpus_in(per_node)
    if not count:
        return GpuForm.NONE, None, 0
    return (GpuForm.PER_NODE_UNTYPED if gpu_type is None else GpuForm.PER_NODE_TYPED), gpu_type, count


def node_set(text: str | None) -> tuple[str, ...]:
    """Names of a node set expression (``r1,t[1-2]``), expanded and sorted; empty when there is none or it is bad."""
    if not text or text in ("(null)", "None", "None assigned", "N/A") or _names_in(text) > LARGEST_NODE_SET:
        return ()
    try:
        folded = NodeSet(text, resolver=RESOLVER_NOGROUP)
        if len(folded) > LARGEST_NODE_SET:
            return ()
        return tuple(sorted(folded))
    except (NodeSetException, ValueError, OverflowError, MemoryError, AssertionError):
        return ()


_NUMBER = re.compile(r"\d+", re.ASCII)


def _names_in(text: str) -> float:
    """How many names an expression may expand to, told without expanding it (``n[1-9999999999]``).

    Every number between brackets counts, also where the expression is none (``n[0-9-99999999]``).
    """
    total = 1.0
    for brackets in re.findall(r"\[([^\]]*)\]?", text):
        names = 0.0
        for part in brackets.split(","):
            numbers = [float(digits[:20]) for digits in _NUMBER.findall(part)]
            names += 1.0 + (max(numbers) - min(numbers) if numbers else 0.0)
        total *= names
    return total


def fold(names: Iterable[str]) -> str:
    """A node set expression for names (``r1,t[1-2]``)."""
    return str(NodeSet.fromlist(list(names), resolver=RESOLVER_NOGROUP))


def number(value: Any) -> float | None:
    """A number as any data-parser version writes it: plain, a string, or ``{"set":…, "infinite":…, "number":…}``.

    ``None`` when unset, infinite, not a finite number, or one of Slurm's NO_VAL constants.
    """
    if isinstance(value, dict):
        if not value.get("set", True) or value.get("infinite"):
            return None
        value = value.get("number")
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if found != found or found in (float("inf"), float("-inf")) or found in _NO_VALUES:
        return None
    return found


_NO_VALUES = {float(v) for v in (0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFFFFFFFFFF, 0xFFFE, -2)}


def count(value: Any, default: int = 0) -> int:
    """A whole number, or the default."""
    found = number(value)
    return default if found is None else int(found)


def moment(value: Any) -> float | None:
    """An epoch time; zero and unset mean ``None``."""
    found = number(value)
    return found if found is not None and found > 0 else None


def text(value: Any) -> str:
    """A string; ``None`` and Slurm's "(null)" are empty; lists are joined by commas."""
    if value is None or value == "(null)":
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(text(item) for item in value)
    return value if isinstance(value, str) else str(value)


def words(value: Any) -> frozenset[str]:
    """State words or flags in upper case, from a list, a "+"- or ","-joined string, or one word."""
    if value is None:
        return frozenset()
    items = value if isinstance(value, (list, tuple)) else re.split(r"[+,]", str(value))
    return frozenset(str(item).strip().rstrip("*~#!%$@^-").upper() for item in items if str(item).strip())


_JOB_BASE = {
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
}
_JOB_ENDED = frozenset(
    {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"}
    | {"OUT_OF_MEMORY", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
)


def job_state(value: Any) -> tuple[JobState, bool, str]:
    """Base state, whether the job is COMPLETING, and the end state's word (empty while it lives).

    22.05 prints only "COMPLETING" then; the job still holds nodes, so it counts as running and completing.
    """
    found = words(value)
    completing = "COMPLETING" in found
    for word, state in _JOB_BASE.items():
        if word in found:
            return state, completing, ""
    ended = sorted(found & _JOB_ENDED)
    if ended:
        return JobState.ENDED, completing, ended[0]
    if found & {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}:
        return JobState.PENDING, completing, ""
    return JobState.RUNNING, completing, ""


_NODE_BASE = frozenset({"IDLE", "MIXED", "ALLOCATED"})
_NODE_HARMLESS = frozenset({"CLOUD", "DYNAMIC_NORM", "DYNAMIC_FUTURE", "DYNAMIC", "COMPLETING", "UNDRAIN", "RESUME"})
_NODE_RESERVED = frozenset({"RESERVED", "MAINTENANCE", "MAINT"})
_NODE_PROMISED = frozenset({*_NODE_RESERVED, "PLANNED"})
_NODE_DRAIN = frozenset({"DRAIN", "DRAINED", "DRAINING"})


def node_state(value: Any, flags: Any = None) -> tuple[NodeState, str]:
    """What a node is good for and the words that say so; any word we do not know makes it unusable."""
    found = words(value) | words(flags)
    shown = "+".join(sorted(found))
    if found & _NODE_DRAIN and not found & {"DOWN", "NOT_RESPONDING"}:
        return NodeState.DRAINED, shown
    rest = found - _NODE_HARMLESS
    if not rest & (_NODE_BASE | _NODE_PROMISED):
        return NodeState.UNUSABLE, shown or "no state"
    rest -= _NODE_BASE
    if rest & _NODE_PROMISED and not rest - _NODE_PROMISED:
        return NodeState.RESERVED if rest & _NODE_RESERVED else NodeState.PROMISED, shown
    return (NodeState.UP, "") if not rest else (NodeState.UNUSABLE, shown)


def hold(reason: str, description: str) -> str:
    """Who holds a pending job: "user", "admin", "launch-failure" or ""."""
    said = f"{reason} {description}".replace("_", " ").lower()
    if "launch failed requeued held" in said or "launch failure limit" in said:
        return "launch-failure"
    if "jobhelduser" in said or "requeued in held state" in said:
        return "user"
    return "admin" if "jobheldadmin" in said else ""


def job_id(plain_id: int, array_job_id: Any, array_task_id: Any) -> str:
    """``"123"`` or, for a split array task, ``"123_4"`` (task 0 included)."""
    array, task = number(array_job_id), number(array_task_id)
    return f"{int(array)}_{int(task)}" if array and task is not None else str(plain_id)


def memory_mb(value: str | None) -> int | None:
    """Megabytes of ``8000M``, ``8G``, ``1.5T``, ``512000K``, ``4Gn``, ``4Gc``; ``None`` when there is none."""
    match = re.match(r"^(\d{1,18}(?:\.\d{1,18})?)([KMGTP]?)[cn]?$", (value or "").strip(), re.IGNORECASE | re.ASCII)
    if not match:
        return None
    factor = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}[match[2].upper()]
    return int(float(match[1]) * factor)


def duration_s(value: str | None) -> float | None:
    """Seconds of ``days-hh:mm:ss``, ``hh:mm:ss``, ``mm:ss`` or ``minutes``; ``None`` for UNLIMITED and the like."""
    match = re.match(r"^(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?$", (value or "").strip(), re.ASCII)
    if not match:
        return None
    days, first, second, third = match.groups()
    if days is not None:
        parts = int(first) * 3600 + int(second or 0) * 60 + int(third or 0)
        return float(int(days) * 86400 + parts)
    if third is not None:
        return float(int(first) * 3600 + int(second) * 60 + int(third))
    if second is not None:
        return float(int(first) * 60 + int(second))
    return float(int(first) * 60)


def key_values(line: str) -> dict[str, str]:
    """Fields of one ``scontrol -o`` line as ``key -> value``; values may hold spaces, the first of a key wins.

    Only for records whose text no user can write (nodes, partitions, reservations, configuration).
    """
    starts = list(re.finditer(r"(?:^|\s)([A-Za-z][A-Za-z0-9_/:()]*)=", line))
    fields: dict[str, str] = {}
    ends = [match.start() for match in starts[1:]] + [len(line)]
    for match, end in zip(starts, ends, strict=False):
        fields.setdefault(match[1], line[match.end() : end].strip())
    return fields


def script_hash(command: str, name: str) -> str:
    """A short digest that is equal for jobs of the same script (or, without a script path, of the same name)."""
    return hashlib.sha256((command or f"name:{name}").encode("utf-8", "surrogatepass")).hexdigest()[:16]
