"""Copies the schemas of the API's answers into the command line's package: ``python contrib/schemas.py``.

The command line must not import the daemon, and `slurmsia schema` must work without one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import slurmsia_cli
from pydantic.json_schema import models_json_schema
from slurmsia_cli.schema import API_ANSWERS, API_FILE
from slurmsia_daemon.api import schema


def definitions() -> dict[str, Any]:
    """Name -> schema of every answer that a command prints, and of their parts."""
    names = sorted({name for given in API_ANSWERS.values() for name in given})
    models = [getattr(schema, name) for name in names]
    _, found = models_json_schema([(model, "serialization") for model in models], ref_template="#/$defs/{model}")
    return dict(found["$defs"])


if __name__ == "__main__":
    file = Path(slurmsia_cli.__file__).parent / API_FILE
    file.write_text(json.dumps(definitions(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(file.name)
