"""What Slurm tells a job through its environment, and the exports that mend what a reshape leaves stale (SLURM.md).

Pure functions over a mapping; standard library only, Python 3.8. Never runs a command and never changes
``os.environ`` itself.
"""

from __future__ import annotations

import os
import re
import time
from typing import Dict, Mapping, Optional

from .names import is_job_id

_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def job_id(environ: Optional[Mapping[str, str]] = None) -> Optional[str]:
    """The job's id as users write it (``123``, ``123_4``), or None outside of a job."""
    env = os.environ if environ is None else environ
    array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    found = f"{array}_{task}" if array and task else env.get("SLURM_JOB_ID", "")
    return found if is_job_id(found) else None


def restart_count(environ: Optional[Mapping[str, str]] = None) -> int:
    """How often Slurm has restarted the job; 0 in its first run."""
    return _count(os.environ if environ is None else environ, "SLURM_RESTART_COUNT") or 0


def nodes(environ: Optional[Mapping[str, str]] = None) -> int:
    """Nodes that the job really holds."""
    env = os.environ if environ is None else environ
    return _count(env, "SLURM_JOB_NUM_NODES") or _count(env, "SLURM_NNODES") or 1


def gpus_per_node(environ: Optional[Mapping[str, str]] = None) -> int:
    """GPUs that the job really holds on this node; 0 without GPUs."""
    env = os.environ if environ is None else environ
    on_node = _count(env, "SLURM_GPUS_ON_NODE")
    if on_node is not None:
        return on_node
    listed = env.get("SLURM_JOB_GPUS") or env.get("SLURM_STEP_GPUS") or ""
    return len([item for item in listed.split(",") if item])


def rank(environ: Optional[Mapping[str, str]] = None) -> int:
    """This process's rank among all of the job: torchrun's, MPI's, else Slurm's; 0 when nobody says."""
    env = os.environ if environ is None else environ
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        found = _count(env, name)
        if found is not None:
            return found
    return 0


def process_age_s(stat: str = "/proc/self/stat") -> Optional[float]:
    """Seconds since this process was forked; None where the kernel does not say."""
    try:
        with open(stat, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - began_s, 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def total_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the allocation: from ``SLURM_TASKS_PER_NODE``, which the controller writes at every start."""
    held = nodes(environ)
    text = environ.get("SLURM_TASKS_PER_NODE", "")
    counts = []
    for part in text.split(","):
        match = _TASKS.fullmatch(part)
        if match:
            counts += [int(match.group(1))] * min(int(match.group(2) or 1), 100_000)
    if len(counts) == held:
        return sum(counts)
    return held * (_count(environ, "SLURM_NTASKS_PER_NODE") or 1)


def mend(environ: Mapping[str, str]) -> Dict[str, Optional[str]]:
    """Variables to export (or, where None, to unset) so that srun and scripts see the real allocation.

    Outside of a job nothing is to be done. Counts are rewritten only where the user had set them; per-GPU CPUs and
    memory are unset, because the allocation already holds what they once asked for.
    """
    if job_id(environ) is None:
        return {}
    held, on_node, tasks = nodes(environ), gpus_per_node(environ), total_tasks(environ)
    mended: Dict[str, Optional[str]] = {"SLURM_NNODES": str(held), "SLURM_JOB_NUM_NODES": str(held)}
    for name in ("SLURM_NTASKS", "SLURM_NPROCS"):
        mended[name] = str(tasks)
    if "SLURM_NTASKS_PER_NODE" in environ:
        mended["SLURM_NTASKS_PER_NODE"] = str(tasks // held) if tasks % held == 0 else None
    if "SLURM_GPUS" in environ:
        mended["SLURM_GPUS"] = str(held * on_node) if on_node else None
    if "SLURM_GPUS_PER_NODE" in environ:
        mended["SLURM_GPUS_PER_NODE"] = str(on_node) if on_node else None
    if "SLURM_GPUS_PER_TASK" in environ:
        even = on_node and (held * on_node) % tasks == 0
        mended["SLURM_GPUS_PER_TASK"] = str(held * on_node // tasks) if even else None
    for name in ("SLURM_MEM_PER_GPU", "SLURM_CPUS_PER_GPU", "SLURM_GPUS_PER_SOCKET", "SLURM_NTASKS_PER_GPU"):
        if name in environ:
            mended[name] = None
    if "SLURM_TRES_PER_TASK" in environ:
        mended["SLURM_TRES_PER_TASK"] = None
    mended["SLURMSIA_NODES"] = str(held)
    mended["SLURMSIA_GPUS_PER_NODE"] = str(on_node)
    mended["SLURMSIA_GPUS"] = str(held * on_node)
    return mended


def shell_exports(mended: Mapping[str, Optional[str]]) -> str:
    """The same as text for ``eval``: one ``export`` or ``unset`` a line."""
    lines = []
    for name, value in mended.items():
        lines.append("unset " + name if value is None else "export {}='{}'".format(name, value.replace("'", "'\\''")))
    return "".join(line + "\n" for line in lines)


def _count(environ: Mapping[str, str], name: str) -> Optional[int]:
    text = environ.get(name, "")
    return int(text) if text.isdigit() and len(text) < 10 else None
