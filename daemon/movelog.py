"""The write-ahead log of moves, kept in the store: every phase is durable before the call that it names is made.

The whole move travels with each event, so a successor re-derives it from its last event and a fresh read of Slurm.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from slurmsia.moves import log
from slurmsia.moves.move import Move
from slurmsia.store import Fenced, MoveEvent, MoveRecord, Store, StoreConflict, StoreError, codec

_log = logging.getLogger("slurmsia.moves")


class StoreLogAway(log.LogAway, StoreError):
    """The store that keeps the log of moves is away."""


class StoreMoveLog:
    """`slurmsia.moves.act.MoveLog` over the store.

    Raises `StoreLogAway` when the store is away: then nothing may be done.
    """

    def __init__(self, store: Store, round_id: int | None = None) -> None:
        self._store = store
        self._written: dict[str, tuple[int, Move]] = {}
        self.round_id = round_id

    def begin(self, moves: Sequence[Move]) -> Sequence[Move]:
        new = [move for move in moves if move.cause not in self._written]
        if not new:
            return moves
        try:
            with _as_log():
                self._store.record_moves([(self._intent(move), _event(move, 0, None)) for move in new])
        except StoreLogAway as error:
            if not _contradicted(error):
                raise
            return [move for move in moves if self._begins_alone(move)]
        self._written.update({move.cause: (1, move) for move in new})
        return moves

    def _begins_alone(self, move: Move) -> bool:
        """One move that contradicts what is stored costs that move alone."""
        try:
            self.save(move)
        except StoreLogAway as error:
            if not _contradicted(error):
                raise
            _log.error("job %s: its move does not begin: %s", move.job_id, error, extra={"job": move.job_id})
            return False
        return True

    def save(self, move: Move) -> None:
        seq, before = self._written.get(move.cause, (0, None))
        if before == move:
            return
        with _as_log():
            if seq == 0:
                self._store.record_moves([(self._intent(move), _event(move, seq, before))])
            else:
                self._store.record_move_event(_event(move, seq, before))
        if move.phase.final:
            self._written.pop(move.cause, None)
        else:
            self._written[move.cause] = (seq + 1, move)

    def _intent(self, move: Move) -> MoveRecord:
        return MoveRecord(
            move_id=move.cause,
            job_id=move.job_id,
            state=move.phase.value,
            target=_target(move),
            cause=move.cause,
            generation=move.generation,
            created_s=move.planned_s,
            round_id=self.round_id,
        )

    def unfinished(self) -> Sequence[Move]:
        records = self._store.unfinished_moves()
        events = self._store.move_events([record.move_id for record in records])
        moves = []
        for record in records:
            happened = events.get(record.move_id, ())
            if not happened:
                continue
            last = happened[-1]
            move = codec.from_json(Move, last.detail.encode())
            self._written[move.cause] = (last.seq, move)
            moves.append(move)
        return moves


@contextmanager
def _as_log() -> Iterator[None]:
    """What the store raises, as the actor knows it."""
    try:
        yield
    except Fenced as error:
        raise log.Fenced(str(error)) from error
    except StoreError as error:
        raise StoreLogAway(str(error)) from error


def _contradicted(error: StoreLogAway) -> bool:
    """Whether the store is there and refused a row for what it holds already."""
    return isinstance(error.__cause__, StoreConflict)


def _event(move: Move, seq: int, before: Move | None) -> MoveEvent:
    """The transition to the phase in which ``move`` is; ``seq`` counts those written before."""
    return MoveEvent(
        move_id=move.cause,
        seq=seq + 1,
        t_s=max(move.phase_s, move.planned_s),
        event=move.phase.value,
        from_state=before.phase.value if before is not None else "",
        to_state=move.phase.value,
        generation=move.generation,
        cause=move.cause,
        detail=codec.to_text(Move, move),
        ends=move.phase.final,
    )


def _target(move: Move) -> dict[str, object]:
    shape = move.target
    return {
        "kind": move.kind.value,
        "shape": None if shape is None else {"gpu_type": shape.gpu_type, "nodes": shape.nodes, "gpus": shape.gpus},
        "nodes": [list(entry) for entry in move.gpus_by_node],
    }
