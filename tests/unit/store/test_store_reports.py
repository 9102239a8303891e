"""Job reports in the store: each exactly once, none that spoils its batch, sums that pool."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_values import CONTEXT, STEPS, assert_same_noise, changed, full_report, job, noisy_report, report, snapshot

from slurmsia.cluster import JobState
from slurmsia.history import Gradient, JobKind, MemoryPoint, Progress, Report
from slurmsia.sim.pooled import HistoryBook
from slurmsia.store import FitRecord, ReportContext, Store

KIND = JobKind(7, "abc")


def test_a_report_offered_again_counts_once(store: Store) -> None:
    batch = [(report(seq), CONTEXT) for seq in range(5)]
    first, again = store.ingest(batch), store.ingest(batch)
    assert (first.accepted, first.duplicates, again.accepted, again.duplicates) == (5, 0, 0, 5)
    (seen,) = store.history(["1"])["1"].observations
    assert (seen.count, seen.step_sum_s, seen.sync_sum_s) == (50.0, 25.0, 5.0)


def test_a_report_twice_in_one_batch_counts_once(store: Store) -> None:
    result = store.ingest([(report(1), CONTEXT), (report(1), CONTEXT)])
    assert (result.accepted, result.duplicates) == (1, 1)


def test_a_bad_report_is_named_and_the_rest_of_its_batch_is_stored(store: Store) -> None:
    bad = report(2, observations=(changed(STEPS, step_sum_s=float("nan")),))
    foreign = (report(3), ReportContext(user_id=8, submit_s=100.0, script_hash="abc"))
    result = store.ingest([(report(1), CONTEXT), (bad, CONTEXT), foreign])
    assert result.accepted == 1
    assert {refused.seq: refused.why for refused in result.rejected} == {
        2: "step is nan, which is not a finite number of at least 0",
        3: "written by user 8 but the job belongs to user 7",
    }


@pytest.mark.parametrize(
    "bad",
    [
        report(10**30),
        report(1, restart=-1),
        report(1, observations=(changed(STEPS, gpu_type="a\x00100"),)),
        report(1, observations=(changed(STEPS, gpu_type="\udcff"),)),
        report(1, observations=(changed(STEPS, count=1e308),)),
        report(1, observations=(changed(STEPS, gpus=10**20),)),
        report(1, energy_j=float("inf")),
        report(1, memory=MemoryPoint("a100", 0.0, 1.0)),
        report(1, progress=Progress(1.0, -5.0)),
    ],
)
def test_a_hostile_report_is_refused_alone(store: Store, bad: Report) -> None:
    result = store.ingest([(bad, CONTEXT), (report(3), CONTEXT)])
    assert (result.accepted, len(result.rejected)) == (1, 1)


def test_a_report_without_context_waits_for_the_snapshot_that_shows_its_job(store: Store) -> None:
    assert "no such job" in store.ingest([(report(1), None)]).rejected[0].why
    store.see_jobs(snapshot(job()))
    assert store.ingest([(report(1), None)]).accepted == 1


def test_statistics_pool_over_restarts_and_the_version_grows(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.ingest([(report(1), CONTEXT)])
    before = store.history(["1"])["1"]
    store.see_jobs(snapshot(job(submit_s=300.0, restarts=1), taken_s=320.0))
    store.ingest([(report(1, restart=1, t_s=330.0), changed(CONTEXT, submit_s=300.0))])
    after = store.history(["1"])["1"]
    assert [seen.count for seen in after.observations] == [20.0]
    assert after.version > before.version
    assert store.history(["1"])["1"] is after


def test_a_late_report_of_an_earlier_run_is_filed_under_that_run(store: Store) -> None:
    store.see_jobs(snapshot(job(submit_s=300.0, restarts=1), taken_s=320.0))
    assert store.ingest([(report(9, restart=0, t_s=310.0), None)]).accepted == 1
    runs = store.jobs_named("1")[0].runs
    assert [(run.restart, run.ended_s is None) for run in runs] == [(0, False), (1, True)]


def test_everything_a_report_says_comes_back(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.ingest([(full_report(0), CONTEXT), (full_report(1, t_s=190.0), CONTEXT)])
    known = store.history(["1"])["1"]
    assert known.gradient is not None
    assert known.gradient.t_s == 190.0
    assert known.progress is not None
    assert (known.progress.samples, known.progress.target_samples, known.progress.checkpoint_t_s) == (
        2000.0,
        1e6,
        189.0,
    )
    assert [(peak.gpu_type, peak.peak_bytes) for peak in known.memory] == [("a100", 3e10)]
    assert [(cost.save_s, cost.requeue_s, cost.load_s) for cost in known.restarts] == [(6.0, None, 9.0)]
    (run,) = store.jobs_named("1")[0].runs
    assert (run.energy_j, run.net_bytes, run.handles_signal) == (20.0, 2e6, True)
    assert store.signal_handlers(["1", "2"]) == frozenset({"1"})
    assert store.last_reports_s(["1"]) == {"1": 190.0}


def test_similar_prefers_the_same_user_then_the_same_script_then_the_cluster(store: Store) -> None:
    assert store.similar(JobKind(7, "abc")) is None
    store.ingest([(full_report(0), CONTEXT)])
    store.ingest([(full_report(0, "2"), ReportContext(9, 100.0, "abc", "train"))])
    own, script, cluster = (store.similar(kind) for kind in (JobKind(7, "abc"), JobKind(8, "abc"), JobKind(8, "new")))
    assert own is not None
    assert script is not None
    assert cluster is not None
    assert (own.likeness, own.jobs, own.observations[0].count) == ("user+script", 1, 10.0)
    assert (script.likeness, script.jobs, script.observations[0].count) == ("script", 2, 20.0)
    assert (cluster.likeness, cluster.observations, len(cluster.restarts)) == ("cluster", (), 2)


def test_jobs_that_completed_tell_how_much_similar_jobs_do(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.ingest([(full_report(4), CONTEXT)])
    done = job(state=JobState.ENDED, end_s=900.0, end_state="COMPLETED", start_s=110.0)
    store.see_jobs(snapshot(done, taken_s=901.0))
    known = store.similar(JobKind(7, "abc"))
    assert known is not None
    assert known.total_samples == (5000.0,)


def test_the_noise_of_a_kind_is_what_the_simulators_book_says(store: Store) -> None:
    """Same reports into both: two jobs, several batches of reports, restarts, work done again, odd moments."""
    book, everybody = HistoryBook(), HistoryBook()
    offered = [
        *(noisy_report(seq, samples=100.0 * 1.3**seq, variance=1e-4 * (seq + 1)) for seq in range(20)),
        *(noisy_report(seq, samples=900.0 * (seq + 1), restart=1, t_s=900.0 + seq, scale=2.0**seq) for seq in range(6)),
        *(noisy_report(seq, "2", samples=150.0 * (seq + 1)) for seq in range(8)),
        noisy_report(8, "2", samples=0.0),
        noisy_report(9, "2", samples=5000.0, square=0.0),
        noisy_report(10, "2", samples=5000.0, variance=0.0),
        noisy_report(11, "2", samples=5000.0, variance=1e20),
        report(12, "2", progress=Progress(162.0, 6000.0)),
        report(13, "2", gradient=Gradient(163.0, 1e-3, 5e-4, 4.0)),
    ]  # fmt: skip
    strange = [noisy_report(seq, "3", samples=700.0 * (seq + 1), variance=1.0) for seq in range(3)]
    for pooling, job_ids, heard in ((book, "12", offered), (everybody, "123", offered + strange)):
        for job_id in job_ids:
            pooling.enter(job_id, KIND)
        for one in heard:
            pooling.add(one)
    for start in range(0, len(offered), 7):
        store.ingest([(one, CONTEXT) for one in offered[start : start + 7]])
    assert_same_noise(store.similar(KIND), book.similar(KIND))
    store.ingest([(one, changed(CONTEXT, user_id=9)) for one in strange])
    assert_same_noise(store.similar(KIND), book.similar(KIND))
    assert_same_noise(store.similar(JobKind(8, "abc")), everybody.similar(KIND))


def test_noise_that_was_reported_again_counts_once(store: Store) -> None:
    """Offered twice in a batch, again after a restart of the daemon, and beside a bad report."""
    batch = [(noisy_report(seq, samples=1000.0 * (seq + 1)), CONTEXT) for seq in range(5)]
    store.ingest(batch[:3] + batch[1:2])
    before = store.similar(KIND)
    store.ingest(batch[:3])
    assert store.similar(KIND) == before
    bad = noisy_report(9, samples=9000.0, energy_j=float("nan"))
    store.ingest([*batch, (bad, CONTEXT)])
    known = store.similar(KIND)
    assert known is not None
    assert sum(cell.count for cell in known.noise) == 5.0


def test_a_kind_that_reported_no_gradient_has_no_noise(store: Store) -> None:
    store.ingest([(report(0), CONTEXT)])
    known = store.similar(KIND)
    assert known is not None
    assert known.noise == ()


def test_the_latest_gradient_of_a_kind_stays_until_another_is_reported(store: Store) -> None:
    """One statement writes jobs, last report and gradient of all kinds of a batch, with a gradient or without."""
    stranger = changed(CONTEXT, user_id=9, script_hash="def")
    store.ingest([(full_report(0), CONTEXT), (report(0, "2"), stranger)])
    store.ingest([(report(1, t_s=190.0), CONTEXT), (full_report(1, "2", t_s=195.0), stranger)])
    mine, other = (store.similar(kind) for kind in (KIND, JobKind(9, "def")))
    assert mine is not None
    assert other is not None
    assert (mine.jobs, mine.gradient) == (1, Gradient(160.0, 1e-3, 5e-4, 4.0))
    assert (other.jobs, other.gradient) == (1, Gradient(195.0, 1e-3, 5e-4, 4.0))


def test_a_refitted_job_counts_once_in_the_ratios_of_types(store: Store) -> None:
    store.ingest([(report(0), CONTEXT)])

    def fits(a100: float) -> list[FitRecord]:
        return [
            FitRecord("1", gpu_type, {"alpha_c": 0.1}, "fit", 0.1, 5.0, 200.0, speed)
            for gpu_type, speed in (("a100", a100), ("rtx", 4.0))
        ]

    store.save_fits(fits(12.0))
    store.save_fits(fits(8.0))
    known = store.similar(JobKind(1, "unheard"))
    assert known is not None
    assert [(one, other, round(ratio, 9)) for one, other, ratio, _ in known.type_ratios] == [
        ("a100", "rtx", 2.0),
        ("rtx", "a100", 0.5),
    ]
    assert [fit.one_gpu_samples_per_s for fit in store.fits_of(["1"])["1"]] == [8.0, 4.0]


def test_two_stores_ingesting_the_same_file_count_every_report_once(open_store: Callable[[], Store]) -> None:
    one, other = open_store(), open_store()
    results = [door.ingest([(report(seq), CONTEXT) for seq in range(3)]) for door in (one, other)]
    assert [result.accepted for result in results] == [3, 0]
