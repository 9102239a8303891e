"""What the daemon's store knows of every move: from what to what, when each phase began, and why it was decided; and
which jobs it takes the moved jobs for.

Runs inside the controller, beside the database. Usage: python -m tests.cluster.acceptance.ledger CONFIG; prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from slurmsia_daemon import wiring

from slurmsia.cluster import Shape
from slurmsia.moves.move import Move
from slurmsia.store import StoredRound, codec


def shape_json(shape: Shape | None) -> list[object] | None:
    """``[GPU type, nodes, GPUs in all]``."""
    return None if shape is None else [shape.gpu_type, shape.nodes, shape.gpus]


def main(config_file: Path) -> int:
    config = wiring.read_config(config_file)
    client = wiring.make_client(config)
    store = wiring.make_store(config, wiring.cluster_name(client, config))
    rounds: dict[int, StoredRound | None] = {}
    entries = []
    records = store.moves_between(0.0, 1e12)
    events = store.move_events([record.move_id for record in records])
    for record in records:
        number = record.round_id
        if number is not None and number not in rounds:
            found = store.round(number)
            rounds[number] = found if isinstance(found, StoredRound) else None
        decided = rounds.get(number) if number is not None else None
        verdict = decided.plan.verdict(record.job_id) if decided is not None else None
        target = decided.plan.target(record.job_id) if decided is not None else None
        happened = events[record.move_id]
        last = codec.from_json(Move, happened[-1].detail.encode())
        entries.append(
            {
                "job": int(record.job_id),
                "kind": last.kind.value,
                "state": record.state,
                "before": shape_json(last.former_shape),
                "after": shape_json(last.target),
                "planned": shape_json(target.shape) if target is not None else None,
                "nodes": dict(last.gpus_by_node),
                "created_s": record.created_s,
                "ended_s": record.ended_s,
                "phases": [[event.to_state, event.t_s] for event in happened],
                "why": verdict.sentence if verdict is not None else "",
                "outcome": last.outcome,
            }
        )
    known = {job_id: len(store.jobs_named(job_id)) for job_id in {record.job_id for record in records}}
    print(json.dumps({"moves": entries, "jobs_of_id": known}))
    client.close()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
