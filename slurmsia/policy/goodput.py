"""Policy `goodput`: speed within a look-ahead, moves paid for, short work first, nobody starved.

The value of a configuration is the speed that a job would have there on average over the look-ahead H, restart and
all, as a multiple of its speed on an equal share, to a power below one: the first GPUs of a job count more than its
last. docs/goodput.md explains each term, its switch and what it is worth. No term uses more than reports,
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

#: Further restarts charged at most to a job of which nobody is told what it has left.
UNTOLD_PAY_BACK = 2.0


@dataclass(frozen=True, slots=True)
class Goodput:
    """maximise  sum_i weight_i x (speed of job i over the look-ahead, restart included / its fair speed)^p."""

    options: PolicySection = field(default_factory=PolicySection)
    name: str = "goodput"

    def terms(self, problem: RoundProblem) -> Terms:
        """Weighted speed of each configuration over staying queued, in units of ``look_ahead_s`` at the fair speed."""
        rows = Rows(problem, self.options)
        mine = self.options.goodput
        fair = equal_share_goodput(rows)
        work, fair = np.where(fair > 0, work_left(rows), 0.0), np.where(fair > 0, fair, 1.0)
        one_size, told = of_one_size(rows), tells_work(rows)
        cost = restart_charge_s(rows, mine.pay_back, told)
        bonus = 1.0 + mine.explore * unsure(rows)
        thrift = thrift_where_it_stays(rows, efficiency(rows) ** np.where(told, mine.gpu_price, 0.0)[:, None])
        offered = rows.goodput * bonus * thrift
        ahead_s = look_ahead_s(rows, offered, mine.look_ahead_s, mine.lasting, mine.type_lasting)
        speed = mean_speed(offered, np.where(told, work, np.inf), cost, ahead_s) / fair[:, None]
        first = short_first(work / fair, rows.managed, told, mine.short_first, one_size)
        patience = waited(rows, mine.patience_s, one_size)
        why = {
            "goodput": rows.goodput / fair[:, None],
            "restart-cost": cost,
            "short-first": first[:, None],
            "jobs-with-less-left": shorter(work / fair, rows.managed, told)[:, None],
            "waited": patience[:, None],
            "thrift": thrift,
            "explore": bonus,
        }
        weight = mine.look_ahead_s * first * patience
        gain = np.where(rows.usable, weight[:, None] * speed**mine.p, -np.inf)
        # who is sent to other nodes for another's sake is charged as for every other move
        made_good_s = mine.look_ahead_s / (1.0 + mine.pay_back)
        return finished(rows, gain=gain, queue=mine.look_ahead_s, why=why, lasts_s=made_good_s)


def work_left(rows: Rows) -> Floats:
    """[jobs] samples left. A job past its own target was wrong about it: as much as it did is left, as if unknown."""
    left = rows.remaining_work
    return np.where(left > 0, left, rows.done_work)


def look_ahead_s(rows: Rows, speed: Floats, least_s: float, lasting: float, type_lasting: float) -> Floats:
    """[jobs, C] how long a choice for each job is taken to last: ``lasting`` times as long as its present run has.

    But on each type no longer than ``type_lasting`` times the age of what else runs there: where short jobs come and
    go nobody stays. Who is to make room goes to a slower configuration only until the other has ended: ``least_s``.
    """
    run = np.array([c.run_s if c.current >= 0 else 0.0 for c in rows.problem.candidates])
    now = np.max(speed, axis=1, initial=0.0, where=rows.is_current)[:, None]
    lasts = (lasting * run)[:, None]
    if type_lasting > 0:
        lasts = np.minimum(lasts, type_lasting * age_of_others(rows, run))
    return np.where(speed < now, least_s, np.maximum(lasts, least_s))


def age_of_others(rows: Rows, run_s: Floats) -> Floats:
    """[jobs, C] for how long the other jobs on a column's type have been running, by GPUs; inf where there are none."""
    gpu_types = [shape.gpu_type for shape in rows.problem.shapes]
    on_type = np.array([[of == name for of in gpu_types] for name in sorted(set(gpu_types))], dtype=np.float64)
    held = (rows.is_current * rows.gpus) @ on_type.T
    others = held.sum(axis=0) - held
    aged = (held * run_s[:, None]).sum(axis=0) - held * run_s[:, None]
    mean = np.divide(aged, others, out=np.full_like(aged, np.inf), where=others > 0.5)
    return np.asarray(mean[:, on_type.argmax(axis=0)])


