"""Packs what a job needs of slurmsia into one file that any Python from 3.8 on can run and import.

``python slurmsia-job.pyz env|report ...`` runs its commands; with the file on ``PYTHONPATH``,
``from slurmsia.job import Reporter`` works without anything installed. The daemon's side is never packed.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

#: Modules of the job side; the rest of the folder belongs to the daemon and needs the package.
JOB_SIDE = (
    "__init__.py",
    "__main__.py",
    "batch.py",
    "checkpoint_file.py",
    "command.py",
    "directive.py",
    "environment.py",
    "facts.py",
    "names.py",
    "proof.py",
    "report_file.py",
    "reporter.py",
    "huggingface.py",
    "lightning.py",
)
_MAIN = "import sys\n\nfrom slurmsia.job.command import main\n\nsys.exit(main())\n"
_DATE = (2026, 1, 1, 0, 0, 0)


def build(file: Path) -> int:
    """Writes the zipapp; returns its size in bytes. The same source gives the same bytes. Raises OSError."""
    here = Path(__file__).parent
    content = io.BytesIO()
    content.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN)
        _add(archive, "slurmsia/__init__.py", (here.parent / "__init__.py").read_text())
        for name in JOB_SIDE:
            _add(archive, f"slurmsia/job/{name}", (here / name).read_text())
        for path in sorted((here / "torch").glob("*.py")):
            _add(archive, f"slurmsia/job/torch/{path.name}", path.read_text())
    file.write_bytes(content.getvalue())
    file.chmod(0o755)
    return len(content.getvalue())


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, text)
