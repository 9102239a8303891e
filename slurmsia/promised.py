"""Nodes that Slurm's backfill promised to waiting jobs (``PLANNED``): capacity for those, closed to new jobs of ours.

On a mixed cluster nearly every busy node is promised to somebody. The round counts the waiting undeclared jobs
itself, so for them such a node is a node like any other, and jobs of ours that hold GPUs there may shrink or leave; a
job of ours that came anew would only queue behind the promise. A promise to a job that the round does not count
closes the node.
"""

from __future__ import annotations

from dataclasses import replace

from .cluster import Job, JobState, NodeState, Snapshot
from .deciding.eligibility import Queue


def keep_promises(snapshot: Snapshot, queue: Queue) -> tuple[Snapshot, frozenset[str]]:
    """The snapshot with each promised node up or reserved, and the names of those that are up."""
    if not any(node.state is NodeState.PROMISED for node in snapshot.nodes):
        return snapshot, frozenset()
    counted = [other.job for other in queue.left_alone if other.waits_for_room]
    counted += [managed.job for managed in queue.managed if _eligible(managed.job, snapshot.taken_s)]
    partitions = {name for job in counted for name in job.partitions}
    anywhere = any(not job.partitions for job in counted)
    nodes, promised = [], []
    for node in snapshot.nodes:
        if node.state is NodeState.PROMISED:
            known = anywhere or bool(partitions & node.partitions)
            node = replace(node, state=NodeState.UP if known else NodeState.RESERVED)
            if known:
                promised.append(node.name)
        nodes.append(node)
    return replace(snapshot, nodes=tuple(nodes)), frozenset(promised)


def _eligible(job: Job, now_s: float) -> bool:
    return job.state is JobState.PENDING and not job.hold and (job.begin_s is None or job.begin_s <= now_s)
