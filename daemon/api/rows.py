"""One job, one node, one move as plain JSON values: what every answer is made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slurmsia.cluster import Job, JobId, Shape
from slurmsia.models.base import JobModel
from slurmsia.moves.move import Move
from slurmsia.plan import Target, TargetKind
from slurmsia.store import MoveRecord, RoundHead, RunRecord, VerdictSpan

from .callers import Names
from .state import View


def shape_row(shape: Shape | None) -> dict[str, Any] | None:
    if shape is None:
        return None
    return {"gpu_type": shape.gpu_type, "nodes": shape.nodes, "gpus": shape.gpus, "text": str(shape)}


def known_rate(models: Mapping[JobId, JobModel], job_id: JobId, goodput: float) -> float:
    """Samples/s; 0 for a job of which nothing was measured yet: its model then only assumes a speed."""
    model = models.get(job_id)
    return goodput if model is None or model.known else 0.0


def job_row(view: View, job: Job, names: Names) -> dict[str, Any]:
    """The row of a job in lists."""
    target, verdict, standing = view.targets.get(job.id), view.verdicts.get(job.id), view.state.standings.get(job.id)
    held, models = job.allocation, view.state.models
    move = view.flights.get(job.id)
    return {
        "job_id": job.id,
        "name": job.name,
        "user": names.name(job.user_id),
        "user_id": job.user_id,
        "account": job.account,
        "qos": job.qos,
        "partitions": list(job.partitions),
        "state": "completing" if job.completing else job.state.value,
        "reason": job.reason,
        "managed": job.id in view.managed,
        "gpus": held.gpus if held is not None else 0,
        "gpu_type": held.gpu_type if held is not None else None,
        "nodes": list(held.nodes) if held is not None else [],
        "requested_gpus": job.request.gpus,
        "target": shape_row(target.shape) if target is not None else None,
        "kind": target.kind.value if target is not None else "leave",
        "verdict": verdict.code if verdict is not None else "",
        "sentence": verdict.sentence if verdict is not None else "",
        "goodput": known_rate(models, job.id, target.current_goodput) if target is not None and held else 0.0,
        "expected_goodput": known_rate(models, job.id, target.expected_goodput) if target is not None else 0.0,
        "submit_s": standing.first_submit_s if standing is not None else job.submit_s,
        "start_s": job.start_s if held is not None else None,
        "priority": job.priority,
        "moves": standing.moves if standing is not None else 0,
        "moving": move.phase.value if move is not None else "",
    }


def target_row(view: View, target: Target) -> dict[str, Any]:
    """A decision of the plan."""
    verdict = view.verdicts.get(target.job_id)
    return {
        "job_id": target.job_id,
        "kind": target.kind.value,
        "target": shape_row(target.shape),
        "nodes": [[name, gpus] for name, gpus in target.gpus_by_node],
        "current_goodput": known_rate(view.state.models, target.job_id, target.current_goodput),
        "expected_goodput": known_rate(view.state.models, target.job_id, target.expected_goodput),
        "sentence": verdict.sentence if verdict is not None else "",
    }


def flight_row(move: Move) -> dict[str, Any]:
    """A move that is not at its end."""
    return {
        "job_id": move.job_id,
        "kind": move.kind.value,
        "phase": move.phase.value,
        "target": shape_row(move.target),
        "former": shape_row(move.former_shape),
        "planned_s": move.planned_s,
        "phase_s": move.phase_s,
        "cause": move.cause,
    }


def move_row(record: MoveRecord) -> dict[str, Any]:
    """A stored move."""
    shape = record.target.get("shape")
    known = Shape(shape["gpu_type"], shape["nodes"], shape["gpus"]) if isinstance(shape, dict) else None
    return {
        "job_id": record.job_id,
        "kind": str(record.target.get("kind", "")),
        "phase": record.state,
        "target": shape_row(known),
        "planned_s": record.created_s,
        "ended_s": record.ended_s,
        "round_id": record.round_id,
        "cause": record.cause,
    }


def run_row(run: RunRecord) -> dict[str, Any]:
    return {
        "restart": run.restart,
        "started_s": run.started_s,
        "ended_s": run.ended_s,
        "how_ended": run.how_ended,
        "gpu_type": run.gpu_type,
        "nodes": list(run.node_names),
        "gpus": run.gpus,
        "energy_j": run.energy_j,
    }


def span_row(span: VerdictSpan) -> dict[str, Any]:
    return {
        "code": span.verdict.code,
        "sentence": span.verdict.sentence,
        "first_s": span.first_s,
        "last_s": span.last_s,
        "first_round": span.first_round,
        "last_round": span.last_round,
        "rounds": span.rounds,
    }


def head_row(head: RoundHead) -> dict[str, Any]:
    return {
        "round_id": head.id,
        "taken_s": head.taken_s,
        "mode": head.mode,
        "policy": head.policy,
        "objective": head.objective,
        "bound": head.bound,
        "gap": head.gap,
        "stage": head.stage,
        "sentence": head.sentence,
        "jobs": head.jobs,
        "moves": head.moves,
        "times_s": dict(head.times_s),
        "replayable": head.bodies,
    }


def acts(target: Target) -> bool:
    """Whether the decision changes something for the job."""
    return target.kind in (TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE, TargetKind.SUSPEND)
