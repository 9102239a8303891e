"""Prints the commented example of the policy file, generated from the typed sections.

Every key stands there commented out with its default, so that the printed file changes nothing when used as it is and
loads as the defaults when the mark before each `#key = value` is removed. Keys without a default are named only.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from . import Config, GpuTypeSection

#: A type that the example shows, since ``gpu_types`` has a table for each type of the site.
_SHOWN_TYPE = "a100"

_TOP = """\
The policy file of slurmsia (/etc/slurmsia/slurmsia.toml). Every key is optional and shown with its default.
Further files in conf.d/*.toml beside it are merged in name order. Check it with: slurmsia config check FILE
Units are in the names of the keys: _s seconds, _gpus GPUs, _gb 10^9 bytes, _w watts, _h hours."""


def example() -> str:
    """The commented example, ending with a newline."""
    parts = [_comment(_TOP)]
    for name, field in Config.model_fields.items():
        if name == "gpu_types":
            parts.append(_gpu_types())
            continue
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        parts.append(_table(name, section))
    return "\n\n".join(parts) + "\n"


def _gpu_types() -> str:
    note = "One table for each GPU type of the site; without any, types are read from Slurm's typed GRES."
    body = _keys(GpuTypeSection)
    return f"{_comment(note)}\n#[gpu_types.{_SHOWN_TYPE}]\n{body}"


def _table(name: str, section: type[BaseModel]) -> str:
    doc = textwrap.dedent(section.__doc__ or "").strip()
    text = f"{_comment(doc)}\n[{name}]\n{_keys(section)}" if doc else f"[{name}]\n{_keys(section)}"
    for key, field in section.model_fields.items():
        inner = _section(field)
        if inner is not None:
            text += f"\n\n{_table(f'{name}.{key}', inner)}"
    return text


def _section(field: FieldInfo) -> type[BaseModel] | None:
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _keys(section: type[BaseModel]) -> str:
    blocks = []
    for key, field in section.model_fields.items():
        if _section(field) is not None:
            continue
        default = field.get_default(call_default_factory=True)
        note = _comment(field.description or "")
        if default is None or default is PydanticUndefined:
            blocks.append(f"{note}\n# Not set by default: {key}")
        else:
            blocks.append(f"{note}\n#{key} = {_toml(default)}")
    return "\n".join(blocks)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value))


def _comment(text: str) -> str:
    lines: list[str] = []
    for line in text.strip().splitlines():
        lines += textwrap.wrap(line.strip(), 110) or [""]
    return "\n".join(f"# {line}".rstrip() for line in lines)
