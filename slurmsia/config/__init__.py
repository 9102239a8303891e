"""The policy file: one TOML file, typed by pydantic models with units in key names.

`load` reads a file and its ``conf.d`` folder, `check` returns the mistakes as sentences, `example` prints the
commented example. Secrets come from the environment only. Nothing here talks to Slurm or a database.
"""

from __future__ import annotations

from pydantic import Field

from .api import ApiSection
from .base import ConfigError, Section
from .daemon import DaemonSection
from .jobs import JobsSection
from .models import ModelsSection
from .moves import MovesSection
from .placement import PlacementSection
from .policy import PolicySection
from .site import GpuTypeSection, ScopeSection, SlurmSection
from .solver import SolverSection
from .store import StoreSection


class Config(Section):
    """The whole policy file."""

    slurm: SlurmSection = Field(default_factory=SlurmSection)
    gpu_types: dict[str, GpuTypeSection] = Field(default_factory=dict)
    scope: ScopeSection = Field(default_factory=ScopeSection)
    policy: PolicySection = Field(default_factory=PolicySection)
    solver: SolverSection = Field(default_factory=SolverSection)
    models: ModelsSection = Field(default_factory=ModelsSection)
    placement: PlacementSection = Field(default_factory=PlacementSection)
    moves: MovesSection = Field(default_factory=MovesSection)
    jobs: JobsSection = Field(default_factory=JobsSection)
    store: StoreSection = Field(default_factory=StoreSection)
    daemon: DaemonSection = Field(default_factory=DaemonSection)
    api: ApiSection = Field(default_factory=ApiSection)


__all__ = [
    "ApiSection",
    "Config",
    "ConfigError",
    "DaemonSection",
    "GpuTypeSection",
    "JobsSection",
    "ModelsSection",
    "MovesSection",
    "PlacementSection",
    "PolicySection",
    "ScopeSection",
    "Section",
    "SlurmSection",
    "SolverSection",
    "StoreSection",
]
