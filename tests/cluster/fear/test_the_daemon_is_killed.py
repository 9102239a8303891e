"""kill -9 of the daemon at every step of a move, once with a successor and once for good."""

from __future__ import annotations

import pytest
from judge import HOME, LEASE_S, SHORT_REQUEUE_S, Site

pytestmark = [pytest.mark.fear, pytest.mark.slurm("forky", "trixie", "bookworm")]

#: Every state of a move, and within it before it is written, after it is written, after its calls were made.
STEPS = [
    ("planned", "before"), ("planned", "saved"),
    ("warned", "before"), ("warned", "saved"), ("warned", "called"),
    ("requeued", "before"), ("requeued", "saved"), ("requeued", "called"),
    ("edited", "before"), ("edited", "saved"), ("edited", "called"),
    ("running", "before"), ("running", "saved"),
    ("verified", "before"), ("verified", "saved"),
]  # fmt: skip

#: Steps that one move of a job that reports goes through one after the other, whoever carries it on.
CHAIN = [
    ("planned", "saved"), ("warned", "saved"), ("requeued", "saved"), ("requeued", "called"), ("edited", "saved"),
    ("edited", "called"), ("verified", "before"), ("verified", "saved"),
]  # fmt: skip


@pytest.mark.every_release
@pytest.mark.timeout(300)
def test_the_daemon_is_killed_at_every_state_of_one_move_and_each_time_its_successor_goes_on(site: Site) -> None:
    job = site.submit("gpus=1-8 level=restartable signal=USR1@20", reports=True)
    neighbour = site.undeclared()
    site.order(job, site.elsewhere(job))
    for phase, moment in CHAIN:
        site.stop_at(job, phase, moment)
        site.daemon.start(wait=False)
        site.wait_stopped(job, phase, moment)
        site.daemon.kill()
        site.count()
    site.daemon.start()
    site.all_run(20, "the daemon was killed at every state")
    assert site.held(job)[0] == "rtx" or site.violations or site.held(job) in site.jobs[job].allowed
    assert neighbour in site.jobs
    site.judge()


def _a_move_in_every_state(site: Site) -> None:
    """A daemon that is about to be killed: planned, warned, requeued, edited, running, and a job on a lease."""
    trap = f"trap '' USR1 TERM; until [ -e {HOME}/finish ]; do sleep 0.2; done"
    site.undeclared(gpus=8, options=["-w", "rtx-2"])
    planned = site.submit()
    warned = site.submit("gpus=1-8 level=restartable signal=USR1@120", body=trap)
    requeued = site.submit(body=trap)
    edited = site.submit()
    running = site.submit()
    site.daemon.start()
    leased = site.submit(run=False)
    site.keep_waiting(leased)
    site.order(planned, "rtx", node="rtx-2", pin=True)
    site.order(warned, site.elsewhere(warned))
    site.order(running, site.elsewhere(running))
    site.wait_phase(running, "running")
    site.stop_at(edited, "edited", "saved")
    site.order(requeued, site.elsewhere(requeued))
    site.order(edited, site.elsewhere(edited))
    site.wait_stopped(edited, "edited", "saved")
    states = {job: state for job, _, state, *_ in site.daemon.moves()}
    found = [states.get(str(job)) for job in (planned, warned, requeued, edited)]
    assert found == ["planned", "warned", "requeued", "edited"], found
    site.jobs[leased].allowed |= {("t4", 1), ("rtx", 1), ("a100", 1)}
    site.count(6)


@pytest.mark.every_release
@pytest.mark.timeout(300)
def test_the_daemon_is_killed_for_good_with_a_move_in_every_state_and_slurm_alone_starts_every_job(site: Site) -> None:
    site.shorten_requeue_delay()
    _a_move_in_every_state(site)
    site.daemon.kill()
    site.check_waiting(max(LEASE_S, SHORT_REQUEUE_S) + 2)
    site.all_run(max(LEASE_S, SHORT_REQUEUE_S) + 10, "the daemon was killed for good")
    site.judge()


@pytest.mark.timeout(300)
def test_release_all_after_a_kill_with_a_move_in_every_state_makes_every_job_eligible_at_once(site: Site) -> None:
    _a_move_in_every_state(site)
    site.daemon.kill()
    site.release_all()
    site.check_free()
    site.all_run(30, "release-all")
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("phase", "moment"), STEPS)
def test_the_daemon_is_killed_five_times_at_one_step_and_its_successor_goes_on(
    site: Site, phase: str, moment: str
) -> None:
    # A move of a job that reports may go from edited to verified in one step; one of a silent job never does.
    silent = phase == "running"
    words = "gpus=1-8 level=restartable" + ("" if silent else " signal=USR1@20")
    job = site.submit(words, reports=not silent)
    site.undeclared()
    site.daemon.start()
    for _ in range(5):
        site.stop_at(job, phase, moment)
        site.order(job, site.elsewhere(job))
        site.wait_stopped(job, phase, moment, 90)
        site.daemon.kill()
        site.count()
        site.daemon.start()
        site.wait_phase(job, "verified aborted restored", 90)
        site.settle()
        site.all_run(30, f"kill at {phase}/{moment}")
        site.forget_breakpoints()
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("phase", "moment"), STEPS)
def test_the_daemon_is_killed_for_good_at_one_state_five_times_and_slurm_starts_every_job(
    site: Site, phase: str, moment: str
) -> None:
    site.shorten_requeue_delay()
    words = "gpus=1-8 level=restartable" + ("" if phase == "running" else " signal=USR1@20")
    jobs = [site.submit(words, reports=phase != "running") for _ in range(5)]
    for job in jobs:
        site.order(job, site.elsewhere(job))
    # The last one to get there stops the daemon; the others are in that state or a later one.
    site.stop_at(jobs[-1], phase, moment)
    site.daemon.start(wait=False)
    site.wait_stopped(jobs[-1], phase, moment, 90)
    site.daemon.kill()
    site.count(5)
    site.all_run(SHORT_REQUEUE_S + 30, f"the daemon was killed for good at {phase}/{moment}")
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_daemon_is_killed_for_good_after_a_requeue_and_slurms_own_delay_of_two_minutes_starts_the_job(
    site: Site,
) -> None:
    jobs = [site.submit() for _ in range(5)]
    for job in jobs:
        site.order(job, site.elsewhere(job))
    site.stop_at(jobs[-1], "requeued", "called")
    site.daemon.start(wait=False)
    site.wait_stopped(jobs[-1], "requeued", "called")
    site.daemon.kill()
    site.count(5)
    site.check_waiting(122)
    site.all_run(121 + 30, "the daemon was killed for good")
    site.judge()
