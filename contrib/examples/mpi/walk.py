"""A Monte Carlo estimate of pi over MPI ranks, restartable on any number of them; needs mpi4py and nothing else."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time

from mpi4py import MPI

from slurmsia.job import Reporter
from slurmsia.job.checkpoint_file import write_whole

SLICE = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--throws", type=int, default=20_000_000)
    total = parser.parse_args().throws
    comm = MPI.COMM_WORLD
    path = os.environ.get("STATE_FILE", "pi.json")
    state = {"thrown": 0, "inside": 0}
    if comm.rank == 0 and os.path.exists(path):
        with open(path) as file:
            state = json.load(file)
    state = comm.bcast(state, 0)
    chance = random.Random(state["thrown"] * 1_000_003 + comm.rank)
    with Reporter(rank=comm.rank, gpus=comm.size, samples_done=state["thrown"], target=total) as reporter:
        while state["thrown"] < total:
            mine = SLICE // comm.size
            inside = sum(chance.random() ** 2 + chance.random() ** 2 < 1 for _ in range(mine))
            state["inside"] += comm.allreduce(inside)
            state["thrown"] += mine * comm.size
            reporter.step(samples=mine * comm.size)
            if reporter.stop_now(lambda number: comm.bcast(number, 0)):
                begun = time.perf_counter()
                if comm.rank == 0:
                    write_whole(path, lambda file: file.write(json.dumps(state).encode()))
                    reporter.checkpointed(time.perf_counter() - begun, state["thrown"])
                    reporter.wait_for_requeue()
                reporter.go_on()
                comm.barrier()
    if comm.rank == 0:
        sys.stdout.write("pi is about {:.5f}\n".format(4 * state["inside"] / state["thrown"]))


if __name__ == "__main__":
    main()
