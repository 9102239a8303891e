"""Section ``[policy]``: which policy decides, the terms that every policy shares, and each policy's own options."""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import Field, field_validator

from .base import Section

#: Every policy there is; `slurmsia.policy.registry` has one entry for each.
POLICIES: tuple[str, ...] = (
    "goodput",
    "sia",
    "sia-artifact",
    "throughput",
    "maxmin",
    "ftf",
    "makespan",
    "las",
    "srtf",
    "fifo",
    "pollux",
    "gavel",
)


class GoodputSection(Section):
    """Policy `goodput`: speed within a look-ahead, short work first (docs/goodput.md). Each term has its switch."""

    p: float = Field(default=0.5, gt=0, le=1)
    """Exponent of speed: 1 adds up speeds, so all goes to whoever gains most; less shares more evenly among jobs."""
    look_ahead_s: float = Field(default=900.0, ge=60, le=86400)
    """How long a choice is taken to last: a move must earn its restart within that time."""
    lasting: float = Field(default=1.0, ge=0, le=10)
    """A run is taken to last this many times as long again as it has, where that is more; 0 = off."""
    type_lasting: float = Field(default=2.0, ge=0, le=100)
    """But no longer than this many times what the other jobs on the GPU type have been running on average; 0 = off."""
    pay_back: float = Field(default=3.0, ge=0, le=10)
    """Further restarts charged for leaving a configuration, at the job's learnt cost; 0 = moves and starts are free."""
    short_first: float = Field(default=0.5, ge=0, le=2)
    """Jobs with little left count more: exponent of the number of jobs that have at least as much left; 0 = off."""
    patience_s: float = Field(default=3600.0, ge=60)
    """A job that waits for GPUs counts double after this time, three times after twice the time, and so on."""
    explore: float = Field(default=0.15, ge=0, le=2)
    """Bonus for configurations of uncertain speed, in standard deviations; 0 = off."""
    from_history: bool = True
    """Start a job at any size up to twice the largest on which similar jobs were measured, without doubling first."""
    gpu_price: float = Field(default=0.4, ge=0, le=2)
    """Dislike of sizes that scale badly: exponent of goodput per GPU over the job's best on the type; 0 = off."""
    noise_ahead: bool = True
    """Choose batches for the gradient noise to come, as similar jobs went through it; false = as last reported."""


class SiaSection(Section):
    """Policies `sia` and `sia-artifact`: power mean of normalised goodput (Sia, section 3.4)."""

    p: float = Field(default=-0.5, ge=-10, le=1)
    """Exponent of normalised goodput: below 0 fairness, 1 total goodput; must not be 0."""
    lambda_n: float = Field(default=1.1, gt=0)
    """Cost of leaving a job queued, in units of a job at its worst configuration."""

    @field_validator("p")
    @classmethod
    def _not_zero(cls, p: float) -> float:
        if p == 0:
            raise ValueError("0 makes all configurations equal; use a value below 0 (fairness) or above 0 (throughput)")
        return p


class ThroughputSection(Section):
    """Policy `throughput`: largest total goodput, each relative to the job's best type, per price."""

    price_per_gpu_h: dict[str, float] = Field(default_factory=dict)
    """Price of one GPU-hour by type; with prices the policy prefers goodput per money."""
    price_weight: float = Field(default=0.0, ge=0, le=1)
    """0 ignores prices, 1 divides goodput by the price of the configuration."""


class FairnessSection(Section):
    """Policies `maxmin`, `ftf` and `makespan`: what is equalised and how sharply."""

    leximin_base: float = Field(default=8.0, gt=1, le=64)
    """How much more the worse-off job counts at each step down; larger is closer to strict max-min."""


class LasSection(Section):
    """Policy `las`: least attained service first."""

    queue_gpu_h: tuple[float, ...] = (1.0, 8.0, 64.0)
    """Bounds of the priority queues in GPU-hours served; jobs in one queue go first come, first served."""


class PolluxSection(Section):
    """Policy `pollux`: type-blind goodput fairness (OSDI'21), for comparison."""

    p: float = Field(default=-1.0, ge=-10, lt=0)
    """Exponent of speed-up over a fair share."""
    max_gpus: int = Field(default=16, ge=1)
    """Largest number of GPUs of one job."""


class PolicySection(Section):
    """Which policy decides, and the terms that every policy shares. Shared terms are off in the published programs."""

    name: str = "sia"
    """Name of the policy; `slurmsia policy show` lists them."""
    round_s: float = Field(default=60.0, ge=1, le=3600)
    """Time between two rounds."""
    rigid: bool = False
    """Give every job exactly the GPUs that it asked for (on any type it allows), or none."""
    restart_factor: Literal["auto", "on", "off"] = "auto"
    """Discount of every configuration but the current one by restarts so far (Sia); `auto` = as the policy's paper."""
    weights: bool = False
    """Multiply each job's value by its weight (Slurm priority, QOS, account shares)."""
    ageing_per_h: float = Field(default=0.0, ge=0)
    """Growth of the cost of staying queued for each hour waited, so that nobody starves; 0 = no ageing."""
    hysteresis: bool = False
    """Charge a move its learnt cost against what it gains within the horizon."""
    horizon_s: float = Field(default=3600.0, gt=0)
    """Longest time over which a move may earn its cost; the expected remaining time of the job where that is less."""
    count_lost_work: bool = True
    """With hysteresis, add the work since the last checkpoint to the cost of a move."""
    energy_eta: float = Field(default=0.0, ge=0, le=1)
    """Weight of energy against speed (Zeus): 0 is speed alone, 1 is goodput per joule."""
    unmanaged_weight: float = Field(default=1.0, ge=0)
    """Worth of one GPU for a waiting undeclared job, in units of a managed job's whole queue cost."""
    unmanaged_may_suspend: bool = False
    """Let waiting undeclared jobs take every GPU; false leaves running managed jobs their smallest sizes."""
    goodput: GoodputSection = Field(default_factory=GoodputSection)
    sia: SiaSection = Field(default_factory=SiaSection)
    throughput: ThroughputSection = Field(default_factory=ThroughputSection)
    fairness: FairnessSection = Field(default_factory=FairnessSection)
    las: LasSection = Field(default_factory=LasSection)
    pollux: PolluxSection = Field(default_factory=PolluxSection)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in POLICIES:
            near = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.4)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise ValueError(f"no such policy; {hint}known: {', '.join(POLICIES)}")
        return name

    @property
    def noise_ahead(self) -> bool:
        """Whether models are to carry the gradient noise to come."""
        return self.name == "goodput" and self.goodput.noise_ahead
