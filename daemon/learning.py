"""Models of the round's jobs, what of them is new enough to be stored, and how well they predicted what was reported.

Reads the store through `HistorySource`; with the store away the histories of the last round serve. Never raises for a
job's data, nor for a mistake of ours over one job: that job keeps its last model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from slurmsia.cluster import Job, JobId, Snapshot
from slurmsia.declaration import Declaration
from slurmsia.history import JobHistory, JobKind, Report
from slurmsia.models.base import JobModel
from slurmsia.models.estimator import Estimator
from slurmsia.models.goodput import one_gpu_throughput
from slurmsia.models.speed import step_seconds
from slurmsia.store import FitRecord, Store, StoreError

from .mishaps import Mishaps

#: Jobs whose fits are stored in one round; the rest follow in later rounds (after a restart all are new).
FITS_PER_ROUND = 50
#: Weight of a round's reports in the running mean of observed over predicted throughput.
_NEWEST = 0.2


class Learner:
    """The daemon's models. Not thread-safe."""

    def __init__(self, mishaps: Mishaps) -> None:
        self._mishaps = mishaps
        self._last: dict[JobId, JobModel] = {}
        self._histories: dict[JobId, JobHistory] = {}
        self._stored: dict[JobId, JobModel] = {}
        self._ratios: dict[str, float] = {}

    def models(
        self,
        snapshot: Snapshot,
        declared: Mapping[JobId, tuple[Job, Declaration]],
        estimator: Estimator,
        store: Store,
        warnings: list[str],
    ) -> dict[JobId, JobModel]:
        """A model for every declared job."""
        source: Store | None = store
        try:
            self._histories = store.history(tuple(declared))
        except StoreError:
            source = None
        models: dict[JobId, JobModel] = {}
        failed = 0
        for job_id, (job, declaration) in declared.items():
            kind = JobKind(job.user_id, job.script_hash, job.name)
            asked = (job_id, self._histories.get(job_id), declaration, kind, snapshot.gpu_types)
            try:
                try:
                    models[job_id] = estimator.model(*asked, source, snapshot.taken_s)
                except StoreError as error:
                    warnings.append(f"History of similar jobs cannot be read: {error}")
                    source = None
                    models[job_id] = estimator.model(*asked, None, snapshot.taken_s)
            except Exception as error:  # one job's odd data must not cost the cluster its round
                self._mishaps.note("model", error)
                failed += 1
                if job_id in self._last:
                    models[job_id] = self._last[job_id]
        if failed:
            warnings.append(f"Models of {failed} jobs could not be computed; their last ones serve.")
        self._last = models
        estimator.forget(declared)
        for gone in [job_id for job_id in self._stored if job_id not in declared]:
            del self._stored[gone]
        return models

    def store_fits(self, models: Mapping[JobId, JobModel], store: Store, now_s: float) -> int:
        """Store the fits of jobs whose own measurements changed them. Raises `StoreError`s; then all are new again."""
        due = [model for job_id, model in models.items() if self._stored.get(job_id) is not model][:FITS_PER_ROUND]
        records = [record for model in due for record in self._records(model, now_s)]
        store.save_fits(records)
        self._stored.update({model.job_id: model for model in due})
        return len(records)

    def _records(self, model: JobModel, now_s: float) -> Iterable[FitRecord]:
        before = self._stored.get(model.job_id)
        for name, fitted in model.types.items():
            known = before.types.get(name) if before is not None else None
            measured = fitted.source == "fit" or (fitted.source.startswith("similar:") and fitted.observations > 0)
            if not measured or (known is not None and known.params == fitted.params):
                continue
            yield FitRecord(
                job_id=model.job_id,
                gpu_type=name,
                params={key: float(value) for key, value in asdict(fitted.params).items()},
                source=fitted.source,
                rel_error=fitted.rel_error,
                observations=fitted.observations,
                fitted_s=now_s,
                one_gpu_samples_per_s=one_gpu_throughput(model, name),
            )

    def judged(self, reports: Iterable[Report], models: Mapping[JobId, JobModel]) -> Mapping[str, float]:
        """Observed over predicted throughput by GPU type: a running mean over rounds, by the models before them."""
        sums: dict[str, list[float]] = {}
        for report in reports:
            model = models.get(report.job_id)
            if model is None or dict(report.extra).get("src") in ("shell", "log"):
                continue
            for seen in report.observations:
                fitted = model.types.get(seen.gpu_type)
                # a prior or a shipped profile ranks types; only measured steps predict seconds
                if fitted is None or not fitted.source.startswith(("fit", "ratio:", "similar:")):
                    continue
                if seen.count <= 0 or seen.step_sum_s <= 0:
                    continue
                predicted_s = step_seconds(fitted, seen.nodes, seen.gpus, seen.local_batch, seen.accumulation)
                if predicted_s > 0 and math.isfinite(predicted_s):
                    row = sums.setdefault(seen.gpu_type, [0.0, 0.0])
                    row[0] += math.log(predicted_s / (seen.step_sum_s / seen.count)) * seen.count
                    row[1] += seen.count
        for name, (total, count) in sums.items():
            ratio = math.exp(max(-5.0, min(5.0, total / count)))
            before = self._ratios.get(name)
            self._ratios[name] = ratio if before is None else before + _NEWEST * (ratio - before)
        return dict(self._ratios)
