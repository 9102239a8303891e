"""Peak GPU memory as a line in the micro-batch, and the largest micro-batch that fits a type before an OOM shows it.

Pure functions of reported peaks. Must never raise on bad points: they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..history import MemoryPoint

#: Share of a device's memory that a predicted peak may fill: fragmentation and the CUDA context need the rest.
USABLE_SHARE = 0.95


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


def peaks(points: Iterable[MemoryPoint]) -> dict[float, float]:
    """The highest peak in bytes per micro-batch, pooled over types; points that cannot be are left out."""
    found: dict[float, float] = {}
    for point in points:
        batch, peak = point.local_batch, point.peak_bytes
        if 0 < batch < 1e12 and 0 < peak < 1e15 and peak > found.get(batch, 0.0):
            found[batch] = peak
    return found


def fit_line(points: Iterable[MemoryPoint]) -> MemoryLine | None:
    """`line_over` the `peaks` of some points."""
    return line_over(peaks(points))


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
