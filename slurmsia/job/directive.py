"""What the daemon tells a job (JOBS.md "Directives"): the value, its JSON form, and the job's way of reading it.

Standard library only, Python 3.8. Reading never raises for a missing, unreadable or broken file: a job without a
directive simply goes on. Values are named tuples because importing dataclasses costs a job two megabytes.
"""

from __future__ import annotations

import json
import math
import os
import stat
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from .names import DIRECTIVES, directive_name

RUN = "run"
CHECKPOINT = "checkpoint"
_MAX_BYTES = 64 * 1024


class SpeedModel(NamedTuple):
    """The job's throughput and efficiency on what it holds now, for choosing the batch size (SIA.md section 1).

    ``alpha_c`` .. ``gamma``: step-time parameters in seconds and seconds per sample; ``square``/``variance``: gradient
    moments at the total batch ``batch_min`` (M0); ``batch_*`` total batch, ``local_*`` samples per GPU.
    """

    alpha_c: float
    beta_c: float
    alpha_n: float
    beta_n: float
    alpha_r: float
    beta_r: float
    gamma: float
    square: float
    variance: float
    batch_min: int
    batch_max: int
    local_min: int
    local_max: int
    accumulation_max: int = 15


class Directive(NamedTuple):
    """One directive. ``action`` is ``run`` or ``checkpoint``; ``deadline_s`` epoch seconds until the requeue.

    ``local_batch``/``accumulation``: the batch that the daemon chose; ``exit_code``: leave with it after the
    checkpoint instead of waiting to be requeued (75 on sites with that route), ``None`` = wait.
    """

    seq: int
    action: str = RUN
    deadline_s: Optional[float] = None
    reason: str = ""
    local_batch: Optional[int] = None
    accumulation: int = 0
    model: Optional[SpeedModel] = None
    exit_code: Optional[int] = None

    def to_json(self) -> str:
        """The file's content, one line."""
        record: Dict[str, Any] = {"seq": self.seq, "action": self.action, "reason": self.reason}
        if self.deadline_s is not None:
            record["deadline"] = self.deadline_s
        if self.local_batch is not None:
            record["batch"] = {"local": self.local_batch, "accum": self.accumulation}
        if self.model is not None:
            record["model"] = self.model._asdict()
        if self.exit_code is not None:
            record["exit"] = self.exit_code
        return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def parse_directive(text: str) -> Directive:
    """Reverses `Directive.to_json`. Raises ValueError for anything else."""
    record = json.loads(text)
    if not isinstance(record, dict) or record.get("action") not in (RUN, CHECKPOINT):
        raise ValueError("no directive: its action is neither run nor checkpoint")
    batch = record.get("batch") or {}
    deadline = record.get("deadline")
    local = batch.get("local")
    return Directive(
        seq=int(record["seq"]),
        action=record["action"],
        deadline_s=None if deadline is None else float(deadline),
        reason=str(record.get("reason", "")),
        local_batch=None if local is None else int(local),
        accumulation=int(batch.get("accum", 0)),
        model=_model(record.get("model")),
        exit_code=None if record.get("exit") is None else int(record["exit"]),
    )


def _model(record: Optional[Mapping[str, Any]]) -> Optional[SpeedModel]:
    if not record:
        return None
    counts = ("batch_min", "batch_max", "local_min", "local_max", "accumulation_max")
    values: Dict[str, int] = {key: int(record[key]) for key in counts if key in record}
    names = ("alpha_c", "beta_c", "alpha_n", "beta_n", "alpha_r", "beta_r", "gamma", "square", "variance")
    rates: Dict[str, float] = {key: float(record[key]) for key in names}
    if not all(math.isfinite(value) and value >= 0 for value in rates.values()) or rates["gamma"] < 1:
        raise ValueError("no directive: its model has values that are negative or not finite")
    known: Dict[str, Any] = dict(rates, **values)
    return SpeedModel(**known)


class DirectiveReader:
    """Looks at one job's directive file; cheap when it has not changed."""

    def __init__(self, spool: str, job_id: str) -> None:
        self.path = os.path.join(spool, DIRECTIVES, directive_name(job_id))
        self._seen: Tuple[int, int, int] = (0, 0, 0)
        self._latest: Optional[Directive] = None

    def read(self) -> Optional[Directive]:
        """The directive that stands there now, or the last good one, or None. Never raises."""
        try:
            status = os.stat(self.path)
            mark = (status.st_ino, status.st_mtime_ns, status.st_size)
            if mark == self._seen or not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                return self._latest
            with open(self.path, encoding="utf-8") as file:
                directive = parse_directive(file.read(_MAX_BYTES))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return self._latest
        self._seen = mark
        if self._latest is None or directive.seq >= self._latest.seq:
            self._latest = directive
        return self._latest
