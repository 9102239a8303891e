"""Moves, leases and operator actions: written once, fenced by generation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_values import CONTEXT, job, report, round_record, snapshot

from slurmsia.store import (
    Fenced,
    MoveEvent,
    MoveRecord,
    OperatorAction,
    Store,
    StoreConflict,
)  # fmt: skip


def intent(generation: int, move_id: str = "m1", job_id: str = "1") -> MoveRecord:
    return MoveRecord(move_id, job_id, "planned", {"shape": ["a100", 1, 4]}, "round 7", generation, 200.0)


def happened(generation: int, seq: int = 1, to_state: str = "requeued", ends: bool = False) -> MoveEvent:
    return MoveEvent(
        "m1", seq, 200.0 + seq, "tick", "planned", to_state, generation, "round 8", "by us", ({"call": "requeue"},),
        ends,
    )  # fmt: skip


@pytest.fixture
def leading(store: Store) -> tuple[Store, int]:
    generation = store.acquire_lease("one", 60.0, now_s=1000.0)
    assert generation is not None
    store.see_jobs(snapshot(job()))
    return store, generation


def test_an_unfinished_move_is_found_again_after_a_restart(
    leading: tuple[Store, int], open_store: Callable[[], Store]
) -> None:
    store, generation = leading
    store.record_move_intent(intent(generation))
    store.record_move_event(happened(generation))
    (found,) = open_store().unfinished_moves()
    assert (found.move_id, found.state, found.target, found.cause) == (
        "m1", "requeued", {"shape": ["a100", 1, 4]}, "round 7",
    )  # fmt: skip
    assert store.move_events(["m1"])["m1"] == (happened(generation),)
    store.record_move_event(happened(generation, 2, "verified", ends=True))
    assert store.unfinished_moves() == ()
    assert [move.ended_s for move in store.moves_of("1")] == [202.0]
    assert store.move_events(["m1"])["m1"][1].ends


def test_repeating_an_intent_or_an_event_changes_nothing(leading: tuple[Store, int]) -> None:
    store, generation = leading
    for _ in range(2):
        store.record_move_intent(intent(generation))
        store.record_move_event(happened(generation))
    assert len(store.unfinished_moves()) == 1
    assert len(store.move_events(["m1"])["m1"]) == 1


def test_a_job_has_one_unfinished_move_at_most(leading: tuple[Store, int]) -> None:
    store, generation = leading
    store.record_move_intent(intent(generation))
    with pytest.raises(StoreConflict, match="move m1 is not finished"):
        store.record_move_intent(intent(generation, "m2"))


def test_no_event_follows_the_end_of_a_move(leading: tuple[Store, int]) -> None:
    store, generation = leading
    store.record_move_intent(intent(generation))
    store.record_move_event(happened(generation, ends=True))
    with pytest.raises(StoreConflict, match="no event may follow"):
        store.record_move_event(happened(generation, 2))


def test_an_older_leader_writes_nothing_any_more(leading: tuple[Store, int], open_store: Callable[[], Store]) -> None:
    old, generation = leading
    old.record_move_intent(intent(generation))
    new = open_store()
    assert new.acquire_lease("two", 60.0, now_s=1030.0) is None
    taken = new.acquire_lease("two", 60.0, now_s=1061.0)
    assert taken == generation + 1
    writes: list[Callable[[], object]] = [
        lambda: old.record_move_event(happened(generation)),
        lambda: old.record_move_intent(intent(generation, "m2")),
        lambda: old.save_round(round_record(generation=generation)),
        lambda: old.ingest([(report(1), CONTEXT)]),
        lambda: old.see_jobs(snapshot()),
        lambda: old.operator_action(OperatorAction(1.0, "root", "pause")),
    ]
    for write in writes:
        with pytest.raises(Fenced, match="no longer leads"):
            write()
    assert not old.renew_lease("one", generation, 60.0, now_s=1062.0)
    new.record_move_event(happened(taken))
    assert new.unfinished_moves()[0].generation == taken
    assert new.history(["1"])["1"].observations == ()


def test_a_released_lease_lets_the_next_daemon_in_at_once(open_store: Callable[[], Store]) -> None:
    one, two = open_store(), open_store()
    held = one.acquire_lease("one", 60.0)
    assert held is not None
    assert two.acquire_lease("two", 60.0) is None
    one.release_lease("one", held)
    assert two.acquire_lease("two", 60.0) == held + 1


def test_renewing_extends_the_lease_by_the_databases_clock(store: Store) -> None:
    generation = store.acquire_lease("one", 60.0)
    assert generation is not None
    before = store.lease()
    assert store.renew_lease("one", generation, 600.0)
    after = store.lease()
    assert before is not None
    assert after is not None
    assert after.expires_s > before.expires_s + 500


def test_operator_actions_are_listed_in_order(store: Store) -> None:
    for t_s, what in ((20.0, "resume"), (10.0, "pause")):
        store.operator_action(OperatorAction(t_s, "root", what, 0, "1", {"why": "test"}))
    assert [(action.what, action.detail) for action in store.operator_actions(0.0, 20.5)] == [
        ("pause", {"why": "test"}), ("resume", {"why": "test"}),
    ]  # fmt: skip
