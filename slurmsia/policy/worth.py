"""The terms that every policy shares, applied once: weights, ageing of the queue, cost of suspending, undeclared jobs.

A policy hands in what each configuration is worth over staying queued; what comes out are the `Terms` of the round.
With all shared options at their defaults the values of managed jobs pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .base import Terms
from .rows import Flags, Floats, Rows


def finished(
    rows: Rows,
    gain: Floats,
    queue: float,
    sign: float = 1.0,
    offset: float = 0.0,
    why: Mapping[str, Floats] | None = None,
    lasts_s: float | None = None,
) -> Terms:
    """Terms from ``gain`` [jobs, C] over staying queued; ``queue`` is the policy's own cost of a queued job.

    A configuration that is not usable, or has no finite gain, gets -inf (left out without complaint). ``why`` is
    completed with the shared terms that were switched on.
    """
    options = rows.options
    jobs = len(rows.models)
    named: dict[str, Floats] = {
        name: np.broadcast_to(part, (jobs, part.shape[-1])) for name, part in (why or {}).items()
    }
    extra = np.zeros((jobs, 1))
    if options.ageing_per_h > 0:
        hours = np.array([max(c.waited_s, 0.0) / 3600.0 for c in rows.problem.candidates])
        extra = (queue * options.ageing_per_h * hours)[:, None]
        named["ageing"] = extra
    offered = rows.usable & (np.isfinite(gain) | ~rows.managed[:, None])
    value = np.where(np.isfinite(gain), gain, 0.0) + extra
    if options.hysteresis:
        stay = queue * (1.0 - rows.move_factor.min(axis=1, initial=1.0)[:, None])
        value = value + stay
        named["suspend-cost"] = stay
    if options.weights:
        weight = np.array([max(c.weight, 0.0) for c in rows.problem.candidates])[:, None]
        value = value * weight
        named["weight"] = weight
    if not rows.managed.all():
        demand = np.array([[options.unmanaged_weight * c.weight] for c in rows.problem.candidates]) * rows.gpus
        value = np.where(
            rows.managed[:, None], value, demand * max(queue, _largest(value, offered & rows.managed[:, None]))
        )
        named["undeclared"] = np.where(rows.managed, 0.0, 1.0)[:, None]
    return Terms(value=np.where(offered, value, -np.inf), sign=sign, offset=offset, why=named, lasts_s=lasts_s)


def _largest(value: Floats, mine: Flags) -> float:
    """The largest value of any managed job, so that an undeclared GPU is never outbid."""
    return float(np.max(value, initial=0.0, where=mine))
