"""Users cancel, hold, edit and requeue their jobs in the middle of our moves: what they did, stays."""

from __future__ import annotations

import pytest
from judge import Site

pytestmark = [pytest.mark.fear, pytest.mark.slurm("forky", "trixie", "bookworm")]

EVERY_TYPE = {("t4", 1), ("rtx", 1), ("a100", 1)}


def _interfere(site: Site, phase: str, moment: str) -> None:
    """Four moves stop at the same step; alice does another thing to each."""
    ways = {
        "cancel": ["scancel", "{}"],
        "hold": ["scontrol", "hold", "{}"],
        "edit": ["scontrol", "update", "JobId={}", "TimeLimit=50"],
        "requeue": ["scontrol", "requeue", "{}"],
    }
    jobs = {way: site.submit() for way in ways}
    for job in jobs.values():
        site.stop_at(job, phase, moment)
        site.order(job, site.elsewhere(job))
    site.daemon.start(wait=False)
    left = dict(jobs)
    while left:
        way = site.cluster.wait_for(
            lambda: next((way for way, job in left.items() if site.is_stopped(job, phase, moment)), ""),
            60,
            f"one of {left} at {phase}/{moment} ({site.daemon.log()[-1500:]})",
        )
        job = left.pop(way)
        argv = [word.format(job) for word in ways[way]]
        site.cluster.run(argv, user="alice", check=False)
        site.count()
        site.go_on(job, phase, moment)
    site.jobs[jobs["cancel"]].excused_ends = {"CANCELLED"}
    held = site.jobs[jobs["hold"]]
    held.excused_hold = True
    site.all_run(60, f"alice interfered at {phase}/{moment}")
    fields = site.fields(jobs["cancel"])
    if fields.get("JobState") != "CANCELLED":
        site.complain(f"cancelled by alice, and yet {fields.get('JobState')}")
    fields = site.fields(jobs["hold"])
    if fields["JobState"] == "PENDING" and fields["Priority"] != "0":
        site.complain("the hold that alice set was ended")
    site.wait_calm()
    for job in jobs.values():
        site.jobs[job].allowed |= EVERY_TYPE if job == jobs["requeue"] else set()
    site.judge()


@pytest.mark.timeout(240)
def test_a_user_cancels_holds_edits_and_requeues_between_our_requeue_and_our_edit(site: Site) -> None:
    _interfere(site, "edited", "saved")


@pytest.mark.timeout(240)
def test_a_job_that_our_signal_kills_since_its_words_were_wrong_is_put_back_and_runs_again(site: Site) -> None:
    job = site.submit("gpus=1-8 level=restartable signal=USR1@20")
    site.order(job, site.elsewhere(job))
    site.daemon.start(wait=False)
    site.wait_phase(job, "restored aborted", 60)
    site.count()
    site.no_orders()
    site.all_run(60, "our signal killed it")
    site.jobs[job].excused_ends = {"FAILED"}
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("phase", "moment"),
    [("planned", "saved"), ("requeued", "saved"), ("requeued", "called"), ("edited", "called"), ("running", "saved")],
)
@pytest.mark.parametrize("time", range(2))
def test_a_user_cancels_holds_edits_and_requeues_at_any_state_of_a_move(
    site: Site, phase: str, moment: str, time: int
) -> None:
    _interfere(site, phase, moment)
