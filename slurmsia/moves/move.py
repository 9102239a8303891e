"""The values of one move: its phases, events, actions and limits. What they mean to each other is in `moves`.

Frozen, comparable, easy to store. There is deliberately no action that holds or cancels a job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..cluster import JobId, Shape
from ..reshape import Reshape


class MoveKind(str, Enum):
    """What a move is for."""

    START = "start"
    """A waiting job gets its shape and starts."""
    MOVE = "move"
    """A running job changes type, size or nodes."""
    SUSPEND = "suspend"
    """A running job gives up its GPUs and waits on a lease."""
    SHRINK = "shrink"
    """A running job gives back whole nodes without a restart."""


class Phase(str, Enum):
    """Where a move is. A phase is written to the log before the call that it names is made."""

    PLANNED = "planned"
    WARNED = "warned"
    REQUEUED = "requeued"
    EDITED = "edited"
    RUNNING = "running"
    """The allocation is the planned one; waiting for the job's first report."""
    RETURNING = "returning"
    """On the way back to the former shape, or letting go of a job that somebody else changed."""
    VERIFIED = "verified"
    ABORTED = "aborted"
    RESTORED = "restored"

    @property
    def final(self) -> bool:
        return self in (Phase.VERIFIED, Phase.ABORTED, Phase.RESTORED)


class ActionKind(str, Enum):
    """Everything slurmsia can do to a job. Holding and cancelling are not in the vocabulary."""

    SIGNAL = "signal"
    ASK_CHECKPOINT = "ask-checkpoint"
    CARRY_ON = "carry-on"
    REQUEUE = "requeue"
    RESHAPE = "reshape"
    LEASE = "lease"
    END_LEASE = "end-lease"
    CLEAR_PINS = "clear-pins"
    END_LAUNCH_HOLD = "end-launch-hold"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True)
class Action:
    """One call to make, and the id of the move that caused it."""

    kind: ActionKind
    job_id: JobId
    cause: str
    edit: Reshape | None = None
    begin_s: float | None = None
    signal: str = ""
    deadline_s: float | None = None
    keep_nodes: tuple[str, ...] = ()
    why: str = ""


class Return(str, Enum):
    """What a move in phase RETURNING still has to do."""

    NOTHING = ""
    FORMER_SHAPE = "former-shape"
    """Write the former shape again."""
    RELEASE = "release"
    """The former shape is still written: make the job eligible now."""
    CLEAR_PINS = "clear-pins"
    """Somebody else took over: only our node list must go."""
    REQUEUE = "requeue"
    """Our signal killed it: put it back into the queue, then go on as its request asks for."""


@dataclass(frozen=True, slots=True)
class Move:
    """One move in flight, or finished. ``cause`` is the id that every log line and action of it carries.

    ``run``: the job's restart count when planned; ``edit``: the whole shape to write (``None`` for SUSPEND and SHRINK);
    ``former``: the edit that writes the old shape again; ``former_shape``: what it held or asked for; ``signal`` empty
    = no warning; ``grace_s`` from the signal; ``unsure``: the answer of the last signal was lost; ``landed``: Slurm was
    seen with our edit; ``checkpoint_samples``: progress that must not be lost; ``expects_reports``: the job reports.
    """

    job_id: JobId
    kind: MoveKind
    cause: str
    planned_s: float
    run: int
    generation: int = 0
    user_id: int = 0
    phase: Phase = Phase.PLANNED
    phase_s: float = 0.0
    edit: Reshape | None = None
    former: Reshape | None = None
    former_shape: Shape | None = None
    gpus_by_node: tuple[tuple[str, int], ...] = ()
    from_nodes: tuple[str, ...] = ()
    pin: bool = False
    signal: str = ""
    grace_s: float = 0.0
    checkpoint_bytes: float = 0.0
    checkpoint_samples: float | None = None
    expects_reports: bool = False
    priority: float = 0.0
    attempts: int = 0
    tried_s: float = float("-inf")
    mends: int = 0
    landed: bool = False
    unsure: bool = False
    returning: Return = Return.NOTHING
    outcome: str = ""
    missed_grace: bool = False
    pinned_reason: str = ""
    lost_progress: bool = False
    asks: bool = False
    """The job reads directives: it is asked for a checkpoint by one, beside the signal or instead of it."""

    @property
    def warns(self) -> bool:
        """Whether the job is asked for a checkpoint before it is requeued."""
        return self.asks or bool(self.signal)

    @property
    def target(self) -> Shape | None:
        return None if self.edit is None else self.edit.shape

    @property
    def holds_room(self) -> bool:
        """Whether GPUs of its target must be kept for it although nothing runs there yet."""
        return self.phase is Phase.EDITED and self.kind in (MoveKind.START, MoveKind.MOVE)


