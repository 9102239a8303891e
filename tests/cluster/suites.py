"""The Slurm releases that the test cluster can be, by name.

One table: what to bootstrap, which Slurm must come out of it, whether pyslurm is built in. It starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """One Debian release and the Slurm that it must carry."""

    name: str
    slurm: str
    """Major release of Slurm, e.g. ``26.05``; any other version stops the image build."""
    debootstrap_script: str
    """Script that debootstrap falls back to where it does not know the release itself."""
    pyslurm: str | None
    """Version of pyslurm that is built into the image, if any can be."""
    torch: str | None
    """Version of PyTorch whose CPU build goes into the image where one can be had for the release's Python."""


SUITES = {
    suite.name: suite
    for suite in (
        Suite("forky", slurm="26.05", debootstrap_script="sid", pyslurm="25.11.2", torch=None),
        Suite("trixie", slurm="24.11", debootstrap_script="sid", pyslurm=None, torch=None),
        Suite("bookworm", slurm="22.05", debootstrap_script="sid", pyslurm=None, torch="2.13.0"),
    )
}
DEFAULT_SUITE = "forky"

NODES_BY_CONTAINER = {
    "compute-t4": ("t4-1", "t4-2", "t4-3"),
    "compute-rtx": ("rtx-1", "rtx-2"),
    "compute-a100": ("a100-1",),
}
GPUS_BY_TYPE = {"t4": (3, 4), "rtx": (2, 8), "a100": (1, 8)}
"""GPU type -> (nodes, GPUs per node); the same as in conf/nodes.conf."""


def suite_named(name: str) -> Suite:
    """Return the suite of that name; ``SystemExit`` with the known names otherwise."""
    if name not in SUITES:
        raise SystemExit(f"there is no suite {name!r}; choose one of: {', '.join(SUITES)}")
    return SUITES[name]
