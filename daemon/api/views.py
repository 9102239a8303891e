"""Answers made from the published state alone: status, jobs, why, GPUs, plan, models, policy. Pure; no store, no Slurm.

Whatever a caller may not see is left out here, in one place for each answer.
"""

from __future__ import annotations

import json
from typing import Any

from slurmsia.cluster import Job, JobState

from . import curves as curve_rows
from .callers import Caller, Names
from .problems import Problem
from .rows import acts, flight_row, job_row, shape_row, target_row
from .state import View

Json = dict[str, Any]
#: Sections of the policy file that are for operators: they name doors, databases and files.
_FOR_OPERATORS = ("store", "api", "daemon", "slurm")


def use_rows(view: View) -> list[Json]:
    return [
        {
            "gpu_type": use.gpu_type,
            "total": use.total,
            "managed": use.managed,
            "other": use.other,
            "down": use.down,
            "free": use.free,
        }
        for use in view.uses
    ]


def status(view: View, caller: Caller, names: Names) -> Json:
    state, plan = view.state, view.state.plan
    mine = [job_row(view, job, names) for job in view.own(caller)]
    return {
        "cluster": state.cluster,
        "mode": state.mode,
        "why_mode": state.why_mode,
        "sentence": state.sentence,
        "policy": state.policy,
        "version": state.version,
        "started_s": state.started_s,
        "next_round_s": state.next_round_s,
        "read_s": view.snapshot.taken_s if view.snapshot is not None else None,
        "round_id": state.round_id,
        "rounds": state.rounds,
        "gap": plan.gap if plan is not None else None,
        "stage": plan.stage if plan is not None else "",
        "gpus": use_rows(view),
        "jobs": {**view.counts, "moving": len(view.flights)},
        "my_jobs": sorted(mine, key=order),
        "warnings": list(state.warnings),
        "times_s": dict(state.times_s),
        "caller": {
            "user": caller.name,
            "user_id": caller.user_id,
            "operator": caller.operator,
            "by": caller.by,
        },
    }


def order(row: Json) -> tuple[int, float, str]:
    """Running jobs first, then by submission."""
    return (0 if row["state"] == "running" else 1, row["submit_s"], row["job_id"])


def jobs(view: View, caller: Caller, names: Names, wanted: dict[str, frozenset[str]], most: int) -> Json:
    """Jobs that match every filter given (user, partition, state, job_id, account, qos, name)."""
    rows = []
    for job in view.shown(caller):
        row = job_row(view, job, names)
        if all(_matches(row, key, values) for key, values in wanted.items()):
            rows.append(row)
    rows.sort(key=order)
    return {"jobs": rows[:most], "total": len(rows)}


_STATES = {"r": "running", "pd": "pending", "s": "suspended", "cg": "completing"}


def _matches(row: Json, key: str, values: frozenset[str]) -> bool:
    if key == "user":
        return row["user"] in values or str(row["user_id"]) in values
    if key == "partition":
        return not values.isdisjoint(row["partitions"])
    if key == "state":
        return row["state"] in {_STATES.get(value.lower(), value.lower()) for value in values} or "all" in values
    if key == "job_id":
        return row["job_id"] in values or row["job_id"].partition("_")[0] in values
    return str(row[key]) in values


def visible_job(view: View, caller: Caller, job_id: str) -> Job:
    """The live job; 404 with the same sentence for jobs that are not there and those that are private."""
    job = view.jobs.get(job_id)
    if job is None or not view.sees(caller, job.user_id):
        if view.snapshot is None:
            raise Problem(503, "Slurm has not been read yet; ask again after the first round.")
        raise Problem(
            404, f"There is no job {job_id} that you may see; `slurmsia history -j {job_id}` shows ended ones."
        )
    return job


def job(view: View, job: Job, names: Names) -> Json:
    """One job, without what only the store knows."""
    model = view.state.models.get(job.id)
    standing = view.state.standings.get(job.id)
    declared = view.declaration(job)
    most = declared.max_gpus if declared is not None else max(1, job.request.gpus)
    found = curve_rows.curves(view, model, most) if model is not None else []
    return {
        "job": job_row(view, job, names),
        "comment": job.comment,
        "curves": found,
        "gained": curve_rows.gained(view, job, model) if model is not None else None,
        "restart": None
        if model is None
        else {"mean_s": model.restart.mean_s, "std_s": model.restart.std_s, "source": model.restart.source},
        "work": None
        if model is None
        else {
            "done": model.work_done,
            "remaining": model.work_remaining,
            "remaining_std": model.remaining_std,
            "source": model.remaining_source,
        },
        "problems": list(view.state.problems.get(job.id, ())),
        "advice": curve_rows.advice(view, job, model, found),
        "pinned": standing.pinned_reason if standing is not None else "",
    }


