"""Every write to Slurm as an argument list for ``scontrol`` or ``scancel``, and what their refusals mean.

Used by the command client and, for node counts and clears, by the pyslurm client. There is no hold and no cancel here:
``scancel`` appears with ``--signal`` only. Pure functions.
"""

from __future__ import annotations

import re
import time

from ..cluster import GpuForm, Job, JobId
from ..reshape import Reshape
from . import normalise as n
from .client import NoSuchJob, NotPending, SlurmRejected
from .process import last_line

_JOB_ID = re.compile(r"^\d{1,10}(_\d{1,10})?$")
_SIGNAL = re.compile(r"^[A-Z][A-Z0-9+]{0,15}$")

Argv = tuple[str, list[str]]


def job_argument(job_id: JobId) -> str:
    """The id, checked: nothing but digits and one underscore ever reaches a command line."""
    if not _JOB_ID.match(job_id):
        raise NoSuchJob(0, f"{job_id!r} is no job id", job_id)
    return job_id


def reshape(job: Job, edit: Reshape) -> Argv:
    """The one atomic edit (SLURM.md "The portable edit"), keeping the form in which the job asked for GPUs."""
    fields = [*_count_fields(job, edit), *_gpu_fields(job, edit)]
    if edit.memory_mb_per_node is not None:
        fields.append(f"MinMemoryNode={edit.memory_mb_per_node}")
    if edit.features is not None:
        fields.append(f"Features={edit.features}")
    if edit.required_nodes is not None:
        fields.append(f"ReqNodeList={n.fold(edit.required_nodes) if edit.required_nodes else ''}")
    if edit.partition is not None:
        fields.append(f"Partition={edit.partition}")
    if edit.time_limit_s is not None:
        fields.append(f"TimeLimit={max(1, round(edit.time_limit_s / 60))}")
    fields.append(begin_field(edit.begin_s))
    return update(job.id, fields)


def _count_fields(job: Job, edit: Reshape) -> list[str]:
    """Nodes, tasks and CPUs, every count that Slurm keeps: one left stale ends in BadConstraints.

    Measured on 22.05 and 26.05: total CPUs beyond tasks x CPUs per task are never granted, a submitted
    ``--cpus-per-task`` also sets a minimum per node that refuses smaller totals, and a submitted ``--ntasks-per-node``
    refuses more tasks on a node. A job with whole nodes gets no largest number of CPUs: with one below the node's own,
    22.05 never starts it (BadConstraints).
    """
    nodes = edit.shape.nodes
    cpus_per_task = -(-edit.cpus // edit.tasks)
    cpus = cpus_per_task * edit.tasks
    fields = [
        f"NumNodes={nodes}-{nodes}",
        f"NumTasks={edit.tasks}",
        f"NumCPUs={cpus}" if job.request.exclusive else f"NumCPUs={cpus}-{cpus}",
        f"CPUsPerTask={cpus_per_task}",
        f"MinCPUsNode={cpus_per_task * max(1, edit.tasks // nodes)}",
    ]
    if job.request.tasks_per_node is not None:
        fields.append(f"TasksPerNode={-(-edit.tasks // nodes)}")
    return fields


def _gpu_fields(job: Job, edit: Reshape) -> list[str]:
    """GPUs per node, typed only where the job asked for a type; a ``--gpus`` total is replaced by a count per node.

    A total would let Slurm split it unevenly over nodes (measured: 4 GPUs on 2 nodes became 3 + 1). The ``Gres=``
    spelling is the one whose prefix every release completes by itself: 22.05 accepts ``TresPerJob=gpu:8`` and
    ``TresPerJob=0`` but starts the job with its old GPUs.
    """
    asked = job.request
    typed = f"{edit.shape.gpu_type}:" if asked.gpu_type is not None else ""
    per_node = f"Gres=gpu:{typed}{edit.shape.gpus_per_node}"
    return ["TresPerJob=", per_node] if asked.gpu_form is GpuForm.TOTAL else [per_node]


def update(job_id: JobId, fields: list[str]) -> Argv:
    return "scontrol", ["update", f"JobId={job_argument(job_id)}", *fields]


def begin_field(begin_s: float | None) -> str:
    """``StartTime=now``, or seconds from the epoch as the local time that scontrol reads."""
    if begin_s is None:
        return "StartTime=now"
    return "StartTime=" + time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(begin_s))


def requeue(job_id: JobId) -> Argv:
    return "scontrol", ["requeue", job_argument(job_id)]


def release(job_id: JobId) -> Argv:
    """Only ever used on a hold that Slurm itself set after a failed launch."""
    return "scontrol", ["release", job_argument(job_id)]


def checkpoint_signal(job_id: JobId, name: str) -> str:
    """The name of a signal that may ask for a checkpoint; everything else is refused before Slurm sees it."""
    if not _SIGNAL.match(name) or name in ("KILL", "TERM", "STOP"):
        raise SlurmRejected(0, f"{name!r} is no signal that asks for a checkpoint", job_id)
    return name


def signal(job_id: JobId, name: str) -> Argv:
    """Send a signal to the batch shell and, with ``--full``, its steps."""
    return "scancel", [f"--signal={checkpoint_signal(job_id, name)}", "--full", job_argument(job_id)]


def notify(job_id: JobId, message: str) -> Argv:
    """One line to the job's standard error; control characters are taken out."""
    clean = "".join(char if char.isprintable() else " " for char in message)[:500]
    return "scontrol", ["notify", job_argument(job_id), clean]


_REFUSALS: tuple[tuple[str, int, type[SlurmRejected], bool], ...] = (
    ("invalid job id", 2017, NoSuchJob, False),
    ("job/step already completing or completed", 2021, NotPending, True),
    ("job is no longer pending execution", 2057, NotPending, False),
    ("job is not pending execution", 2057, NotPending, False),
    ("job is pending execution", 2019, SlurmRejected, False),
    ("db index is being set", 2101, SlurmRejected, True),
    ("database", 7000, SlurmRejected, True),
    ("job is currently being modified", 2105, SlurmRejected, True),
    ("try again", 11, SlurmRejected, True),
    ("temporarily unavailable", 11, SlurmRejected, True),
    ("access/permission denied", 2002, SlurmRejected, False),
    ("invalid generic resource", 2072, SlurmRejected, False),
    ("invalid gres", 2072, SlurmRejected, False),
    ("unsupported gpu change", 2073, SlurmRejected, False),
    ("requested operation not supported", 2073, SlurmRejected, False),
    ("requested nodes", 2014, SlurmRejected, False),
    ("requested node configuration is not available", 2014, SlurmRejected, False),
    ("invalid feature", 2008, SlurmRejected, False),
    ("invalid partition", 2000, SlurmRejected, False),
)


def refusal(job_id: JobId, err: str) -> SlurmRejected:
    """The named error behind what scontrol printed. Retryable ones may be tried again as they are."""
    said = last_line(err)
    low = err.lower()
    for words, code, kind, retryable in _REFUSALS:
        if words in low:
            return kind(code, f"job {job_id}: Slurm refused: {said}", job_id, retryable)
    return SlurmRejected(-1, f"job {job_id}: Slurm refused: {said}", job_id)
