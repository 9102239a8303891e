"""``slurmsia bench``: the table of benches. Each lives in a module of its own and is imported when it is called."""

from __future__ import annotations

import click

from .main import LazyGroup

#: bench name -> (module inside this package, attribute, one-line help)
BENCHES: dict[str, tuple[str, str, str]] = {
    "api": ("bench_api", "api_bench", "API: answer times under 500 clients, and what they cost a round."),
    "cli": ("bench_cli", "cli_bench", "Command line: start-up of `slurmsia status` in fresh processes."),
    "simulate": ("bench_simulate", "simulate_bench", "Simulator: time and memory of whole simulations."),
    "quality": ("bench_quality", "quality_bench", "Policies against a baseline on honest physics, beside the bound."),
    "robustness": ("bench_robustness", "robustness_bench", "A policy where its knowledge is wrong or the cluster odd."),
    "neighbours": ("bench_simulate", "neighbours_bench", "Waiting time of undeclared jobs with and without slurmsia."),
    "reporter": ("bench_reporter", "reporter_bench", "Job reporter: time in the training step, and memory."),
    "spool": ("bench_spool", "spool_bench", "Report spool: time and memory of a round among hostile files."),
    "bootstrap": ("bench_bootstrap", "bootstrap_bench", "Models: estimates for a type seen on one GPU only."),
    "fit": ("bench_fit", "fit_bench", "Models: error on held-out points, time of a cold and a warm fit."),
    "matrix": ("bench_matrix", "matrix_bench", "Models: time to fill a goodput matrix with batch search."),
    "moves": ("bench_moves", "moves_bench", "Emulator and driver of moves: time by part, without deciding."),
    "store": ("bench_store", "store_bench", "Store: reports a second, round writes, growth, similar jobs."),
    "client": ("bench_client", "client", "Clients: bulk reads of a live Slurm."),
    "move": ("bench_client", "move", "Clients: a job moved between two GPU types of a live Slurm."),
    "decide": ("bench_decide", "decide_bench", "One whole decision: time by part on a made-up busy cluster."),
    "round": ("bench_round", "round_bench", "The daemon's whole round: time by phase, memory, on a busy cluster."),
    "solve": ("bench_solve", "solve_bench", "Solver: time and proven gap on recorded and stacked programs."),
}


class BenchGroup(LazyGroup):
    """The benches, each imported on first use."""

    table = BENCHES


@click.command(cls=BenchGroup)
def bench() -> None:
    """Measure the parts of slurmsia on this machine; every bench has --json.

    \b
    Example:
      slurmsia bench cli
      slurmsia bench api --clients 500 --jobs 1000
    """
