"""Small values for the store's tests: jobs, snapshots, reports, rounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from slurmsia.cluster import Allocation, GpuType, Job, JobState, Node, Request, Shape, Snapshot
from slurmsia.history import Gradient, MemoryPoint, Observation, Progress, Report, RestartSample, SimilarHistory
from slurmsia.models.base import JobModel, NoiseAhead, PipelineParams, ThroughputParams, TypeModel
from slurmsia.plan import Alternative, BatchChoice, Plan, SolveStats, Target, TargetKind, Verdict
from slurmsia.standing import Standing
from slurmsia.store import ReportContext, RoundRecord

ALLOCATION = Allocation("a100", (("n1", 4), ("n2", 4)))
STEPS = Observation("a100", 2, 8, 32.0, 1, 10.0, 5.0, 2.6, 1.0)


def job(job_id: str = "1", state: JobState = JobState.RUNNING, submit_s: float = 100.0, **more: Any) -> Job:
    values: dict[str, Any] = {
        "user_id": 7, "script_hash": "abc", "name": "train", "request": Request(gpus=8),
        "comment": "sia: gpus=1-8",
    }  # fmt: skip
    if state is JobState.RUNNING:
        values |= {"allocation": ALLOCATION, "start_s": submit_s + 10}
    return Job(id=job_id, state=state, submit_s=submit_s, **(values | more))


def snapshot(*jobs: Job, taken_s: float = 200.0) -> Snapshot:
    node = Node("n1", "a100", 8, 64, 256_000, features=frozenset({"fast", "a100"}))
    return Snapshot(taken_s, (node,), jobs, (GpuType("a100", 4e10),))


def report(seq: int, job_id: str = "1", restart: int = 0, t_s: float | None = None, **more: Any) -> Report:
    values: dict[str, Any] = {"observations": (STEPS,)}
    return Report(job_id, restart, seq, 150.0 + seq if t_s is None else t_s, "progress", **(values | more))


def full_report(seq: int, job_id: str = "1", t_s: float = 160.0) -> Report:
    return report(
        seq, job_id, t_s=t_s, gradient=Gradient(t_s, 1e-3, 5e-4, 4.0), energy_j=10.0, net_bytes=1e6,
        progress=Progress(t_s, 1000.0 * (seq + 1), 1e6, 500.0, t_s - 1), memory=MemoryPoint("a100", 32.0, 3e10, 4e10),
        restart_sample=RestartSample(save_s=6.0, load_s=9.0), handles_signal=True,
    )  # fmt: skip


def noisy_report(
    seq: int, job_id: str = "1", *, samples: float, restart: int = 0, t_s: float | None = None, square: float = 1e-3,
    variance: float = 5e-4, scale: float = 4.0, **more: Any,
) -> Report:  # fmt: skip
    """A report with gradient and progress, from which the noise of a kind is learnt."""
    at_s = 150.0 + seq if t_s is None else t_s
    return report(
        seq, job_id, restart, at_s, gradient=Gradient(at_s, square, variance, scale), progress=Progress(at_s, samples),
        **more,
    )  # fmt: skip


def assert_same_noise(one: SimilarHistory | None, other: SimilarHistory | None) -> None:
    """The same cells in the same order; sums to the last bits but a few, which depend on the order of adding."""
    assert one is not None
    assert other is not None
    assert len(other.noise) > 1
    assert [(c.samples_cell, c.scale_doubling, c.count) for c in one.noise] == [
        (c.samples_cell, c.scale_doubling, c.count) for c in other.noise
    ]
    for cell, like in zip(one.noise, other.noise, strict=True):
        assert cell.log_sum == pytest.approx(like.log_sum, rel=1e-12, abs=1e-12)
        assert cell.log_square_sum == pytest.approx(like.log_square_sum, rel=1e-12)


CONTEXT = ReportContext(user_id=7, submit_s=100.0, script_hash="abc", name="train")


def model(job_id: str = "1") -> JobModel:
    params = ThroughputParams(0.1, 1 / 3, 0.02, 1e-8, 0.01, 1e-8, 1.7)
    return JobModel(
        job_id, {"a100": TypeModel("a100", params, "fit", 0.05), "rtx": TypeModel("rtx", PipelineParams(4, 8, 2, 0.3),
        "ratio:a100", 0.2)}, units={"rtx": 4}, known=True, remaining_std=float("inf"),
        noise_ahead=NoiseAhead(((0.0, 1.5, 0.25), (2048.0, 2.75, 0.0)), 4.0, 102.0),
    )  # fmt: skip


def plan(*verdicts: Verdict, sentence: str = "Moved 1 job of 2.") -> Plan:
    target = Target(
        "1", TargetKind.MOVE, Shape("a100", 2, 8), (("n1", 4), ("n2", 4)), BatchChoice(64, 1), 812.5, 400.25, 0.1
    )
    alternative = Alternative(Shape("rtx", 1, 8), 300.0, "slower by 2.7")
    said = verdicts or (Verdict("1", "moves", "moves to 8 a100", "goodput", (alternative,), "a free rtx"),)
    return Plan((target,), said, "sia", 12.5, 12.5001, 8e-6, "core", sentence, SolveStats({"solve": 0.2}))


def round_record(taken_s: float = 200.0, *verdicts: Verdict, **more: Any) -> RoundRecord:
    values: dict[str, Any] = {
        "mode": "observe", "snapshot": snapshot(job("1"), job("2", JobState.PENDING), taken_s=taken_s),
        "plan": plan(*verdicts), "models": {"1": model()}, "config_text": '{"policy":{"name":"sia"}}',
        "standing": {"1": Standing("1", 100.0, moves=2, in_flight=Shape("a100", 1, 4))}, "times_s": {"solve": 0.2},
    }  # fmt: skip
    return RoundRecord(taken_s=taken_s, **(values | more))


def changed(value: Any, **fields: Any) -> Any:
    return dataclasses.replace(value, **fields)
