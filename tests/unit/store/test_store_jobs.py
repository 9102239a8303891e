"""Jobs and runs in the store: identity across requeues and reused ids, runs opened and closed."""

from __future__ import annotations

from store_values import CONTEXT, job, report, snapshot

from slurmsia.cluster import JobState, Request
from slurmsia.store import ReportContext, Store


def test_a_requeue_keeps_the_job_and_closes_its_run(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.see_jobs(snapshot(job(state=JobState.PENDING, submit_s=300.0, restarts=1), taken_s=310.0))
    store.see_jobs(snapshot(job(submit_s=300.0, restarts=1), taken_s=400.0))
    (known,) = store.jobs_named("1")
    assert known.first_submit_s == 100.0
    assert [(run.restart, run.started_s, run.ended_s, run.how_ended) for run in known.runs] == [
        (0, 110.0, 300.0, "requeued"),
        (1, 310.0, None, ""),
    ]
    assert known.runs[1].node_names == ("n1", "n2")


def test_a_requeue_seen_while_its_old_run_was_still_dying_keeps_the_job(store: Store) -> None:
    """Slurm raises the restart count at once and moves the submit time when nothing of the run is left (26.05)."""
    store.see_jobs(snapshot(job()))
    store.ingest([(report(0), CONTEXT)])
    store.see_jobs(snapshot(job(state=JobState.PENDING, completing=True, restarts=1), taken_s=300.0))
    store.see_jobs(snapshot(job(state=JobState.PENDING, submit_s=305.0, restarts=1), taken_s=310.0))
    store.see_jobs(snapshot(job(submit_s=305.0, restarts=1, start_s=320.0), taken_s=400.0))
    (known,) = store.jobs_named("1")
    assert (known.first_submit_s, known.restarts, known.state) == (100.0, 1, "running")
    assert [(run.restart, run.how_ended) for run in known.runs] == [(0, "requeued"), (1, "")]
    assert store.history(["1"])["1"].observations


def test_the_last_report_of_a_run_read_after_its_requeue_keeps_the_job(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    requeued = job(state=JobState.PENDING, submit_s=305.0, restarts=1)
    store.ingest([(report(0), ReportContext.of(requeued))])
    store.see_jobs(snapshot(requeued, taken_s=310.0))
    (known,) = store.jobs_named("1")
    assert (known.first_submit_s, known.restarts) == (100.0, 1)
    assert [(run.restart, run.how_ended) for run in known.runs] == [(0, "requeued")]
    assert store.history(["1"])["1"].observations


def test_an_ended_jobs_id_with_a_later_submit_time_and_no_further_restart_is_another_job(store: Store) -> None:
    store.see_jobs(snapshot(job(restarts=1)))
    store.see_jobs(snapshot(taken_s=500.0))
    store.see_jobs(snapshot(job(restarts=1, submit_s=9000.0), taken_s=9100.0))
    assert [known.first_submit_s for known in store.jobs_named("1")] == [9000.0, 100.0]


def test_a_reused_id_is_another_job(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.ingest([(report(0), CONTEXT)])
    store.see_jobs(snapshot(job(submit_s=9000.0, user_id=8), taken_s=9100.0))
    new, old = store.jobs_named("1")
    assert (new.user_id, new.current, old.current, old.state) == (8, True, False, "ended")
    assert store.history(["1"])["1"].observations == ()


def test_the_same_users_next_job_under_a_reused_id_is_another_job(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.see_jobs(snapshot(job(submit_s=9000.0), taken_s=9100.0))
    assert [known.first_submit_s for known in store.jobs_named("1")] == [9000.0, 100.0]


def test_a_job_that_slurm_forgot_has_ended(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    store.see_jobs(snapshot(taken_s=500.0))
    (known,) = store.jobs_named("1")
    assert (known.state, known.ended_s, known.end_state) == ("ended", 500.0, "unknown")
    assert known.runs[0].how_ended == "unknown"


def test_a_job_that_reappears_is_open_again(store: Store) -> None:
    for shown in (snapshot(job()), snapshot(taken_s=500.0), snapshot(job(), taken_s=560.0)):
        store.see_jobs(shown)
    (known,) = store.jobs_named("1")
    assert (known.state, known.ended_s, known.runs[0].ended_s) == ("running", None, None)


def test_a_run_that_nobody_saw_is_recorded_from_its_end(store: Store) -> None:
    store.see_jobs(snapshot(job(state=JobState.PENDING)))
    done = job(state=JobState.ENDED, start_s=120.0, end_s=180.0, end_state="FAILED")
    store.see_jobs(snapshot(done))
    (run,) = store.jobs_named("1")[0].runs
    assert (run.started_s, run.ended_s, run.how_ended) == (120.0, 180.0, "FAILED")


def test_an_ended_run_keeps_the_gpus_it_was_seen_to_hold(store: Store) -> None:
    store.see_jobs(snapshot(job()))
    done = job(state=JobState.ENDED, start_s=110.0, end_s=180.0, end_state="COMPLETED")
    store.see_jobs(snapshot(done))
    (run,) = store.jobs_named("1")[0].runs
    assert (run.gpus, run.nodes, run.how_ended) == (8, 2, "COMPLETED")


def test_cpu_jobs_without_our_words_are_not_kept(store: Store) -> None:
    store.see_jobs(snapshot(job(state=JobState.PENDING, request=Request(gpus=0), comment="")))
    assert store.jobs_named("1") == ()


def test_an_unchanged_snapshot_writes_nothing(store: Store) -> None:
    assert store.see_jobs(snapshot(job())) == 1
    assert store.see_jobs(snapshot(job(), taken_s=260.0)) == 0


def test_words_that_are_no_unicode_do_not_keep_a_round_from_the_store(store: Store) -> None:
    odd = "na\0me \udcff"
    store.see_jobs(snapshot(job(name=odd, comment=f"sia: {odd}", script_hash=odd)))
    assert store.jobs_named("1")[0].name == "name ?"


def test_a_job_with_impossible_numbers_is_passed_over_alone(store: Store) -> None:
    store.see_jobs(snapshot(job("1", user_id=-1), job("2")))
    assert (len(store.jobs_named("1")), len(store.jobs_named("2"))) == (0, 1)
