"""Every fault at every step of a move, told a few hundred times; ten thousand in the slow tier.

Each story ends with the same questions: is a job lost, held, cancelled, half-edited, running in a shape nobody chose,
kept from starting beyond its lease, or touched although it was never declared?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import pytest

from slurmsia.cluster import JobId
from slurmsia.reshape import Reshape
from slurmsia.slurm.emulator import Update
from slurmsia.slurm.emulator.client import EmulatorClient

from .teller import CALLS, ENDS, FAULTS, SITE_DEEDS, USER_DEEDS, Ending, Story, plot_of, tell

Counted = Callable[[Iterable[Ending]], list[Ending]]
SHORT = 280
CHAPTER = 40


@pytest.mark.parametrize("chapter", range(SHORT // CHAPTER))
def test_no_job_is_lost_held_cancelled_or_half_edited_whatever_fails(chapter: int, counted: Counted) -> None:
    endings = counted(tell(number) for number in range(chapter * CHAPTER, (chapter + 1) * CHAPTER))
    assert [what for ending in endings for what in ending.violations] == []
    assert sum(sum(ending.moves.values()) for ending in endings) > CHAPTER


@pytest.mark.slow
@pytest.mark.parametrize("chapter", range(100))
@pytest.mark.timeout(600)
def test_ten_thousand_stories(chapter: int, counted: Counted) -> None:
    endings = counted(tell(number) for number in range(chapter * 100, (chapter + 1) * 100))
    assert [what for ending in endings for what in ending.violations] == []


def test_the_same_number_tells_the_same_story() -> None:
    def history(number: int) -> list[object]:
        story = Story(number)
        story.tell()
        return [*story.emulator.accounting, *story.client.writes]

    assert history(7) == history(7)


def test_the_stories_visit_every_fault_deed_and_end_and_kill_the_daemon_at_every_early_write() -> None:
    plots = [plot_of(number) for number in range(9000)]
    assert {plot.fault for plot in plots} == set(FAULTS)
    assert {plot.fault_call for plot in plots} == set(CALLS)
    assert {plot.deed for plot in plots} == {"none", *USER_DEEDS, *SITE_DEEDS}
    assert {plot.end for plot in plots} == set(ENDS)
    kills = {(plot.kill_at_write, plot.kill_before) for plot in plots if plot.kill_at_write and plot.end == "dies"}
    assert len(kills) >= 24
    met = {(plot.deed, plot.deed_call) for plot in plots}
    assert len(met) == 17 * 6


def _told_with(monkeypatch: pytest.MonkeyPatch, name: str, method: object, numbers: range) -> list[Ending]:
    monkeypatch.setattr(EmulatorClient, name, method)
    return [tell(number) for number in numbers]


def test_the_stories_notice_a_daemon_that_requeues_with_a_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = EmulatorClient.requeue

    def held_requeue(self: EmulatorClient, job_id: JobId, deadline_s: float = 10.0) -> None:
        honest(self, job_id, deadline_s)
        self._emulator.user_hold(job_id)

    endings = _told_with(monkeypatch, "requeue", held_requeue, range(1, 31))
    assert any("is left held" in what for ending in endings for what in ending.violations)


def test_the_stories_notice_an_edit_in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = EmulatorClient.reshape

    def two_parts(self: EmulatorClient, job_id: JobId, edit: Reshape, deadline_s: float = 10.0) -> None:
        first = Update(gres=(None, edit.shape.gpus_per_node), features="", required_nodes=(), begin_s=0.0)
        self._call("reshape", job_id, lambda: self._emulator.update(job_id, first))
        self._emulator.advance(5.0)
        honest(self, job_id, edit, deadline_s)

    endings = _told_with(monkeypatch, "reshape", two_parts, range(60))
    assert any("a shape nobody chose" in what for ending in endings for what in ending.violations)


def test_the_stories_notice_leases_that_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = EmulatorClient.renew_leases

    def long_leases(self: EmulatorClient, leases: dict[JobId, float], deadline_s: float = 10.0) -> object:
        return honest(self, {job_id: begin_s + 3600.0 for job_id, begin_s in leases.items()}, deadline_s)

    endings = _told_with(monkeypatch, "renew_leases", long_leases, range(1, 91, 3))
    assert any("after the daemon's death" in what for ending in endings for what in ending.violations)


def test_a_story_judges_jobs_that_were_never_declared() -> None:
    story = Story(0)
    job_id = story.undeclared[0]
    story.client.end_lease(job_id)
    ending = story.tell()
    assert any("undeclared" in what for what in ending.violations)
    assert dataclasses.asdict(ending.plot)["number"] == 0
