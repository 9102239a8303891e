"""Reads the policy file and its ``conf.d`` folder, and turns every mistake into one sentence with file, key and line.

Files are merged table by table, later files win. The environment is read for secrets only. Nothing is executed and
nothing outside the named file and its ``conf.d`` is opened.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from . import Config
from .base import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_FILE = Path("/etc/slurmsia/slurmsia.toml")
LARGEST_FILE_BYTES = 1 << 20

_HEADER = re.compile(r"^\s*\[\s*(?P<path>[^\]]+?)\s*\]\s*(#.*)?$")
_KEY = re.compile(r"^\s*(?P<key>[A-Za-z0-9_\-\"'.]+)\s*=")

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """One parsed file and where its keys stand."""

    file: Path
    table: dict[str, Any]
    lines: Mapping[KeyPath, int]


def load(file: Path) -> Config:
    """The policy file with its ``conf.d/*.toml`` merged in name order.

    Raises `ConfigError` with one sentence per mistake: unreadable file, TOML syntax, unknown key, wrong type or range.
    """
    sources = [_read(path) for path in _files(file)]
    merged: dict[str, Any] = {}
    for source in sources:
        _merge(merged, source.table)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError([_sentence(detail, sources) for detail in error.errors()]) from None
    return config


def check(file: Path) -> list[str]:
    """The mistakes of a policy file as sentences; empty when it is good."""
    try:
        load(file)
    except ConfigError as error:
        return error.sentences
    return []


def _files(file: Path) -> list[Path]:
    conf_d = file.parent / "conf.d"
    extra = sorted(path for path in conf_d.glob("*.toml") if path.is_file()) if conf_d.is_dir() else []
    return [file, *extra]


def _read(file: Path) -> _Source:
    try:
        raw = file.read_bytes()
    except OSError as error:
        hint = (
            "print a first one with `slurmsia config example`" if isinstance(error, FileNotFoundError) else "check it"
        )
        raise ConfigError([f"{file}: cannot be read ({error.strerror}); {hint}"]) from None
    if len(raw) > LARGEST_FILE_BYTES:
        raise ConfigError([f"{file}: is {len(raw)} bytes long; a policy file has at most {LARGEST_FILE_BYTES}"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError([f"{file}:{line}: is not UTF-8; save the file as UTF-8"]) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{file}: is not TOML: {error}"]) from None
    return _Source(file, table, _key_lines(text))


def _key_lines(text: str) -> dict[KeyPath, int]:
    """Line number (from 1) of each table header and key, as written; good enough for messages."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _split(header["path"].strip("[]"))
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(table + _split(key["key"]), number)
    return lines


def _split(dotted: str) -> KeyPath:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _sentence(detail: ErrorDetails, sources: list[_Source]) -> str:
    path = tuple(str(part) for part in detail["loc"])
    where = _where(path, sources)
    name = ".".join(path)
    given = detail["input"]
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys here: {', '.join(sorted(known))}"
        what = "table" if isinstance(given, dict) else "key"
        return f"{where}: unknown {what} `{name}`; {hint}"
    message = detail["msg"]
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}: `{name}` = {_shown(given)}: {message}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _where(path: KeyPath, sources: list[_Source]) -> str:
    for source in reversed(sources):
        for length in range(len(path), 0, -1):
            if path[:length] in source.lines and _has(source.table, path[:length]):
                return f"{source.file}:{source.lines[path[:length]]}"
    return str(sources[0].file)


def _has(table: Mapping[str, Any], path: KeyPath) -> bool:
    value: Any = table
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _known_keys(path: KeyPath) -> list[str]:
    """Keys that the table at ``path`` may have; empty where any name is allowed."""
    model: type[BaseModel] | None = Config
    for part in path:
        if model is None:
            return []
        field = model.model_fields.get(part)
        if field is None:
            continue
        model = next(_section_types(field.annotation), None)
    return list(model.model_fields) if model is not None else []


def _section_types(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _section_types(inner)
