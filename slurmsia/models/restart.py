"""What one move costs a job: seconds without progress, learnt from its own restarts, with a prior by size.

Pure functions of restart samples. The cost covers checkpoint save, requeue, start with load, and the first step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import mul

from ..history import RestartSample
from .base import RestartCost

#: Prior: seconds of each part for a job of unknown size (the paper's table has 15 to 250 s in all, median 40). The
#: requeue is Slurm's part, from the kill to the new run: a few seconds where the edit sets the begin time. Loading is
#: of the checkpoint; the first step comes with all that a program does before it, which its first start tells.
PRIOR_SAVE_S, PRIOR_REQUEUE_S, PRIOR_LOAD_S, PRIOR_FIRST_STEP_S = 8.0, 6.0, 7.0, 25.0
#: One standard deviation of the prior, relative.
PRIOR_SPREAD = 0.5
#: How many restarts of its own the prior is worth, and how many one restart of a similar job is worth.
PRIOR_WEIGHT = 1.0
SIMILAR_WEIGHT = 0.25
#: Bytes per second that a checkpoint is written and read at, for the prior by size.
CHECKPOINT_BYTES_PER_S = 5e8
#: Weight of a sample against the next newer one: costs drift (a filling file system, a growing data set).
MEMORY = 0.8
#: A single restart longer than this is a waiting queue or an outage, not a cost.
LONGEST_S = 7200.0

#: So many samples count at most, with these weights from the newest on.
_MOST = 32
_FADING = [MEMORY**age for age in range(_MOST)]

_PARTS = ("save_s", "requeue_s", "load_s", "first_step_s")


def prior_parts(fixed_bytes: float | None) -> dict[str, float]:
    """Seconds of each part before anything was measured; ``fixed_bytes``: memory that does not grow with the batch.

    Model and optimiser state are what a checkpoint holds, so that memory stands for its size.
    """
    parts = dict(zip(_PARTS, (PRIOR_SAVE_S, PRIOR_REQUEUE_S, PRIOR_LOAD_S, PRIOR_FIRST_STEP_S), strict=True))
    if fixed_bytes is not None and math.isfinite(fixed_bytes) and fixed_bytes > 0:
        transfer = min(fixed_bytes / CHECKPOINT_BYTES_PER_S, 600.0)
        parts["save_s"] = 2.0 + transfer
        parts["load_s"] = transfer
    return parts


def learn(
    own: Sequence[RestartSample],
    similar: Sequence[RestartSample] = (),
    fixed_bytes: float | None = None,
    likeness: str = "",
) -> RestartCost:
    """Cost of one move from samples, oldest first, with prior and similar jobs filling in what was not seen.

    Each part is averaged on its own, since a report often has only some of them; newer samples count more. Before
    anything was saved, the prior of saving follows what loading and the first step took. Values that are not finite,
    negative, or longer than two hours are left out. ``source`` is "measured", "similar:<likeness>" or "prior".
    """
    mean, variance = 0.0, 0.0
    seen = False
    seen_similar = False
    theirs, mine = _of_similar(tuple(similar)), _recent(own)
    priors = prior_parts(fixed_bytes)
    if mine["load_s"] and not (mine["save_s"] or theirs["save_s"]):
        # who starts again in no time also saves in no time
        first_s = mine["first_step_s"][0] if mine["first_step_s"] else priors["first_step_s"]
        priors["save_s"] *= (mine["load_s"][0] + first_s) / (priors["load_s"] + priors["first_step_s"])
    for part, prior in priors.items():
        others, recent = theirs[part], mine[part]
        seen_similar |= bool(others)
        seen |= bool(recent)
        weights, total = _weights(len(others), len(recent))
        values = [prior, *others, *recent]
        prior_variance = (PRIOR_SPREAD * prior) ** 2
        part_mean = math.fsum(map(mul, weights, values)) / total
        scatter = math.fsum([w * (v - part_mean) ** 2 for w, v in zip(weights, values, strict=True)])
        mean += part_mean
        variance += (scatter + prior_variance * PRIOR_WEIGHT) / (total + PRIOR_WEIGHT)
    source = "measured" if seen else f"similar:{likeness}" if seen_similar else "prior"
    return RestartCost(mean_s=mean, std_s=math.sqrt(variance), source=source)


@lru_cache(maxsize=(_MOST + 1) ** 2)
def _weights(others: int, own: int) -> tuple[list[float], float]:
    """Weights of the prior, of so many samples of similar jobs and of so many of its own, newest first; their sum.

    Once something was measured, the prior is worth only part of one sample.
    """
    prior = 0.25 if others + own else PRIOR_WEIGHT
    weights = [prior, *(SIMILAR_WEIGHT * fading for fading in _FADING[:others]), *_FADING[:own]]
    return weights, math.fsum(weights)


_Recent = Mapping[str, list[float]]

#: What `_recent` found of samples of similar jobs, by the identity of the tuple, which is kept so that it stays one:
#: hashing and comparing that many samples would cost more than it saves.
_found: dict[int, tuple[tuple[RestartSample, ...], _Recent]] = {}
_MOST_FOUND = 64


def _of_similar(samples: tuple[RestartSample, ...]) -> _Recent:
    """`_recent`, remembered: all jobs of a kind have the same samples."""
    known = _found.get(id(samples))
    if known is None or known[0] is not samples:
        if len(_found) >= _MOST_FOUND:
            _found.clear()
        known = _found[id(samples)] = (samples, _recent(samples))
    return known[1]


def _recent(samples: Sequence[RestartSample]) -> _Recent:
    """Usable seconds of each part, newest first."""
    found = {}
    for part in _PARTS:
        known = [value for sample in samples if _usable(value := getattr(sample, part))]
        found[part] = known[: -_MOST - 1 : -1]
    return found


def _usable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and 0.0 <= value <= LONGEST_S