def restart_charge_s(rows: Rows, pay_back: float, told: Flags) -> Floats:
    """[jobs, C] seconds without progress charged: none for staying, S for a start, (1 + ``pay_back``) S for a move.

    Who leaves a configuration for a short while comes back; 0 switches all of it off. A job of which nobody is ``told``
    what it has left pays at most two further restarts: it can only find its place by moving.
    """
    further = np.where(told, pay_back, min(pay_back, UNTOLD_PAY_BACK))
    times = np.where(rows.current >= 0, 1.0 + further, 1.0) if pay_back > 0 else np.zeros(len(rows.models))
    return np.where(rows.is_current, 0.0, (times * rows.restart_s)[:, None])


def mean_speed(speed: Floats, work: Floats, cost_s: Floats, ahead_s: Floats) -> Floats:
    """[jobs, C] samples/s on average over the look-ahead ``ahead_s``, or to the end where the job ends sooner.

    Work without a known end is taken to outlast every look-ahead.
    Nothing happens for the first ``cost_s``; a job that ends after T = cost + work/speed has work/T.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ends_s = cost_s + work[:, None] / speed
        to_the_end = np.where(cost_s > 0, work[:, None] / ends_s, speed)
        within = np.maximum(ahead_s - cost_s, 0.0) / ahead_s * speed
        return np.where(speed > 0, np.where(ends_s < ahead_s, to_the_end, within), 0.0)


def of_one_size(rows: Rows) -> Flags:
    """[jobs] whether a job has one number of GPUs: it cannot shrink for others, only take turns with them."""
    return np.array([c.min_gpus >= c.max_gpus for c in rows.problem.candidates], dtype=np.bool_)


def tells_work(rows: Rows) -> Flags:
    """[jobs] whether a target or similar jobs say how much a job has left; not once it has passed that."""
    return np.array([(model.work_remaining or 0.0) > 0 for model in rows.models], dtype=np.bool_)


def short_first(left_s: Floats, counted: Flags, told: Flags, exponent: float, one_size: Flags) -> Floats:
    """[jobs] to the power ``exponent``: how many of the ``counted`` jobs have at least as much left, itself included.

    With speed-ups K^p the shares that are best for mean completion time (heSRPT, PEVA 2019) follow from weights close
    to this number to the power p: whoever ends first frees GPUs for all who have more left. Only jobs of which this is
    ``told`` are ranked, as if the others were like them; the others stand in the middle. A job of one size has p = 1;
    its weight is scaled so that the job with the least left weighs the same whatever its kind.
    """
    if exponent == 0:
        return np.ones_like(left_s)
    jobs = max(int(counted.sum()), 1)
    ordered = np.sort(left_s[counted & told])
    more = len(ordered) - np.searchsorted(ordered, left_s, side="left")
    behind = np.where(told, np.maximum(more * jobs / max(len(ordered), 1), 1.0), (jobs + 1) / 2)
    power = np.where(one_size, max(exponent, 1.0), exponent)
    return np.asarray(behind**power * jobs ** (exponent - power))


def shorter(left_s: Floats, counted: Flags, told: Flags) -> Floats:
    """[jobs] how many of the ``counted`` jobs are told to have less left; 0 for those of which nothing is told."""
    found = np.searchsorted(np.sort(left_s[counted & told]), left_s, side="left")
    return np.where(told, found, 0).astype(np.float64)


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


def thrift_where_it_stays(rows: Rows, thrift: Floats) -> Floats:
    """[jobs, C] ``thrift``, for configurations slower than the present one at most what that has.

    Else a job that scales worse than was thought would be restarted to run slower, for GPUs that nobody asks for.
    """
    now = np.max(rows.goodput, axis=1, initial=0.0, where=rows.is_current)[:, None]
    held = np.min(thrift, axis=1, initial=1.0, where=rows.is_current)[:, None]
    return np.where(rows.goodput < now, np.minimum(thrift, held), thrift)
