"""The process that talks to pyslurm: reads requests from one pipe, answers on another, imports nothing of slurmsia.

pyslurm holds the interpreter lock through every call and can crash the process, so it lives here alone. Run by
`slurmsia.slurm.worker_handle` as ``python worker.py REQUEST_FD ANSWER_FD``. Records are shaped like ``squeue --json``
so that one reader serves both clients. Frames are eight bytes of length, then JSON; a long list comes in pieces, so
that the other side never parses much at once.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import Any

Record = dict[str, Any]

LENGTH = struct.Struct(">Q")
#: Records in one frame.
PIECE = 50


def plain(value: Any) -> Any:
    """A value that JSON can carry; sizes and enums of pyslurm become text or numbers."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return str(value)


def read(record: Any, name: str, default: Any = None) -> Any:
    """An attribute, or the default where this pyslurm cannot give it."""
    try:
        value = getattr(record, name)
    except Exception:
        return default
    return default if value is None else plain(value)


def counts(record: Any, name: str) -> dict[str, int]:
    """``{"gpu:t4": 4}`` of an attribute that holds GRES objects."""
    try:
        table = getattr(record, name) or {}
        return {str(key): int(getattr(value, "count", value) or 0) for key, value in dict(table).items()}
    except Exception:
        return {}


def tres_string(table: dict[str, int], prefix: str = "gres/") -> str:
    """A GRES string of a table such as ``{"gres/gpu:t4": 2}``."""
    return ",".join(f"{key if key.startswith('gres') else prefix + key}:{count}" for key, count in table.items())


def as_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def job_record(job: Any, layout: bool) -> Record:
    """One job in the shape of ``squeue --json``. ``layout``: the per-node call is safe in this pairing."""
    per_node = counts(job, "gres_per_node")
    total = {} if per_node else counts(job, "gpus")
    array_id = read(job, "array_id")
    waiting = read(job, "array_tasks_waiting")
    task = read(job, "array_task_id")
    if array_id and task is None and not waiting:
        task = 0
    sharing = read(job, "resource_sharing", "")
    record = {
        "job_id": read(job, "id"),
        "array_job_id": array_id or 0,
        "array_task_id": task,
        "array_task_string": waiting or "",
        "job_state": read(job, "state"),
        "state_reason": read(job, "state_reason", ""),
        "state_description": "",
        "user_id": read(job, "user_id"),
        "name": read(job, "name", ""),
        "account": read(job, "account", ""),
        "qos": read(job, "qos", ""),
        "partition": read(job, "partition", ""),
        "comment": read(job, "comment", ""),
        "priority": read(job, "priority", 0),
        "submit_time": read(job, "submit_time", 0),
        "eligible_time": read(job, "eligible_time", 0),
        "start_time": read(job, "start_time", 0),
        "end_time": read(job, "end_time", 0),
        "time_limit": as_int(read(job, "time_limit")),
        "restart_cnt": read(job, "requeue_count", 0),
        "requeue": read(job, "is_requeueable", False),
        "batch_flag": read(job, "is_batch_job", True),
        "nodes": read(job, "allocated_nodes", "") or "",
        "node_count": read(job, "num_nodes", 1),
        "cpus": read(job, "cpus", 1),
        "tasks": read(job, "ntasks", 1),
        "cpus_per_task": read(job, "cpus_per_task"),
        "tasks_per_node": as_int(read(job, "ntasks_per_node")),
        "memory_per_node": memory_per_node(job),
        "memory_per_cpu": as_int(read(job, "memory_per_cpu")),
        "features": "&".join(read(job, "constraints", []) or []),
        "required_nodes": read(job, "required_nodes", "") or "",
        "excluded_nodes": read(job, "excluded_nodes", "") or "",
        "dependency": dependency(read(job, "dependencies")),
        "resv_name": read(job, "reservation", "") or "",
        "licenses": ",".join(map(str, read(job, "licenses", []) or [])),
        "het_job_id": read(job, "heterogeneous_id", 0) or 0,
        "cron": "yes" if read(job, "is_cronjob", False) else "",
        "federation_siblings_active": ",".join(read(job, "federation_siblings_active", []) or []),
        "command": read(job, "command", "") or "",
        "current_working_directory": read(job, "working_directory", "") or "",
        "standard_output": read(job, "standard_output", "") or "",
        "user_name": read(job, "user_name", "") or "",
        "exit_code": {"return_code": read(job, "exit_code"), "signal": {"id": read(job, "exit_code_signal")}},
        "shared": "none" if sharing in ("NO", "EXCLUSIVE") else "",
        "tres_per_node": tres_string(per_node),
        "tres_per_job": tres_string(total),
        "tres_per_task": read(job, "tres_per_task", "") or "",
        "tres_per_socket": read(job, "tres_per_socket", "") or "",
        "tres_alloc_str": ",".join(f"gres/{k}={v}" for k, v in counts(job, "gres").items()),
    }
    if layout and record["nodes"]:
        add_layout(record, job)
    return record


