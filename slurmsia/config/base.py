"""The base of every section of the policy file: frozen, typed, and strict about unknown keys.

Each section of the file is one class in a module of this package. Every key carries its unit in its name and a
description, because `slurmsia config example` is generated from these classes. No I/O here.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the policy file. Unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class ConfigError(Exception):
    """One or more mistakes in the policy file; ``sentences`` has one sentence per mistake, with file, key and line."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences
