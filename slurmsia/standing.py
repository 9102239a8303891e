"""What slurmsia itself remembers of a job between rounds: pins, moves in flight, service attained. Values only.

Kept by the daemon (in the store) and by the simulator; handed to `round.decide` so that it stays pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cluster import JobId, Request, Shape
from .plan import BatchChoice


@dataclass(frozen=True, slots=True)
class Standing:
    """Our memory of one job.

    ``first_submit_s``: submission before any requeue reset it; ``moves``: moves we made; ``restarts``: all restarts;
    ``last_moved_s``: when the last move of ours ended; ``in_flight``: target of a move not yet verified (its job is
    pinned to it); ``pinned_reason``: non-empty = never move again in this run ("missed two graces", "resuming lost
    progress", operator pin); ``service_gpu_s``: GPU-seconds attained; ``gpu_h_used``: for max_gpu_h;
    ``wait_since_s``: since when it holds nothing; ``restoring``: it is between a requeue and its first report.
    """

    job_id: JobId
    first_submit_s: float
    moves: int = 0
    restarts: int = 0
    last_moved_s: float | None = None
    run_started_s: float | None = None
    wait_since_s: float | None = None
    in_flight: Shape | None = None
    in_flight_nodes: tuple[tuple[str, int], ...] = ()
    restoring: bool = False
    pinned_reason: str = ""
    missed_graces: int = 0
    service_gpu_s: float = 0.0
    gpu_h_used: float = 0.0
    batch: BatchChoice | None = None
    requested: Shape | None = None
    """What the user submitted, before any edit of ours; ``None`` = as Slurm's request says."""
    script_proven: bool = False
    """Its owner rehearsed the script, as its start report says (``slurmsia rehearse``)."""
    submitted: Request | None = None
    """The request as the user submitted it, before any edit of ours: tasks, CPUs and memory per GPU come from it."""
    submitted_time_limit_s: float | None = None
    ran_s: float = 0.0
    """Seconds run so far over all runs, the current one excluded (for ``time=total``)."""
    user_begin_s: float | None = None
    """A begin time the user asked for, as opposed to a lease of ours."""
