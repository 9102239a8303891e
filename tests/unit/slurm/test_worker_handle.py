"""The pipe to the worker process: long lists arrive whole, and a worker that dies or hangs in the middle of one is an
unavailable Slurm, after which a new worker answers. The worker here speaks the real protocol without pyslurm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmsia.slurm import worker
from slurmsia.slurm.client import SlurmUnavailable
from slurmsia.slurm.worker_handle import CallFailed, WorkerHandle

_SCRIPT = f"""
import os, sys, time
sys.path.insert(0, {str(Path(worker.__file__).parent)!r})
import worker

class Calls:
    def jobs(self, count):
        return [{{"job_id": number}} for number in range(count)]
    def one(self):
        return "one"
    def refuse(self):
        raise ValueError("no")
    def die(self, request_id):
        worker.send(int(sys.argv[2]), {{"id": request_id, "ok": True, "more": True, "value": [1]}})
        os._exit(1)
    def hang(self, request_id):
        worker.send(int(sys.argv[2]), {{"id": request_id, "ok": True, "more": True, "value": [1]}})
        time.sleep(60)

worker.Calls = Calls
worker.main(int(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[WorkerHandle]:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    handle = WorkerHandle(script=script)
    yield handle
    handle.close()


@pytest.mark.parametrize("count", [0, 1, worker.PIECE, worker.PIECE + 1, 3 * worker.PIECE, 1234])
def test_a_list_of_any_length_arrives_whole_and_in_order(handle: WorkerHandle, count: int) -> None:
    assert handle.call("jobs", count, deadline_s=20.0) == [{"job_id": number} for number in range(count)]
    assert handle.call("one", deadline_s=20.0) == "one"


def test_a_refused_call_leaves_the_worker_as_it_is(handle: WorkerHandle) -> None:
    with pytest.raises(CallFailed, match="no"):
        handle.call("refuse", deadline_s=20.0)
    assert handle.call("one", deadline_s=20.0) == "one"
    assert handle.restarts == 1


@pytest.mark.parametrize("op", ["die", "hang"])
def test_a_worker_lost_in_the_middle_of_a_list_is_unavailable_and_replaced(handle: WorkerHandle, op: str) -> None:
    handle.call("one", deadline_s=20.0)
    with pytest.raises(SlurmUnavailable):
        handle.call(op, 2, deadline_s=1.0)
    assert answered(handle) == "one"
    assert handle.restarts == 2


def answered(handle: WorkerHandle) -> object:
    end = time.monotonic() + 20
    while True:
        try:
            return handle.call("one", deadline_s=20.0)
        except SlurmUnavailable:
            assert time.monotonic() < end
            time.sleep(0.05)


class _Job:
    memory_per_node: int | None = None
    memory_per_cpu: int | None = None
    memory_per_gpu: int | None = None


@pytest.mark.parametrize(("form", "value", "per_node"), [("", None, 0), ("node", 100, 100), ("cpu", 1024, None)])
def test_all_memory_of_a_node_is_told_from_other_forms(form: str, value: int | None, per_node: int | None) -> None:
    """pyslurm says nothing at all of a job with ``--mem=0``."""
    job = _Job()
    setattr(job, f"memory_per_{form}", value)
    assert worker.memory_per_node(job) == per_node
