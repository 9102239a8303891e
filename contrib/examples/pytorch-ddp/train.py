"""A small classifier on generated spirals; the five lines of slurmsia are marked. Runs on CPU (gloo) and GPU (NCCL)."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from torch.nn import functional

from slurmsia.job.torch import Elastic  # 1


class Spirals(torch.utils.data.Dataset):
    """Points of three intertwined spirals; every sample carries its id."""

    def __init__(self, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.label = torch.arange(length) % 3
        radius = torch.rand(length, generator=generator)
        angle = 4.0 * radius + self.label * 2.094 + 0.1 * torch.randn(length, generator=generator)
        self.points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int):
        return index, self.points[index], self.label[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--checkpoint", default="checkpoints")
    parser.add_argument(
        "--slow",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds of extra work in every step, shared by all processes",
    )
    parser.add_argument("--record", metavar="FOLDER", help="write the ids of the samples of every rank and the result")
    options = parser.parse_args()

    torch.manual_seed(1)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3)
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = Spirals(options.samples)

    run = Elastic(
        model, optimizer, data, batch=options.batch, epochs=options.epochs, checkpoint=options.checkpoint
    )  # 2
    restart, rank = os.environ.get("SLURM_RESTART_COUNT", "0"), os.environ.get("RANK", "0")
    ids = None
    if options.record:
        ids = (Path(options.record) / f"ids.{restart}.{rank}").open("a")
    loss = torch.zeros(())
    with run:  # 3
        for index, points, label in run:
            loss = functional.cross_entropy(run.model(points.to(device)), label.to(device))
            run.backward(loss)  # 4
            if ids is not None and run.counts:
                print(*index.tolist(), sep="\n", file=ids, flush=True)
            run.step()  # 5
            time.sleep(options.slow / int(os.environ.get("WORLD_SIZE", "1")))

    if rank == "0":
        with torch.no_grad():
            final = float(functional.cross_entropy(model(data.points.to(device)), data.label.to(device)))
        print(f"done: {run.steps} steps, loss over all samples {final:.4f}")
        if options.record:
            result = {"loss": final, "steps": run.steps, "samples": run.position, "restart": int(restart)}
            (Path(options.record) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
