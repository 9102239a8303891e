"""A daemon that lost its lease and leads again, and a successor of a daemon that died on the same host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from daemon_stage import Stage
from slurmsia_daemon.leader import LEASE_S, Leadership

from slurmsia.cluster import JobState
from slurmsia.store import Store


def _store(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder / 'lead.db'}", "lead", auto_upgrade=True)


def test_a_successor_on_the_same_host_does_not_wait_for_the_lease_of_a_dead_daemon(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    store = _store(tmp_path)
    assert store.acquire_lease(f"{socket.gethostname()}:{int(child.stdout)}", LEASE_S) == 1
    successor = Leadership(str(tmp_path))
    assert successor.seek(store) is None
    assert successor.generation == 2


def test_the_lease_of_a_live_daemon_or_of_another_host_is_waited_for(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for holder in (f"{socket.gethostname()}:{os.getppid()}", "elsewhere:999999999"):
        generation = store.acquire_lease(holder, LEASE_S)
        assert generation is not None
        successor = Leadership(str(tmp_path))
        assert holder in str(successor.seek(store))
        successor.resign(None)
        store.release_lease(holder, generation)


def test_a_daemon_that_leads_again_finishes_the_moves_it_had_to_drop(stage: Callable[..., Stage]) -> None:
    place = stage()
    job = place.submit()
    while not place.daemon.actor.flights:
        place.play(1.5)
    lease = place.daemon.store.lease()
    assert lease is not None
    place.daemon.store.release_lease(lease.holder, lease.generation)
    other = Store.open(place.url, "stage")
    assert other.acquire_lease("elsewhere:1", 0.0) == 2
    other.close()
    place.play(120.0)
    assert place.daemon.leadership.generation == 3
    assert not place.daemon.store.unfinished_moves()
    assert place.job(job).state is JobState.RUNNING
