"""The controller dies, nodes drain and die, and the site's submit plugin refuses our edit, all in mid-move."""

from __future__ import annotations

import pytest
from harness import NODES_BY_CONTAINER
from judge import SHORT_REQUEUE_S, Site

pytestmark = [pytest.mark.fear, pytest.mark.slurm("forky", "trixie", "bookworm")]

REFUSES_US = """\
function slurm_job_submit(job_desc, part_list, submit_uid) return slurm.SUCCESS end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    if job_desc.features == "FEATURE" then return slurm.ERROR end
    return slurm.SUCCESS
end
return slurm.SUCCESS
"""


def _controller_dies(site: Site, steps: list[tuple[str, str]]) -> None:
    job, neighbour = site.submit(), site.undeclared()
    site.daemon.start()
    for phase, moment in steps:
        site.stop_at(job, phase, moment)
        site.order(job, site.elsewhere(job))
        site.wait_stopped(job, phase, moment)
        site.cluster.wait_until_saved(neighbour)
        site.cluster.kill_slurmctld()
        site.go_on(job, phase, moment)
        site.cluster.start_slurmctld()
        site.count()
        site.wait_phase(job, "verified aborted restored", 90)
        site.settle()
        site.all_run(60, f"slurmctld was killed at {phase}/{moment}")
        site.forget_breakpoints()
    assert neighbour in site.jobs
    site.judge()


@pytest.mark.timeout(240)
def test_slurmctld_is_killed_between_our_requeue_and_our_edit(site: Site) -> None:
    _controller_dies(site, [("edited", "saved")])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_slurmctld_is_killed_five_times_at_every_state_of_a_move(site: Site) -> None:
    states = [("planned", "saved"), ("requeued", "saved"), ("requeued", "called"), ("edited", "saved"),
              ("edited", "called"), ("running", "saved")]  # fmt: skip
    _controller_dies(site, states * 5)


@pytest.mark.timeout(240)
def test_the_node_that_a_job_is_to_move_to_is_drained_before_our_edit(site: Site) -> None:
    job = site.submit()
    target = site.elsewhere(job)
    site.stop_at(job, "edited", "saved")
    site.order(job, target)
    site.daemon.start(wait=False)
    site.wait_stopped(job, "edited", "saved")
    site.cluster.scontrol("update", f"NodeName={target}-1", "State=DRAIN", "Reason=fear", user="root")
    site.count()
    site.go_on(job, "edited", "saved")
    site.all_run(60, "its target was drained")
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pinned_node_that_a_job_is_to_move_to_is_drained_and_it_goes_back_to_its_former_shape(site: Site) -> None:
    job = site.submit()
    target = site.elsewhere(job)
    site.stop_at(job, "edited", "saved")
    site.order(job, target, pin=True)
    site.daemon.start(wait=False)
    site.wait_stopped(job, "edited", "saved")
    site.cluster.scontrol("update", f"NodeName={target}-1", "State=DRAIN", "Reason=fear", user="root")
    site.count()
    site.go_on(job, "edited", "saved")
    site.wait_phase(job, "restored aborted", 90)
    site.all_run(60, "its pinned target was drained")
    site.judge()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [("edited", "saved"), ("edited", "called"), ("running", "saved")])
def test_the_node_that_a_job_moves_to_loses_its_power(site: Site, step: tuple[str, str]) -> None:
    site.shorten_requeue_delay()
    job = site.submit()
    site.jobs[job].excused_ends = {"NODE_FAIL"}
    target = site.elsewhere(job)
    site.stop_at(job, *step)
    site.order(job, target, pin=True)
    site.daemon.start(wait=False)
    site.wait_stopped(job, *step)
    site.cluster.stop_node(f"{target}-1")
    site.count()
    site.go_on(job, *step)
    site.no_orders()
    site.wait_phase(job, "verified restored aborted", 120)
    site.jobs[job].allowed |= {("t4", 1), ("rtx", 1), ("a100", 1)}
    site.jobs[job].excused_ends.clear()
    site.all_run(150 + SHORT_REQUEUE_S, "its target lost its power")
    site.jobs[job].excused_ends = {"NODE_FAIL"}
    site.judge()
    assert target in {name.split("-")[0] for nodes in NODES_BY_CONTAINER.values() for name in nodes}


@pytest.mark.timeout(240)
def test_the_submit_plugin_of_the_site_refuses_our_edit_and_the_job_runs_as_before(site: Site) -> None:
    job = site.submit()
    former, target = site.held(job), site.elsewhere(job)
    path = "/etc/slurm/job_submit.lua"
    before = site.cluster.read(path)
    site.cluster.write(path, REFUSES_US.replace("FEATURE", target))
    try:
        site.order(job, target)
        site.daemon.start(wait=False)
        site.wait_phase(job, "restored", 60)
        site.no_orders()
        site.count()
        site.all_run(30, "the submit plugin refused our edit")
        if site.held(job) != former:
            site.complain(f"it runs as {site.held(job)}, not as before ({former})")
    finally:
        site.cluster.write(path, before)
    site.judge()
