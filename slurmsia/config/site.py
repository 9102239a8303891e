"""Sections on the site: which Slurm, how GPU types are named there, and what slurmsia may manage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class GpuTypeSection(Section):
    """One GPU type of the site. A type is known to Slurm by typed GRES, by node feature, or by partition."""

    gres: str | None = None
    """Name of the type in gres.conf (`gpu:NAME:2`); default: the section's own name."""
    feature: str | None = None
    """Node feature that every node of this type has; preferred way to steer a job to the type."""
    partition: str | None = None
    """Partition that holds exactly the nodes of this type; used when there is no feature."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of one GPU."""
    power_max_w: float | None = Field(default=None, gt=0)
    """Power limit of one GPU; needed only for the energy term and power budgets."""
    power_idle_w: float | None = Field(default=None, ge=0)
    """Power of one idle GPU."""
    reserve_for_unmanaged_gpus: int = Field(default=0, ge=0)
    """GPUs of this type that slurmsia leaves free for jobs it does not manage."""


class SlurmSection(Section):
    """How slurmsia talks to Slurm."""

    client: Literal["auto", "pyslurm", "command"] = "auto"
    """`auto` takes pyslurm where it matches the site's Slurm, else Slurm's own commands."""
    cluster: str | None = None
    """Cluster name; default: what slurm.conf says."""
    bin_dir: str | None = None
    """Folder with squeue, scontrol and sinfo; default: search PATH."""
    accept_pyslurm_of_another_release: bool = False
    """Use pyslurm although it was made for another Slurm release. Only for pairings that were tested as such."""
    call_deadline_s: float = Field(default=10.0, gt=0, le=120)
    """Longest wait for one answer of slurmctld."""
    writes_per_s: float = Field(default=10.0, gt=0)
    """Pace of edits and requeues."""


class ScopeSection(Section):
    """What slurmsia may manage. Empty lists mean no limit; only declared jobs are ever managed."""

    partitions: tuple[str, ...] = ()
    """Manage only jobs of these partitions. First scope to try: one preemptible partition."""
    accounts: tuple[str, ...] = ()
    """Manage only jobs of these accounts."""
    qos: tuple[str, ...] = ()
    """Manage only jobs of these QOS."""
