"""What is known of each application of the reference data besides its profiles: restart times, slow-downs, limits.

The numbers are the published simulator's (ARTIFACT.md section 2); an application that is not in the table gets the
defaults, so that any folder in the same format can be simulated. This module reads nothing and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: GPU-type suffix of the profile files -> name used here (the paper's names).
TYPE_OF_SUFFIX: Mapping[str, str] = {
    "aws": "t4",
    "dgx-ext": "a100",
    "rtx": "rtx",
    "quad": "quad",
    "azure": "v100",
}
SUFFIX_OF_TYPE: Mapping[str, str] = {name: suffix for suffix, name in TYPE_OF_SUFFIX.items()}

#: Whole nodes of a type that were profiled; larger shapes have no ground truth.
PROFILED_NODES: Mapping[str, int] = {"t4": 16, "rtx": 3, "a100": 2, "quad": 1, "v100": 5}

#: GPUs per node of the machines that were profiled.
GPUS_PER_NODE: Mapping[str, int] = {"t4": 4, "rtx": 8, "a100": 8, "quad": 4, "v100": 8}

#: Largest job of the reference experiments.
LARGEST_JOB_GPUS = 64


@dataclass(frozen=True, slots=True)
class ApplicationFacts:
    """Seconds one restart takes (``restart_s``), what the public policy believes (``restart_believed_s``), slow-down.

    ``slowdown`` divides goodput; ``local_max`` overrides the largest profiled local batch of a type; ``stages`` are
    pipeline stages (GPUs per replica) by type, with ``microbatches`` of size 1 per replica and step.
    """

    restart_s: float = 30.0
    restart_believed_s: float = 30.0
    slowdown: float = 1.2
    local_max: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)
    microbatches: int = 1


_FACTS: Mapping[str, ApplicationFacts] = {
    "cifar10": ApplicationFacts(restart_s=50.0, restart_believed_s=30.0, slowdown=1.8),
    "bert": ApplicationFacts(restart_s=120.0, restart_believed_s=120.0),
    "deepspeech2": ApplicationFacts(restart_s=25.0, restart_believed_s=25.0, local_max={"rtx": 57}),
    "yolov3": ApplicationFacts(restart_s=80.0, restart_believed_s=45.0),
    "imagenet": ApplicationFacts(restart_s=250.0, restart_believed_s=250.0),
    "ncf": ApplicationFacts(restart_s=15.0, restart_believed_s=30.0, slowdown=1.5),
    "gpt_pmp": ApplicationFacts(slowdown=1.0, stages={"rtx": 8, "a100": 2}, microbatches=48),
}


def facts(application: str) -> ApplicationFacts:
    """Facts of an application; defaults for one that is not in the table."""
    return _FACTS.get(application, ApplicationFacts())
