"""How fast a `TypeModel` says a job is: the step-time forms with bootstrap ratio and measured deviations applied.

The one place where a prediction is put together; pure functions of a model and arrays that broadcast.
"""

from __future__ import annotations

import numpy as np

from .base import PipelineParams, TypeModel
from .bias import log_factor
from .throughput import Floats, Numbers, pipeline_step_time, step_time, step_time_at


def model_step_time(
    model: TypeModel, nodes: Numbers, gpus: Numbers, local_batch: Numbers, accumulation: Numbers | None = None
) -> Floats:
    """Seconds of one step as a `TypeModel` has it, its bootstrap ``scale`` and measured deviations applied.

    For a pipeline ``gpus`` are GPUs, ``local_batch`` is ignored (its micro-batch is fixed), and ``accumulation + 1``
    is the number of micro-batches (``None``: the pipeline's own). For a plain model ``gpus`` are replicas.
    """
    if isinstance(model.params, PipelineParams):
        microbatches = model.params.microbatches if accumulation is None else np.asarray(accumulation) + 1
        return pipeline_step_time(model.params, gpus, microbatches) / model.scale
    extra = 0 if accumulation is None else accumulation
    seconds = step_time(model.params, nodes, gpus, local_batch, extra) / model.scale
    if not model.knots:
        return seconds
    n, k, m = (
        column.ravel() for column in np.broadcast_arrays(*(np.asarray(x, float) for x in (nodes, gpus, local_batch)))
    )
    factor = np.exp(log_factor(model.knots, n, k, m)).reshape(np.broadcast(nodes, gpus, local_batch).shape)
    return np.asarray(seconds * factor)


def step_seconds(model: TypeModel, nodes: int, gpus: int, local_batch: float, accumulation: int = 0) -> float:
    """`model_step_time` of one shape."""
    if isinstance(model.params, PipelineParams) or model.knots:
        return float(model_step_time(model, nodes, gpus, local_batch, accumulation))
    return step_time_at(model.params, nodes, gpus, local_batch, accumulation) / model.scale


def throughput(
    model: TypeModel, nodes: Numbers, gpus: Numbers, local_batch: Numbers, accumulation: Numbers | None = None
) -> Floats:
    """Samples per second, ``K * m * (s + 1) / T_iter`` (SIA.md section 1); arguments as in `model_step_time`."""
    seconds = model_step_time(model, nodes, gpus, local_batch, accumulation)
    if isinstance(model.params, PipelineParams):
        replicas = np.asarray(gpus, dtype=np.float64) / model.params.stages
        microbatches = model.params.microbatches if accumulation is None else np.asarray(accumulation) + 1
        return np.asarray(replicas * model.params.microbatch_size * microbatches / seconds)
    extra = 0 if accumulation is None else np.asarray(accumulation)
    return np.asarray(np.asarray(gpus) * np.asarray(local_batch) * (extra + 1.0) / seconds)
