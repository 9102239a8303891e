"""Rounds in the store: whole or not at all, read back to the byte, verdicts as spans."""

from __future__ import annotations

import pytest
from store_values import changed, job, plan, round_record, snapshot

from slurmsia.cluster import Job, JobState, Snapshot
from slurmsia.models.base import JobModel
from slurmsia.plan import Plan, Verdict
from slurmsia.standing import Standing
from slurmsia.store import Keep, RoundHead, Store, StoreConflict, StoredRound, UndecodableBody, codec


def test_a_round_comes_back_equal_and_its_plan_to_the_byte(store: Store) -> None:
    record = round_record()
    stored = store.round(store.save_round(record))
    assert isinstance(stored, StoredRound)
    assert (stored.snapshot, stored.plan, stored.models, stored.standing) == (
        record.snapshot, record.plan, record.models, record.standing,
    )  # fmt: skip
    assert stored.plan_json == codec.to_json(Plan, record.plan)
    assert stored.head.times_s == {"solve": 0.2}
    assert store.standing() == record.standing


def test_solve_times_are_no_part_of_the_stored_plan() -> None:
    slow = changed(plan(), stats=changed(plan().stats, times_s={"solve": 9.0}))
    assert codec.to_json(Plan, slow) == codec.to_json(Plan, plan())


def test_a_round_saved_again_is_the_same_round(store: Store) -> None:
    assert store.save_round(round_record()) == store.save_round(round_record())
    assert len(store.rounds_between()) == 1
    assert store.verdicts_of("1")[0].rounds == 1


def test_a_verdict_that_stays_is_one_span_with_its_latest_sentence(store: Store) -> None:
    for index, (code, words) in enumerate((("waits", "1 min"), ("waits", "2 min"), ("moves", "now"))):
        store.save_round(round_record(200.0 + 60 * index, Verdict("1", code, words)))
    newest, oldest = store.verdicts_of("1")
    assert (newest.verdict.code, newest.rounds, newest.first_s) == ("moves", 1, 320.0)
    assert (oldest.verdict.sentence, oldest.rounds, oldest.first_s, oldest.last_s) == ("2 min", 2, 200.0, 260.0)


def test_a_round_that_the_database_refuses_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(StoreConflict):
        store.save_round(changed(round_record(), taken_s=-1.0))
    assert store.rounds_between() == ()
    assert store.jobs_named("1") == ()
    assert store.save_round(round_record()) > 0


def test_a_policy_without_a_finite_bound_is_stored_all_the_same(store: Store) -> None:
    record = round_record(plan=changed(plan(), bound=float("inf"), gap=float("inf")))
    stored = store.round(store.save_round(record))
    assert isinstance(stored, StoredRound)
    assert (stored.head.bound, stored.head.gap, stored.plan.bound) == (None, None, float("inf"))


def test_rounds_between_lists_newest_first_within_the_bounds(store: Store) -> None:
    for taken_s in (100.0, 160.0, 220.0, 280.0):
        store.save_round(round_record(taken_s))
    assert [head.taken_s for head in store.rounds_between(160.0, 280.0)] == [220.0, 160.0]
    assert [head.taken_s for head in store.rounds_between(limit=1)] == [280.0]


def test_an_unknown_round_is_none_and_a_pruned_one_keeps_its_head(store: Store) -> None:
    assert store.round(99) is None
    round_id = store.save_round(round_record())
    store.prune({"round_bodies": Keep(max_age_s=0)}, now_s=1e6)
    head = store.round(round_id)
    assert isinstance(head, RoundHead)
    assert not head.bodies


def test_standing_is_replaced_and_unknown_jobs_are_passed_over(store: Store) -> None:
    store.see_jobs(snapshot(job(), job("2", JobState.PENDING)))
    store.save_standing([Standing("1", 100.0), Standing("404", 1.0)], 200.0)
    store.save_standing([Standing("1", 100.0, moves=3)], 260.0)
    assert store.standing() == {"1": Standing("1", 100.0, moves=3)}
    assert store.standing(["2", "404"]) == {}


@pytest.mark.parametrize("comment", ["half a pair \udc80", "ünïcode \u2028 \0", '"quoted" \\ back'])
def test_whatever_a_user_wrote_comes_back_as_it_was(comment: str) -> None:
    odd = snapshot(job("1", comment=comment, user_id=2**70))
    assert codec.unpack(Snapshot, codec.pack(Snapshot, odd)) == odd


@pytest.mark.parametrize("words", ["plain", "half a pair \udc80"])
def test_a_body_put_together_from_known_texts_is_the_whole_value(words: str) -> None:
    whole = changed(plan(sentence=words), policy="ünïcode")
    verdicts = codec.sequence_text(codec.to_text(Verdict, verdict) for verdict in whole.verdicts)
    assert codec.from_json(Plan, codec.with_texts(Plan, whole, {"verdicts": verdicts})) == whole


def test_a_kept_text_is_that_of_the_value_as_it_is_now() -> None:
    kept = codec.Kept()
    first, same, other = job("1", comment="a"), job("1", comment="a"), job("1", comment="b")
    for value in (first, first, same, other, other, first):
        assert kept.text(Job, value.id, value) == codec.to_text(Job, value)
        kept.turn()


def test_a_body_of_an_older_version_takes_the_defaults_of_what_it_lacks() -> None:
    old = b'{"job_id":"1","types":{},"a field that was dropped":1}'
    assert codec.from_json(JobModel, old) == JobModel("1")


def test_a_body_of_a_newer_codec_or_torn_bytes_is_an_error_not_a_guess() -> None:
    body = codec.pack(Snapshot, snapshot())
    for broken in (bytes([codec.CODEC_VERSION + 1]) + body[1:], body[:-4], b""):
        with pytest.raises(UndecodableBody):
            codec.unpack(Snapshot, broken)
    with pytest.raises(UndecodableBody, match="lacks"):
        codec.from_json(Plan, b"{}")
