"""The write-ahead log of moves, kept in the store: every phase is durable before the call that it names is made.

The whole move travels with each event, so a successor re-derives it from its last event and a fresh read of Slurm.
"""

from __future__ import annotations

from collections.abc import Sequence

from slurmsia.moves import act
from slurmsia.moves.move import Move
from slurmsia.store import Fenced, MoveEvent, MoveRecord, Store, StoreError, codec


class StoreLogAway(act.LogAway, StoreError):
    """The store that keeps the log of moves is away."""


class StoreMoveLog:
    """`slurmsia.moves.act.MoveLog` over the store.

    Raises `StoreLogAway` when the store is away: then nothing may be done.
    """

    def __init__(self, store: Store, round_id: int | None = None) -> None:
        self._store = store
        self._written: dict[str, tuple[int, Move]] = {}
        self.round_id = round_id

    def save(self, move: Move) -> None:
        seq, before = self._written.get(move.cause, (0, None))
        if before == move:
            return
        body = codec.to_json(Move, move).decode()
        try:
            if seq == 0:
                self._store.record_move_intent(
                    MoveRecord(
                        move_id=move.cause,
                        job_id=move.job_id,
                        state=move.phase.value,
                        target=_target(move),
                        cause=move.cause,
                        generation=move.generation,
                        created_s=move.planned_s,
                        round_id=self.round_id,
                    )
                )
            self._store.record_move_event(
                MoveEvent(
                    move_id=move.cause,
                    seq=seq + 1,
                    t_s=max(move.phase_s, move.planned_s),
                    event=move.phase.value,
                    from_state=before.phase.value if before is not None else "",
                    to_state=move.phase.value,
                    generation=move.generation,
                    cause=move.cause,
                    detail=body,
                    ends=move.phase.final,
                )
            )
        except Fenced as error:
            raise act.Fenced(str(error)) from error
        except StoreError as error:
            raise StoreLogAway(str(error)) from error
        if move.phase.final:
            self._written.pop(move.cause, None)
        else:
            self._written[move.cause] = (seq + 1, move)

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


def _target(move: Move) -> dict[str, object]:
    shape = move.target
    return {
        "kind": move.kind.value,
        "shape": None if shape is None else {"gpu_type": shape.gpu_type, "nodes": shape.nodes, "gpus": shape.gpus},
        "nodes": [list(entry) for entry in move.gpus_by_node],
    }
