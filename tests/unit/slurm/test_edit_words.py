"""The words of the one edit, where a release starts no job for want or excess of a count."""

from __future__ import annotations

from slurmsia.cluster import GpuForm, Job, JobState, Request, Shape
from slurmsia.reshape import Reshape
from slurmsia.slurm import scontrol


def words(request: Request) -> list[str]:
    job = Job(id="17", user_id=1000, state=JobState.PENDING, submit_s=0.0, request=request)
    _, arguments = scontrol.reshape(job, Reshape(Shape("rtx", 1, 8), 1, 8, features="rtx"))
    return arguments


def test_a_job_with_whole_nodes_gets_no_largest_number_of_cpus() -> None:
    """22.05 gives it every CPU of the node, and with a largest number below that it never starts (BadConstraints)."""
    asked = Request(gpus=4, gpu_form=GpuForm.PER_NODE_UNTYPED, exclusive=True)
    assert "NumCPUs=8" in words(asked)


def test_other_jobs_get_exactly_their_cpus() -> None:
    assert "NumCPUs=8-8" in words(Request(gpus=4, gpu_form=GpuForm.PER_NODE_UNTYPED))
