"""The waiting time in reports is what a rank spends between its own last gradient and the mean of all."""

# ruff: noqa: E402

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist
import torch.multiprocessing as mp
from torch_ranks import leave

from slurmsia.job import Reporter
from slurmsia.job.torch import Elastic
from slurmsia.job.torch.sync import SyncTime

LATE_S, STEPS = 0.3, 4


def model_of(unused: bool = False) -> Any:
    torch.manual_seed(1)
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    if unused:
        layers.register_parameter("never", torch.nn.Parameter(torch.zeros(3)))
    return layers


def joined(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)


def late_rank(rank: int, port: int, folder: str, queue: Any) -> None:
    """Rank 1 begins its backward pass LATE_S after rank 0 has all of its own gradients."""
    joined(rank, port)
    model = torch.nn.parallel.DistributedDataParallel(model_of())
    sync = SyncTime(model)
    ready = [Path(folder, f"ready.{step}") for step in range(STEPS)]
    first = next(iter(model.parameters()))
    for step in range(STEPS):
        loss = model(torch.ones(2, 4)).mean()
        if rank == 1:
            while not ready[step].exists():
                time.sleep(0.001)
            time.sleep(LATE_S)
        # the first layer's gradient comes last
        handle = first.register_hook(lambda _, step=step: ready[step].touch()) if rank == 0 else None
        sync.begin()
        loss.backward()
        sync.end()
        if handle is not None:
            handle.remove()
    if rank == 0:
        queue.put(sync.take_s())
        assert sync.take_s() == 0.0
    leave()


def test_a_rank_that_has_its_gradients_early_reports_the_time_it_waits_for_a_late_one(tmp_path: Path) -> None:
    waited_s = on_two_ranks(late_rank, str(tmp_path))
    # rank 0 cannot go on before rank 1's pass, which begins LATE_S after rank 0's own last gradients
    assert waited_s > STEPS * LATE_S * 0.9


def on_two_ranks(what: Any, folder: str) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = mp.get_context("fork").SimpleQueue()
    context = mp.start_processes(what, (port, folder, queue), 2, join=False, start_method="fork", daemon=True)
    while not context.join():
        pass
    return queue.get()


def trained(rank: int, port: int, folder: str, queue: Any) -> None:
    joined(rank, port)
    os.environ.update(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="0", RANK=str(rank), WORLD_SIZE="2")
    model = model_of()
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    reporter = Reporter(rank=rank, gpus=2, spool=folder)
    run = Elastic(model, optimizer, data, batch=8, local=(1, 2), epochs=2, checkpoint=f"{folder}/c", reporter=reporter)
    with run:
        for x, y in run:
            run.backward(torch.nn.functional.mse_loss(run.model(x), y))
            run.step()
    if rank == 0:
        lines = Path(folder, "reports", f"7.0.{os.getuid()}.jsonl").read_text().splitlines()
        queue.put([entry for line in lines for entry in json.loads(line).get("steps", [])])
    leave()


def test_the_reports_of_a_training_on_two_ranks_carry_the_waiting_time_of_its_steps(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    steps = on_two_ranks(trained, str(tmp_path))
    assert sum(entry["n"] for entry in steps) == 15
    assert all(0 < entry["sync"] <= entry["step"] for entry in steps)


def test_a_parameter_that_gets_no_gradient_is_not_waited_for_and_the_last_one_is_learnt_again() -> None:
    model = model_of(unused=True)
    sync = SyncTime(model)
    for _ in range(3):
        sync.begin()
        model(torch.ones(2, 4)).mean().backward()
        sync.end()
    first_layer = list(model[0].parameters())
    assert any(sync._last is parameter for parameter in first_layer)
    for parameter in first_layer:
        parameter.requires_grad_(False)
    for _ in range(2):
        sync.begin()
        model(torch.ones(2, 4)).mean().backward()
        sync.end()
    assert any(sync._last is parameter for parameter in model[2].parameters())
    assert len(sync._handles) == 1
