"""From a job's history and declaration to its `JobModel`: incremental, cached, and never raising in a round.

A history of the same version costs a dictionary lookup; a new report refits only the GPU types whose sums changed,
starting from their last parameters. The estimator is a cache, not a source of truth: losing it costs one refit per
job and type. It does no I/O except through the small `HistorySource` protocol.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..cluster import GpuType, JobId
from ..declaration import Declaration
from ..history import Gradient, HistorySource, JobHistory, JobKind, Observation, SimilarHistory
from . import memory, noise, restart, shipped
from .base import BatchLimits, EfficiencyModel, JobModel, NoiseAhead, RestartCost, ThroughputParams, TypeModel
from .bias import Bias, learn
from .bootstrap import TypeFit, TypeRatio, estimate
from .efficiency import UNKNOWN, from_gradient
from .fit import fit
from .groups import group, usable
from .limits import batch_limits, local_max, virtual
from .pipeline import PipelineFit, estimate_pipeline, fit_pipeline
from .throughput import is_sane

#: How long an answer about similar jobs is good for.
SIMILAR_AGE_S = 600.0
#: A cold fit instead of a warm one when the loss has grown by this factor: the old start may sit in a wrong valley.
LOSS_GROWTH = 1.5
#: A refit waits until a group's mean moves by this share, or its steps grow by this factor while still few: both far
#: below what the model gets wrong anyway (`groups.MODEL_ERROR`). 25 steps that vary by 10 % know their mean to 2 %.
SAME_MEAN = 0.02
MORE_STEPS = 2.0
ENOUGH_STEPS = 25.0
#: Share of the groups of similar jobs that may be new batches of known shapes, or have changed, and are not worth a
#: refit: with hundreds of groups some have always changed.
FEW_OF_SIMILAR = 0.1
#: Kinds of job kept although none of their jobs is there: the next one starts from the last fits instead of from sums.
KINDS_KEPT = 256
#: No estimate claims to be better than this, however well its points agree.
LEAST_ERROR = 0.02


@dataclass
class _JobEntry:
    key: tuple[object, ...] | None = None
    kind: JobKind | None = None
    model: JobModel | None = None
    observations: dict[str, tuple[Observation, ...]] = field(default_factory=dict)
    fits: dict[str, TypeFit] = field(default_factory=dict)
    pipelines: dict[str, PipelineFit] = field(default_factory=dict)
    warm: dict[str, tuple[ThroughputParams, float]] = field(default_factory=dict)
    memory: tuple[object, memory.MemoryLines] = ((), memory.MemoryLines())
    restart: tuple[object, RestartCost] = ((), RestartCost())
    pace: noise.Pace = field(default_factory=noise.Pace)
    version: int = 0
    fitted: int = 0
    """How often `fits` and `pipelines` have changed."""
    types_from: object = None
    types: dict[str, TypeModel] = field(default_factory=dict)
    """The last answer, and `unlimited` the same before memory limits; both stand while `types_from` is the same."""
    unlimited: dict[str, TypeModel] = field(default_factory=dict)


@dataclass
class _SimilarEntry:
    looked_s: float
    history: SimilarHistory | None
    observations: dict[str, tuple[Observation, ...]]
    fits: dict[str, TypeFit]
    serial: int
    fits_serial: int
    """The serial at which `fits` last changed."""
    peaks: memory.Peaks
    lines: memory.MemoryLines
    noise: noise.NoiseMap


class Estimator:
    """Keeps one model per job up to date. Not thread-safe; one instance per daemon or simulation.

    ``shipped``: use the package's profiles for ratios between types that the site has not measured.
    ``weights``: "count", or "unweighted" to fit as the public artifact does (ARTIFACT.md 2). ``noise_ahead`` may be
    changed at any time: gradient moments as they will be while a choice lasts (`noise`), not as last reported.
    """

    def __init__(self, shipped: bool = True, weights: str = "count", noise_ahead: bool = False) -> None:
        self.noise_ahead = noise_ahead
        self._use_shipped = shipped
        self._weights = weights
        self._jobs: dict[JobId, _JobEntry] = {}
        self._similar: dict[tuple[JobKind, bool], _SimilarEntry] = {}
        self._serial = 0
        self.refits = 0

    def model(
        self,
        job_id: JobId,
        history: JobHistory | None,
        declaration: Declaration,
        kind: JobKind,
        gpu_types: Sequence[GpuType],
        similar: HistorySource | None = None,
        now_s: float = 0.0,
    ) -> JobModel:
        """The job's model with one `TypeModel` per allowed type; the same object as before while nothing changed."""
        entry = self._jobs.setdefault(job_id, _JobEntry())
        types = tuple(gpu_types)
        past = self._look_up(kind, similar, now_s, history is not None and history.throughput_only)
        key = (
            None if history is None else history.version,
            declaration,
            kind,
            types,
            0 if past is None else past.serial,
            self.noise_ahead,
        )
        if entry.key == key and entry.model is not None:
            return entry.model
        known = history if history is not None else JobHistory(job_id)
        model = self._build(job_id, entry, known, declaration, kind, types, past)
        if entry.model is not None and entry.model == model:
            model = entry.model
        else:
            entry.version += 1
            model = replace(model, version=entry.version)
        entry.key, entry.kind, entry.model = key, kind, model
        return model

    def forget(self, keep: Collection[JobId]) -> None:
        """Drop every job not in ``keep`` (ended ones), and kinds without a job but for the last `KINDS_KEPT` asked."""
        alive = set(keep)
        for job_id in [job_id for job_id in self._jobs if job_id not in alive]:
            del self._jobs[job_id]
        if len(self._similar) > KINDS_KEPT + len(self._jobs):
            used = {entry.kind for entry in self._jobs.values()}
            spare = [asked for asked in self._similar if asked[0] not in used]
            spare.sort(key=lambda asked: self._similar[asked].looked_s)
            for asked in spare[:-KINDS_KEPT]:
                del self._similar[asked]

    def to_json(self) -> str:
        """The fits as JSON, so that a restarted daemon starts warm."""
        jobs = {
            job_id: {name: [*_values(params), loss] for name, (params, loss) in sorted(entry.warm.items())}
            for job_id, entry in sorted(self._jobs.items())
            if entry.warm
        }
        return json.dumps({"v": 1, "jobs": jobs})

    @classmethod
    def from_json(cls, text: str, shipped: bool = True, weights: str = "count") -> Estimator:
        """An estimator that starts from saved fits; what cannot be read is ignored (it costs a cold fit)."""
        estimator = cls(shipped=shipped, weights=weights)
        try:
            document = json.loads(text)
            jobs = document["jobs"] if document.get("v") == 1 else {}
            for job_id, fits in jobs.items():
                entry = _JobEntry()
                for name, values in fits.items():
                    params = ThroughputParams(*(float(value) for value in values[:7]))
                    if is_sane(params):
                        entry.warm[name] = (params, float(values[7]))
                estimator._jobs[job_id] = entry
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            estimator._jobs.clear()
        return estimator

    def _look_up(
        self, kind: JobKind, source: HistorySource | None, now_s: float, throughput_only: bool
    ) -> _SimilarEntry | None:
        if source is None:
            return None
        entry = self._similar.get((kind, throughput_only))
        if entry is not None and 0.0 <= now_s - entry.looked_s < SIMILAR_AGE_S:
            return entry
        history = source.similar(kind)
        if entry is not None and entry.history == history:
            entry.looked_s = now_s
            return entry
        fits: dict[str, TypeFit] = {}
        fitted: dict[str, tuple[Observation, ...]] = {}
        if history is not None and history.likeness != "cluster":
            seen = virtual(history.observations) if throughput_only else history.observations
            for name, observations in _by_type(seen).items():
                before = entry.observations.get(name, ()) if entry is not None else ()
                if entry is not None and before and not _tells_more(before, observations, FEW_OF_SIMILAR):
                    fits[name], fitted[name] = entry.fits[name], before
                    continue
                self.refits += 1
                warm = entry.fits[name].fit.params if entry is not None and name in entry.fits else None
                fits[name], fitted[name] = fit_type(name, observations, warm, self._weights), observations
        self._serial += 1
        same = entry is not None and _same_objects(entry.fits, fits)
        peaks = memory.peaks(history.memory) if history is not None else {}
        entry = _SimilarEntry(
            now_s,
            history,
            fitted,
            fits,
            self._serial,
            entry.fits_serial if same and entry is not None else self._serial,
            peaks,
            memory.lines_over(peaks),
            noise.NoiseMap(history.noise if history is not None else ()),
        )
        self._similar[kind, throughput_only] = entry
        return entry

    def _build(
        self,
        job_id: JobId,
        entry: _JobEntry,
        history: JobHistory,
        declaration: Declaration,
        kind: JobKind,
        types: tuple[GpuType, ...],
        past: _SimilarEntry | None,
    ) -> JobModel:
        similar = past.history if past is not None else None
        names = [t.name for t in types if not declaration.types or t.name in declaration.types]
        units = {name: declaration.unit_for(name) for name in names}
        observations = virtual(history.observations) if history.throughput_only else history.observations
        by_type = _by_type(observations)
        self._refit(entry, by_type, units)
        batch = batch_limits(declaration, history, by_type, similar, units)
        lines = _memory_lines(entry, history, past)
        self._estimate(entry, declaration, kind, units, past, batch)
        limits = {
            gpu_type.name: local_max(gpu_type, declaration, batch, history.memory, lines.on(gpu_type.name), by_type)
            for gpu_type in types
            if gpu_type.name in units
        }
        if entry.types.keys() != limits.keys() or any(entry.types[name].local_max != limits[name] for name in limits):
            entry.types = {name: replace(entry.unlimited[name], local_max=limits[name]) for name in limits}
        done, remaining, deviation, source = _work(history, declaration, similar)
        return JobModel(
            job_id=job_id,
            types=entry.types,
            batch=batch,
            efficiency=_efficiency(history, past, remaining) if self.noise_ahead else _reported(history, similar),
            noise_ahead=_noise_ahead(entry, history, past, remaining) if self.noise_ahead else None,
            restart=_restart_cost(entry, history, similar, lines.pooled),
            units={name: unit for name, unit in units.items() if unit != 1},
            known=bool(entry.fits or entry.pipelines or (past is not None and past.fits)),
            work_done=done,
            work_remaining=remaining,
            remaining_std=deviation,
            remaining_source=source,
            similar_gpus=max((fit.max_gpus_seen for fit in past.fits.values()), default=0) if past is not None else 0,
            version=entry.version,
        )

    def _estimate(
        self,
        entry: _JobEntry,
        declaration: Declaration,
        kind: JobKind,
        units: Mapping[str, int],
        past: _SimilarEntry | None,
        batch: BatchLimits,
    ) -> None:
        """Set `unlimited` from the fits, unless nothing has changed that it comes from; drops `types` if it did."""
        similar = past.history if past is not None else None
        likeness = similar.likeness if similar is not None else ""
        ratios = self._ratios(kind, similar)
        made_from = (
            entry.fitted,
            0 if past is None else past.fits_serial,
            likeness,
            units,
            ratios,
            batch.initial,
            declaration.min_gpus,
            declaration.local_min,
        )
        if entry.types_from == made_from:
            return
        prior_batch = batch.initial / max(declaration.min_gpus, 1)
        microbatch_size = max(declaration.local_min or 1, 1)
        entry.types_from, entry.types, entry.unlimited = made_from, {}, {}
        for name, unit in units.items():
            if unit > 1 or entry.pipelines:
                entry.unlimited[name] = estimate_pipeline(
                    name,
                    unit,
                    entry.pipelines,
                    ratios,
                    microbatch_size=microbatch_size,
                    microbatches=max(int(prior_batch) // microbatch_size, 1),
                )
            else:
                entry.unlimited[name] = estimate(
                    name, entry.fits, past.fits if past is not None else {}, ratios, likeness, prior_batch
                )

    def _refit(
        self, entry: _JobEntry, by_type: Mapping[str, tuple[Observation, ...]], units: Mapping[str, int]
    ) -> None:
        for name in [name for name in entry.observations if name not in by_type]:
            del entry.observations[name]
            entry.fitted += 1
            entry.fits.pop(name, None)
            entry.pipelines.pop(name, None)
        for name, observations in by_type.items():
            unit = units.get(name, 1)
            as_pipeline = unit > 1
            fitted = name in (entry.pipelines if as_pipeline else entry.fits)
            if fitted and not _tells_more(entry.observations.get(name, ()), observations):
                continue
            entry.observations[name] = observations
            entry.fitted += 1
            self.refits += 1
            if as_pipeline:
                entry.fits.pop(name, None)
                found = fit_pipeline(observations, unit)
                if found is not None:
                    entry.pipelines[name] = found
                continue
            entry.pipelines.pop(name, None)
            warm = entry.warm.get(name)
            found_fit = fit_type(name, observations, None if warm is None else warm[0], self._weights)
            if warm is not None and found_fit.fit.loss > LOSS_GROWTH * warm[1] + 0.02:
                cold = fit_type(name, observations, None, self._weights)
                found_fit = cold if cold.fit.loss < found_fit.fit.loss else found_fit
            entry.fits[name] = found_fit
            entry.warm[name] = (found_fit.fit.params, found_fit.fit.loss)

    def _ratios(self, kind: JobKind, similar: SimilarHistory | None) -> list[TypeRatio]:
        ratios: list[TypeRatio] = []
        if similar is not None:
            source = f"similar:{similar.likeness}"
            ratios.extend(
                TypeRatio(first, second, ratio, error, source) for first, second, ratio, error in similar.type_ratios
            )
        if self._use_shipped:
            name = shipped.application_of(kind.name)
            if name:
                ratios.extend(shipped.type_ratios(name))
            ratios.extend(shipped.type_ratios())
        return ratios


def _same_objects(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def _memory_lines(entry: _JobEntry, history: JobHistory, past: _SimilarEntry | None) -> memory.MemoryLines:
    seen = (history.memory, past.history.memory if past is not None and past.history is not None else ())
    if entry.memory[0] != seen:
        others: memory.Peaks = past.peaks if past is not None else {}
        highest = memory.both(others, memory.peaks(history.memory))
        lines = past.lines if past is not None and highest is others else memory.lines_over(highest)
        entry.memory = seen, lines
    return entry.memory[1]


def _restart_cost(
    entry: _JobEntry, history: JobHistory, similar: SimilarHistory | None, line: memory.MemoryLine | None
) -> RestartCost:
    seen = (
        history.restarts,
        similar.restarts if similar is not None else (),
        line.fixed_bytes if line is not None else None,
        similar.likeness if similar is not None else "",
    )
    if entry.restart[0] != seen:
        entry.restart = seen, restart.learn(*seen)
    return entry.restart[1]


def _values(params: ThroughputParams) -> tuple[float, ...]:
    return (
        params.alpha_c,
        params.beta_c,
        params.alpha_n,
        params.beta_n,
        params.alpha_r,
        params.beta_r,
        params.gamma,
    )


def _by_type(observations: Iterable[Observation]) -> dict[str, tuple[Observation, ...]]:
    found: dict[str, list[Observation]] = {}
    for o in observations:
        if usable(o):
            found.setdefault(o.gpu_type, []).append(o)
    return {name: tuple(found[name]) for name in sorted(found)}


def _tells_more(before: Sequence[Observation], now: Sequence[Observation], few: float = 0.0) -> bool:
    """Whether sums have changed enough for a refit: a new group, a mean that moved, or many more steps behind it.

    A long job reports every half minute; without this each report would cost a refit that changes nothing.
    ``few``: share of the groups that may be new batches of known shapes, or have changed, without counting.
    """
    old = {(o.nodes, o.gpus, o.local_batch, o.accumulation): o for o in before}
    shapes = {(o.nodes, o.gpus) for o in before}
    if not len(old) <= len(now) <= len(old) * (1.0 + few):
        return True
    changed = 0
    for o in now:
        was = old.get((o.nodes, o.gpus, o.local_batch, o.accumulation))
        if was is None:
            if few and (o.nodes, o.gpus) in shapes:
                continue
            return True
        if o is was or (o.count == was.count and o.step_sum_s == was.step_sum_s and o.sync_sum_s == was.sync_sum_s):
            continue
        mean, mean_before = o.step_sum_s / o.count, was.step_sum_s / was.count
        moved = abs(mean - mean_before) > SAME_MEAN * mean_before
        if moved or (o.count >= MORE_STEPS * was.count and was.count < ENOUGH_STEPS):
            changed += 1
            if changed > few * len(old):
                return True
    return False


def fit_type(
    gpu_type: str, observations: Sequence[Observation], warm: ThroughputParams | None = None, weights: str = "count"
) -> TypeFit:
    """Fit one type's parameters and measured deviations (the latter not with ``weights="unweighted"``)."""
    groups = group(observations, weights)
    result = fit(groups, warm=warm, weights=weights)
    measured = learn(groups, result.params) if weights != "unweighted" else Bias()
    count = math.fsum(o.count for o in observations)
    return TypeFit(
        gpu_type,
        result,
        max_gpus_seen=max((o.gpus for o in observations), default=0),
        seen_several=any(o.gpus > 1 for o in observations),
        mean_batch=math.exp(math.fsum(o.count / count * math.log(o.local_batch) for o in observations)),
        rel_error=result.rel_error if measured.rel_error is None else min(max(measured.rel_error, LEAST_ERROR), 1.0),
        knots=measured.knots,
        usual=_usual(observations),
    )


def _usual(observations: Sequence[Observation]) -> tuple[int, int, float]:
    """(nodes, GPUs, micro-batch) of most steps."""
    most = max(observations, key=lambda o: (o.count, -o.gpus, -o.local_batch), default=None)
    return (1, 1, 1.0) if most is None else (most.nodes, most.gpus, most.local_batch)


_NO_NOISE = noise.NoiseMap(())


def _efficiency(history: JobHistory, past: _SimilarEntry | None, remaining: float | None) -> EfficiencyModel:
    return noise.ahead(history, *_noise_of(past), remaining)


def _noise_ahead(
    entry: _JobEntry, history: JobHistory, past: _SimilarEntry | None, remaining: float | None
) -> NoiseAhead:
    entry.pace = entry.pace.after(history)
    return noise.way(history, *_noise_of(past), remaining, entry.pace)


def _noise_of(past: _SimilarEntry | None) -> tuple[noise.NoiseMap, Gradient | None]:
    """What similar jobs say; nothing where they are only of the same cluster."""
    if past is None or past.history is None or past.history.likeness == "cluster":
        return _NO_NOISE, None
    return past.noise, past.history.gradient


def _reported(history: JobHistory, similar: SimilarHistory | None) -> EfficiencyModel:
    own = from_gradient(history.gradient)
    if own is not UNKNOWN or similar is None or similar.likeness == "cluster":
        return own
    return from_gradient(similar.gradient)


def _work(
    history: JobHistory, declaration: Declaration, similar: SimilarHistory | None
) -> tuple[float | None, float | None, float | None, str]:
    """(done, remaining, standard deviation, source) in samples; ``None`` where unknown."""
    progress = history.progress
    done = progress.samples if progress is not None and math.isfinite(progress.samples) else None
    so_far = max(done or 0.0, 0.0)
    for target, source in (
        (declaration.target_samples, "declared"),
        (progress.target_samples if progress is not None else None, "reported"),
    ):
        if target is not None and math.isfinite(target) and target > 0:
            remaining = max(target - so_far, 0.0)
            return done, remaining, 0.05 * remaining, source
    if similar is not None and similar.likeness != "cluster":
        longer = [total for total in similar.total_samples if math.isfinite(total) and total > so_far]
        if longer:
            mean = math.fsum(longer) / len(longer)
            variance = math.fsum((total - mean) ** 2 for total in longer) / len(longer)
            deviation = math.sqrt(variance + (0.5 * (mean - so_far)) ** 2 / len(longer))
            return done, mean - so_far, deviation, f"similar:{similar.likeness}"
    return done, None, None, ""
