"""One line of a report file to a `Report`, trusting nothing (JOBS.md "Reports"). Used by the spool and the API.

A line must parse, be finite, positive and monotone in seq, and its allocation must agree with Slurm's; anything else
is a `BadLine` with a sentence for the job's verdict. Never raises anything but `BadLine`; cost is bounded by the
length of the line.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from ..cluster import Allocation, JobId
from ..history import Gradient, MemoryPoint, Observation, Progress, Report, RestartSample

EVENTS = ("start", "progress", "checkpointed", "end")
#: Opening brackets a line may have: deep nesting is refused before the parser recurses.
MAX_BRACKETS = 300
MAX_STEPS = 64
MAX_EXTRA = 24
#: A line dated further ahead than this has a broken clock behind it.
MAX_AHEAD_S = 3600.0
_BIG = 1e18


class BadLine(ValueError):
    """A line that is dropped; ``kind`` groups equal mistakes, ``sentence`` is for the job's verdict."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence


def parse_line(
    line: bytes, job_id: JobId, restart: int, allocation: Allocation | None, last_seq: int, now_s: float
) -> Report:
    """The report in a line of the run (``job_id``, ``restart``), whose allocation in Slurm is ``allocation``.

    ``last_seq``: the highest seq accepted of this run, -1 for none. ``allocation`` ``None`` = Slurm does not say
    (any more): then no step statistics are taken. Raises `BadLine`.
    """
    record = _object(line)
    if record.get("v") != 1:
        raise BadLine("version", f"v is {_show(record.get('v'))}, this daemon reads version 1")
    if str(record.get("job")) != job_id or isinstance(record.get("job"), (bool, float)):
        raise BadLine("job", f"the line says job {_show(record.get('job'))} but the file is of job {job_id}")
    if _integer(record, "restart", 0, 10**9) != restart:
        raise BadLine("restart", f"the line says restart {_show(record['restart'])} but the file is of {restart}")
    seq = _integer(record, "seq", 0, 2**53)
    if seq <= last_seq:
        raise BadLine("seq", f"seq {seq} comes after seq {last_seq}; it must grow with every line")
    event = record.get("ev")
    if event not in EVENTS:
        raise BadLine("event", f"ev is {_show(event)}, it must be one of {', '.join(EVENTS)}")
    t_s = _number(record, "t", 0.0, _BIG)
    if t_s > now_s + MAX_AHEAD_S:
        raise BadLine("clock", f"t is {t_s - now_s:.0f} s ahead of the daemon's clock")
    _check_allocation(record, allocation)
    steps = _part(record, "steps", list)
    observations = () if steps is None or allocation is None else _observations(steps, allocation)
    return Report(
        job_id=job_id,
        restart=restart,
        seq=seq,
        t_s=t_s,
        event=event,
        observations=observations,
        gradient=_gradient(_part(record, "grad", dict), t_s),
        progress=_progress(record, event, t_s),
        memory=_memory(_part(record, "mem", dict), observations, allocation),
        restart_sample=_restart_sample(_part(record, "ckpt", dict)),
        energy_j=_number(record, "energy_j", 0.0, _BIG) if record.get("energy_j") is not None else None,
        net_bytes=_number(record, "net_bytes", 0.0, _BIG) if record.get("net_bytes") is not None else None,
        handles_signal=isinstance(record.get("handles"), str) and bool(record["handles"]),
        script_proven=record.get("proven") is not None and _number(record, "proven", 0.0, now_s + MAX_AHEAD_S) > 0,
        extra=_extra(record),
    )


def _object(line: bytes) -> dict[str, Any]:
    if line.count(b"[") + line.count(b"{") > MAX_BRACKETS:
        raise BadLine("nesting", f"the line has more than {MAX_BRACKETS} brackets")
    try:
        record = json.loads(line.decode("utf-8"), parse_constant=_no_constant, parse_int=_bounded_int)
    except UnicodeDecodeError:
        raise BadLine("utf-8", "the line is not UTF-8") from None
    except BadLine:
        raise
    except (ValueError, RecursionError) as error:
        raise BadLine("json", f"the line is not JSON ({str(error)[:80]})") from None
    if not isinstance(record, dict):
        raise BadLine("json", "the line is not a JSON object")
    return record


def _no_constant(name: str) -> NoReturn:
    raise BadLine("finite", f"the line contains {name}; every number must be finite")


def _bounded_int(text: str) -> int:
    if len(text) > 20:
        raise BadLine("size", f"the line contains a whole number of {len(text)} digits")
    return int(text)


def _show(value: object) -> str:
    text = "missing" if value is None else repr(value)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 40 else text[:37] + "..."


def _integer(record: dict[str, Any], key: str, low: int, high: int) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadLine("number", f"{key} is {_show(value)}, it must be a whole number from {low} to {high}")
    return value


