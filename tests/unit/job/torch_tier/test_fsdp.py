"""A model sharded by FSDP2 trains, stops, and goes on on another number of processes: the same training throughout."""

# ruff: noqa: E402

from __future__ import annotations

import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch_ranks import leave

from slurmsia.job import Reporter
from slurmsia.job.directive import Directive
from slurmsia.job.torch import Elastic, elastic
from slurmsia.job.torch import state as states

LENGTH, BATCH, EPOCHS = 48, 12, 3
STEPS = LENGTH * EPOCHS // BATCH


class Points(torch.utils.data.Dataset):  # type: ignore[misc, type-arg, unused-ignore]
    """A generated regression problem; each sample carries its id."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(LENGTH, 6, generator=generator)
        self.y = self.x @ torch.randn(6, 1, generator=generator)

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[int, Any, Any]:
        return index, self.x[index], self.y[index]


def sharded_model() -> Any:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    return model


def train(rank: int, size: int, port: int, restart: int, stop_at: int | None, kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.update(SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restart))
    elastic._AGREE_EVERY_S = 0.0
    dist.init_process_group("gloo", rank=rank, world_size=size)
    model = sharded_model()
    assert states.is_sharded(model)
    if kind == "adam":
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    reporter = Reporter(rank=rank, gpus=size, spool=folder, look_s=0.01)
    run = Elastic(
        model,
        optimizer,
        Points(),
        batch=BATCH,
        epochs=EPOCHS,
        checkpoint=f"{folder}/c",
        reporter=reporter,
        local=(1, 3),
    )
    try:
        with run, Path(folder, f"ids.{restart}.{rank}").open("w") as ids:
            for index, x, y in run:
                if run.counts:
                    print(*index.tolist(), sep="\n", file=ids, flush=True)
                run.backward(torch.nn.functional.mse_loss(run.model(x), y))
                if run.step() and stop_at is not None and run.steps == stop_at - 1:
                    reporter._directive = Directive(seq=run.steps, action="checkpoint", exit_code=0)
                    reporter._directives = None
    except SystemExit:
        pass
    else:
        whole, _ = states.collect(model, optimizer)
        if rank == 0:
            torch.save(whole, f"{folder}/final.pt")
    leave()


def run_sequence(folder: Path, sizes: list[int], kind: str) -> Any:
    (folder / "reports").mkdir(parents=True)
    for restart, size in enumerate(sizes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        stop_at = None if restart == len(sizes) - 1 else (restart + 1) * STEPS // len(sizes)
        mp.start_processes(
            train, (size, port, restart, stop_at, kind, str(folder)), size, start_method="fork", daemon=True
        )
    seen = Counter(int(line) for path in folder.glob("ids.*") for line in path.read_text().split())
    assert seen == Counter(dict.fromkeys(range(LENGTH), EPOCHS))
    return torch.load(folder / "final.pt")


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_sharded_training_moved_from_2_to_1_to_2_processes_ends_where_the_unmoved_one_ends(
    tmp_path: Path, kind: str
) -> None:
    moved = run_sequence(tmp_path / "moved", [2, 1, 2], kind)
    alone = run_sequence(tmp_path / "alone", [1], kind)
    assert set(moved) == set(alone)
    for name, value in alone.items():
        assert torch.allclose(moved[name], value, atol=2e-5), name


def refuse_scaler(rank: int, port: int) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    model = sharded_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="takes no scaler"):
        Elastic(model, optimizer, Points(), batch=4, epochs=1, checkpoint="c", scaler=torch.amp.GradScaler("cpu"))
    leave()


def test_a_sharded_model_with_an_amp_scaler_is_refused_in_one_sentence() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(refuse_scaler, (port,), 1, start_method="fork", daemon=True)
