"""One verdict per live job and one sentence per round: what was decided, by which numbers, and what would change it.

Words only: nothing here decides anything. Every sentence is complete for a user who sees nothing but that sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..cluster import NodeState, Snapshot
from ..config import Config
from ..plan import Alternative, Target, TargetKind, Verdict
from .demand import Demand, Row
from .eligibility import BETWEEN_ROUNDS, Managed, Queue
from .settle import Settled

#: Configurations named beside the chosen one.
_ALTERNATIVES = 3
#: Values closer than this are a tie.
_TIE = 1e-9
#: Instead of a rate, where nothing at all was measured: models then assume one step a second, which says nothing.
_NOT_YET = "speed not yet known"
#: A wait that counts a starting job so many times is named as the reason.
_LONG_WAIT = 1.5
#: Term, and what would change it, of a job that waits for the next round.
_ROOM = ("capacity", "GPUs becoming free")


def verdicts_of(
    queue: Queue,
    demand: Demand,
    asked: NDArray[np.int64],
    value: NDArray[np.float64],
    settled: Settled,
    targets: tuple[Target, ...],
    config: Config,
    why: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[Verdict, ...]:
    """One verdict for every live job, sorted by job id; ``asked`` is what the solver chose before placement.

    ``why``: parts of the worth by name, [jobs, columns] or [jobs, 1]; a part that decided is named in the sentence.
    """
    again_s = config.policy.round_s
    parts = dict(why or {})
    by_job = {target.job_id: target for target in targets}
    verdicts = [
        Verdict(other.job.id, other.code, other.sentence, term="eligibility", look_again_s=again_s)
        for other in queue.left_alone
    ]
    # The best few columns of every row at once: -inf columns are never named.
    ranked = np.argsort(-value, axis=1, kind="stable")[:, : _ALTERNATIVES + 1] if value.size else value.astype(int)
    for number, row in enumerate(demand.rows):
        if row.managed is not None:
            mine = {name: part[number] for name, part in parts.items()}
            target = by_job[row.job.id]
            speech = _Speech(number, row, row.managed, demand, value, settled, target, int(asked[number]), mine)
            verdicts.append(speech.verdict(ranked[number].tolist(), again_s))
    return tuple(sorted(verdicts, key=lambda verdict: verdict.job_id))


class _Speech:
    """What is said about one managed job."""

    def __init__(
        self,
        number: int,
        row: Row,
        managed: Managed,
        demand: Demand,
        value: NDArray[np.float64],
        settled: Settled,
        target: Target,
        asked: int,
        parts: Mapping[str, NDArray[np.float64]],
    ) -> None:
        self.row, self.managed, self.target = row, managed, target
        self.shapes = demand.problem.shapes
        self.goodput = demand.problem.matrix.goodput[number]
        self.value = value[number]
        self.column = int(settled.choice[number])
        self.dropped = settled.dropped.get(row.job.id, "")
        self.asked = asked
        self.parts = parts
        self.moved = row.job.id in settled.moved
        self.promised = row.job.id in demand.behind_promises
        self.between = demand.between_rounds
        self.known = row.model.known

    def verdict(self, best: list[int], again_s: float) -> Verdict:
        code, sentence, term, would_change = self._said()
        return Verdict(
            job_id=self.row.job.id,
            code=code,
            sentence=sentence,
            term=term,
            alternatives=self._alternatives(best),
            would_change=would_change,
            look_again_s=again_s,
        )

    def _said(self) -> tuple[str, str, str, str]:
        kind, target, managed = self.target.kind, self.target, self.managed
        if managed.stays and managed.stays_code != BETWEEN_ROUNDS:
            shape = f"{target.shape}: " if target.shape is not None else ""
            verb = "is moving to" if managed.stays_code == "moving" else "keeps"
            change = {"young": "a run that is old enough", "restoring": "its first progress report"}
            return (
                managed.stays_code,
                f"{verb} {shape}{managed.stays}",
                "pin",
                change.get(managed.stays_code, "a new run of the job"),
            )
        if kind is TargetKind.KEEP:
            why = f" (wanted {self.shapes[self.asked]}: {self.dropped})" if self._lost() else ""
            return "keeps", f"keeps {target.shape} at {self._rate(target.expected_goodput)}{why}", *self._why_kept()
        if kind is TargetKind.START:
            why = f" (wanted {self.shapes[self.asked]}: {self.dropped})" if self._lost() else ""
            expected = f"expected goodput {_number(target.expected_goodput)} samples/s" if self.known else _NOT_YET
            term = "goodput"
            if "waited" in self.parts and self.parts["waited"][0] >= _LONG_WAIT:
                expected += f"; its wait counts it {self.parts['waited'][0]:.1f} times"
                term = "waited"
            return "starts", f"starts on {target.shape}: {expected}{why}", term, ""
        fits_nothing = kind is TargetKind.LEAVE and target.shape is None and managed.standing.in_flight is None
        if kind is TargetKind.QUEUE or fits_nothing:
            if self.dropped and self.asked >= 0:
                return "waits-for-capacity", f"waits: {self.dropped}", "placement", "GPUs freed on one node"
            if self.promised:
                why = "waits: Slurm promised every node that it could use to jobs that have waited longer"
                return "waits-for-capacity", why, "capacity", "those jobs starting"
            if not np.isfinite(self.value).any() and self.between:
                return "waits-for-capacity", "waits: nothing it may use is free; the next round looks for room", *_ROOM
            if not np.isfinite(self.value).any():
                return "no-configuration", self._no_configuration(), "declaration", "a wider gpus= or types="
            wanted = self.shapes[int(np.argmax(self.value))]
            reason, term = self._behind("the GPUs are worth more to other jobs")
            return (
                "waits-for-capacity",
                f"waits: {reason}; it would best run on {wanted}",
                term,
                f"{wanted.gpus} free {wanted.gpu_type}, or other jobs ending",
            )
        if kind is TargetKind.SUSPEND:
            held = self.shapes[self.row.current]
            if not np.isfinite(self.value[self.row.current]):
                return "budget-spent", f"gives up {held}: its own limits leave no configuration", "budget", ""
            reason, term = self._behind("worth more to others")
            return "gives-way", f"gives up {held} at {self._rate(target.current_goodput)}: {reason}", term, ""
        return self._moves()

    def _behind(self, otherwise: str) -> tuple[str, str]:
        """Why others come first, and the term that says so: jobs with less left where the policy counts them."""
        shorter = int(self.parts["jobs-with-less-left"][0]) if "jobs-with-less-left" in self.parts else 0
        if not shorter:
            return otherwise, "capacity"
        jobs = "1 job that has" if shorter == 1 else f"{shorter} jobs that have"
        return f"{otherwise}, first {jobs} less work left", "short-first"

    def _moves(self) -> tuple[str, str, str, str]:
        target, before = self.target, self.shapes[self.row.current]
        now, then = target.current_goodput, target.expected_goodput
        cost_s = self.row.model.restart.mean_s
        if self.moved:
            nodes = ",".join(name for name, _ in target.gpus_by_node)
            sentence = (
                f"moves to {nodes} with {before}, so that a larger job finds room; costs a restart of {cost_s:.0f} s"
            )
            return "moves", sentence, "placement", ""
        verb = "resizes" if target.kind is TargetKind.RESIZE else "moves"
        rates = f"goodput {_number(now)} -> {_number(then)} samples/s" if self.known else self._assumed(now, then)
        if then > now * (1 + _TIE):
            back_s = cost_s * now / (then - now)
            effect = f"pays back the {cost_s:.0f} s restart in {_duration(back_s)}"
        else:
            effect = f"makes room for other jobs, at a restart of {cost_s:.0f} s"
        return verb, f"{verb} from {before} to {target.shape}: {rates} {effect}", "goodput", ""

    def _why_kept(self) -> tuple[str, str]:
        if self._lost():
            return "placement", "room for its better configuration"
        better = [
            column
            for column in np.flatnonzero(np.isfinite(self.value)).tolist()
            if column != self.column and self.goodput[column] > self.goodput[self.column] * (1 + _TIE)
        ]
        if not better:
            return "goodput", "a faster configuration than any known for it now"
        best = max(better, key=lambda column: float(self.goodput[column]))
        if self.value[best] > self.value[self.column] + _TIE:
            return "capacity", f"{self.shapes[best]} becoming free"
        if self._would_move_for_free(best):
            return "restart-cost", f"a larger gain on {self.shapes[best]} over its restart"
        return "thrift", f"better scaling on {self.shapes[best]}, which gains too little for its GPUs"

    def _would_move_for_free(self, best: int) -> bool:
        """Whether only the restart speaks against a faster configuration; true where the policy has no thrift."""
        if "thrift" not in self.parts:
            return True
        thrift = self.parts["thrift"]
        return bool(self.goodput[best] * thrift[best] > self.goodput[self.column] * thrift[self.column] * (1 + _TIE))

    def _no_configuration(self) -> str:
        declared = self.managed.declaration
        kinds = f" of types {','.join(declared.types)}" if declared.types else ""
        return (
            f"waits: no configuration with {declared.min_gpus}-{declared.max_gpus} GPUs{kinds} fits the nodes, "
            "partitions, limits, CPUs and memory it may use"
        )

    def _alternatives(self, best: list[int]) -> tuple[Alternative, ...]:
        chosen = self.value[self.column] if self.column >= 0 else 0.0
        named: list[Alternative] = []
        for column in best:
            worth = self.value[column]
            if column == self.column or not np.isfinite(worth) or len(named) == _ALTERNATIVES:
                continue
            if self.dropped and column == self.asked:
                why = self.dropped
            elif worth > chosen + _TIE:
                why = "its GPUs are worth more to other jobs"
            elif self.row.current >= 0 and self.goodput[column] > self.goodput[self.row.current]:
                why = "the gain does not earn its restart"
            else:
                why = "worth less"
            goodput = float(self.goodput[column]) if self.known else 0.0
            named.append(Alternative(self.shapes[column], goodput, why))
        return tuple(named)

    def _rate(self, goodput: float) -> str:
        return f"{_number(goodput)} samples/s" if self.known else f"a {_NOT_YET}"

    def _assumed(self, now: float, then: float) -> str:
        """Of a job that was never measured only the ratio means anything: more GPUs, or a type faster for others."""
        return f"{_NOT_YET}, by assumption {_number(then / now)} times as fast," if now > 0 else f"{_NOT_YET},"

    def _lost(self) -> bool:
        return bool(self.dropped) and self.asked >= 0 and self.asked != self.column


def round_sentence(
    snapshot: Snapshot,
    queue: Queue,
    targets: tuple[Target, ...],
    policy: str,
    stage: str,
    gap: float,
    starts_only: bool = False,
) -> str:
    """The round in one sentence: counts of what happens, GPUs used of those there are, and how sure the choice is."""
    counts = {kind: sum(1 for target in targets if target.kind is kind) for kind in TargetKind}
    words = [
        f"{counts[kind]} {word}"
        for kind, word in (
            (TargetKind.KEEP, "keep"),
            (TargetKind.START, "start"),
            (TargetKind.MOVE, "move"),
            (TargetKind.RESIZE, "resize"),
            (TargetKind.SUSPEND, "give way"),
            (TargetKind.QUEUE, "wait"),
            (TargetKind.LEAVE, "are left alone"),
        )
        if counts[kind]
    ]
    neighbours = sum(1 for other in queue.left_alone if not other.declared)
    gpus = sum(node.gpus for node in snapshot.nodes if node.state is not NodeState.UNUSABLE)
    used = sum(target.shape.gpus for target in targets if target.shape is not None and target.gpus_by_node)
    others = f" beside {neighbours} undeclared" if neighbours else ""
    jobs = f"{len(targets)} declared job{'' if len(targets) == 1 else 's'}{others}"
    if starts_only:
        jobs = f"Between two rounds, starts only: {jobs}"
    done = ", ".join(words) or "nothing to decide"
    sure = f", gap {gap:.1e}" if stage in ("core", "greedy", "previous") and gap > 0 else ""
    return f"{jobs}: {done}; {used} of {gpus} GPUs; {policy} ({stage}{sure})."


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
