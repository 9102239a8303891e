"""Policy `goodput`: job-seconds saved within a look-ahead, moves paid for, short work first, nobody starved.

The value of a configuration is how much sooner the job ends if it holds it for the look-ahead H instead of waiting so
long, counted once for each job that ends sooner with it. Restarts, short jobs and idle GPUs are thereby priced in one
unit, seconds; docs/goodput.md explains each term, its switch and what it is worth. No term uses more than reports,
declarations and the history of similar jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..config.policy import PolicySection
from .base import RoundProblem, Terms
from .rows import Flags, Floats, Rows
from .shares import equal_share_goodput
from .worth import finished


@dataclass(frozen=True, slots=True)
class Goodput:
    """maximise  sum_i weight_i x (seconds by which job i ends sooner + restarts that it is spared)."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "goodput"

    def terms(self, problem: RoundProblem) -> Terms:
        """Weighted seconds saved of each configuration over staying queued; staying where it is saves restarts too."""
        rows = Rows(problem, self.options)
        mine = self.options.goodput
        fair = equal_share_goodput(rows)
        work, fair = np.where(fair > 0, work_left(rows), 0.0), np.where(fair > 0, fair, 1.0)
        pays = mine.pay_back > 0
        cost = np.where(rows.is_current | (rows.current < 0)[:, None] | (not pays), 0.0, rows.restart_s[:, None])
        bonus = 1.0 + mine.explore * unsure(rows)
        thrift = efficiency(rows) ** mine.gpu_price if mine.gpu_price > 0 else np.ones_like(bonus)
        ahead_s = look_ahead_s(rows, mine.look_ahead_s, mine.lasting)
        saved = saved_s(rows.goodput * bonus * thrift, work, fair, cost, ahead_s)
        spared = np.where(rows.is_current, mine.pay_back * rows.restart_s[:, None], 0.0)
        one_size = of_one_size(rows)
        first = short_first(work / fair, rows.managed, mine.short_first, one_size)
        patience = waited(rows, mine.patience_s, one_size)
        weight = first * patience * mine.look_ahead_s / ahead_s
        why = {
            "goodput": rows.goodput / fair[:, None],
            "restart-cost": cost,
            "restart-spared": spared,
            "short-first": first[:, None],
            "jobs-with-less-left": shorter(work / fair, rows.managed)[:, None],
            "waited": patience[:, None],
            "thrift": thrift,
            "explore": bonus,
        }
        gain = np.where(rows.usable, weight[:, None] * (saved + spared), -np.inf)
        return finished(rows, gain=gain, queue=mine.look_ahead_s, why=why)


def work_left(rows: Rows) -> Floats:
    """[jobs] samples left. A job past its own target was wrong about it: as much as it did is left, as if unknown."""
    left = rows.remaining_work
    return np.where(left > 0, left, rows.done_work)


def look_ahead_s(rows: Rows, least_s: float, lasting: float) -> Floats:
    """[jobs] how long a choice for each job is taken to last: ``lasting`` times as long as its present run has."""
    run = np.array([c.run_s if c.current >= 0 else 0.0 for c in rows.problem.candidates])
    return np.maximum(lasting * run, least_s)


def saved_s(speed: Floats, work: Floats, fair: Floats, cost_s: Floats, ahead_s: Floats) -> Floats:
    """[jobs, C] seconds by which a job ends sooner if it holds a configuration for ``ahead_s`` instead of nothing.

    Afterwards it goes on at ``fair`` in both cases. A job that ends within the look-ahead after T = cost + work/speed
    saves ahead + work/fair - T; one that does not saves the work that it gets done, at its fair rate.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = ahead_s[:, None]
        ends_s = cost_s + work[:, None] / speed
        done = np.maximum(ahead - cost_s, 0.0) * speed / fair[:, None]
        return np.where(ends_s < ahead, ahead + (work / fair)[:, None] - ends_s, done)


def of_one_size(rows: Rows) -> Flags:
    """[jobs] whether a job has one number of GPUs: it cannot shrink for others, only take turns with them."""
    return np.array([c.min_gpus >= c.max_gpus for c in rows.problem.candidates], dtype=np.bool_)


def short_first(left_s: Floats, counted: Flags, exponent: float, one_size: Flags) -> Floats:
    """[jobs] to the power ``exponent``: how many of the ``counted`` jobs have at least as much left, itself included.

    With speed-ups K^p the shares that are best for mean completion time (heSRPT, PEVA 2019) follow from weights close
    to this number to the power p: whoever ends first frees GPUs for all who have more left. A job of one size has
    p = 1; its weight is scaled so that the job with the least left weighs the same whatever its kind.
    """
    ordered = np.sort(left_s[counted])
    behind = np.maximum(len(ordered) - np.searchsorted(ordered, left_s, side="left"), 1.0)
    if exponent == 0:
        return np.ones_like(behind)
    power = np.where(one_size, max(exponent, 1.0), exponent)
    return np.asarray(behind**power * max(len(ordered), 1) ** (exponent - power))


def shorter(left_s: Floats, counted: Flags) -> Floats:
    """[jobs] how many of the ``counted`` jobs have less left."""
    return np.searchsorted(np.sort(left_s[counted]), left_s, side="left").astype(np.float64)


def waited(rows: Rows, patience_s: float, one_size: Flags) -> Floats:
    """[jobs] 1 + time without GPUs over ``patience_s``: grows without bound, so every job is served in the end.

    A job of one size keeps while it runs what it waited before: else the next to grow impatient would take its place
    at once, and it theirs.
    """
    waits = [
        c.waited_s if c.current < 0 else (c.age_s - c.run_s if one_size[row] else 0.0)
        for row, c in enumerate(rows.problem.candidates)
    ]
    return np.asarray(1.0 + np.maximum(waits, 0.0) / patience_s)


def unsure(rows: Rows) -> Floats:
    """[jobs, C] relative error of goodput, at most 1; none for the configuration that a job holds."""
    error = np.nan_to_num(rows.problem.matrix.rel_error, nan=1.0, posinf=1.0)
    return np.where(rows.is_current, 0.0, np.clip(error, 0.0, 1.0))


def efficiency(rows: Rows) -> Floats:
    """[jobs, C] goodput per GPU over the most that the job gets per GPU on the same type; 1 where not usable."""
    per_gpu = rows.goodput / rows.gpus[None, :]
    found = np.ones_like(per_gpu)
    for gpu_type in sorted({shape.gpu_type for shape in rows.problem.shapes}):
        mine = np.array([shape.gpu_type == gpu_type for shape in rows.problem.shapes])
        best = np.max(per_gpu[:, mine], axis=1, initial=0.0)[:, None]
        found[:, mine] = np.divide(per_gpu[:, mine], best, out=np.ones_like(per_gpu[:, mine]), where=best > 0)
    return np.where(rows.goodput > 0, found, 1.0)
