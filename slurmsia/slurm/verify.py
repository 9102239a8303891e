"""Reads an edit back: what we wanted against what Slurm now has, field by field. Pure.

Slurm accepts some edits and ignores them, and a site's job_submit hook may rewrite others; both are `EditIgnored`.
"""

from __future__ import annotations

from ..cluster import GpuForm, Job, JobState
from ..reshape import Reshape
from .client import EditIgnored

#: Seconds by which a begin time may differ from the one we wrote (rounding to whole seconds, "now").
_CLOSE_S = 2.0


def edit_stuck(job: Job, edit: Reshape) -> None:
    """Raise `EditIgnored` for the first field that is not as wanted; a job that already runs is checked by what it
    asked for, the same fields."""
    asked = job.request
    wanted: list[tuple[str, str, str]] = [
        ("nodes", str(edit.shape.nodes), str(asked.nodes)),
        ("GPUs", str(edit.shape.gpus), str(asked.gpus)),
        ("tasks", str(edit.tasks), str(asked.tasks)),
    ]
    if asked.gpu_form in (GpuForm.PER_NODE_TYPED,) and asked.gpu_type is not None:
        wanted.append(("GPU type", edit.shape.gpu_type, asked.gpu_type))
    if edit.features is not None:
        wanted.append(("features", edit.features, asked.features))
    if edit.required_nodes is not None:
        wanted.append(("required nodes", ",".join(sorted(edit.required_nodes)), ",".join(asked.required_nodes)))
    if edit.partition is not None:
        wanted.append(("partition", edit.partition, ",".join(job.partitions)))
    for fieldname, want, found in wanted:
        if want != found:
            raise EditIgnored(job.id, fieldname, want, found)
    if edit.begin_s is not None and job.state is JobState.PENDING:
        begin = job.begin_s or 0.0
        if abs(begin - edit.begin_s) > _CLOSE_S + 60.0:
            raise EditIgnored(job.id, "begin time", f"{edit.begin_s:.0f}", f"{begin:.0f}")


def pins_cleared(job: Job) -> None:
    """Raise `EditIgnored` when required nodes are still there."""
    if job.request.required_nodes:
        raise EditIgnored(job.id, "required nodes", "", ",".join(job.request.required_nodes))
