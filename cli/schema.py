"""``slurmsia schema``: the JSON schemas of what ``--json`` prints, one for each command that has it.

Answers of the API have the schemas that the daemon publishes; `api_schemas.json` is a copy of them made by
``python contrib/schemas.py`` so that no daemon is needed to read them. What commands say by themselves is described
here. Within version 1 a field may be added; none changes its meaning or goes away.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import click

Json = dict[str, Any]
API_FILE = "api_schemas.json"

#: command -> the API's answer that it prints; of several, one of them.
API_ANSWERS: dict[str, tuple[str, ...]] = {
    "status": ("StatusAnswer",),
    "jobs": ("JobsAnswer",),
    "job": ("JobAnswer",),
    "why": ("WhyAnswer",),
    "gpus": ("GpusAnswer",),
    "plan": ("PlanAnswer",),
    "estimate": ("EstimateAnswer",),
    "history": ("HistoryAnswer",),
    "rounds": ("RoundsAnswer", "RoundAnswer"),
    "models list": ("ModelsAnswer",),
    "policy show": ("PolicyAnswer",),
    **dict.fromkeys(("pause", "resume", "reconfigure", "pin", "unpin", "release"), ("Accepted",)),
}


def _object(fields: Json, more: bool = False) -> Json:
    return {"type": "object", "required": sorted(fields), "properties": fields, "additionalProperties": more}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_FLAG: Json = {"type": "boolean"}
_NUMBER_OR_NOTHING: Json = {"type": ["number", "null"]}
_TEXT_OR_NOTHING: Json = {"type": ["string", "null"]}
_VERSION: Json = {"const": 1}
_JOB_IDS = _list(_TEXT)


def _versioned(**fields: Json) -> Json:
    return _object({"schema": _VERSION, **fields})


def _then_and_now(kind: Json) -> Json:
    return _object({"then": kind, "now": kind})


#: ``status --json`` when the daemon does not answer (exit code 3).
AWAY = _versioned(
    reachable={"const": False},
    sentence=_TEXT,
    last_known={
        "anyOf": [
            {"type": "null"},
            _object({"age_s": _NUMBER, "age": _TEXT, "sentence": _TEXT, "mode": _TEXT, "round_id": _COUNT}),
        ]
    },
)

#: What commands say by themselves, without the API.
OWN: dict[str, Json] = {
    "policy diff": _versioned(
        file=_TEXT, changes={"type": "object", "additionalProperties": _then_and_now(_TEXT_OR_NOTHING)}
    ),
    "config check": _versioned(file=_TEXT, mistakes=_list(_TEXT)),
    "doctor": _versioned(
        exit_code={"enum": [0, 1, 2]},
        findings=_list(
            _object({"check": _TEXT, "level": {"enum": ["ok", "warn", "fail"]}, "what": _TEXT, "mend": _TEXT})
        ),
    ),
    "release-all": _versioned(
        leases_ended=_JOB_IDS, pins_cleared=_JOB_IDS, holds_ended=_JOB_IDS,
        left={"type": "object", "additionalProperties": _TEXT},
    ),
    "db current": _versioned(current=_TEXT_OR_NOTHING, head=_TEXT),
    "db check": _versioned(
        differences=_list(_TEXT), tables=_list(_object({"table": _TEXT, "rows": _COUNT, "bytes": _COUNT}))
    ),
    "db prune": _versioned(dry_run=_FLAG, pruned=_list(_object({"table": _TEXT, "rows": _COUNT, "why": _TEXT}))),
    "replay": _versioned(
        round=_COUNT, equal=_FLAG, policy=_TEXT, objective=_then_and_now(_NUMBER), sentence=_then_and_now(_TEXT),
        jobs=_list(_object({"job": _TEXT, "then": _TEXT, "now": _TEXT})),
    ),
    **{
        name: _versioned(
            runs=_list(
                _object(
                    {
                        "settings": {"type": "object"}, "summary": {"type": "object"}, "assumptions": _list(_TEXT),
                        "notes": _list(_TEXT),
                        "jobs": _list(
                            _object(
                                {
                                    "name": _TEXT, "application": _TEXT, "declared": _FLAG, "submit_s": _NUMBER,
                                    "start_s": _NUMBER_OR_NOTHING, "end_s": _NUMBER_OR_NOTHING,
                                    "jct_s": _NUMBER_OR_NOTHING,
                                },
                                more=True,
                            )
                        ),
                    }
                )
            )
        )
        for name in ("simulate run", "simulate sweep")
    },
    "simulate compare": _versioned(comparison={"type": ["object", "array"]}, pictures=_list(_TEXT)),
    "simulate fidelity": _versioned(
        rows=_list(
            _object(
                {
                    "run": _TEXT, "ours": _NUMBER_OR_NOTHING, "reference": _NUMBER_OR_NOTHING,
                    "relative_difference": _NUMBER_OR_NOTHING,
                }
            )
        ),
        programs=_list(_object({"number": _COUNT, "recorded": _NUMBER, "ours": _NUMBER, "equal": _FLAG})),
        verdicts=_list(_object({"sentence": _TEXT, "holds": _FLAG})),
    ),
}  # fmt: skip


def commands() -> list[str]:
    """Commands whose ``--json`` has a published schema."""
    return sorted({*API_ANSWERS, *OWN})


def schema_of(command: str) -> Json:
    """The JSON schema (2020-12) of what ``slurmsia COMMAND --json`` prints. Raises `KeyError`."""
    head: Json = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"slurmsia {command} --json",
    }
    if command in OWN:
        return {**head, **OWN[command]}
    known: Json = json.loads(resources.files(__package__).joinpath(API_FILE).read_text(encoding="utf-8"))
    wanted: list[Json] = [{"$ref": f"#/$defs/{name}"} for name in API_ANSWERS[command]]
    if command == "status":
        wanted.append(AWAY)
    return {**head, "$defs": _reached(known, API_ANSWERS[command]), "anyOf": wanted}


def _reached(known: Json, names: tuple[str, ...]) -> Json:
    """The definitions that these need, themselves included."""
    found: Json = {}
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found[name] = known[name]
        left += [part.split('"')[0] for part in json.dumps(known[name]).split('"#/$defs/')[1:]]
    return {name: found[name] for name in sorted(found)}


@click.command()
@click.argument("command", nargs=-1)
def schema(command: tuple[str, ...]) -> None:
    """Print the JSON schema of what COMMAND prints with --json; without COMMAND list the commands that have one.

    \b
    Example:
      slurmsia schema status
      slurmsia schema policy diff
    """
    if not command:
        for name in commands():
            click.echo(name)
        return
    try:
        found = schema_of(" ".join(command))
    except KeyError:
        raise click.UsageError(
            f"{' '.join(command)!r} has no schema; `slurmsia schema` lists the commands that have one"
        ) from None
    click.echo(json.dumps(found, indent=2))
