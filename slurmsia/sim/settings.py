"""``--option key=value`` to a policy file: the same typed sections as in production, plus the simulation's own keys.

A key without a section belongs to ``[policy]``. Nothing is guessed: an unknown key is an error that names the near
ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ..config import Config

#: Keys that belong to the simulation rather than to the policy file.
OWN_KEYS: Mapping[str, str] = {
    "project": "artifact physics: estimate types a job has not run on (true, false)",
    "noise": "honest physics: relative spread of step times (default 0.05)",
    "failures_per_node_day": "honest physics: node failures per node and day (default 0)",
    "repair_h": "honest physics: hours until a failed node is back (default 2)",
    "checkpoint_every_s": "honest physics: jobs also save by themselves this often (default 600)",
    "target_off": "honest physics: jobs report this many times their work as the target; 0 = none (default 1)",
    "target_lies": "honest physics: each job's target is this many times too large or too small (default 1)",
    "own_scripts": "honest physics: 1 = no two jobs are similar (default 0)",
    "early_round_after_s": "honest physics: when a job came or ended what waits may start between two rounds, so long "
    "after the last; 0 = never (default: as the daemon's for policy goodput, else 0)",
    "all_rigid": "honest physics: 1 = every job has the size that its user asks for (default 0)",
}


class SettingError(ValueError):
    """An option that does not exist or has a bad value."""


def split_options(options: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(keys of the policy file, keys of the simulation) from ``key=value`` texts. Raises `SettingError`."""
    theirs: dict[str, str] = {}
    own: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise SettingError(f"option `{option}`: write it as key=value, for example --option sia.p=-0.5")
        (own if key in OWN_KEYS else theirs)[key] = value
    return theirs, own


def config_from(options: Mapping[str, str], policy: str, round_s: float) -> Config:
    """A policy file with only these keys set. Raises `SettingError` with one sentence per mistake."""
    table: dict[str, Any] = {"policy": {"name": policy, "round_s": round_s}}
    for key, value in options.items():
        path = key.split(".")
        if path[0] not in Config.model_fields:
            path = ["policy", *path]
        here = table
        for part in path[:-1]:
            here = here.setdefault(part, {})
        here[path[-1]] = _value(value)
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        known = [*OWN_KEYS, *_keys(Config)]
        raise SettingError("; ".join(_sentence(detail, known) for detail in error.errors())) from None


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if "," in text:
        return [_value(part) for part in text.split(",") if part]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _keys(model: Any, prefix: str = "") -> list[str]:
    found = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            found += _keys(inner, f"{prefix}{name}.")
        else:
            found.append((prefix + name).removeprefix("policy."))
    return found


def _sentence(detail: Any, known: Sequence[str]) -> str:
    name = ".".join(str(part) for part in detail["loc"]).removeprefix("policy.")
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f" (did you mean {' or '.join(near)}?)" if near and detail["type"] == "extra_forbidden" else ""
    return f"option `{name}`: {detail['msg']}{hint}"
