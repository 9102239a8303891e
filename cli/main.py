"""Entry point of the ``slurmsia`` command.

Every command lives in a module of its own and is imported only when it is called, so that ``slurmsia status``
starts in well under 200 ms. This file holds the table of commands and nothing else; it must never import the
solver, the store or the models.
"""

from __future__ import annotations

import importlib
import sys

import click

from slurmsia import __version__

#: command name -> (module inside this package, attribute, one-line help shown without importing the module)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "status": ("status", "status", "The cluster at a glance: GPUs by use, mode, last sentence, my jobs."),
    "jobs": ("jobs", "jobs", "Live jobs with GPUs; squeue's own flags."),
    "job": ("jobs", "job", "One job: goodput curves, moves, what it gained, advice."),
    "why": ("jobs", "why", "Why a job is where it is, and what would change it."),
    "gpus": ("cluster_views", "gpus", "The GPU map by node."),
    "plan": ("cluster_views", "plan", "What the last round decided."),
    "estimate": ("cluster_views", "estimate", "When a job or script would start and end, as a range."),
    "history": ("cluster_views", "history", "Moves, runs, verdicts, operators' actions."),
    "rounds": ("cluster_views", "rounds", "The last rounds, or one in full."),
    "policy": ("policy", "policy", "The policy in force: show, check, diff."),
    "pause": ("operate", "pause", "Operators: write nothing to Slurm until resumed."),
    "resume": ("operate", "resume", "Operators: end a pause."),
    "reconfigure": ("operate", "reconfigure", "Operators: read the policy file again."),
    "pin": ("operate", "pin", "Operators: never move a job again in this run."),
    "unpin": ("operate", "unpin", "Operators: let a pinned job move again."),
    "release": ("operate", "release", "Operators: drop a job's move, end its lease, leave it alone."),
    "tutorial": ("tutorial", "tutorial", "Five commands on an embedded cluster."),
    "completion": ("shell", "completion", "Shell completion for bash, zsh, fish."),
    "schema": ("schema", "schema", "JSON schemas of what --json prints."),
    "man": ("shell", "man", "Man pages of every command and of the policy file."),
    "release-all": ("operate", "release_all", "End every lease and clear every pin now; needs no daemon."),
    "submit": ("submit", "submit", "Submit a script with sia: words; wraps sbatch."),
    "declare": ("submit", "declare", "Put sia: words on a waiting job; wraps scontrol."),
    "report": ("job_side", "report", "Write one report line of the current job, for shell loops."),
    "env": ("job_side", "env", "Print exports that mend a reshaped job's environment."),
    "rehearse": ("rehearse", "rehearse", "Prove that a script checkpoints, moves and resumes."),
    "job-zipapp": ("job_side", "job_zipapp", "Pack the job library into one file."),
    "bench": ("bench", "bench", "Measure the parts of slurmsia on this machine."),
    "simulate": ("simulate", "simulate", "Replay workloads under policies; compare, sweep, fidelity."),
    "db": ("db", "db", "The job-history store: schema, backup, export, pruning."),
    "replay": ("replay", "replay", "Decide a stored round again, under another policy too, and show what differs."),
    "models": ("models", "models", "What is known of jobs' speed; remake the shipped parameters."),
    "doctor": ("doctor", "doctor", "Check that this site is ready; one line per finding."),
    "config": ("config", "config", "Check a configuration file, or print the commented example."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use; a group of further commands overrides ``table``."""

    table = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module, attribute, _ = self.table[name]
        loaded = importlib.import_module(f".{module}", __package__)
        command = getattr(loaded, attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.table[name][2]) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slurmsia")
def cli() -> None:
    """Goodput-optimal scheduling of elastic deep-learning jobs on an unmodified Slurm."""


def main() -> None:
    """Console-script entry point; exit codes: 0 done, 1 failed, 2 bad usage or bad input."""
    cli(prog_name="slurmsia")
    sys.exit(0)
