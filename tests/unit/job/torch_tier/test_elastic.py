"""Training moved over 1, 2, 4, 2, 1 processes is the training that was never moved; checkpoints are whole or absent."""

# ruff: noqa: E402

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

pytest.importorskip("torch._dynamo")

from slurmsia.job import Reporter
from slurmsia.job.checkpoint_file import newest, path_of, prune, write_whole
from slurmsia.job.directive import Directive, SpeedModel
from slurmsia.job.torch import Elastic, elastic
from slurmsia.job.torch import state as states

LENGTH, EPOCHS, BATCH = 96, 4, 12


class Points(torch.utils.data.Dataset):  # type: ignore[misc, type-arg, unused-ignore]
    """A generated regression problem; each sample carries its id."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(LENGTH, 6, generator=generator)
        self.y = self.x @ torch.randn(6, 1, generator=generator) + 0.1 * torch.randn(LENGTH, 1, generator=generator)

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[int, Any, Any]:
        return index, self.x[index], self.y[index]


def train(folder: Path, stop_at: int | None, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    elastic._AGREE_EVERY_S = 0.0
    reporter = Reporter(rank=rank, gpus=size, spool=str(folder), look_s=0.01, period_s=0.05)
    run = Elastic(
        model,
        optimizer,
        Points(),
        batch=BATCH,
        epochs=EPOCHS,
        checkpoint=str(folder / "ckpt"),
        scheduler=scheduler,
        reporter=reporter,
        noise_every=2,
        **options,
    )
    with run, (folder / f"ids.{os.environ['SLURM_RESTART_COUNT']}.{rank}").open("w") as ids:
        for index, x, y in run:
            if run.counts:
                print(*index.tolist(), sep="\n", file=ids, flush=True)
            run.backward(torch.nn.functional.mse_loss(run.model(x), y))
            if run.step() and stop_at is not None and run.steps == stop_at - 1:
                # Found by the ranks' agreement after the next step.
                reporter._directive = Directive(seq=run.steps, action="checkpoint", exit_code=0)
                reporter._directives = None
    if rank == 0:
        torch.save(states.bare(model).state_dict(), folder / "final.pt")


def launch(folder: Path, restart: int, world: int, stop_at: int | None, options: dict[str, Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                os.environ.update(SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restart))
                train(folder, stop_at, options)
                code = 0
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            except BaseException as error:
                print(f"rank {rank}: {error!r}", file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * world


def run_sequence(folder: Path, sizes: list[int], **options: Any) -> tuple[Counter[int], Any]:
    (folder / "reports").mkdir(parents=True)
    steps = LENGTH * EPOCHS // BATCH
    for restart, world in enumerate(sizes):
        last = restart == len(sizes) - 1
        launch(folder, restart, world, None if last else (restart + 1) * steps // len(sizes), options)
    ids = [int(line) for path in folder.glob("ids.*") for line in path.read_text().split()]
    return Counter(ids), torch.load(folder / "final.pt")


@pytest.mark.parametrize("options", [{}, {"local": (1, 3)}], ids=["plain", "accumulating"])
def test_moved_training_sees_every_sample_once_an_epoch_and_ends_where_unmoved_training_ends(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    seen, moved = run_sequence(tmp_path / "moved", [1, 2, 4, 2, 1], **options)
    seen_alone, alone = run_sequence(tmp_path / "alone", [1], **options)
    assert seen == seen_alone == Counter(dict.fromkeys(range(LENGTH), EPOCHS))
    for name, value in alone.items():
        assert torch.allclose(moved[name], value, atol=2e-5), name


def test_a_larger_batch_is_taken_only_when_the_directives_model_promises_it(tmp_path: Path) -> None:
    model = torch.nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    speed = SpeedModel(0.1, 1e-4, 0.1, 0.0, 0.1, 0.0, 2.0, 1e-6, 10.0, BATCH, 96, 1, 96)
    noiseless = speed._replace(square=1e6, variance=1e-6)
    for directive, expected in ((Directive(1, model=speed), 96), (Directive(1, model=noiseless), BATCH)):
        run = Elastic(
            model, optimizer, Points(), batch=BATCH, epochs=1, checkpoint=str(tmp_path / "none"), batch_max=96
        )
        with run:
            run.reporter._directive = directive
            totals = []
            for _, x, y in run:
                run.backward(torch.nn.functional.mse_loss(run.model(x), y))
                run.step()
                totals.append(run.total_batch)
        assert totals[-1] == expected
        prune(str(tmp_path / "none"), 0)


def test_a_checkpoint_of_a_compiled_model_loads_into_a_plain_one(tmp_path: Path) -> None:
    plain = torch.nn.Linear(3, 2)
    compiled = torch.compile(plain, backend="eager")
    optimizer = torch.optim.Adam(plain.parameters())
    model_state, optimizer_state = states.collect(compiled, optimizer)
    other = torch.nn.Linear(3, 2)
    states.apply(other, torch.optim.Adam(other.parameters()), model_state, optimizer_state)
    assert torch.equal(other.weight, plain.weight)


def test_an_unreadable_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    write_whole(path_of(str(tmp_path), 1), lambda file: torch.save({"position": 1}, file))
    Path(path_of(str(tmp_path), 2)).write_bytes(b"not a checkpoint")
    assert states.load(str(tmp_path)) == {"position": 1}


def save_for_ever(folder: str, begun: int) -> None:
    torch.set_num_threads(1)
    step = int(states.load(folder)["step"])
    os.write(begun, b".")
    while True:
        step += 1
        states.save(folder, step, content(step), keep=2)


def content(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((100_000,), float(step))}


def test_killed_200_times_during_checkpointing_it_always_restarts_from_a_whole_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(7)
    folder = str(tmp_path)
    states.save(folder, 0, content(0), keep=2)
    reached = killed_while_writing = 0
    for _ in range(200):
        saving, begun = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(folder, begun)
            finally:
                os._exit(1)
        os.close(begun)
        assert os.read(saving, 1) == b"."
        os.close(saving)
        time.sleep(chance.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        path = newest(folder)
        assert path is not None
        found = torch.load(path)
        assert bool((found["weights"] == float(found["step"])).all())
        assert found["step"] >= reached
        reached = found["step"]
        killed_while_writing += len(os.listdir(folder)) > 2
    with capsys.disabled():
        print(f"\n200 kills, 200 restarts from a whole checkpoint, {reached} checkpoints written,", end=" ")
        print(f"{killed_while_writing} kills left an unfinished file")
    assert reached > 20
