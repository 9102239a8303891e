"""Tells many stories and prints what happened: ``python -m tests.stories.run --n 10000``. Exit 1 on any violation."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from .teller import Ending, tell


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="stories to tell")
    parser.add_argument("--first", type=int, default=0, help="number of the first story")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.n)
    began_s = time.perf_counter()
    endings: list[Ending]
    if options.processes > 1:
        with ProcessPoolExecutor(options.processes) as pool:
            endings = list(pool.map(tell, numbers, chunksize=50))
    else:
        endings = [tell(number) for number in numbers]
    moves: Counter[str] = Counter()
    for ending in endings:
        moves.update(ending.moves)
    violations = [what for ending in endings for what in ending.violations]
    summary = {
        "stories": len(endings),
        "violations": len(violations),
        "daemon_died_for_ever": sum(1 for e in endings if e.died and e.plot.end == "dies"),
        "daemon_died_and_returned": sum(1 for e in endings if e.died and e.plot.end == "returns"),
        "under_way_at_death": dict(sorted(Counter(what for e in endings for what in e.died_in).items())),
        "faults_met": dict(sorted(Counter(what for e in endings for what in e.faults_met).items())),
        "deeds": dict(sorted(Counter(e.plot.deed for e in endings).items())),
        "moves": dict(sorted(moves.items())),
        "lost_backfill_races": sum(e.lost_races for e in endings),
        "longest_wait_after_death_s": round(max((e.longest_wait_s for e in endings), default=0.0), 1),
        "died_of_a_signal_they_declared_with_no_daemon_left": sum(e.excused for e in endings),
        "wall_s": round(time.perf_counter() - began_s, 1),
    }
    if options.json:
        print(json.dumps(summary))
    else:
        for key, value in summary.items():
            print(f"{key}: {value}")
    for what in violations[:20]:
        print(what, file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
