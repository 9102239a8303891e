"""From a round's plan to moves: which targets become moves now, and why the others wait. Pure.

Each admitted move carries everything it needs to be finished, or undone, by another process after a crash: the whole
edit, the former shape, the grace. Nothing here talks to Slurm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..cluster import Job, JobId, JobState, Shape, Snapshot
from ..declaration import Declaration, DeclarationError, parse
from ..plan import Plan, Target, TargetKind
from ..reshape import Reshape, TypeAtSite, edit_for
from ..standing import Standing
from ..wouldstart import StartRules
from .channel import JobNews
from .move import Limits, Move, MoveKind, Phase

_DEFAULT_SIGNAL = "USR1"


@dataclass(frozen=True, slots=True)
class Admission:
    """Moves that may begin, jobs that wait on their lease, and a sentence for every target put off."""

    moves: tuple[Move, ...] = ()
    waiting: tuple[JobId, ...] = ()
    put_off: Mapping[JobId, str] = field(default_factory=dict)


def as_edit(job: Job) -> Reshape:
    """The edit that writes the job's present request again."""
    request = job.request
    memory = request.memory_mb
    gpu_type = request.gpu_type or (job.allocation.gpu_type if job.allocation is not None else None) or ""
    return Reshape(
        shape=Shape(gpu_type, max(request.nodes, 1), request.gpus),
        tasks=request.tasks,
        cpus=request.cpus,
        memory_mb_per_node=None if memory is None or request.memory_per_cpu else -(-memory // max(request.nodes, 1)),
        features=request.features,
        required_nodes=request.required_nodes,
        partition=",".join(job.partitions) or None,
        time_limit_s=job.time_limit_s,
    )


def former_edit(job: Job, standing: Standing | None, kind: MoveKind) -> Reshape:
    """What to write when the move is given up: the shape it ran in; for a start, the shape its user submitted."""
    now = as_edit(job)
    if kind is not MoveKind.START or standing is None or standing.submitted is None:
        return now
    given = standing.submitted
    memory = given.memory_mb
    return Reshape(
        shape=Shape(given.gpu_type or now.shape.gpu_type, max(given.nodes, 1), given.gpus),
        tasks=given.tasks,
        cpus=given.cpus,
        memory_mb_per_node=None if memory is None or given.memory_per_cpu else -(-memory // max(given.nodes, 1)),
        features=given.features,
        required_nodes=given.required_nodes,
        partition=now.partition,
        time_limit_s=standing.submitted_time_limit_s,
    )


def _declared(job: Job) -> Declaration | None:
    try:
        return parse(job.comment)
    except DeclarationError:
        return None


def _time_left_s(job: Job, declaration: Declaration, standing: Standing | None, now_s: float) -> float | None:
    """What is left of a limit that counts over all runs (``time=total``); ``None`` leaves the limit alone."""
    if declaration.time_mode != "total" or standing is None or standing.submitted_time_limit_s is None:
        return None
    running_s = now_s - job.start_s if job.state is JobState.RUNNING and job.start_s is not None else 0.0
    return max(standing.submitted_time_limit_s - standing.ran_s - running_s, 60.0)


def _kind_of(target: Target, job: Job, limits: Limits) -> MoveKind:
    if target.kind is TargetKind.START:
        return MoveKind.START
    if target.kind is TargetKind.SUSPEND:
        return MoveKind.SUSPEND
    if limits.shrink_running and job.allocation is not None and target.gpus_by_node:
        held = dict(job.allocation.gpus_by_node)
        kept = dict(target.gpus_by_node)
        same = all(held.get(name) == gpus for name, gpus in kept.items())
        if same and len(kept) < len(held) and job.allocation.nodes[0] in kept:
            return MoveKind.SHRINK
    return MoveKind.MOVE


def admit(
    plan: Plan,
    snapshot: Snapshot,
    *,
    limits: Limits,
    types: Mapping[str, TypeAtSite],
    standings: Mapping[JobId, Standing],
    news: Mapping[JobId, JobNews],
    flying: Mapping[JobId, Move],
    cause: str,
    generation: int = 0,
    refused: Mapping[JobId, str] | None = None,
) -> Admission:
    """Turn targets into moves, most urgent first, within the limits per round, in flight and per user.

    ``refused``: jobs whose last edit Slurm refused, with the sentence; they are put off, and their lease is left to
    end, so that Slurm starts them in the shape they have.
    """
    refused = refused or {}
    jobs = {job.id: job for job in snapshot.jobs}
    held: dict[JobId, Shape | None] = {
        target.job_id: target.shape for target in plan.targets if target.kind is not TargetKind.LEAVE
    }
    rules = StartRules(snapshot, held)
    admitted: list[Move] = []
    waiting: list[JobId] = []
    put_off: dict[JobId, str] = {}
    in_flight = sum(
        1 for move in flying.values() if move.kind is not MoveKind.START and move.phase is not Phase.RUNNING
    )
    moves_now = starts_now = 0
    by_user: dict[int, int] = {}
    for target in sorted(plan.targets, key=lambda target: (-target.urgency, target.job_id)):
        job = jobs.get(target.job_id)
        if job is None or job.id in flying:
            continue
        if target.kind is TargetKind.QUEUE:
            waiting.append(job.id)
        if target.kind not in (TargetKind.START, TargetKind.MOVE, TargetKind.RESIZE, TargetKind.SUSPEND):
            continue
        if job.id in refused:
            put_off[job.id] = refused[job.id]
            continue
        kind = _kind_of(target, job, limits)
        starts = kind is MoveKind.START
        why = _not_this_round(job, kind, snapshot.taken_s, limits)
        if not why and starts and starts_now >= limits.starts_per_round:
            why = f"this round starts no more than {limits.starts_per_round} jobs"
        if not why and not starts:
            if in_flight + moves_now >= limits.moves_in_flight:
                why = f"{limits.moves_in_flight} moves are under way already"
            elif moves_now >= limits.moves_per_round:
                why = f"this round moves no more than {limits.moves_per_round} jobs"
            elif by_user.get(job.user_id, 0) >= limits.moves_per_user_round:
                why = f"this round moves no more than {limits.moves_per_user_round} jobs of one user"
        move = None if why else _make(target, kind, job, snapshot, limits, types, standings, news, cause, generation)
        if move is not None and move.edit is not None:
            why = rules.refusal(job, move.edit) or ""
        if why or move is None:
            put_off[job.id] = why or "its declaration cannot be read any more"
            if job.state is JobState.PENDING:
                waiting.append(job.id)
            continue
        admitted.append(move)
        if starts:
            starts_now += 1
        else:
            moves_now += 1
            by_user[job.user_id] = by_user.get(job.user_id, 0) + 1
    return Admission(tuple(admitted), tuple(waiting), put_off)


def _not_this_round(job: Job, kind: MoveKind, now_s: float, limits: Limits) -> str:
    """Empty, or why the job is not in the state that its target expects."""
    if kind is MoveKind.START:
        if job.state is not JobState.PENDING or job.completing or job.hold:
            return "it is not waiting any more"
        return ""
    if job.state is not JobState.RUNNING or job.allocation is None:
        return "it does not run any more"
    ran_s = now_s - (now_s if job.start_s is None else job.start_s)
    if ran_s < limits.min_run_s:
        return f"its present run is {ran_s:.0f} s old; it is not moved before {limits.min_run_s:.0f} s"
    return ""


def _make(
    target: Target,
    kind: MoveKind,
    job: Job,
    snapshot: Snapshot,
    limits: Limits,
    types: Mapping[str, TypeAtSite],
    standings: Mapping[JobId, Standing],
    news: Mapping[JobId, JobNews],
    cause: str,
    generation: int,
) -> Move | None:
    declaration = _declared(job)
    if declaration is None or (target.shape is None and kind is not MoveKind.SUSPEND):
        return None
    standing = standings.get(job.id)
    heard = news.get(job.id)
    edit: Reshape | None = None
    if target.shape is not None and kind in (MoveKind.START, MoveKind.MOVE):
        edit = edit_for(
            job,
            target.shape,
            types,
            declaration=declaration,
            submitted=None if standing is None else standing.submitted,
            pin_to=tuple(name for name, _ in target.gpus_by_node) if target.pin else (),
            partitions=snapshot.partitions,
            time_limit_s=_time_left_s(job, declaration, standing, snapshot.taken_s),
        )
    signal, grace_s, asks = "", 0.0, False
    if kind in (MoveKind.MOVE, MoveKind.SUSPEND):
        of_this_run = heard is not None and heard.restart == job.restarts
        handled = of_this_run and heard is not None and heard.handles_signal
        asks = of_this_run and heard is not None and heard.reads_directives
        if declaration.signal is not None or handled:
            signal = declaration.signal or _DEFAULT_SIGNAL
        if signal or asks:
            learnt_s = 0.0 if heard is None or heard.save_s is None else 3.0 * heard.save_s
            grace_s = declaration.grace_s if declaration.grace_s is not None else max(limits.grace_s, learnt_s)
    held = None if job.allocation is None else job.allocation
    former = former_edit(job, standing, kind)
    return Move(
        job_id=job.id,
        kind=kind,
        cause=f"{cause}/{job.id}",
        planned_s=snapshot.taken_s,
        run=job.restarts,
        generation=generation,
        user_id=job.user_id,
        phase_s=snapshot.taken_s,
        edit=edit,
        former=former,
        former_shape=held.shape if held is not None else (former.shape if former.shape.gpu_type else None),
        gpus_by_node=target.gpus_by_node,
        from_nodes=() if held is None else held.nodes,
        pin=target.pin and bool(target.gpus_by_node),
        signal=signal,
        asks=asks,
        grace_s=grace_s,
        checkpoint_bytes=0.0 if heard is None else heard.checkpoint_bytes or 0.0,
        checkpoint_samples=None if heard is None else heard.checkpoint_samples,
        expects_reports=heard is not None,
        priority=target.urgency,
    )