def memory_per_node(job: Any) -> int | None:
    """MB per node; 0 = all of it: pyslurm says ``None`` for it (``--mem=0``), and of memory asked in any other form."""
    forms = {form: as_int(read(job, f"memory_per_{form}")) for form in ("node", "cpu", "gpu")}
    return 0 if all(value is None for value in forms.values()) else forms["node"]


def dependency(value: Any) -> str:
    return "" if not value else json.dumps(value, sort_keys=True)


def add_layout(record: Record, job: Any) -> None:
    """GPUs held on each node, right with and without accounting."""
    try:
        table = job.get_resource_layout_per_node()
    except Exception:
        return
    names, detail = [], []
    for name, held in dict(table).items():
        gres = held.get("gres") or {}
        names.append({"nodename": str(name)})
        detail.append(",".join(f"{key}:{entry.get('count', 0)}" for key, entry in gres.items()))
    record["job_resources"] = {"allocated_nodes": names}
    record["gres_detail"] = detail


def node_record(node: Any) -> Record:
    return {
        "name": read(node, "name"),
        "state": read(node, "state", ""),
        "gres": ",".join(f"{key}:{count}" for key, count in counts(node, "configured_gres").items()),
        "features": read(node, "available_features", []),
        "active_features": read(node, "active_features", []),
        "partitions": read(node, "partitions", []),
        "cpus": read(node, "total_cpus", 0),
        "effective_cpus": read(node, "effective_cpus", 0),
        "real_memory": read(node, "real_memory", 0),
        "reason": read(node, "reason", "") or "",
    }


class Calls:
    """The operations a client may ask for."""

    def __init__(self) -> None:
        import pyslurm

        self.pyslurm = pyslurm
        self.layout = False

    def hello(self, slurm_version: list[int]) -> Record:
        """Versions; the per-node layout is only safe where pyslurm was made for exactly this Slurm."""
        api = self.pyslurm.slurm_api_version()
        own = str(self.pyslurm.__version__).split(".")
        self.layout = [int(part) for part in own[:2]] == list(slurm_version[:2])
        return {"pyslurm": str(self.pyslurm.__version__), "libslurm": plain(api), "layout": self.layout}

    def jobs(self) -> list[Record]:
        return [job_record(job, self.layout) for job in self.pyslurm.Jobs.load().values()]

    def job(self, job_id: int) -> list[Record]:
        return [job_record(self.pyslurm.Job.load(job_id), self.layout)]

    def nodes(self) -> list[Record]:
        return [node_record(node) for node in self.pyslurm.Nodes.load().values()]

    def requeue(self, job_id: int) -> None:
        self.pyslurm.Job(job_id).requeue()

    def begin(self, job_id: int, begin_s: float) -> None:
        self.pyslurm.Job(job_id).modify(self.pyslurm.JobSubmitDescription(begin_time=int(begin_s)))

    def notify(self, job_id: int, message: str) -> None:
        self.pyslurm.Job(job_id).notify(message)

    def pid(self) -> int:
        return os.getpid()


def receive(fd: int) -> Record | None:
    """One request, or ``None`` when the other side is gone."""
    header = read_exactly(fd, LENGTH.size)
    body = None if header is None else read_exactly(fd, LENGTH.unpack(header)[0])
    if body is None:
        return None
    request = json.loads(body)
    return request if isinstance(request, dict) else None


def read_exactly(fd: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(fd: int, answer: Record) -> None:
    raw = json.dumps(answer, separators=(",", ":")).encode("utf-8", "replace")
    raw = LENGTH.pack(len(raw)) + raw
    view = memoryview(raw)
    while view:
        view = view[os.write(fd, view) :]


def answer(fd: int, request_id: int, value: Any) -> None:
    """The value of a call; lists in pieces, all but the last of them marked ``more``."""
    if isinstance(value, list) and len(value) > PIECE:
        last = len(value) - PIECE
        for begin in range(0, last, PIECE):
            send(fd, {"id": request_id, "ok": True, "more": True, "value": value[begin : min(begin + PIECE, last)]})
        value = value[last:]
    send(fd, {"id": request_id, "ok": True, "value": value})


def main(request_fd: int, answer_fd: int) -> None:
    try:
        calls = Calls()
    except Exception as error:
        send(answer_fd, {"ok": False, "kind": "import", "text": f"{type(error).__name__}: {error}"})
        return
    send(answer_fd, {"ok": True, "value": "ready"})
    while (request := receive(request_fd)) is not None:
        try:
            value = getattr(calls, request["op"])(*request["args"])
            answer(answer_fd, request["id"], value)
        except Exception as error:
            code = getattr(error, "errno", None)
            text = f"{error}"
            send(answer_fd, {"id": request["id"], "ok": False, "kind": "call", "code": code, "text": text})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
