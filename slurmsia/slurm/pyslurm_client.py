"""The Slurm client that reads through pyslurm, in a worker process of its own.

What pyslurm cannot say (node counts, clears: it ignores them silently) goes through ``scontrol`` as in the command
client, from which this one inherits. Every write is read back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..cluster import Job, JobId, Node
from ..config import Config
from . import json_form, scontrol
from . import normalise as n
from .client import Capabilities, Health, JobsRead, NoSuchJob, SlurmError, SlurmUnavailable, not_cancelled
from .command import CommandClient
from .worker_handle import CallFailed, WorkerHandle

#: Slurm error numbers that mean the controller is away, not that it refused.
_AWAY_CODES = frozenset({1000, 1001, 1002, 1003, 1008, 5004})


class PyslurmClient(CommandClient):
    """`slurmsia.slurm.client.SlurmClient` over pyslurm. Raises `SlurmUnavailable` when it does not fit the Slurm."""

    def __init__(self, config: Config, slurm_conf: str | None = None, worker: WorkerHandle | None = None) -> None:
        super().__init__(config, slurm_conf)
        self._worker = worker or WorkerHandle()
        facts = self._facts(config.slurm.call_deadline_s)
        self._worker.greet(list(facts.site.slurm_version))
        with self._named():
            said = self._worker.call("hello", list(facts.site.slurm_version), deadline_s=30.0)
        self.versions = dict(said)
        mismatch = version_mismatch(self.versions, facts.site.slurm_version)
        if mismatch and not config.slurm.accept_pyslurm_of_another_release:
            self.close()
            raise SlurmUnavailable(mismatch)

    def capabilities(self) -> Capabilities:
        facts = self._facts(self._config.slurm.call_deadline_s)
        return Capabilities(
            name="pyslurm",
            slurm_version=facts.site.slurm_version,
            gpus_by_node=bool(self.versions.get("layout")),
            shrink=facts.site.job_shrink_allowed,
            requeue_delay_option=facts.site.slurm_version >= (25, 11, 0),
        )

    def jobs(self, deadline_s: float = 10.0) -> JobsRead:
        if not self._node_types:
            self.nodes(deadline_s)
        taken = time.time()
        with self._named():
            records = self._worker.call("jobs", deadline_s=deadline_s)
        found, self.unreadable_records = json_form.jobs(records, self._node_types)
        return self._read(taken, found)

    def _read_nodes(self, deadline_s: float) -> tuple[Node, ...]:
        with self._named():
            records = self._worker.call("nodes", deadline_s=deadline_s)
        return json_form.nodes(records, self._types)

    def requeue(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        if "_" in job_id:
            super().requeue(job_id, deadline_s)
            return
        end = time.monotonic() + deadline_s
        number = int(scontrol.job_argument(job_id))
        self._single(job_id)
        with self._named(job_id):
            records = self._worker.call("job", number, deadline_s=deadline_s)
        for job in json_form.jobs(records, self._node_types)[0]:
            not_cancelled(job)
        left = max(0.1, end - time.monotonic())
        self._pace.wait(left)
        with self._named(job_id):
            self._worker.call("requeue", number, deadline_s=left)

    def renew_leases(self, leases: dict[JobId, float], deadline_s: float = 10.0) -> dict[JobId, SlurmError]:
        end = time.monotonic() + deadline_s
        tasks = {job_id: begin for job_id, begin in leases.items() if "_" in job_id}
        failures = super().renew_leases(tasks, deadline_s) if tasks else {}
        for job_id, begin_s in leases.items():
            if job_id in tasks:
                continue
            try:
                left = end - time.monotonic()
                if left <= 0:
                    raise SlurmUnavailable(f"job {job_id}: no time left to renew its lease")
                self._single(job_id)
                self._pace.wait(left)
                with self._named(job_id):
                    self._worker.call("begin", int(scontrol.job_argument(job_id)), begin_s, deadline_s=left)
            except SlurmError as error:
                failures[job_id] = error
        return failures

    def health(self, deadline_s: float = 5.0) -> Health:
        ping = super().health(deadline_s)
        calls = ping.rpc_count + self._worker.calls
        restarts = max(0, self._worker.restarts - 1)
        return Health(ping.up, ping.pressure, calls, ping.sentence, restarts)

    def close(self) -> None:
        self._worker.close()

    def _one(self, job_id: JobId, deadline_s: float) -> Job:
        scontrol.job_argument(job_id)
        for job in self.jobs(deadline_s).jobs:
            if job.id == job_id:
                return job
        raise NoSuchJob(2017, f"job {job_id}: Slurm does not know it (any more)", job_id)

    @contextmanager
    def _named(self, job_id: JobId = "") -> Iterator[None]:
        """Turns pyslurm's refusals into our named errors."""
        try:
            yield
        except CallFailed as error:
            if error.code in _AWAY_CODES or "unable to contact" in error.text.lower():
                raise SlurmUnavailable(f"pyslurm: {error.text}") from None
            if not job_id:
                raise SlurmUnavailable(f"pyslurm: {error.text}") from None
            raise scontrol.refusal(job_id, error.text) from None


def version_mismatch(versions: dict[str, object], slurm: tuple[int, int, int]) -> str | None:
    """One sentence when the libslurm that pyslurm was built with is another release than slurmctld's."""
    lib = n.text(versions.get("libslurm")).split(",")
    found = tuple(int(part) for part in lib[:2] if part.strip().isdigit())
    if len(found) == 2 and found != slurm[:2]:
        have = f"{found[0]}.{found[1]:02d}"
        want = f"{slurm[0]}.{slurm[1]:02d}"
        return (
            f"pyslurm {versions.get('pyslurm')} is built for Slurm {have} but slurmctld is {want}: "
            f"install the pyslurm of {want} or set slurm.client = 'command'"
        )
    return None
