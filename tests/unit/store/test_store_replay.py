"""Replay: a stored round decides to the byte-equal plan, and another policy shows what differs."""

from __future__ import annotations

import json
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner
from slurmsia_cli.main import cli
from slurmsia_cli.replay import changes, reconfigured
from store_values import changed, model, plan, snapshot

from slurmsia.cluster import Allocation, Job, JobState, Node, Request, Shape
from slurmsia.config import Config
from slurmsia.plan import Plan, Target, TargetKind
from slurmsia.round import decide
from slurmsia.standing import Standing
from slurmsia.store import Keep, RoundRecord, Store, StoredRound


def _decided(store: Store, starts_only: bool = False, running: bool = False) -> int:
    """A round of three jobs on two nodes, decided and stored as the daemon does; ``running``: one holds a GPU."""
    nodes = tuple(Node(f"n{index}", "a100", 8, 64, 256_000, partitions=frozenset({"gpu"})) for index in (1, 2))
    jobs = tuple(
        Job(
            str(number), 7, JobState.PENDING, 100.0 + number, comment="sia: gpus=1-8 level=restartable signal=USR1@60",
            partitions=("gpu",), request=Request(gpus=1, cpus=4, memory_mb=8_000), reason="Resources",
        )
        for number in range(1, 4)
    )  # fmt: skip
    if running:
        held = Allocation("a100", (("n1", 1),))
        jobs = (replace(jobs[0], state=JobState.RUNNING, reason="", start_s=200.0, allocation=held), *jobs[1:])
    taken_s = 410.0 if starts_only else 400.0
    seen = changed(snapshot(*jobs, taken_s=taken_s), nodes=nodes)
    models = {job.id: changed(model(job.id), types={"a100": model().types["a100"]}, units={}) for job in jobs}
    standing = {job.id: Standing(job.id, job.submit_s) for job in jobs}
    config = Config()
    decided = decide(seen, models, standing, config, starts_only=starts_only)
    return store.save_round(
        RoundRecord(taken_s, "observe", seen, decided, models, standing, config.model_dump_json(), {"solve": 0.1})
    )


def test_a_stored_round_replays_to_the_byte_equal_plan(store: Store, url: str) -> None:
    round_id = _decided(store)
    done = CliRunner().invoke(cli, ["replay", str(round_id), "--url", url, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert (told["equal"], told["jobs"]) == (True, [])
    assert "START" in {target.kind.name for target in _plan_of(store, round_id).targets}


def test_a_round_between_two_rounds_replays_as_one(store: Store, url: str) -> None:
    proper, between = _decided(store, running=True), _decided(store, starts_only=True, running=True)
    plans = [_plan_of(store, round_id) for round_id in (proper, between)]
    assert [plan.starts_only for plan in plans] == [False, True]
    for round_id in (proper, between):
        done = CliRunner().invoke(cli, ["replay", str(round_id), "--url", url, "--json"], catch_exceptions=False)
        assert json.loads(done.output)["equal"] is True


def test_another_policy_on_a_stored_round_says_what_differs(store: Store, url: str) -> None:
    round_id = _decided(store)
    words = ["replay", str(round_id), "--url", url, "--policy", "fifo"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "now  (fifo):" in done.output


def _plan_of(store: Store, round_id: int) -> Plan:
    stored = store.round(round_id)
    assert isinstance(stored, StoredRound)
    return stored.plan


def test_a_round_without_bodies_says_why_it_cannot_be_replayed(store: Store, url: str) -> None:
    round_id = _decided(store)
    store.prune({"round_bodies": Keep(max_age_s=0.0)}, now_s=1e6)
    done = CliRunner().invoke(cli, ["replay", str(round_id), "--url", url])
    assert (done.exit_code, "lost its snapshot to retention" in done.output) == (1, True)


def test_options_are_looked_for_in_the_policy_section_first() -> None:
    text = Config().model_dump_json()
    config = reconfigured(text, "srtf", ("sia.p=-1", "hysteresis=true", "store.point_every_s=60"))
    assert (config.policy.name, config.policy.sia.p, config.policy.hysteresis) == ("srtf", -1.0, True)
    assert config.store.point_every_s == 60.0


@pytest.mark.parametrize("option", ["sia.q=1", "hysteresis", "sia.p=0"])
def test_a_wrong_option_is_a_sentence_and_not_a_traceback(option: str) -> None:
    with pytest.raises(click.BadParameter):
        reconfigured(Config().model_dump_json(), None, (option,))


def test_changes_name_every_job_whose_target_differs() -> None:
    old = plan()
    other = Target("1", TargetKind.KEEP, Shape("a100", 1, 4), (("n1", 4),))
    new = changed(old, targets=(other, Target("2", TargetKind.QUEUE)))
    assert changes(old, old) == []
    assert changes(old, new) == [
        ("1", "move 8 a100 on 2 nodes at n1,n2", "keep 4 a100 at n1"),
        ("2", "absent", "queue"),
    ]