class EventKind(str, Enum):
    """What a fresh read says of the job, seen from its move; or what became of a call."""

    OLD_RUN = "old-run"
    """It runs, and it is still the run that was there when the move was planned."""
    NEW_RUN = "new-run"
    """It runs, and this run began after the move was planned."""
    COMPLETING = "completing"
    QUEUED = "queued"
    """Pending, editable."""
    HELD = "held"
    """Held by its user or an administrator."""
    LAUNCH_HOLD = "launch-hold"
    PAUSED = "paused"
    """Suspended in Slurm by somebody."""
    ENDED = "ended"
    GONE = "gone"
    DONE = "done"
    """Slurm took our edit, and the read-back agreed."""
    REFUSED = "refused"
    """Slurm refused our call for good, or ignored our edit."""
    ANSWER_LOST = "answer-lost"
    WITHDRAWN = "withdrawn"
    """The job left management, or the daemon restarted before anything was written."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its kind and the facts of the read behind it.

    ``as_planned``: the allocation is the planned one; ``as_former``: it is the former one; ``edit_there``: the request
    is our edit; ``former_there``: the request is the former one; ``requeued_again``: more restarts than our own;
    ``pinned``: a node list that the former request did not have; ``ran_s``: length of a run that ended; ``room``: Slurm
    could start the target now; ``checkpointed``: reported since our signal; ``reported_samples``: progress of the first
    report of the new run.
    """

    kind: EventKind
    now_s: float
    reason: str = ""
    begin_s: float | None = None
    as_planned: bool = False
    as_former: bool = False
    edit_there: bool = False
    former_there: bool = False
    requeued_again: bool = False
    restarts: int = 0
    pinned: bool = False
    killed_by_signal: bool = False
    ended_s: float | None = None
    ran_s: float | None = None
    end_state: str = ""
    room: bool = True
    checkpointed: bool = False
    reported_samples: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long an edited job may stay pending, in seconds, by the start of Slurm's reason; else ``other_s``."""

    by_reason_s: tuple[tuple[str, float], ...] = (
        ("BadConstraints", 0.0),
        ("ReqNodeNotAvail", 30.0),
        ("PartitionDown", 30.0),
        ("Assoc", 60.0),
        ("QOS", 60.0),
        ("Licenses", 60.0),
        ("Reservation", 60.0),
        ("Priority", 90.0),
        ("Resources", 90.0),
    )
    other_s: float = 120.0

    def for_reason(self, reason: str) -> float:
        for start, seconds in self.by_reason_s:
            if reason.startswith(start):
                return seconds
        return self.other_s


@dataclass(frozen=True, slots=True)
class Limits:
    """Times (seconds) and counts of the move table and of the actor that drives it.

    ``retry_s``: between two tries of a call; ``attempts``: tries of one call; ``mends``: launch-failure holds ended per
    move; ``room_wait_s``: longest wait between requeue and edit for the target to be free; ``plan_age_s``: a plan not
    begun by then is dropped; ``first_report_s``: wait for the first report of the new run; ``same_node_wait_s``: begin
    time of an edit that may land on the nodes just left; ``stillbirth_s``: a moved job that fails sooner failed because
    of the move.
    """

    lease_s: float = 600.0
    renew_before_s: float = 300.0
    retry_s: float = 2.0
    attempts: int = 3
    mends: int = 3
    room_wait_s: float = 60.0
    plan_age_s: float = 180.0
    first_report_s: float = 900.0
    same_node_wait_s: float = 2.0
    stillbirth_s: float = 10.0
    grace_s: float = 60.0
    grace_margin_s: float = 5.0
    progress_slack: float = 0.01
    deadlines: Deadlines = field(default_factory=Deadlines)
    moves_per_round: int = 32
    moves_in_flight: int = 32
    moves_per_user_round: int = 16
    starts_per_round: int = 256
    min_run_s: float = 0.0
    checkpoint_bytes_in_flight: float = float("inf")
    writes_per_tick: int = 20
    shrink_running: bool = False

    @staticmethod
    def instant() -> Limits:
        """No waiting of our own anywhere: for physics without latencies."""
        return Limits(
            retry_s=0.0,
            stillbirth_s=0.0, same_node_wait_s=0.0, grace_margin_s=0.0, moves_per_round=10**6, moves_in_flight=10**6,
            moves_per_user_round=10**6, starts_per_round=10**6, writes_per_tick=10**6, first_report_s=0.0,
        )  # fmt: skip
