"""An in-memory slurmctld, its nodes and its users: one cluster as an object."""

from .clock import Clock, RealClock, VirtualClock
from .cluster import ClusterSpec, make_cluster, preset
from .core import Latencies, ModifyHook, SubmitHook
from .edit import Update
from .emulator import Emulator, lease_at_submit
from .faults import FaultKind, Faults
from .job import RunRecord, Submission, gang
from .physics import Exit, FixedWork, JobPhysics, NeverEnding, RunStart

__all__ = [
    "Clock",
    "ClusterSpec",
    "Emulator",
    "Exit",
    "FaultKind",
    "Faults",
    "FixedWork",
    "JobPhysics",
    "Latencies",
    "ModifyHook",
    "NeverEnding",
    "RealClock",
    "RunRecord",
    "RunStart",
    "Submission",
    "SubmitHook",
    "Update",
    "VirtualClock",
    "gang",
    "lease_at_submit",
    "make_cluster",
    "preset",
]
