"""Throughput of `Elastic` against a plain DDP loop on the same device, as a ratio; needs torch and slurmsia.job only.

Run: PYTHONPATH=. python tests/bench/elastic_vs_ddp.py [--json]. Both loops train the same model on the same data with
the same loader; rounds alternate so that clocks and caches favour neither. Measures only. On a CPU the ratio of
processor time counts, which a busy machine does not disturb.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
from torch.nn import functional

from slurmsia.job.torch import Elastic


class Images(torch.utils.data.Dataset):
    """Random images kept in memory."""

    def __init__(self, length: int, size: int) -> None:
        self.x = torch.randn(length, 3, size, size)
        self.y = torch.randint(0, 10, (length,))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


def network(width: int, depth: int) -> torch.nn.Module:
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(depth):
        layers += [torch.nn.BatchNorm2d(width), torch.nn.ReLU(), torch.nn.Conv2d(width, width, 3, padding=1)]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width, 10))


def plain(options: argparse.Namespace, device: torch.device, data: Images) -> tuple[float, float]:
    model = torch.nn.parallel.DistributedDataParallel(network(options.width, options.depth).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = torch.utils.data.DataLoader(
        data, options.batch, shuffle=True, drop_last=True, pin_memory=device.type == "cuda"
    )
    begun = cpu_begun = 0.0
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for step, (x, y) in enumerate(itertools.islice(batches, options.warm + options.steps)):
        if step == options.warm:
            synchronize(device)
            begun, cpu_begun = time.perf_counter(), time.process_time()
        loss = functional.cross_entropy(model(x.to(device, non_blocking=True)), y.to(device, non_blocking=True))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize(device)
    return rates(options, begun, cpu_begun)


def elastic(options: argparse.Namespace, device: torch.device, data: Images) -> tuple[float, float]:
    model = torch.nn.parallel.DistributedDataParallel(network(options.width, options.depth).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = {"pin_memory": device.type == "cuda"}
    begun = cpu_begun = 0.0
    with tempfile.TemporaryDirectory() as folder:
        run = Elastic(
            model, optimizer, data, batch=options.batch, epochs=10**6, checkpoint=folder, loader=loader, shuffle=True
        )
        with run:
            for x, y in run:
                if run.steps == options.warm:
                    synchronize(device)
                    begun, cpu_begun = time.perf_counter(), time.process_time()
                if run.steps == options.warm + options.steps:
                    break
                run.backward(
                    functional.cross_entropy(
                        run.model(x.to(device, non_blocking=True)), y.to(device, non_blocking=True)
                    )
                )
                run.step()
        synchronize(device)
    return rates(options, begun, cpu_begun)


def rates(options: argparse.Namespace, begun: float, cpu_begun: float) -> tuple[float, float]:
    """Samples per second of wall time and of processor time."""
    samples = options.steps * options.batch
    return samples / (time.perf_counter() - begun), samples / (time.process_time() - cpu_begun)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warm", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=0, world_size=1)
    data = Images(options.batch * 20, options.size)
    pairs = [(plain(options, device, data), elastic(options, device, data)) for _ in range(options.rounds)]
    dist.destroy_process_group()
    ratio = statistics.median(mine[0] / theirs[0] for theirs, mine in pairs)
    cpu_ratio = statistics.median(mine[1] / theirs[1] for theirs, mine in pairs)
    result = {
        "device": torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu",
        "ddp_samples_per_s": statistics.median(theirs[0] for theirs, _ in pairs),
        "elastic_samples_per_s": statistics.median(mine[0] for _, mine in pairs),
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "ratios": [mine[0] / theirs[0] for theirs, mine in pairs],
        "cpu_ratios": [mine[1] / theirs[1] for theirs, mine in pairs],
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['device']}: Elastic runs at {ratio:.4f} of plain DDP's throughput, "
            f"{cpu_ratio:.4f} by processor time (medians of {options.rounds})"
        )


if __name__ == "__main__":
    main()
