"""Models for GPU types on which a job has hardly run, from what is known of it elsewhere.

Order of preference (SIA.md section 1): own fit, or where similar jobs have run on more GPUs of the type than this one
their fit at this job's level; own 1-GPU data with the network of the nearest observed type; a ratio learnt from the
cluster's past or from the shipped profiles; linear scaling. Always throughput at the same micro-batch,
never goodput; the batch is chosen afterwards under the target type's own limits. Each estimate says where it came
from and how far off it may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .base import Knots, ThroughputParams, TypeModel
from .fit import Fit, prior_params
from .minimise import LOWEST_S
from .speed import model_step_time
from .throughput import grad_time

#: Relative errors added by each step away from own measurements (one standard deviation).
NETWORK_BORROWED_ERROR = 0.15
RATIO_ERROR = 0.12
NOTHING_KNOWN_ERROR = 0.6
#: One standard deviation of log speed between jobs of one user and script; and the factor beyond which they are unlike.
SIMILAR_SPREAD = 0.3
MOST_UNLIKE = 2.0
#: A type seen on one scale only is optimistic beyond it.
UNSEEN_SCALE_ERROR = 0.10


@dataclass(frozen=True, slots=True)
class TypeFit:
    """One type's fit with what was observed: largest GPU count, whether several GPUs ran, mean micro-batch.

    ``knots``: measured deviations; ``rel_error``: one standard deviation of step time inside the observed range;
    ``usual``: (nodes, GPUs, micro-batch) of most steps; ``steps_s``: what `step_s` has worked out so far.
    """

    gpu_type: str
    fit: Fit
    max_gpus_seen: int
    seen_several: bool
    mean_batch: float
    rel_error: float
    knots: Knots = ()
    usual: tuple[int, int, float] = (1, 1, 1.0)
    steps_s: dict[tuple[int, int, float], float] = field(default_factory=dict, compare=False, repr=False)

    def step_s(self, usual: tuple[int, int, float]) -> float:
        """Predicted seconds of a step at (nodes, GPUs, micro-batch); every round asks again for most."""
        known = self.steps_s.get(usual)
        if known is None:
            model = TypeModel(self.gpu_type, self.fit.params, "fit", self.rel_error, knots=self.knots)
            known = self.steps_s[usual] = max(float(model_step_time(model, *usual)), 1e-12)
        return known


@dataclass(frozen=True, slots=True)
class TypeRatio:
    """Throughput of ``gpu_type`` over ``reference`` at the same micro-batch on one GPU, and where it comes from."""

    gpu_type: str
    reference: str
    ratio: float
    rel_error: float
    source: str


def compute_ratio(target: ThroughputParams, reference: ThroughputParams, local_batch: float) -> float:
    """1-GPU throughput of ``target`` over ``reference`` at one micro-batch."""
    return float(grad_time(reference, local_batch)) / max(float(grad_time(target, local_batch)), 1e-12)


def estimate(
    gpu_type: str,
    own: Mapping[str, TypeFit],
    similar: Mapping[str, TypeFit],
    ratios: Sequence[TypeRatio],
    likeness: str = "",
    prior_batch: float = 1.0,
) -> TypeModel:
    """The best model there is for one type; never fails: the last resort is a linear prior.

    ``own``, ``similar``: fits by type of this job and of pooled similar jobs; ``ratios``: best first;
    ``prior_batch``: micro-batch at which the prior's step takes one second.
    """
    mine, past = own.get(gpu_type), similar.get(gpu_type)
    if own and past is not None and (mine is None or past.max_gpus_seen > mine.max_gpus_seen):
        alike = _like_others(past, mine, own, similar, likeness)
        if alike is not None:
            return alike
    if mine is not None:
        donor = None if mine.seen_several else _nearest(gpu_type, own, several=True)
        return _from_fit(mine) if donor is None else _with_network_of(mine, donor)
    nearest = _nearest(gpu_type, own)
    if nearest is not None:
        ratio = _ratio(gpu_type, nearest.gpu_type, ratios)
        if ratio is not None:
            return _by_ratio(nearest, ratio)
        return TypeModel(
            gpu_type,
            nearest.fit.params,
            source=f"ratio:{nearest.gpu_type}",
            rel_error=NOTHING_KNOWN_ERROR,
            sentence=f"{gpu_type}: nothing known, taken to be as fast as {nearest.gpu_type}, "
            f"{_percent(NOTHING_KNOWN_ERROR)}",
        )
    if past is not None:
        rel_error = math.hypot(past.rel_error, RATIO_ERROR)
        return TypeModel(
            gpu_type,
            past.fit.params,
            source=f"similar:{likeness}",
            rel_error=min(rel_error, 1.0),
            sentence=f"{gpu_type}: measured {_where(f'similar:{likeness}')}, {_percent(rel_error)}",
            knots=past.knots,
        )
    nearest = _nearest(gpu_type, similar)
    if nearest is not None:
        ratio = _ratio(gpu_type, nearest.gpu_type, ratios)
        if ratio is not None:
            return _by_ratio(nearest, replace(ratio, rel_error=math.hypot(ratio.rel_error, RATIO_ERROR)))
    return _prior(gpu_type, ratios, prior_batch)


def _like_others(
    past: TypeFit, mine: TypeFit | None, own: Mapping[str, TypeFit], similar: Mapping[str, TypeFit], likeness: str
) -> TypeModel | None:
    """What similar jobs have shown on this type, as much faster or slower as this job is where both have run.

    ``None`` where the job has run on the type and differs from them so much that its own few sizes tell more. One
    factor is all that such jobs are taken to differ by; it is drawn towards 1 by as much as it is unsure.
    """
    common = [mine] if mine is not None else [fit for name, fit in sorted(own.items()) if name in similar]
    between_types = 0.0 if mine is not None else RATIO_ERROR
    level, variance = 0.0, SIMILAR_SPREAD**2
    for fit in common:
        other = similar[fit.gpu_type]
        seen = math.log(other.step_s(fit.usual) / fit.step_s(fit.usual))
        if mine is not None and abs(seen) > math.log(MOST_UNLIKE):
            return None
        error = math.sqrt(fit.rel_error**2 + other.rel_error**2 + between_types**2)
        share = variance / (variance + error**2)
        level, variance = level + share * (seen - level), variance * (1.0 - share)
    scale, rel_error = math.exp(level), min(math.sqrt(past.rel_error**2 + variance), 1.0)
    several = "" if past.max_gpus_seen == 1 else "s"
    return TypeModel(
        past.gpu_type,
        _slower(past.fit.params, 1.0 / scale),
        source=f"similar:{likeness}",
        rel_error=rel_error,
        max_gpus_seen=mine.max_gpus_seen if mine is not None else 0,
        observations=mine.fit.count if mine is not None else 0.0,
        sentence=f"{past.gpu_type}: measured up to {past.max_gpus_seen} GPU{several} {_where(f'similar:{likeness}')}, "
        f"this one {scale:.2f} times as fast, {_percent(rel_error)}",
        knots=past.knots,
    )


def _slower(params: ThroughputParams, factor: float) -> ThroughputParams:
    """Parameters of a job all of whose times are ``factor`` times as long."""
    times = ("alpha_c", "beta_c", "alpha_n", "beta_n", "alpha_r", "beta_r")
    return replace(params, **{name: max(getattr(params, name) * factor, LOWEST_S) for name in times})


def _nearest(gpu_type: str, fits: Mapping[str, TypeFit], several: bool = False) -> TypeFit | None:
    """The observed type that says most: widest range of GPUs, then best fit, then name."""
    others = [fit for name, fit in fits.items() if name != gpu_type and (fit.seen_several or not several)]
    return min(others, key=lambda f: (-f.max_gpus_seen, f.rel_error, f.gpu_type), default=None)


def _from_fit(mine: TypeFit) -> TypeModel:
    rel_error = mine.rel_error if mine.seen_several else math.hypot(mine.rel_error, UNSEEN_SCALE_ERROR)
    return TypeModel(
        mine.gpu_type,
        mine.fit.params,
        source="fit",
        rel_error=min(rel_error, 1.0),
        max_gpus_seen=mine.max_gpus_seen,
        observations=mine.fit.count,
        sentence=f"{mine.gpu_type}: measured up to {mine.max_gpus_seen} "
        f"GPU{'' if mine.max_gpus_seen == 1 else 's'}, {_percent(rel_error)}",
        knots=mine.knots,
    )


def _with_network_of(mine: TypeFit, donor: TypeFit) -> TypeModel:
    """Own compute on the new type, all-reduce of the donor type scaled by the 1-GPU ratio.

    This is the paper's ``xput_B(1) / xput_A(1) * xput_A(N)`` at every micro-batch for which the ratio is the same, and
    keeps the new type's own measurements where it is not. How many GPUs of a node share its links is up to the new
    type's nodes: across nodes the donor's all-reduce with two GPUs a node is borrowed, and no ``kappa``.
    """
    ratio = compute_ratio(mine.fit.params, donor.fit.params, mine.mean_batch)
    shrink = 1.0 / max(ratio, 1e-9)
    there, here = donor.fit.params, mine.fit.params
    params = replace(
        here,
        alpha_n=max((there.alpha_n + there.kappa * there.alpha_r) * shrink, LOWEST_S),
        beta_n=max(there.beta_n * shrink, LOWEST_S),
        alpha_r=max(there.alpha_r * shrink, LOWEST_S),
        beta_r=max(there.beta_r * shrink, LOWEST_S),
        gamma=there.gamma,
    )
    rel_error = math.sqrt(mine.rel_error**2 + donor.rel_error**2 + NETWORK_BORROWED_ERROR**2)
    return TypeModel(
        mine.gpu_type,
        params,
        source=f"ratio:{donor.gpu_type}",
        rel_error=min(rel_error, 1.0),
        max_gpus_seen=mine.max_gpus_seen,
        observations=mine.fit.count,
        sentence=f"{mine.gpu_type}: estimated from {donor.gpu_type} by the 1-GPU ratio {ratio:.2g}, "
        f"{_percent(rel_error)}",
        knots=mine.knots,
    )


def _by_ratio(nearest: TypeFit, ratio: TypeRatio) -> TypeModel:
    rel_error = math.hypot(nearest.rel_error, ratio.rel_error)
    return TypeModel(
        ratio.gpu_type,
        nearest.fit.params,
        source=ratio.source,
        rel_error=min(rel_error, 1.0),
        scale=ratio.ratio,
        sentence=f"{ratio.gpu_type}: estimated from {nearest.gpu_type} by the ratio {ratio.ratio:.2g} "
        f"({_where(ratio.source)}), {_percent(rel_error)}",
    )


def _ratio(gpu_type: str, reference: str, ratios: Sequence[TypeRatio]) -> TypeRatio | None:
    for ratio in ratios:
        if not (ratio.ratio > 0 and math.isfinite(ratio.ratio)):
            continue
        error = ratio.rel_error if math.isfinite(ratio.rel_error) and ratio.rel_error >= 0 else 1.0
        if (ratio.gpu_type, ratio.reference) == (gpu_type, reference):
            return replace(ratio, rel_error=math.hypot(error, RATIO_ERROR))
        if (ratio.reference, ratio.gpu_type) == (gpu_type, reference):
            return TypeRatio(gpu_type, reference, 1.0 / ratio.ratio, math.hypot(error, RATIO_ERROR), ratio.source)
    return None


def _prior(gpu_type: str, ratios: Sequence[TypeRatio], prior_batch: float) -> TypeModel:
    """Linear scaling: no overhead per step, free all-reduce; speeds between types by ratio where one is known."""
    params = prior_params(1.0, prior_batch)
    params = replace(params, alpha_c=LOWEST_S, beta_c=1.0 / max(prior_batch, 1e-3))
    references = sorted({ratio.reference for ratio in ratios})
    scale, source = 1.0, "prior"
    if references and gpu_type != references[0]:
        known = _ratio(gpu_type, references[0], ratios)
        if known is not None:
            scale, source = known.ratio, known.source
    return TypeModel(
        gpu_type,
        params,
        source=source,
        rel_error=NOTHING_KNOWN_ERROR,
        scale=scale,
        sentence=f"{gpu_type}: nothing measured yet, linear scaling assumed, {_percent(NOTHING_KNOWN_ERROR)}",
    )


def _where(source: str) -> str:
    kind, _, name = source.partition(":")
    if source == "similar:cluster":
        return "on the whole cluster"
    if kind == "similar":
        return f"on past jobs with the same {name.replace('+', ' and ')}"
    return f"from the shipped profiles of {name}" if kind == "shipped" else kind


def _percent(rel_error: float) -> str:
    return f"±{100 * min(rel_error, 1.0):.0f} %"
