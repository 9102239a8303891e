"""A job that checkpoints when asked, through the real job library, and ends when its test says so.

Usage: fear_job.py FOLDER; ends when FOLDER/finish exists.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from slurmsia.job import Reporter


def main(folder: Path) -> int:
    kept = folder / f"samples.{Reporter().job_id}"
    done = float(kept.read_text()) if kept.exists() else 0.0
    with Reporter(samples_done=done, target=1e9, signal="USR1", period_s=1.0, look_s=0.3) as reporter:
        while not (folder / "finish").exists():
            time.sleep(0.1)
            reporter.step(local=8, samples=8, seconds=0.1)
            done += 8
            if reporter.stop_now():
                kept.write_text(str(done))
                reporter.checkpointed(0.1, samples=done)
                reporter.wait_for_requeue(60.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
