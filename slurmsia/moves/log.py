"""The write-ahead log of moves: what an actor asks of it, and one in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .move import Move


class Fenced(Exception):
    """A newer leader exists: stop acting at once."""


class LogAway(Exception):
    """The log of moves cannot be written or read now: nothing may be done, for any job."""


class MoveLog(Protocol):
    """The write-ahead log of moves. `begin` and `save` return only when the moves are durable."""

    def begin(self, moves: Sequence[Move]) -> Sequence[Move]:
        """Remember a round's new moves and return those that are; the others must not begin. Raises as `save`."""
        ...

    def save(self, move: Move) -> None:
        """Remember the move in its present phase, final phases too.

        Raises `Fenced` when a newer leader exists, `LogAway` when nothing can be remembered now.
        """
        ...

    def unfinished(self) -> Sequence[Move]:
        """Moves that are not in a final phase, as last saved."""
        ...


class MemoryMoveLog:
    """A move log in memory, for the simulator and for tests of crashes."""

    def __init__(self) -> None:
        self.moves: dict[str, Move] = {}
        self.writes = 0

    def begin(self, moves: Sequence[Move]) -> Sequence[Move]:
        for move in moves:
            self.save(move)
        return moves

    def save(self, move: Move) -> None:
        self.writes += 1
        if move.phase.final:
            self.moves.pop(move.cause, None)
        else:
            self.moves[move.cause] = move

    def unfinished(self) -> Sequence[Move]:
        return tuple(self.moves.values())
