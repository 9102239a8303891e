"""Properties of the store: canonical bodies round-trip to the byte, and ingest counts every report once."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmsia.cluster import Job, JobState, Request, Snapshot
from slurmsia.history import Gradient, JobKind, Observation, Progress, Report, SimilarHistory
from slurmsia.models.base import JobModel, ThroughputParams, TypeModel
from slurmsia.plan import Plan, Verdict
from slurmsia.standing import Standing
from slurmsia.store import ReportContext, RoundRecord, Store, codec

_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    float: st.floats(allow_nan=False),
    int: st.integers(-(2**40), 2**40),
    bool: st.booleans(),
    str: st.text(max_size=8),
}


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type, from its annotations alone: a new field is tested without a change here."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind is type(None):
        return st.none()
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return st.one_of(*(_values(member) for member in inner))
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(_values(inner[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(_values(member) for member in inner))
    if origin is frozenset:
        return st.frozensets(_values(inner[0]), max_size=2)
    if origin is Mapping:
        return st.dictionaries(_values(inner[0]), _values(inner[1]), max_size=2)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: _values(hints[field.name]) for field in fields(kind) if field.compare})


def _round_trips(kind: Any, value: Any) -> None:
    body = codec.to_json(kind, value)
    again = codec.from_json(kind, body)
    assert again == value
    assert codec.to_json(kind, again) == body
    assert codec.unpack(kind, codec.pack(kind, value)) == value


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_values(Plan), _values(Standing))
def test_plans_and_standing_round_trip_to_the_byte(plan: Plan, standing: Standing) -> None:
    _round_trips(Plan, plan)
    _round_trips(Standing, standing)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_values(JobModel))
def test_models_round_trip_to_the_byte(model: JobModel) -> None:
    _round_trips(JobModel, model)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_values(Snapshot))
def test_snapshots_round_trip_to_the_byte(snapshot: Snapshot) -> None:
    _round_trips(Snapshot, snapshot)


def _report(job: int, restart: int, seq: int) -> Report:
    step = Observation("a100", 1, 1, 32.0, 0, float(2**seq), 1.0, 1.0)
    t_s = 200.0 + 100 * restart + seq
    return Report(
        str(job), restart, seq, t_s, "progress", (step,), Gradient(t_s, 1.0, 2.0, 1.0), Progress(t_s, 10.0 * (seq + 1))
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 5)), max_size=12),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_no_report_counts_twice_and_every_accepted_one_counts(batches: list[list[tuple[int, int, int]]]) -> None:
    context = ReportContext(user_id=7, submit_s=100.0, script_hash="abc")
    sums = {"1": 0.0, "2": 0.0}
    highest: dict[tuple[int, int], int] = {}
    accepted = 0
    with Store.open("sqlite://") as store:
        for batch in batches:
            expected = 0
            for job, restart, seq in sorted(set(batch)):
                if seq > highest.get((job, restart), -1):
                    highest[(job, restart)] = seq
                    sums[str(job)] += 2.0**seq
                    expected += 1
            result = store.ingest([(_report(*key), context) for key in batch])
            accepted += expected
            assert (result.accepted, result.duplicates, result.rejected) == (expected, len(batch) - expected, ())
        known = store.history(["1", "2"])
        for job_id, total in sums.items():
            seen = known[job_id].observations if job_id in known else ()
            assert sum(observation.count for observation in seen) == total
        similar = _pooled(store)
        assert sum(kind.count for kind in similar.observations) == sum(sums.values())
        assert sum(cell.count for cell in similar.noise) == accepted


def _pooled(store: Store) -> SimilarHistory:
    return store.similar(JobKind(7, "abc")) or SimilarHistory("user+script", 0, ())


_ROUNDS = st.lists(
    st.dictionaries(
        st.sampled_from("1234"),
        st.tuples(st.sampled_from(["waits", "moves"]), st.sampled_from(["goodput", "cost"]), st.sampled_from("abc")),
        max_size=4,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_ROUNDS)
def test_a_store_that_remembers_its_last_round_writes_what_a_fresh_one_writes(rounds: list[dict[str, Any]]) -> None:
    """Verdicts that stay, change, vanish and come back; jobs and what is known of them likewise."""
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{folder}/{name}.db" for name in ("one", "fresh")]
        with Store.open(urls[0], "here", auto_upgrade=True) as one:
            for number, said in enumerate(rounds):
                record = _said(200.0 + 60.0 * number, said)
                one.save_round(record)
                with Store.open(urls[1], "here", auto_upgrade=True) as fresh:
                    fresh.save_round(record)
            with Store.open(urls[1], "here") as fresh:
                heads = one.rounds_between()
                assert [one.round(head.id) for head in heads] == [fresh.round(head.id) for head in heads]
                for job_id in "1234":
                    assert one.verdicts_of(job_id) == fresh.verdicts_of(job_id)
                assert one.standing() == fresh.standing()


def _said(taken_s: float, said: Mapping[str, tuple[str, str, str]]) -> RoundRecord:
    jobs = tuple(
        Job(job_id, 7, JobState.PENDING, 100.0, words, request=Request(gpus=1), comment="sia: gpus=1-8")
        for job_id, (_, _, words) in said.items()
    )
    verdicts = tuple(Verdict(job_id, code, words, term) for job_id, (code, term, words) in said.items())
    params = ThroughputParams(0.1, 0.01, 0.02, 1e-8, 0.01, 1e-8, 1.7)
    models = {
        job_id: JobModel(job_id, {"t4": TypeModel("t4", params, code, 0.1)}) for job_id, (code, _, _) in said.items()
    }
    return RoundRecord(
        taken_s=taken_s, mode="observe", snapshot=Snapshot(taken_s, (), jobs, ()),
        plan=Plan((), verdicts, "sia", 1.0, 1.0, 0.0, "core", "Nothing moved."), models=models, config_text="{}",
        standing={job_id: Standing(job_id, 100.0, moves=len(words)) for job_id, (_, _, words) in said.items()},
        times_s={},
    )  # fmt: skip
