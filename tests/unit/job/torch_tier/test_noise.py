"""The gradient noise scale within 10 % of a synthetic problem whose moments are known."""

# ruff: noqa: E402

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch_ranks import leave

from slurmsia.job.torch.noise import GradientNoise, moments

SIZE = 400
#: The loss x.w has the sample x as its gradient: mean MU, independent entries of standard deviation SIGMA.
MU = torch.linspace(0.02, 0.2, SIZE)
SIGMA = torch.linspace(0.5, 1.5, SIZE)
M0 = 16
STEPS = 400


def sample(count: int, generator: torch.Generator, mean: float = 1.0, spread: float = 1.0) -> torch.Tensor:
    return mean * MU + spread * SIGMA * torch.randn(count, SIZE, generator=generator)


def optimizer_of(kind: str, weights: torch.nn.Parameter) -> Any:
    if kind == "sgd":
        return torch.optim.SGD([weights], lr=1e-9)
    optimizer = torch.optim.Adam([weights], lr=1e-9, betas=(0.9, 0.999))
    second = torch.linspace(0.2, 3.0, SIZE) ** 2
    optimizer.state[weights] = {"step": torch.tensor(1e9), "exp_avg": MU.clone(), "exp_avg_sq": second}
    return optimizer


def known(kind: str) -> tuple[float, float]:
    scale = torch.ones(SIZE) if kind == "sgd" else 1.0 / (torch.linspace(0.2, 3.0, SIZE) + 1e-8)
    return float((scale * MU).square().sum()), float((scale * SIGMA).square().sum()) / M0


def measure(
    kind: str,
    world: int,
    rank: int,
    parts_each: int,
    part_batch: int,
    loss_scale: float = 1.0,
    seed: int = 1000,
    mean: float = 1.0,
    spread: float = 1.0,
) -> Any:
    weights = torch.nn.Parameter(torch.zeros(SIZE))
    optimizer = optimizer_of(kind, weights)
    noise = GradientNoise(optimizer, M0, every=1, memory=10**9)
    generator = torch.Generator().manual_seed(seed + rank)
    for step in range(STEPS):
        weights.grad = None
        assert noise.is_measured(step, parts_each * world)
        noise.begin()
        for _ in range(parts_each):
            noise.part(1.0 / parts_each)
            loss = (sample(part_batch, generator, mean, spread) @ weights).mean()
            (loss * loss_scale / parts_each).backward()
        if world > 1:
            assert weights.grad is not None
            dist.all_reduce(weights.grad)
            weights.grad /= world
        noise.end(part_batch, loss_scale)
    return noise.measured


def check(kind: str, found: Any) -> None:
    square, variance = known(kind)
    assert found[0] == pytest.approx(square, rel=0.1)
    assert found[1] == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize(("parts", "batch"), [(4, 32), (2, 64), (1, 128)])
def test_one_gpu_with_and_without_accumulation(kind: str, parts: int, batch: int) -> None:
    check(kind, measure(kind, 1, 0, parts, batch))


def expected_error(kind: str, parts: int, batch: int, mean: float, spread: float) -> float:
    """Relative standard error of |gradient|^2 after STEPS steps: what chance alone does to a perfect estimator."""
    scale = torch.ones(SIZE) if kind == "sgd" else 1.0 / (torch.linspace(0.2, 3.0, SIZE) + 1e-8)
    g, noise = scale * mean * MU, (scale * spread * SIGMA).square() / batch
    n, measured = (parts, STEPS) if parts > 1 else (2, STEPS // 2)
    variance = 4 * float((g.square() * noise).sum()) / n + 2 * float(noise.square().sum()) / (n * (n - 1))
    return float((variance / measured) ** 0.5 / g.square().sum())


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["sgd", "adam"]),
    parts=st.integers(1, 5),
    batch=st.integers(32, 64),
    mean=st.floats(1.0, 3.0),
    spread=st.floats(0.5, 1.4),
    seed=st.integers(0, 10**6),
)
def test_whatever_the_problem_and_the_accumulation_the_noise_scale_is_within_a_tenth(
    kind: str, parts: int, batch: int, mean: float, spread: float, seed: int
) -> None:
    assume(expected_error(kind, parts, batch, mean, spread) < 0.025)
    square, variance = known(kind)
    truth = variance * spread**2 / (square * mean**2)
    found = measure(kind, 1, 0, parts, batch, seed=seed, mean=mean, spread=spread)
    assert found[1] / found[0] == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_amp_loss_scale_does_not_change_the_moments(kind: str) -> None:
    check(kind, measure(kind, 1, 0, 4, 32, loss_scale=1024.0))


def replica(rank: int, world: int, port: int, parts: int, queue: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = {kind: measure(kind, world, rank, parts, 32) for kind in ("sgd", "adam")}
    if rank == 0:
        queue.put(found)
    leave(queue if rank == 0 else None)


@pytest.mark.parametrize("parts", [1, 2])
def test_replicas_with_and_without_accumulation(parts: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("fork").Queue()
    context = mp.start_processes(replica, (3, port, parts, queue), 3, join=False, start_method="fork", daemon=True)
    found = queue.get(timeout=100)
    while not context.join():
        pass
    for kind in ("sgd", "adam"):
        check(kind, found[kind])


def test_the_moments_of_exact_means_are_exact() -> None:
    square, variance, parts = 2.0, 6.0, 4
    assert moments(square + variance, square + variance / parts, parts) == (square, variance)
