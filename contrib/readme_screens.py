"""Prints what `slurmsia status`, `why` and `gpus` say on the embedded, emulated cluster: the README's first screen.

python contrib/readme_screens.py; with `--write README.md` it is put in its place there. The scene is the same at
every call.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from slurmsia_cli.client import Client
from slurmsia_cli.embedded import embedded

#: The screens stand between the line that ends so and the next heading.
BEGIN, END = "made by `python contrib/readme_screens.py`:\n", "\n## "


def screens() -> Iterator[str]:
    with embedded("--minutes", "41") as (address, _):
        rows = Client(address).get("/v1/jobs", managed=True)["jobs"]
        # The last arrow of a sentence shows a gain: the job that moves says the most.
        job = max(rows, key=lambda row: (row["kind"] in ("move", "resize"), row["moves"]))["job_id"]
        environment = {**os.environ, "SLURMSIA_API": address, "COLUMNS": "110", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
        for words in (["status"], ["why", job], ["gpus"]):
            argv = [sys.executable, "-m", "slurmsia_cli", *words]
            said = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout
            yield f"$ slurmsia {' '.join(words)}\n{said}"


def main() -> None:
    text = "\n".join(screens())
    if sys.argv[1:2] != ["--write"]:
        print(text, end="")
        return
    file = Path(sys.argv[2])
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{file} has no place for the screens: a line ending in {BEGIN!r}, then a heading")
    file.write_text(f"{before}{begin}\n{textwrap.indent(text, '    ')}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