def _number(record: dict[str, Any], key: str, low: float, high: float, above: bool = False) -> float:
    """A finite number in [low, high], or in (low, high] with ``above``."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadLine("number", f"{key} is {_show(value)}, it must be a finite number")
    if not low <= value <= high or (above and value == low):
        bound = "greater than" if above else "at least"
        raise BadLine("number", f"{key} is {_show(value)}, it must be {bound} {low:g} and at most {high:g}")
    return float(value)


def _optional(record: dict[str, Any], key: str, high: float, above: bool = False) -> float | None:
    return None if record.get(key) is None else _number(record, key, 0.0, high, above)


def _part(record: dict[str, Any], key: str, kind: type) -> Any:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, kind):
        raise BadLine("form", f"{key} is {_show(value)}, it must be a JSON {'list' if kind is list else 'object'}")
    return value


def _check_allocation(record: dict[str, Any], allocation: Allocation | None) -> None:
    claimed = _part(record, "alloc", dict)
    if claimed is None or allocation is None:
        return
    for key, held in (("nodes", len(allocation.gpus_by_node)), ("gpus", allocation.gpus)):
        if claimed.get(key) is not None and _integer(claimed, key, 0, 10**9) != held:
            raise BadLine("alloc", f"the line says {_show(claimed[key])} {key} but Slurm says {held}")
    name = claimed.get("type")
    if name is not None and allocation.gpu_type is not None and str(name).lower() != allocation.gpu_type.lower():
        raise BadLine("alloc", f"the line says GPU type {_show(name)} but Slurm says {allocation.gpu_type}")


def _observations(steps: list[Any], allocation: Allocation) -> tuple[Observation, ...]:
    if len(steps) > MAX_STEPS:
        raise BadLine("steps", f"steps has {len(steps)} entries, at most {MAX_STEPS} are read")
    shape = allocation.shape
    found = []
    for entry in steps:
        if not isinstance(entry, dict):
            raise BadLine("steps", f"steps contains {_show(entry)}, its entries must be JSON objects")
        count = _number(entry, "n", 0.0, 1e12, above=True)
        total = _number(entry, "step", 0.0, 1e9, above=True)
        square = _number(entry, "step2", 0.0, _BIG, above=True)
        sync = _optional(entry, "sync", 1e9) or 0.0
        if square < total * total / count * (1 - 1e-3) or square > total * total * (1 + 1e-3):
            raise BadLine("steps", f"step2 {square:g} cannot be the sum of squares of {count:g} steps of {total:g} s")
        if sync > total * (1 + 1e-6):
            raise BadLine("steps", f"sync {sync:g} s is longer than the {total:g} s of its steps")
        observation = Observation(
            gpu_type=shape.gpu_type if shape else "",
            nodes=shape.nodes if shape else 1,
            gpus=shape.gpus if shape else 0,
            local_batch=_number(entry, "local", 0.0, 1e9, above=True),
            accumulation=_integer(entry, "accum", 0, 10**6) if entry.get("accum") is not None else 0,
            count=count,
            step_sum_s=total,
            step_square_sum_s2=square,
            sync_sum_s=sync,
        )
        if shape is not None:
            found.append(observation)
    return tuple(found)


def _gradient(part: dict[str, Any] | None, t_s: float) -> Gradient | None:
    if part is None:
        return None
    return Gradient(
        t_s=t_s,
        square=_number(part, "sqr", 0.0, _BIG),
        variance=_number(part, "var", 0.0, _BIG, above=True),
        scale=_number(part, "scale", 0.0, 1e9, above=True),
    )


def _progress(record: dict[str, Any], event: str, t_s: float) -> Progress | None:
    part = _part(record, "progress", dict)
    if part is None:
        return None
    samples = _number(part, "samples", 0.0, _BIG)
    saved = _optional(part, "saved", _BIG)
    saved_t_s = _optional(part, "saved_t", _BIG)
    if event == "checkpointed" and saved is None:
        saved, saved_t_s = samples, t_s
    return Progress(
        t_s=t_s,
        samples=samples,
        target_samples=_optional(part, "target", _BIG, above=True),
        checkpoint_samples=saved,
        checkpoint_t_s=saved_t_s if saved_t_s is not None else (t_s if saved is not None else None),
    )


def _memory(
    part: dict[str, Any] | None, observations: tuple[Observation, ...], allocation: Allocation | None
) -> MemoryPoint | None:
    """The peak belongs to the largest local batch of the line unless the line names another with ``local``."""
    if part is None or allocation is None or allocation.gpu_type is None:
        return None
    local = _optional(part, "local", 1e9, above=True)
    if local is None:
        local = max((observation.local_batch for observation in observations), default=None)
    peak = _number(part, "peak", 0.0, _BIG, above=True)
    total = _optional(part, "total", _BIG, above=True)
    return None if local is None else MemoryPoint(allocation.gpu_type, local, peak, total)


def _restart_sample(part: dict[str, Any] | None) -> RestartSample | None:
    if part is None:
        return None
    sample = RestartSample(
        save_s=_optional(part, "save_s", 1e6),
        load_s=_optional(part, "load_s", 1e6),
        first_step_s=_optional(part, "first_step_s", 1e6),
    )
    return None if sample == RestartSample() else sample


def _extra(record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Facts without a place of their own: where the line comes from, the handled signal, host and GPU figures."""
    pairs = [(key, record[key]) for key in ("src", "handles") if isinstance(record.get(key), str)]
    facts = _part(record, "facts", dict) or {}
    if len(facts) > MAX_EXTRA:
        raise BadLine("facts", f"facts has {len(facts)} entries, at most {MAX_EXTRA} are read")
    pairs += [(key, _number(facts, key, -_BIG, _BIG)) for key in sorted(facts)]
    texts = tuple((key[:32], f"{value:g}" if isinstance(value, float) else value[:32]) for key, value in pairs)
    if not all(key.isprintable() and value.isprintable() for key, value in texts):
        raise BadLine("facts", "the line contains a name that cannot be printed")
    return texts
