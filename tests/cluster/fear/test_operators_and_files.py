"""Two daemons, a freeze in mid-move, a broken policy file, a spool that goes away, a clock that steps, a store away."""

from __future__ import annotations

import subprocess
import time

import pytest
from judge import SHORT_REQUEUE_S, DrivenDaemon, Site
from live import CONFIG, SPOOL

pytestmark = [pytest.mark.fear, pytest.mark.slurm("forky", "trixie", "bookworm")]


@pytest.mark.timeout(240)
def test_two_daemons_the_second_stands_by_and_takes_over_within_30_s_of_a_kill_in_mid_move(site: Site) -> None:
    job = site.submit()
    site.daemon.start()
    second = DrivenDaemon(site.cluster, dict(site.daemon.settings))
    site.others.append(second)
    second.start(wait=False)
    site.cluster.wait_for(lambda: second.process is not None and second.process.is_alive(), 10, "the second daemon")
    site.stop_at(job, "requeued", "called")
    site.order(job, site.elsewhere(job))
    site.wait_stopped(job, "requeued", "called")
    if "leads" in second.log():
        site.complain("two daemons lead")
    killed = time.monotonic()
    site.daemon.kill()
    site.cluster.wait_for(lambda: "this daemon leads" in second.log(), 30, f"the second to lead: {second.log()}")
    if time.monotonic() - killed > 30:
        site.complain("the second daemon took over too late")
    site.count()
    site.all_run(30, "the first daemon was killed")
    site.judge()


@pytest.mark.timeout(240)
def test_slurmsia_is_frozen_in_mid_move_and_writes_nothing_while_slurm_starts_the_job(site: Site) -> None:
    site.shorten_requeue_delay()
    job = site.submit()
    former = site.held(job)
    site.stop_at(job, "requeued", "called")
    site.order(job, site.elsewhere(job))
    site.daemon.start(wait=False)
    site.wait_stopped(job, "requeued", "called")
    site.shell("echo maintenance > /etc/slurmsia/freeze")
    site.count()
    site.go_on(job, "requeued", "called")
    site.no_orders()
    site.all_run(SHORT_REQUEUE_S + 15, "slurmsia was frozen")
    if site.held(job) != former:
        site.complain(f"frozen, and yet the job runs as {site.held(job)} instead of {former}")
    site.shell("rm /etc/slurmsia/freeze")
    site.wait_phase(job, "restored")
    site.judge()


@pytest.mark.timeout(240)
def test_a_broken_policy_file_and_a_lost_spool_in_mid_move_change_nothing_for_the_job(site: Site) -> None:
    job = site.submit("gpus=1-8 level=restartable signal=USR1@5", reports=True)
    site.daemon.start()
    site.cluster.write(CONFIG, "[policy]\nround = never\n")
    assert site.daemon.process is not None
    site.daemon.process.kill("HUP")
    site.stop_at(job, "warned", "saved")
    site.order(job, site.elsewhere(job))
    site.wait_stopped(job, "warned", "saved")
    site.shell(f"mv {SPOOL}/reports {SPOOL}/reports.gone; mv {SPOOL}/directives {SPOOL}/directives.gone")
    try:
        site.count(2)
        site.go_on(job, "warned", "saved")
        site.wait_phase(job, "aborted verified", 60)
        if "policy file" not in site.daemon.log():
            site.complain("nothing was said of the broken policy file")
        site.no_orders()
        site.all_run(30, "the spool went away")
    finally:
        site.shell(f"cd {SPOOL} && for d in reports directives; do [ -e $d.gone ] && rm -rf $d && mv $d.gone $d; done")
    site.daemon.configure()
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [("requeued", "called"), ("edited", "saved")])
def test_postgresql_is_stopped_in_mid_move_and_comes_back(site: Site, step: tuple[str, str]) -> None:
    site.daemon.configure(**{"store.url": site.cluster.postgres_url_inside})
    site.empty_postgresql()
    job = site.submit()
    site.stop_at(job, *step)
    site.order(job, site.elsewhere(job))
    site.daemon.start(wait=False)
    site.wait_stopped(job, *step)
    container = site.cluster.docker_prefix("root", "postgres")[-1]
    subprocess.run(["docker", "stop", "-t", "2", container], check=True, capture_output=True)
    try:
        site.count()
        site.go_on(job, *step)
        time.sleep(20)
        site.check_waiting(122)
    finally:
        subprocess.run(["docker", "start", container], check=True, capture_output=True)
    site.all_run(140, "PostgreSQL was away")
    site.no_orders()
    site.jobs[job].allowed |= {("t4", 1), ("rtx", 1), ("a100", 1)}
    site.judge()


# Debian 12's libfaketime breaks Python's subprocesses (EINVAL), so the daemon cannot run scontrol under it.
@pytest.mark.slow
@pytest.mark.slurm("forky", "trixie")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("minutes", ["+5", "-5"])
def test_the_clock_of_the_daemon_steps_five_minutes_in_mid_move(site: Site, minutes: str) -> None:
    library = site.faketime()
    site.shell("echo +0 > /tmp/fear-clock; chmod 666 /tmp/fear-clock")
    jobs = [site.submit() for _ in range(3)]
    leased = site.submit(run=False)
    site.jobs[leased].allowed |= {("t4", 1), ("rtx", 1), ("a100", 1)}
    site.keep_waiting(leased)
    for job, step in zip(jobs, ["requeued", "edited", "running"], strict=True):
        site.stop_at(job, step, "saved")
        site.order(job, site.elsewhere(job))
        wrap = ["env", f"LD_PRELOAD={library}", "FAKETIME_TIMESTAMP_FILE=/tmp/fear-clock", "FAKETIME_NO_CACHE=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1"]  # fmt: skip
        site.daemon.start(wait=False, wrap=wrap)
        site.wait_stopped(job, step, "saved")
        site.shell(f"echo {minutes}m > /tmp/fear-clock")
        site.count()
        site.go_on(job, step, "saved")
        site.wait_phase(job, "verified aborted restored", 90)
        # Begin times are written by the daemon's clock: MUNGE bounds how wrong it can be to five minutes.
        site.check_waiting(122 + 300)
        site.no_orders()
        site.keep_waiting(leased)
        site.daemon.stop()
        site.shell("echo +0 > /tmp/fear-clock")
    site.no_orders()
    site.all_run(300 + 140, "the clock stepped")
    site.judge()
