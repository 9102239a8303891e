"""``slurmsia submit`` and ``slurmsia declare``: the ``sia:`` words on a new or a waiting job. They wrap sbatch and
scontrol, check the words first, and print the exact command with ``--dry-run``. Nothing else is ever run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click

from slurmsia.declaration import Declaration, DeclarationError, Level, format, parse

_WORD = re.compile(r"[a-z_]+=")
_GPU_OPTIONS = ("--gres", "--gpus", "--gpus-per-node", "--gpus-per-task", "-G", "--tres-per-task")
_COMMENT = re.compile(r"^#SBATCH\s+(--.*)$", re.MULTILINE)
_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command(context_settings=_PASS_ON)
@click.option("--dry-run", is_flag=True, help="Print the sbatch command and run nothing.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def submit(dry_run: bool, words: tuple[str, ...]) -> None:
    """Submit a script with sia: words: slurmsia submit [KEY=VALUE]... [sbatch options] SCRIPT [arguments].

    The words come first; all the rest is handed to sbatch as it stands. Without words the script's own
    '#SBATCH --comment' is checked.

    \b
    Example:
      slurmsia submit gpus=1-8 signal=USR1@60 --partition=gpu train.sh
      slurmsia submit --dry-run gpus=1-16 batch=256:4096 --nodes=1 train.sh --epochs 90
    """
    own, rest = split_words(words)
    if not rest:
        raise click.UsageError("there is no script to submit")
    command = sbatch_command(own, rest)
    if dry_run:
        click.echo(shlex.join(command))
        return
    sys.exit(_run(command))


@click.command()
@click.option("--dry-run", is_flag=True, help="Print the scontrol command and run nothing.")
@click.option("--clear", is_flag=True, help="Take the words away: the job is no longer managed.")
@click.argument("job")
@click.argument("words", nargs=-1)
def declare(job: str, words: tuple[str, ...], clear: bool, dry_run: bool) -> None:
    """Put sia: words on a job that was submitted without, or change them: slurmsia declare JOB KEY=VALUE...

    \b
    Example:
      slurmsia declare 1234 gpus=1-8 signal=USR1@60
      slurmsia declare 1234 --clear
    """
    if clear == bool(words):
        raise click.UsageError("say either the words or --clear")
    comment = "" if clear else format(checked(words))
    command = ["scontrol", "update", f"JobId={job}", f"Comment={comment}"]
    if dry_run:
        click.echo(shlex.join(command))
        return
    sys.exit(_run(command))


def split_words(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The leading key=value words, and all that follows."""
    count = next((index for index, word in enumerate(words) if not _WORD.match(word)), len(words))
    return list(words[:count]), list(words[count:])


def checked(words: tuple[str, ...] | list[str]) -> Declaration:
    """The declaration that the words make. Raises click.BadParameter with the sentence."""
    quoted = [_quote(word) for word in words]
    try:
        declaration = parse("sia: " + " ".join(quoted))
    except DeclarationError as error:
        raise click.BadParameter(error.sentence) from None
    assert declaration is not None
    return declaration


def _quote(word: str) -> str:
    """The shell took the quotes of progress='...' away; the words need them back."""
    key, _, value = word.partition("=")
    if value[:1] in ("'", '"') or not re.search(r"[\s;'\"]", value):
        return word
    return f"{key}='" + value.replace("'", "''") + "'"


def sbatch_command(words: list[str], rest: list[str]) -> list[str]:
    """sbatch with the comment and what the declared level needs, unless the user or his script says otherwise."""
    said = rest[: script_at(rest)]
    script = _script_text(rest)
    in_script = [option for line in _COMMENT.findall(script) for option in shlex.split(line, comments=True)]
    if not words:
        comment = _comment_of(said) or _comment_of(in_script) or ""
        declaration = _own(comment)
        if declaration is None:
            raise click.UsageError("neither words nor a '#SBATCH --comment' with sia: words; use sbatch for plain jobs")
        options: list[str] = []
    else:
        declaration = checked(words)
        options = [f"--comment={format(declaration)}"]
    have = said + in_script
    if declaration.level in (Level.RESTARTABLE, Level.ADAPTIVE):
        options += [] if _has(have, "--requeue") else ["--requeue"]
        options += [] if _has(have, "--open-mode") else ["--open-mode=append"]
    if declaration.level is not Level.RIGID and not any(_has(have, name) for name in _GPU_OPTIONS):
        options.append(f"--gres=gpu:{declaration.min_gpus}")
    return ["sbatch", *options, *rest]


def _own(comment: str) -> Declaration | None:
    try:
        return parse(comment)
    except DeclarationError as error:
        raise click.BadParameter(f"the script's comment, character {error.position}: {error.sentence}") from None


def _comment_of(options: list[str]) -> str | None:
    for index, option in enumerate(options):
        if option.startswith("--comment="):
            return option.partition("=")[2]
        if option == "--comment" and index + 1 < len(options):
            return options[index + 1]
    return None


def _has(options: list[str], name: str) -> bool:
    return any(option == name or option.startswith(name + "=") for option in options) or (
        not name.startswith("--") and any(option.startswith(name) for option in options)
    )


def script_at(rest: list[str]) -> int:
    """Where the script stands: the first argument that is a file, else behind the last option."""
    for index, word in enumerate(rest):
        if not word.startswith("-") and Path(word).is_file():
            return index
    return len(rest)


def _script_text(rest: list[str]) -> str:
    at = script_at(rest)
    try:
        return Path(rest[at]).read_text(errors="replace") if at < len(rest) else ""
    except OSError:
        return ""


def _run(command: list[str]) -> int:
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        click.echo(f"slurmsia: {command[0]} is not on PATH; run this on a host with Slurm's commands", err=True)
        return 1
