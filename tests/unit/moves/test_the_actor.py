"""The actor over the emulator: plans become moves, moves become calls, crashes and limits are survived."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmsia.cluster import JobId, JobState, Shape
from slurmsia.config import Config, MovesSection
from slurmsia.config.site import GpuTypeSection
from slurmsia.moves.act import Actor
from slurmsia.moves.channel import ReportedJobs
from slurmsia.moves.leases import limits_of
from slurmsia.moves.log import Fenced, MemoryMoveLog
from slurmsia.moves.move import Limits, Move, MoveKind, Phase
from slurmsia.moves.release import release_all
from slurmsia.plan import Plan, Target, TargetKind
from slurmsia.slurm.emulator import (
    Emulator,
    FixedWork,
    Latencies,
    NeverEnding,
    Submission,
    Update,
    gang,
    make_cluster,
)
from slurmsia.standing import Standing

TYPES = {name: GpuTypeSection(feature=name) for name in ("t4", "rtx")}
WORDS = "sia: gpus=1-8 level=restartable"
LIMITS = Limits()


class Stage:
    """An emulated cluster, an actor, and a hand to write plans with."""

    def __init__(self, latencies: Latencies | None = None, limits: Limits = LIMITS) -> None:
        self.emulator = Emulator(
            make_cluster([("t4", 2, 4), ("rtx", 2, 8)]),
            latencies=latencies or Latencies(schedule_s=0.5, completing_s=1.0),
        )
        self.client = self.emulator.client()
        self.log = MemoryMoveLog()
        self.channel = ReportedJobs()
        self.limits = limits
        self.actor = self.daemon()

    def daemon(self, generation: int = 0) -> Actor:
        return Actor(self.client, self.log, self.limits, types=TYPES, channel=self.channel, generation=generation)

    def submit(self, gpus: int, feature: str, *, leased: bool = False, comment: str = WORDS, user: int = 1000) -> JobId:
        begin_s = self.emulator.now_s + LIMITS.lease_s if leased else None
        job_id = self.emulator.submit(
            Submission(gang(gpus, features=feature), comment=comment, begin_s=begin_s, user_id=user), FixedWork(1e6)
        )
        self.advance(3.0)
        return job_id

    def advance(self, seconds: float) -> None:
        self.emulator.advance(seconds)
        for report in self.emulator.take_reports():
            self.channel.hear(report)

    def plan(self, *targets: Target) -> object:
        plan = Plan(targets, (), "test", 0.0, 0.0, 0.0, "", "")
        return self.actor.submit(plan, self.client.snapshot())

    def act(self, seconds: float = 60.0) -> list[Move]:
        finished: list[Move] = []
        until_s = self.emulator.now_s + seconds
        while self.emulator.now_s < until_s:
            finished += self.actor.tick().finished
            self.advance(2.0)
        return finished

    def shape(self, job_id: JobId) -> Shape | None:
        allocation = self.emulator.job(job_id).allocation
        return None if allocation is None else allocation.shape


def to(
    job_id: JobId, gpu_type: str, gpus: int, *nodes: str, kind: TargetKind = TargetKind.MOVE, **more: object
) -> Target:
    per_node = tuple((node, gpus // len(nodes)) for node in nodes)
    return Target(job_id, kind, Shape(gpu_type, len(nodes), gpus), per_node, **more)  # type: ignore[arg-type]


def test_a_running_job_moves_and_a_leased_one_starts() -> None:
    stage = Stage()
    runs = stage.submit(4, "t4")
    waits = stage.submit(1, "t4", leased=True)
    stage.plan(to(runs, "rtx", 8, "rtx-01"), to(waits, "t4", 4, "t4-02", kind=TargetKind.START))
    finished = stage.act()
    assert {move.phase for move in finished} == {Phase.VERIFIED}
    assert stage.shape(runs) == Shape("rtx", 1, 8)
    assert stage.shape(waits) == Shape("t4", 1, 4)
    assert stage.log.unfinished() == ()


def test_two_jobs_can_change_places() -> None:
    stage = Stage()
    one, two = stage.submit(8, "rtx"), stage.submit(8, "rtx")
    before = [stage.emulator.job(job_id).allocation for job_id in (one, two)]
    stage.plan(to(one, "rtx", 8, "rtx-02", pin=True), to(two, "rtx", 8, "rtx-01", pin=True))
    finished = stage.act()
    assert [move.phase for move in finished] == [Phase.VERIFIED, Phase.VERIFIED]
    assert [stage.emulator.job(job_id).allocation for job_id in (two, one)] == before


@pytest.mark.parametrize("signal", ["", " signal=USR1@60"])
def test_a_look_that_shows_nothing_new_leads_to_what_a_whole_look_leads_to(signal: str) -> None:
    """Blocked moves, a checkpoint waited for and deadlines that pass, looked at with and without memory."""

    def told(remembers: bool) -> list[object]:
        stage = Stage()
        holder = stage.submit(8, "rtx")
        stage.submit(8, "rtx")
        moves = stage.submit(4, "t4", comment=WORDS + signal)
        waits = stage.submit(1, "rtx", leased=True)
        stage.advance(100.0)
        stage.plan(to(moves, "rtx", 8, "rtx-02"), to(waits, "rtx", 8, "rtx-01", kind=TargetKind.START))
        seen: list[object] = []
        for second in range(0, 300, 2):
            if second == 100:
                stage.emulator.user_cancel(holder)
            if not remembers:
                stage.actor._quiet = None
            quiet = stage.actor._quiet
            tick = stage.actor.tick()
            remembered.append(quiet is not None and quiet is stage.actor._quiet)
            seen.append((tick, dict(stage.actor.flights)))
            stage.advance(2.0)
        return seen

    remembered: list[bool] = []
    with_memory = told(True)
    assert sum(remembered) > 10
    assert told(False) == with_memory


def test_a_job_with_a_handler_saves_before_it_is_moved() -> None:
    stage = Stage()
    job_id = stage.submit(4, "t4", comment=WORDS + " signal=USR1@60")
    stage.advance(100.0)
    stage.plan(to(job_id, "rtx", 8, "rtx-01"))
    stage.act()
    assert stage.shape(job_id) == Shape("rtx", 1, 8)
    news = stage.channel.news(job_id)
    assert news is not None
    assert news.samples is not None
    assert news.samples > 390.0


def test_a_start_waits_until_its_gpus_are_free_and_its_lease_is_renewed() -> None:
    stage = Stage()
    holder = stage.submit(8, "rtx")
    stage.submit(8, "rtx")
    waits = stage.submit(1, "rtx", leased=True)
    stage.advance(400.0)
    stage.plan(to(waits, "rtx", 8, "rtx-01", kind=TargetKind.START))
    stage.act(20.0)
    job = stage.emulator.job(waits)
    assert job.reason == "BeginTime"
    assert job.begin_s == pytest.approx(stage.emulator.now_s + LIMITS.lease_s, abs=25.0)
    stage.emulator.user_cancel(holder)
    stage.act(20.0)
    assert stage.shape(waits) == Shape("rtx", 1, 8)


def test_waiting_jobs_keep_their_lease_as_long_as_rounds_go_on_and_start_when_they_stop() -> None:
    stage = Stage()
    waits = stage.submit(2, "t4", leased=True)
    for _ in range(30):
        stage.plan(Target(waits, TargetKind.QUEUE))
        stage.act(60.0)
    assert stage.emulator.job(waits).state is JobState.PENDING
    stage.advance(LIMITS.lease_s + 2.0)
    assert stage.shape(waits) == Shape("t4", 1, 2)


def test_a_declared_job_without_the_submit_plugin_is_leased_on_first_sight() -> None:
    stage = Stage(Latencies(schedule_s=0.5))
    for _ in range(2):
        stage.submit(8, "rtx")
    waits = stage.submit(8, "rtx")
    stage.plan(Target(waits, TargetKind.QUEUE))
    assert stage.emulator.job(waits).begin_s == pytest.approx(stage.emulator.now_s + LIMITS.lease_s)


def test_a_begin_time_of_the_users_own_is_never_touched() -> None:
    stage = Stage()
    begin_s = stage.emulator.now_s + 7 * 3600.0
    job_id = stage.emulator.submit(Submission(gang(1), comment=WORDS, begin_s=begin_s))
    standing = {job_id: Standing(job_id, 0.0, user_begin_s=begin_s)}
    plan = Plan((Target(job_id, TargetKind.QUEUE),), (), "test", 0.0, 0.0, 0.0, "", "")
    stage.actor.submit(plan, stage.client.snapshot(), standing)
    assert stage.emulator.job(job_id).begin_s == begin_s


def test_a_job_whose_user_took_the_declaration_away_is_let_go_at_once() -> None:
    stage = Stage()
    job_id = stage.submit(2, "t4", leased=True)
    stage.advance(400.0)
    stage.plan(Target(job_id, TargetKind.QUEUE))
    stage.emulator.user_edit(job_id, Update(comment="no more"))
    stage.plan(Target(job_id, TargetKind.LEAVE))
    stage.advance(2.0)
    assert stage.emulator.job(job_id).state is JobState.RUNNING


def test_suspended_jobs_wait_on_a_lease() -> None:
    stage = Stage()
    job_id = stage.submit(4, "t4")
    stage.plan(Target(job_id, TargetKind.SUSPEND))
    (move,) = stage.act(20.0)
    job = stage.emulator.job(job_id)
    assert (move.kind, move.phase) == (MoveKind.SUSPEND, Phase.VERIFIED)
    assert (job.state, job.hold, job.reason) == (JobState.PENDING, "", "BeginTime")


def test_whole_nodes_are_given_back_without_a_restart_where_the_site_allows_it() -> None:
    stage = Stage(limits=replace(LIMITS, shrink_running=True))
    job_id = stage.emulator.submit(Submission(gang(8, 2, features="t4"), comment=WORDS), NeverEnding())
    stage.advance(3.0)
    stage.plan(to(job_id, "t4", 4, "t4-01", kind=TargetKind.RESIZE))
    (move,) = stage.act(10.0)
    assert (move.kind, move.phase) == (MoveKind.SHRINK, Phase.VERIFIED)
    assert stage.shape(job_id) == Shape("t4", 1, 4)
    assert stage.emulator.job(job_id).restarts == 0


def test_limits_on_moves_are_obeyed_and_every_job_put_off_is_told_why() -> None:
    stage = Stage(limits=replace(LIMITS, moves_per_round=2, moves_per_user_round=1))
    jobs = [stage.submit(1, "t4", user=1000 + index // 2) for index in range(6)]
    targets = [to(job_id, "rtx", 1, "rtx-01", urgency=float(-index)) for index, job_id in enumerate(jobs)]
    admission = stage.plan(*targets)
    assert [move.job_id for move in admission.moves] == [jobs[0], jobs[2]]  # type: ignore[attr-defined]
    assert set(admission.put_off) == {jobs[1], jobs[3], jobs[4], jobs[5]}  # type: ignore[attr-defined]
    assert all(admission.put_off.values())  # type: ignore[attr-defined]


def test_a_young_run_is_not_moved() -> None:
    stage = Stage(limits=replace(LIMITS, min_run_s=300.0))
    job_id = stage.submit(1, "t4")
    admission = stage.plan(to(job_id, "rtx", 1, "rtx-01"))
    assert "300 s" in admission.put_off[job_id]  # type: ignore[attr-defined]


def test_checkpoints_being_written_at_a_time_are_capped() -> None:
    stage = Stage(limits=replace(LIMITS, checkpoint_bytes_in_flight=5e9))
    jobs = [stage.submit(1, "t4", comment=WORDS + " signal=USR1@60") for _ in range(3)]
    stage.plan(*[to(job_id, "rtx", 1, "rtx-01") for job_id in jobs])
    stage.actor.flights.update(
        {job_id: replace(move, checkpoint_bytes=4e9) for job_id, move in stage.actor.flights.items()}
    )
    stage.actor.tick()
    assert [move.phase for move in stage.actor.flights.values()].count(Phase.WARNED) == 1
    stage.act(60.0)
    assert [stage.shape(job_id) for job_id in jobs] == [Shape("rtx", 1, 1)] * 3


def _killed_before(stage: Stage, phase: Phase) -> None:
    """Run the daemon until a move would enter the phase, write the intent, and die there."""

    class Dead(BaseException):
        pass

    honest = stage.log.save

    def save(move: Move) -> None:
        honest(move)
        if move.phase is phase:
            raise Dead

    stage.log.save = save  # type: ignore[method-assign]
    with pytest.raises(Dead):
        stage.act(60.0)
    stage.log.save = honest  # type: ignore[method-assign]


@pytest.mark.parametrize("phase", [Phase.WARNED, Phase.REQUEUED, Phase.EDITED])
@pytest.mark.parametrize("down_s", [3.0, 50.0, 400.0])
def test_a_new_daemon_finishes_what_the_dead_one_began(phase: Phase, down_s: float) -> None:
    stage = Stage()
    job_id = stage.submit(4, "t4", comment=WORDS + " signal=USR1@60")
    stage.plan(to(job_id, "rtx", 8, "rtx-01"))
    _killed_before(stage, phase)
    stage.advance(down_s)
    stage.actor = stage.daemon(generation=1)
    stage.actor.recover()
    finished = stage.act(200.0)
    assert len(finished) == 1
    assert stage.log.unfinished() == ()
    assert stage.shape(job_id) in (Shape("rtx", 1, 8), Shape("t4", 1, 4))


def test_a_fenced_leader_stops_before_it_calls_slurm() -> None:
    stage = Stage()
    job_id = stage.submit(4, "t4")
    stage.plan(to(job_id, "rtx", 8, "rtx-01"))

    def fenced(move: Move) -> None:
        raise Fenced("generation 2 leads")

    stage.log.save = fenced  # type: ignore[method-assign]
    writes = len(stage.client.writes)
    with pytest.raises(Fenced):
        stage.actor.tick()
    assert len(stage.client.writes) == writes


def test_a_newer_round_replaces_a_move_that_has_not_begun() -> None:
    stage = Stage()
    holder = stage.submit(8, "rtx")
    stage.submit(8, "rtx")
    waits = stage.submit(1, "t4", leased=True)
    stage.plan(to(waits, "rtx", 8, "rtx-01", kind=TargetKind.START), Target(holder, TargetKind.KEEP))
    stage.act(10.0)
    stage.plan(to(waits, "t4", 4, "t4-01", kind=TargetKind.START))
    finished = stage.act(10.0)
    assert [move.phase for move in finished] == [Phase.ABORTED, Phase.VERIFIED]
    assert stage.shape(waits) == Shape("t4", 1, 4)


def test_an_unreachable_controller_only_delays() -> None:
    stage = Stage()
    job_id = stage.submit(4, "t4")
    stage.plan(to(job_id, "rtx", 8, "rtx-01"))
    stage.emulator.pause_controller(30.0)
    assert stage.actor.tick().errors
    stage.advance(31.0)
    stage.act()
    assert stage.shape(job_id) == Shape("rtx", 1, 8)


def test_without_latencies_a_round_is_carried_out_at_one_instant() -> None:
    stage = Stage(Latencies.none(), Limits.instant())
    wide, small = Submission(gang(8, features="rtx"), comment=WORDS), Submission(gang(4, features="t4"), comment=WORDS)
    one, two = stage.emulator.submit(wide, NeverEnding()), stage.emulator.submit(small, NeverEnding())
    stage.advance(0.0)
    stage.plan(to(one, "t4", 8, "t4-01", "t4-02"), to(two, "rtx", 8, "rtx-01"))
    now_s = stage.emulator.now_s
    finished = stage.actor.run_until_quiet()
    assert stage.emulator.now_s == now_s
    assert (stage.shape(one), stage.shape(two)) == (Shape("t4", 2, 8), Shape("rtx", 1, 8))
    assert len(finished) == 2


@pytest.mark.parametrize("phase", [Phase.PLANNED, Phase.REQUEUED, Phase.EDITED])
def test_release_all_leaves_no_lease_and_no_pin_and_every_job_eligible(phase: Phase) -> None:
    stage = Stage()
    moving = stage.submit(4, "t4")
    leased = stage.submit(2, "t4", leased=True)
    users = stage.emulator.submit(Submission(gang(1), comment=WORDS, begin_s=stage.emulator.now_s + 9000.0))
    stage.plan(to(moving, "rtx", 8, "rtx-01", pin=True), Target(leased, TargetKind.QUEUE))
    if phase is not Phase.PLANNED:
        _killed_before(stage, phase)
    stage.advance(5.0)
    standings = {users: Standing(users, 0.0, user_begin_s=stage.emulator.job(users).begin_s)}
    released = release_all(stage.client, stage.log.unfinished(), standings)
    assert leased in released.leases_ended
    for job in stage.emulator.jobs():
        if job.state is JobState.PENDING and job.id != users:
            assert job.begin_s is None or job.begin_s <= stage.emulator.now_s
            assert job.request.required_nodes == ()
    assert stage.emulator.job(users).begin_s == 9000.0 + 6.0
    stage.advance(5.0)
    assert stage.emulator.job(moving).state is JobState.RUNNING
    assert stage.emulator.job(leased).state is JobState.RUNNING


def test_release_all_waits_for_a_run_that_is_still_ending_and_then_makes_its_job_eligible() -> None:
    stage = Stage(Latencies(schedule_s=0.5, completing_s=8.0))
    job_id = stage.submit(4, "t4")
    stage.plan(to(job_id, "rtx", 8, "rtx-01", pin=True))
    _killed_before(stage, Phase.REQUEUED)
    stage.client.requeue(job_id)
    assert stage.emulator.job(job_id).completing
    assert job_id in release_all(stage.client, stage.log.unfinished()).left
    released = release_all(stage.client, stage.log.unfinished(), wait_s=30.0, sleep=stage.emulator.advance)
    assert not released.left
    assert job_id in released.leases_ended
    stage.advance(2.0)
    assert stage.emulator.job(job_id).state is JobState.RUNNING


def test_the_policy_file_sets_the_limits() -> None:
    config = Config(moves=MovesSection(lease_s=300.0, per_round=7, in_flight=3, checkpoint_gb_in_flight=2.0))
    limits = limits_of(config)
    assert (limits.lease_s, limits.renew_before_s) == (300.0, 150.0)
    assert (limits.moves_per_round, limits.moves_in_flight) == (7, 3)
    assert limits.checkpoint_bytes_in_flight == 2e9


def test_undeclared_jobs_are_never_touched_even_when_a_plan_names_them() -> None:
    stage = Stage()
    job_id = stage.submit(4, "t4", comment="weather")
    admission = stage.plan(to(job_id, "rtx", 8, "rtx-01"))
    stage.act(20.0)
    assert job_id in admission.put_off  # type: ignore[attr-defined]
    assert stage.client.writes == []
