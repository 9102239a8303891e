"""A job that starts again on the node that it just left is taken for its old run and killed by Slurm 22.05."""

from __future__ import annotations

import pytest
from judge import Site

pytestmark = [pytest.mark.fear, pytest.mark.slurm("forky", "trixie", "bookworm")]

NODES = ("t4-1", "t4-2", "t4-3", "rtx-1", "rtx-2", "a100-1")


def _resize(site: Site, times: int) -> None:
    jobs = {node: site.submit(options=["-w", node]) for node in NODES}
    site.daemon.start()
    for number in range(times):
        gpus = 2 + number % 2
        for node, job in jobs.items():
            site.order(job, node.split("-")[0], gpus, node=node, pin=True)
        for node, job in jobs.items():
            site.cluster.wait_for(
                lambda job=job, node=node, gpus=gpus: site.held_now(job) == (node.split("-")[0], gpus),
                60,
                f"job {job} to hold {gpus} GPUs ({site.daemon.log()[-1500:]})",
            )
            site.count()
        for job in jobs.values():
            site.wait_phase(job, "verified")
    site.judge()


@pytest.mark.every_release
@pytest.mark.timeout(240)
def test_a_job_is_resized_on_its_own_node_and_slurm_never_takes_it_for_its_old_run(site: Site) -> None:
    _resize(site, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_jobs_are_resized_on_their_own_nodes_many_times_and_slurm_never_takes_one_for_its_old_run(site: Site) -> None:
    _resize(site, 10)


@pytest.mark.timeout(240)
def test_a_user_requeues_jobs_and_we_do_not_start_them_before_their_nodes_forgot_them(site: Site) -> None:
    jobs = [site.submit(options=["-w", node]) for node in NODES]
    site.daemon.start()
    for restarts in (1, 2):
        for job in jobs:
            site.cluster.run(["scontrol", "requeue", str(job)], user="alice")
        site.count(len(jobs))
        for job in jobs:
            site.cluster.wait_for(
                lambda job=job, again=f"RUNNING {restarts}": (
                    "{JobState} {Restarts}".format(**site.fields(job)) == again
                ),
                30,
                f"job {job} to run again ({site.fields(job)} {site.daemon.log()[-1500:]})",
            )
    site.judge()
