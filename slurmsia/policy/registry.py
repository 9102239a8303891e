"""Policies by name. Each module is imported when its policy is first asked for, and never before."""

from __future__ import annotations

import importlib
from typing import cast

from ..config.policy import POLICIES, PolicySection
from .base import Policy

#: name -> (module of this package, class); every class takes the policy section of the policy file.
_TABLE: dict[str, tuple[str, str]] = {
    "goodput": ("goodput", "Goodput"),
    "sia": ("sia", "Sia"),
    "throughput": ("throughput", "Throughput"),
    "maxmin": ("maxmin", "MaxMin"),
    "ftf": ("ftf", "FinishTimeFairness"),
    "makespan": ("makespan", "Makespan"),
    "las": ("las", "LeastAttainedService"),
    "srtf": ("srtf", "ShortestRemainingTime"),
    "fifo": ("fifo", "Fifo"),
    "pollux": ("pollux", "Pollux"),
    "gavel": ("gavel", "Gavel"),
}


def policy(name: str, options: PolicySection | None = None) -> Policy:
    """The policy called ``name`` with the options of the policy file; ``KeyError`` with a sentence if there is none."""
    options = options or PolicySection()
    if name == "sia-artifact":
        from .sia_artifact import SiaArtifact

        return SiaArtifact(p=options.sia.p, lambda_n=options.sia.lambda_n)
    if name not in _TABLE:
        raise KeyError(f"there is no policy {name!r}; known: {', '.join(POLICIES)}")
    module, attribute = _TABLE[name]
    return cast(Policy, getattr(importlib.import_module(f".{module}", __package__), attribute)(options))
