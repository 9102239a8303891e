"""Prints what `slurmsia status`, `why` and `gpus` say on the embedded, emulated cluster: the README's first screen.

python contrib/readme_screens.py; the scene is the same at every call.
"""

from __future__ import annotations

import os
import subprocess
import sys

from slurmsia_cli.client import Client
from slurmsia_cli.embedded import embedded


def main() -> None:
    with embedded("--minutes", "41") as (address, _):
        rows = Client(address).get("/v1/jobs", managed=True)["jobs"]
        # The last arrow of a sentence shows a gain: the job that moves says the most.
        job = max(rows, key=lambda row: (row["kind"] in ("move", "resize"), row["moves"]))["job_id"]
        environment = {**os.environ, "SLURMSIA_API": address, "COLUMNS": "110", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
        for words in (["status"], ["why", job], ["gpus"]):
            print(f"$ slurmsia {' '.join(words)}", flush=True)
            subprocess.run([sys.executable, "-m", "slurmsia_cli", *words], env=environment, check=True)
            print(flush=True)


if __name__ == "__main__":
    main()
