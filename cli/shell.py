"""``slurmsia completion`` and ``slurmsia man``: shell completion and man pages, generated from the commands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click

from slurmsia import __version__


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Example:
      slurmsia completion bash > /etc/bash_completion.d/slurmsia
      slurmsia completion fish > ~/.config/fish/completions/slurmsia.fish
    """
    from click.shell_completion import get_completion_class

    from .main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "slurmsia", "_SLURMSIA_COMPLETE").source())


@click.command()
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder to write one page per command."
)
@click.argument("command", nargs=-1)
def man(command: tuple[str, ...], output: Path | None) -> None:
    """Print the man page of a COMMAND (default: of slurmsia), or write all of them and the policy file's.

    \b
    Example:
      slurmsia man status | man -l -
      slurmsia man --output /usr/local/share/man/man1
    """
    from .main import cli

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in sorted(pages(cli).items()):
            (output / name).write_text(text, encoding="utf-8")
        click.echo(f"{len(pages(cli))} pages written to {output}")
        return
    context = click.Context(cli, info_name="slurmsia")
    found: click.Command = cli
    for word in command:
        if not isinstance(found, click.Group):
            raise click.UsageError(f"{word!r}: there is no such command")
        inner = found.get_command(context, word)
        if inner is None:
            raise click.UsageError(f"{word!r}: there is no such command")
        context, found = click.Context(inner, info_name=word, parent=context), inner
    click.echo(page(context, found), nl=False)


def pages(root: click.Command) -> dict[str, str]:
    """File name -> page, for every command and for the policy file."""
    found: dict[str, str] = {}

    def walk(context: click.Context, command: click.Command) -> None:
        found[f"{context.command_path.replace(' ', '-')}.1"] = page(context, command)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                if inner is not None:
                    walk(click.Context(inner, info_name=name, parent=context), inner)

    walk(click.Context(root, info_name="slurmsia"), root)
    found["slurmsia.toml.5"] = config_page()
    return found


def page(context: click.Context, command: click.Command) -> str:
    """One man page in roff."""
    name = context.command_path
    text = inspect.cleandoc(command.help or command.short_help or "")
    prose, example = (*re.split(r"^Examples?:\n", text, maxsplit=1, flags=re.MULTILINE), "")[:2]
    lines = _head(name.replace(" ", "-"), "1")
    first = (prose.replace("\b", "").strip().splitlines() or [""])[0].rstrip(".")
    lines += [".SH NAME", f"{_roff(name.replace(' ', '-'))} \\- {_roff(first)}", ".SH SYNOPSIS"]
    lines += [f".B {_roff(name)}", _roff(" ".join(command.collect_usage_pieces(context)))]
    lines += [".SH DESCRIPTION", *_paragraphs(prose)]
    options = [part.get_help_record(context) for part in command.get_params(context)]
    known = [record for record in options if record is not None]
    if known:
        lines.append(".SH OPTIONS")
        for flags, words in known:
            lines += [".TP", f"\\fB{_roff(flags)}\\fR", _roff(words)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for inner_name in command.list_commands(context):
            inner = command.get_command(context, inner_name)
            if inner is not None:
                lines += [".TP", f"\\fB{_roff(inner_name)}\\fR", _roff(inner.get_short_help_str(200))]
    if example.strip():
        lines += [".SH EXAMPLE", ".nf", *(_roff(line.strip()) for line in example.strip().splitlines()), ".fi"]
    lines += [
        ".SH EXIT STATUS",
        "0 done; 1 failed; 2 bad usage or bad input; 3 the daemon does not answer; 4 not allowed; 5 not there.",
        ".SH ENVIRONMENT",
        ".TP",
        "\\fBSLURMSIA_API\\fR",
        "Address of the API: unix:/path or http(s)://host:port.",
        ".TP",
        "\\fBSLURM_JWT\\fR",
        "Token of Slurm, used in place of MUNGE over TCP.",
        ".TP",
        "\\fBNO_COLOR\\fR",
        "No colour.",
    ]
    return "\n".join(lines) + "\n"


def config_page() -> str:
    """The man page of the policy file: every key with its meaning, as the commented example says."""
    from slurmsia.config.example import example

    lines = _head("slurmsia.toml", "5")
    lines += [".SH NAME", "slurmsia.toml \\- policy file of slurmsia", ".SH DESCRIPTION"]
    lines += ["One TOML file and a conf.d folder beside it. Unknown keys are errors.", ".SH KEYS", ".nf"]
    lines += [_roff(line) or "." for line in example().splitlines() if line.strip()]
    return "\n".join([*lines, ".fi"]) + "\n"


def _head(name: str, section: str) -> list[str]:
    return [f'.TH "{name.upper()}" "{section}" "" "slurmsia {__version__}" "slurmsia"']


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\b", "").strip()):
        lines += [".PP", _roff(" ".join(paragraph.split()))]
    return lines


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped
