"""A simulated job behaves like a real one on the emulated Slurm, and says no more than a real one would."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_profiles import write_profiles

from slurmsia.cluster import Allocation
from slurmsia.history import JobKind, Report
from slurmsia.plan import BatchChoice
from slurmsia.sim.honest_job import HonestJob, HonestSettings
from slurmsia.sim.pooled import HistoryBook, pooled
from slurmsia.sim.profiles import Profiles
from slurmsia.sim.workloads import TraceJob
from slurmsia.slurm.emulator import Emulator, Submission, gang
from slurmsia.slurm.emulator.physics import RunStart
from slurmsia.store import ReportContext, Store

TRACE = TraceJob("small-0", 0.0, "small", 2, 512)
ONE = Allocation("t4", (("t4-01", 1),))
FOUR = Allocation("t4", (("t4-01", 4),))


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    return Profiles(write_profiles(tmp_path / "profiles", epoch_iterations=20000.0))


def job(profiles: Profiles, **more: object) -> HonestJob:
    settings = HonestSettings(seed=int(more.pop("seed", 0)))  # type: ignore[call-overload]
    return HonestJob(TRACE, profiles.application("small"), settings, **more)  # type: ignore[arg-type]


def until(one: HonestJob, end_s: float) -> float:
    """Let the job live until ``end_s``; returns when it exited or ``end_s``."""
    while (at_s := one.next_s()) is not None and at_s <= end_s:
        if one.wake(at_s) is not None:
            return at_s
    return end_s


def started(
    one: HonestJob,
    now_s: float = 0.0,
    restart: int = 0,
    on: Allocation = ONE,
    reports: list[Report] | None = None,
) -> list[Report]:
    told: list[Report] = [] if reports is None else reports
    one.start(RunStart("1", now_s, on, restart, told.append))
    return told


def test_a_checkpoint_on_the_signal_keeps_all_progress(profiles: Profiles) -> None:
    one = job(profiles)
    reports = started(one)
    until(one, 400.0)
    assert one.signal("USR1", 400.0) is None
    saved_s = one.next_s()
    assert saved_s is not None
    one.wake(saved_s)
    assert reports[-1].event == "checkpointed"
    before = one.progress
    one.stop(saved_s + 1.0)
    started(one, 500.0, restart=1)
    assert one.progress == before > 0


def test_a_kill_without_warning_loses_what_was_not_saved(profiles: Profiles) -> None:
    one = job(profiles)
    started(one)
    until(one, 400.0)
    one.stop(400.0)
    lost = one.progress
    started(one, 500.0, restart=1)
    assert 0 == one.progress < lost


def test_a_job_saves_by_itself_now_and_then(profiles: Profiles) -> None:
    one = job(profiles)
    started(one)
    until(one, 700.0)
    one.stop(700.0)
    started(one, 800.0, restart=1)
    assert one.progress > 0


def test_a_job_that_is_not_requeued_after_its_checkpoint_goes_on(profiles: Profiles) -> None:
    one = job(profiles)
    started(one)
    until(one, 300.0)
    one.signal("USR1", 300.0)
    until(one, 340.0)
    held = one.progress
    until(one, 900.0)
    assert one.progress > held


def test_reports_hold_sums_of_steps_and_never_the_noise_free_truth(profiles: Profiles) -> None:
    one = job(profiles)
    reports = started(one)
    until(one, 600.0)
    steps = [observation for report in reports for observation in report.observations]
    truth = profiles.application("small").on("t4").step_and_sync_s((1,), steps[0].local_batch)[0]
    assert all(o.count >= 1 and o.step_square_sum_s2 > 0 for o in steps)
    assert all(o.step_sum_s / o.count != pytest.approx(truth, rel=1e-6) for o in steps)
    assert [report.seq for report in reports] == sorted({report.seq for report in reports})


def test_the_directive_of_the_daemon_is_followed_within_the_cards_memory(profiles: Profiles) -> None:
    one = job(profiles, batch=BatchChoice(100_000, 0))
    reports = started(one, on=FOUR)
    until(one, 200.0)
    steps = [observation for report in reports for observation in report.observations]
    assert all(o.local_batch <= 128 for o in steps)
    assert all(4 * o.local_batch * (o.accumulation + 1) <= 512 for o in steps)


def test_a_job_with_a_fixed_batch_keeps_its_total_on_any_size(profiles: Profiles) -> None:
    one = job(profiles, fixed_batch=512, batch=BatchChoice(8, 0))
    reports = started(one, on=FOUR)
    until(one, 200.0)
    steps = [observation for report in reports for observation in report.observations]
    assert steps
    assert all(4 * o.local_batch * (o.accumulation + 1) == 512 for o in steps)


def test_an_undeclared_job_reports_nothing_and_dies_of_an_untrapped_signal(profiles: Profiles) -> None:
    one = job(profiles, silent=True)
    reports = started(one)
    until(one, 500.0)
    assert reports == []
    exit_ = one.signal("USR1", 500.0)
    assert exit_ is not None
    assert exit_.signal == "USR1"


def test_the_same_seed_gives_the_same_reports_and_another_seed_others(profiles: Profiles) -> None:
    told = []
    for seed in (1, 1, 2):
        one = job(profiles, seed=seed)
        reports = started(one)
        until(one, 1e9)
        told.append(reports)
    assert told[0] == told[1] != told[2]


def test_pooled_histories_add_up_over_restarts(profiles: Profiles) -> None:
    one = job(profiles)
    reports = started(one)
    until(one, 700.0)
    one.stop(700.0)
    started(one, 900.0, restart=1, reports=reports)
    until(one, 1e9)
    history = pooled("1", reports)
    assert history is not None
    shown = [o for report in reports for o in report.observations]
    assert sum(o.count for o in history.observations) == pytest.approx(sum(o.count for o in shown))
    assert len(history.observations) < len(shown)
    assert history.progress is not None
    assert history.progress.samples == history.progress.target_samples


def test_on_the_emulated_slurm_it_runs_to_its_end_and_accounting_shows_it(profiles: Profiles) -> None:
    emulator = Emulator("hetero64")
    job_id = emulator.submit(Submission(request=gang(4, features="a100")), job(profiles))
    emulator.run_until(36000.0)
    (run,) = emulator.accounting
    assert (run.job_id, run.state) == (job_id, "COMPLETED")
    assert run.allocation.gpus == 4


def test_the_simulators_pooling_is_the_stores(profiles: Profiles) -> None:
    one = job(profiles)
    reports = started(one)
    until(one, 700.0)
    one.signal("USR1", 700.0)
    until(one, 760.0)
    one.stop(760.0)
    started(one, 900.0, restart=1, on=FOUR, reports=reports)
    until(one, 1e9)
    store = Store.open("sqlite://")
    store.ingest([(report, ReportContext(user_id=1, submit_s=0.0)) for report in reports])
    stored, mine = store.history(["1"])["1"], pooled("1", reports)
    assert mine is not None
    by_shape = {(o.gpu_type, o.nodes, o.gpus, o.local_batch, o.accumulation): o for o in stored.observations}
    assert len(by_shape) == len(mine.observations) > 1
    for seen in mine.observations:
        same = by_shape[seen.gpu_type, seen.nodes, seen.gpus, seen.local_batch, seen.accumulation]
        assert (same.count, same.step_sum_s) == pytest.approx((seen.count, seen.step_sum_s))
        assert same.step_square_sum_s2 == pytest.approx(seen.step_square_sum_s2)
    assert stored.progress == mine.progress
    assert stored.gradient == mine.gradient
    assert stored.restarts == mine.restarts
    assert sorted(map(repr, stored.memory)) == sorted(map(repr, mine.memory))


def test_the_simulators_noise_of_a_kind_is_the_stores(profiles: Profiles) -> None:
    """What is learnt in simulations of the gradient noise to come is what the daemon learns from the same reports."""
    kind, book = JobKind(1, "abc"), HistoryBook()
    book.enter("1", kind)
    one = job(profiles)
    reports = started(one)
    until(one, 700.0)
    one.stop(700.0)
    started(one, 900.0, restart=1, on=FOUR, reports=reports)
    until(one, 1e9)
    for report in reports:
        book.add(report)
    with Store.open("sqlite://") as store:
        store.ingest([(report, ReportContext(user_id=1, submit_s=0.0, script_hash="abc")) for report in reports])
        stored, mine = store.similar(kind), book.similar(kind)
    assert stored is not None
    assert mine is not None
    assert len(mine.noise) > 3
    for cell, same in zip(mine.noise, stored.noise, strict=True):
        assert (same.samples_cell, same.scale_doubling, same.count) == (
            cell.samples_cell, cell.scale_doubling, cell.count,
        )  # fmt: skip
        assert (same.log_sum, same.log_square_sum) == pytest.approx((cell.log_sum, cell.log_square_sum))