def why(view: View, job: Job, names: Names) -> Json:
    verdict = view.verdicts.get(job.id)
    if verdict is None:
        sentence = (
            "it has no GPUs, so slurmsia does not look at it"
            if not job.request.gpus
            else "no round has decided about it yet; look again after the next round"
        )
        said: Json = {
            "code": "not-looked-at",
            "sentence": sentence,
            "term": "",
            "alternatives": [],
            "would_change": "",
            "look_again_s": max(0.0, view.state.next_round_s - view.state.published_s),
        }
    else:
        said = {
            "code": verdict.code,
            "sentence": verdict.sentence,
            "term": verdict.term,
            "alternatives": [
                {"shape": shape_row(other.shape), "goodput": other.goodput, "why_not": other.why_not}
                for other in verdict.alternatives
            ],
            "would_change": verdict.would_change,
            "look_again_s": verdict.look_again_s,
        }
    return {
        "job": job_row(view, job, names),
        **said,
        "put_off": view.state.put_off.get(job.id, ""),
        "problems": list(view.state.problems.get(job.id, ())),
    }


def gpus(view: View, caller: Caller, names: Names) -> Json:
    held: dict[str, list[Json]] = {}
    for job in view.jobs.values():
        if job.allocation is None or (job.state is JobState.ENDED and not job.completing):
            continue
        seen = view.sees(caller, job.user_id)
        for name, count in job.allocation.gpus_by_node:
            if count:
                held.setdefault(name, []).append(
                    {
                        "job_id": job.id if seen else None,
                        "user": names.name(job.user_id) if seen else None,
                        "gpus": count,
                        "managed": job.id in view.managed,
                    }
                )
    nodes = []
    for node in view.snapshot.nodes if view.snapshot is not None else ():
        if node.gpu_type is None or not node.gpus:
            continue
        holders = held.get(node.name, [])
        used = sum(holder["gpus"] for holder in holders)
        nodes.append(
            {
                "name": node.name,
                "gpu_type": node.gpu_type,
                "gpus": node.gpus,
                "free": max(0, node.gpus - used) if node.takes_work else 0,
                "state": node.state.value,
                "reason": node.reason,
                "held": holders,
            }
        )
    return {"types": use_rows(view), "nodes": nodes}


def plan(view: View, caller: Caller, everything: bool) -> Json:
    decided = view.state.plan
    if decided is None:
        raise Problem(503, f"No round has decided anything yet. {view.state.sentence}")
    shown = {job.id for job in view.shown(caller)}
    return {
        "mode": view.state.mode,
        "carried_out": view.state.mode == "enforce",
        "sentence": view.state.sentence,
        "policy": decided.policy,
        "objective": decided.objective,
        "bound": decided.bound,
        "gap": decided.gap,
        "stage": decided.stage,
        "decisions": [
            target_row(view, target)
            for target in decided.targets
            if target.job_id in shown and (everything or acts(target))
        ],
        "in_flight": [flight_row(move) for move in view.state.moves if move.job_id in shown],
    }


def models(view: View, caller: Caller, names: Names, only: str) -> Json:
    rows = []
    for job in view.shown(caller):
        model = view.state.models.get(job.id)
        if model is None or (only and job.id != only):
            continue
        for name in sorted(model.types):
            kind = model.types[name]
            rows.append(
                {
                    "job_id": job.id,
                    "name": job.name,
                    "user": names.name(job.user_id),
                    "gpu_type": name,
                    "source": kind.source,
                    "rel_error": kind.rel_error,
                    "observations": kind.observations,
                    "max_gpus_seen": kind.max_gpus_seen,
                    "sentence": kind.sentence,
                }
            )
    return {"models": rows}


def policy(view: View, caller: Caller) -> Json:
    try:
        config = json.loads(view.state.config_text)
    except ValueError:
        config = {}
    if not caller.operator:
        config = {name: section for name, section in config.items() if name not in _FOR_OPERATORS}
    return {"policy": view.state.policy, "config": config}
