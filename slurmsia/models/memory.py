"""Peak GPU memory as a line in the micro-batch, and the largest micro-batch that fits a type before an OOM shows it.

A type on which two micro-batches were measured has a line of its own, since kernels and their workspaces differ; the
others share a careful one. Pure functions of reported peaks. Must never raise on bad points: they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..history import MemoryPoint

#: Share of a device's memory that a predicted peak may fill: fragmentation and the CUDA context need the rest.
USABLE_SHARE = 0.95
#: Two micro-batches of a type make a line of its own when they are at least this factor apart.
WIDE_ENOUGH = 1.25

#: Highest peak in bytes by type and micro-batch.
Peaks = Mapping[str, Mapping[float, float]]


@dataclass(frozen=True, slots=True)
class MemoryLine:
    """``peak(m) = fixed_bytes + per_sample_bytes * m``; ``largest_seen``: largest micro-batch that really ran."""

    fixed_bytes: float
    per_sample_bytes: float
    largest_seen: float
    points: int

    def peak_bytes(self, local_batch: float) -> float:
        """Predicted peak at a micro-batch."""
        return self.fixed_bytes + self.per_sample_bytes * local_batch

    def largest_batch(self, total_bytes: float) -> int:
        """Largest micro-batch whose predicted peak fits `USABLE_SHARE` of a device; 0 when not even one sample fits."""
        if self.per_sample_bytes <= 0:
            return int(self.largest_seen)
        room = USABLE_SHARE * total_bytes - self.fixed_bytes
        return max(int(min(room / self.per_sample_bytes + 1e-9, 2.0**40)), 0)


@dataclass(frozen=True, slots=True)
class MemoryLines:
    """The line of each type that has one of its own, and ``pooled`` over all types for the others."""

    pooled: MemoryLine | None = None
    own: Mapping[str, MemoryLine] = field(default_factory=dict)

    def on(self, gpu_type: str) -> MemoryLine | None:
        """The line to trust on a type; ``None`` when nothing is known."""
        return self.own.get(gpu_type, self.pooled)


def peaks(points: Iterable[MemoryPoint]) -> dict[str, dict[float, float]]:
    """The highest peak in bytes per type and micro-batch; points that cannot be are left out."""
    found: dict[str, dict[float, float]] = {}
    for point in points:
        batch, peak = point.local_batch, point.peak_bytes
        if 0 < batch < 1e12 and 0 < peak < 1e15:
            mine = found.setdefault(point.gpu_type, {})
            mine[batch] = max(peak, mine.get(batch, 0.0))
    return found


def both(one: Peaks, other: Peaks) -> Peaks:
    """The higher of two peaks wherever both have one; ``one`` itself where the other adds nothing."""
    higher: dict[str, dict[float, float]] = {}
    for gpu_type, mine in other.items():
        known = one.get(gpu_type, {})
        above = {batch: peak for batch, peak in mine.items() if peak > known.get(batch, 0.0)}
        if above:
            higher[gpu_type] = {**known, **above}
    return {**one, **higher} if higher else one


def lines_over(highest: Peaks) -> MemoryLines:
    """A line for each type measured at two micro-batches, and the careful one over all of them."""
    together: dict[float, float] = {}
    for mine in highest.values():
        for batch, peak in mine.items():
            together[batch] = max(peak, together.get(batch, 0.0))
    own = {
        gpu_type: line
        for gpu_type, mine in sorted(highest.items())
        if max(mine) >= WIDE_ENOUGH * min(mine) and (line := line_over(mine)) is not None and line.per_sample_bytes > 0
    }
    return MemoryLines(line_over(together), own)


def line_over(highest: Mapping[float, float]) -> MemoryLine | None:
    """The steepest honest line through the highest peak per micro-batch; ``None`` without any.

    With one micro-batch seen all of its peak is taken to grow with the batch, the careful assumption. With several,
    least squares, raised so that no seen peak lies above it, with slope and intercept not below 0.
    """
    if not highest:
        return None
    batches = sorted(highest)
    largest = batches[-1]
    if len(batches) == 1:
        return MemoryLine(0.0, highest[largest] / largest, largest, 1)
    mean_m = math.fsum(batches) / len(batches)
    mean_peak = math.fsum(highest.values()) / len(batches)
    spread = math.fsum((m - mean_m) ** 2 for m in batches)
    slope = max(math.fsum((m - mean_m) * (highest[m] - mean_peak) for m in batches) / spread, 0.0)
    fixed = max(max(highest[m] - slope * m for m in batches), 0.0)
    return MemoryLine(fixed, slope, largest, len(batches))


def largest_local_batch(line: MemoryLine | None, total_bytes: float | None, declared: int | None) -> int | None:
    """Largest legal micro-batch on a type: the declared one and what memory allows; ``None`` when nothing is known.

    A micro-batch that really ran on this type's amount of memory must be handled by the caller (it fits).
    """
    if line is None or total_bytes is None or not math.isfinite(total_bytes) or total_bytes <= 0:
        return declared
    fits = line.largest_batch(total_bytes)
    return fits if declared is None else min(declared, fits)
