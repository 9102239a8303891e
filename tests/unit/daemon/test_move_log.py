"""The log of moves in the store: a round's moves are written together, and one that cannot be costs itself alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from slurmsia_daemon.movelog import StoreLogAway, StoreMoveLog

from slurmsia.cluster import Job, JobState, Request, Shape, Snapshot
from slurmsia.moves.log import Fenced
from slurmsia.moves.move import Move, MoveKind, Phase
from slurmsia.reshape import Reshape
from slurmsia.store import Store


def _job(job_id: str) -> Job:
    return Job(
        id=job_id, user_id=1000, name="train", state=JobState.PENDING, request=Request(gpus=1), submit_s=100.0,
        comment="sia: gpus=1-4",
    )  # fmt: skip


def _move(job_id: str, cause: str = "r1", generation: int = 1) -> Move:
    return Move(
        job_id=job_id, kind=MoveKind.START, cause=f"{cause}/{job_id}", planned_s=200.0, run=0, generation=generation,
        user_id=1000, phase_s=200.0, edit=Reshape(Shape("t4", 1, 2), tasks=1, cpus=2),
    )  # fmt: skip


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open("sqlite://", "here") as opened:
        assert opened.acquire_lease("one", 60.0, now_s=100.0) == 1
        opened.see_jobs(Snapshot(150.0, (), tuple(_job(str(number)) for number in range(5)), ()))
        yield opened


def _phases(store: Store) -> dict[str, Phase]:
    return {move.job_id: move.phase for move in StoreMoveLog(store).unfinished()}


def test_a_rounds_moves_are_found_again_and_go_on_from_there(store: Store) -> None:
    log = StoreMoveLog(store, round_id=None)
    moves = [_move("1"), _move("2")]
    assert log.begin(moves) == moves
    log.save(replace(moves[0], phase=Phase.EDITED, phase_s=201.0))
    assert _phases(store) == {"1": Phase.EDITED, "2": Phase.PLANNED}
    log.save(replace(moves[0], phase=Phase.RUNNING, phase_s=202.0))
    assert [event.seq for event in store.move_events(["r1/1"])["r1/1"]] == [1, 2, 3]


def test_beginning_again_what_has_begun_changes_nothing(store: Store) -> None:
    log = StoreMoveLog(store)
    for _ in range(2):
        assert len(log.begin([_move("1"), _move("2")])) == 2
    assert [len(events) for events in store.move_events(["r1/1", "r1/2"]).values()] == [1, 1]
    assert log.begin([]) == []


def test_a_move_that_contradicts_the_store_does_not_begin_and_the_others_do(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    StoreMoveLog(store).begin([_move("2", "before")])
    new = [_move("1"), _move("2"), _move("never seen"), _move("3")]
    with caplog.at_level(logging.ERROR):
        begun = StoreMoveLog(store).begin(new)
    assert [move.job_id for move in begun] == ["1", "3"]
    assert sorted(move.move_id for move in store.unfinished_moves()) == ["before/2", "r1/1", "r1/3"]
    said = [record.getMessage() for record in caplog.records]
    assert any("job 2: its move does not begin: job 2: move before/2 is not finished" in line for line in said)
    assert any("job never seen: its move does not begin" in line for line in said)


def test_no_move_of_an_older_leader_begins(store: Store) -> None:
    assert store.acquire_lease("two", 60.0, now_s=1e6) == 2
    with pytest.raises(Fenced):
        StoreMoveLog(store).begin([_move("1"), _move("2")])
    assert store.unfinished_moves() == ()


def test_with_the_store_away_none_begins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import exc

    from slurmsia.store import intents
    from slurmsia.store.errors import translated

    def torn(*_: object) -> None:
        raise translated(exc.OperationalError("insert", {}, Exception("disk I/O error")), "here")

    monkeypatch.setattr(intents, "record_events", torn)  # after the intents were written, in the same transaction
    with pytest.raises(StoreLogAway):
        StoreMoveLog(store).begin([_move("1"), _move("2")])
    monkeypatch.undo()
    assert store.unfinished_moves() == ()
