"""The Slurm client that uses Slurm's own commands: ``squeue``, ``sinfo`` and ``scontrol``, JSON where there is JSON.

Works with every release from 22.05 on. Two commands read a round; site facts are cached for minutes. Every write is
read back. It never holds or cancels a job and never passes user text through a shell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..cluster import GpuType, Job, JobId, JobState, Node, Partition, Reservation, Site, Snapshot
from ..config import Config
from ..reshape import Reshape
from ..wouldstart import would_start
from . import json_form, json_stream, scontrol, text_form, verify
from . import normalise as n
from .client import (
    Capabilities,
    Health,
    JobsRead,
    NoSuchJob,
    NotPending,
    SlurmError,
    SlurmRejected,
    SlurmUnavailable,
    not_cancelled,
)
from .json_stream import Record
from .limits import LimitRule, for_jobs, read_limits
from .pace import Pace
from .process import Answer, Commands
from .sitefacts import SiteFacts, read_site, switches

#: Site facts (partitions, reservations, limits, configuration) are read at most this often.
SLOW_FACTS_S = 120.0


@dataclass(slots=True)
class _Slow:
    """What changes rarely, with when it was read."""

    read_s: float = float("-inf")
    partitions: tuple[Partition, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    limits: tuple[LimitRule, ...] = ()
    facts: SiteFacts | None = None
    leaf_switches: Mapping[str, str] | None = None


class CommandClient:
    """`slurmsia.slurm.client.SlurmClient` over Slurm's commands."""

    def __init__(self, config: Config, slurm_conf: str | None = None, *, text: bool = False) -> None:
        """``text``: never ask for JSON (found out by itself where this Slurm has none)."""
        self._config = config
        self._text = text
        self._whole_nodes: dict[JobId, bool] = {}
        self._asks_whole_nodes = True
        self._commands = Commands(config.slurm.bin_dir, slurm_conf)
        self._pace = Pace(config.slurm.writes_per_s)
        self._slow = _Slow()
        self._node_types: dict[str, str | None] = {}
        self._arrays: frozenset[str] = frozenset()
        self.unreadable_records = 0
        self._types = json_form.NodeTypes(
            by_gres={section.gres or name: name for name, section in config.gpu_types.items()},
            by_feature={s.feature: name for name, s in config.gpu_types.items() if s.feature},
            by_partition={s.partition: name for name, s in config.gpu_types.items() if s.partition},
        )

    # --- reads -------------------------------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        facts = self._facts(self._config.slurm.call_deadline_s)
        return Capabilities(
            name="command",
            slurm_version=facts.site.slurm_version,
            shrink=facts.site.job_shrink_allowed,
            requeue_delay_option=facts.site.slurm_version >= (25, 11, 0),
        )

    def now_s(self) -> float:
        return time.time()

    def snapshot(self, deadline_s: float = 10.0) -> Snapshot:
        end = time.monotonic() + deadline_s
        self._refresh_slow(deadline_s)
        nodes = self.nodes(max(0.1, end - time.monotonic()))
        read = self.jobs(max(0.1, end - time.monotonic()))
        facts = self._facts(max(0.1, end - time.monotonic()))
        known = {node.gpu_type for node in nodes if node.gpu_type is not None} | set(self._config.gpu_types)
        return Snapshot(
            taken_s=read.taken_s,
            nodes=with_use_by_others(nodes, read.jobs),
            jobs=read.jobs,
            gpu_types=tuple(self._gpu_type(name) for name in sorted(known)),
            partitions=self._slow.partitions,
            reservations=self._slow.reservations,
            limits=for_jobs(self._slow.limits, read.jobs),
            site=facts.site,
        )

    def jobs(self, deadline_s: float = 10.0) -> JobsRead:
        if not self._node_types:
            self.nodes(deadline_s)
        taken = time.time()
        end = time.monotonic() + deadline_s
        found, self.unreadable_records = self._queue([], deadline_s)
        found = self._with_whole_nodes(found, max(0.1, end - time.monotonic()))
        return self._read(taken, found)

    def _read(self, taken_s: float, found: tuple[Job, ...]) -> JobsRead:
        self._arrays = frozenset(job.id.partition("_")[0] for job in found if "_" in job.id)
        return JobsRead(taken_s, tuple(self._editable(job) for job in found))

    def _queue(self, only: list[str], deadline_s: float) -> tuple[tuple[Job, ...], int]:
        """Jobs and how many records could not be read; ``only`` holds arguments that narrow squeue down."""
        end = time.monotonic() + deadline_s
        if not self._text:
            answer = self._commands.run("squeue", ["--json", "--all", "--states=all", *only], deadline_s)
            if not _prints_no_json(answer):
                _accepted("squeue", answer)
                return json_form.jobs(_records(answer.out, "jobs", "squeue", answer.err), self._node_types)
            self._text = True
        word = text_form.separator()
        counted = self._commands.run("squeue", [*text_form.counted_arguments(word), *only], deadline_s)
        _accepted("squeue", counted)
        left = max(0.1, end - time.monotonic())
        written = self._commands.run("squeue", [*text_form.written_arguments(word), *only], left)
        _accepted("squeue", written)
        return text_form.jobs(counted.out, written.out, word, self._node_types)

    def _with_whole_nodes(self, jobs: tuple[Job, ...], deadline_s: float) -> tuple[Job, ...]:
        """26.05 says in JSON that a job has whole nodes only once it runs; squeue's text says it of waiting ones.

        Asked only when a waiting job is seen for the first time: no edit of ours changes the answer.
        """
        if not self._asks_whole_nodes or self._facts(deadline_s).site.slurm_version < (25, 5, 0):
            return jobs
        waiting = {
            job.id for job in jobs if job.state is JobState.PENDING and job.request.gpus and not job.unmanageable
        }
        if waiting - self._whole_nodes.keys():
            asked = "--Format=JobID:16,ArrayJobID:16,ArrayTaskID:64,Exclusive:16"
            answer = self._commands.run("squeue", ["--all", "--noheader", "--states=all", asked], deadline_s)
            if answer.code:
                self._asks_whole_nodes = False
                return jobs
            told = text_form.whole_nodes(answer.out)
            self._whole_nodes = {job_id: told.get(job_id, False) for job_id in waiting}
        whole = {job_id for job_id, value in self._whole_nodes.items() if value}
        if not whole:
            return jobs
        return tuple(
            replace(job, request=replace(job.request, exclusive=True)) if job.id in whole else job for job in jobs
        )

    def nodes(self, deadline_s: float = 10.0) -> tuple[Node, ...]:
        nodes = self._read_nodes(deadline_s)
        leaf = self._slow.leaf_switches or {}
        nodes = tuple(replace(node, leaf_switch=leaf.get(node.name)) for node in nodes)
        self._node_types = {node.name: node.gpu_type for node in nodes}
        return nodes

    def _read_nodes(self, deadline_s: float) -> tuple[Node, ...]:
        if not self._text:
            if self._facts(deadline_s).site.slurm_version >= (23, 2, 0):
                answer = self._commands.run("scontrol", ["show", "nodes", "--json", "--all"], deadline_s)
            else:
                answer = self._commands.run("sinfo", ["--json", "--all"], deadline_s)
            if not _prints_no_json(answer):
                return json_form.nodes(_records(answer.out, "nodes", "scontrol", answer.err), self._types)
            self._text = True
        answer = self._commands.run("scontrol", ["-o", "--all", "show", "node"], deadline_s)
        _accepted("scontrol show node", answer)
        return text_form.nodes(answer.out.decode("utf-8", "replace").splitlines(), self._types)

    def partitions(self, deadline_s: float = 10.0) -> tuple[Partition, ...]:
        answer = self._commands.run("scontrol", ["-o", "--all", "show", "partition"], deadline_s)
        return json_form.partitions(answer.out.decode("utf-8", "replace").splitlines())

    def reservations(self, deadline_s: float = 10.0) -> tuple[Reservation, ...]:
        answer = self._commands.run("scontrol", ["-o", "show", "reservation"], deadline_s)
        return json_form.reservation_lines(answer.out.decode("utf-8", "replace").splitlines())

    def site(self, deadline_s: float = 10.0) -> Site:
        return self._facts(deadline_s).site

    def health(self, deadline_s: float = 5.0) -> Health:
        """One call: sdiag's thread count and queue of outgoing messages; ``scontrol ping`` where sdiag is refused."""
        pressure = 0.0
        try:
            answer = self._commands.run("sdiag", [], deadline_s)
            up = answer.code == 0
            if up:
                pressure = pressure_of(answer.out.decode("utf-8", "replace"))
            else:
                answer = self._commands.run("scontrol", ["ping"], deadline_s)
                up = b"is UP" in answer.out
        except SlurmUnavailable as error:
            return Health(up=False, pressure=1.0, rpc_count=self._commands.calls, sentence=str(error))
        sentence = "slurmctld answers" if up else "slurmctld does not answer scontrol ping"
        return Health(up, pressure if up else 1.0, self._commands.calls, sentence)

    # --- writes ------------------------------------------------------------------------------------------------

    def renew_leases(self, leases: dict[JobId, float], deadline_s: float = 10.0) -> dict[JobId, SlurmError]:
        end = time.monotonic() + deadline_s
        failures: dict[JobId, SlurmError] = {}
        for job_id, begin_s in leases.items():
            left = end - time.monotonic()
            if left <= 0:
                failures[job_id] = SlurmUnavailable(f"job {job_id}: no time left to renew its lease")
                continue
            try:
                self._write(job_id, *scontrol.update(job_id, [scontrol.begin_field(begin_s)]), deadline_s=left)
            except SlurmError as error:
                failures[job_id] = error
        return failures

    def requeue(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        end = time.monotonic() + deadline_s
        self._single(job_id)
        not_cancelled(self._one(job_id, deadline_s))
        self._write(job_id, *scontrol.requeue(job_id), deadline_s=max(0.1, end - time.monotonic()))

    def reshape(self, job_id: JobId, edit: Reshape, deadline_s: float = 10.0) -> None:
        end = time.monotonic() + deadline_s
        job = self._pending(job_id, deadline_s)
        self._write(job_id, *scontrol.reshape(job, edit), deadline_s=max(0.1, end - time.monotonic()))
        after = self._one(job_id, max(0.1, end - time.monotonic()))
        verify.edit_stuck(after, edit)

    def end_lease(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        self._pending(job_id, deadline_s)
        self._write(job_id, *scontrol.update(job_id, [scontrol.begin_field(None)]), deadline_s=deadline_s)

    def clear_pins(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        self._pending(job_id, deadline_s)
        self._write(job_id, *scontrol.update(job_id, ["ReqNodeList="]), deadline_s=deadline_s)
        verify.pins_cleared(self._one(job_id, deadline_s))

    def end_launch_failure_hold(self, job_id: JobId, deadline_s: float = 10.0) -> None:
        job = self._one(job_id, deadline_s)
        if job.hold != "launch-failure":
            raise SlurmRejected(0, f"job {job_id}: its hold ({job.hold or 'none'}) is not a failed launch's", job_id)
        self._write(job_id, *scontrol.release(job_id), deadline_s=deadline_s)

    def shrink(self, job_id: JobId, keep_nodes: tuple[str, ...], deadline_s: float = 10.0) -> None:
        self._write(job_id, *scontrol.update(job_id, [f"NodeList={n.fold(keep_nodes)}"]), deadline_s=deadline_s)

    def signal(self, job_id: JobId, name: str, deadline_s: float = 10.0) -> None:
        self._write(job_id, *scontrol.signal(job_id, name), deadline_s=deadline_s)

    def notify(self, job_id: JobId, message: str, deadline_s: float = 10.0) -> None:
        self._write(job_id, *scontrol.notify(job_id, message), deadline_s=deadline_s)

    def would_start(self, job: Job, edit: Reshape, snapshot: Snapshot) -> str | None:
        return would_start(job, edit, snapshot)

    def close(self) -> None:
        """Nothing is kept open."""

    # --- inside ------------------------------------------------------------------------------------------------

    def _single(self, job_id: JobId) -> None:
        """Refuse the id of a whole array: Slurm would carry the write out on every task of it."""
        if job_id in self._arrays:
            raise SlurmRejected(0, f"job {job_id}: names every task of an array; name one, {job_id}_TASK", job_id)

    def _write(self, job_id: JobId, name: str, arguments: list[str], deadline_s: float) -> None:
        self._single(job_id)
        self._pace.wait(deadline_s)
        answer = self._commands.run(name, arguments, deadline_s)
        if answer.code != 0 or (name == "scancel" and "error" in answer.err.lower()):
            raise scontrol.refusal(job_id, answer.err)

    def _one(self, job_id: JobId, deadline_s: float) -> Job:
        try:
            found, _ = self._queue([f"--jobs={scontrol.job_argument(job_id)}"], deadline_s)
        except _Refused as refused:
            raise scontrol.refusal(job_id, str(refused)) from None
        for job in found:
            if job.id == job_id:
                return job
        raise NoSuchJob(2017, f"job {job_id}: Slurm does not know it (any more)", job_id)

    def _pending(self, job_id: JobId, deadline_s: float) -> Job:
        job = self._one(job_id, deadline_s)
        if job.state is not JobState.PENDING or job.completing:
            doing = "completing" if job.completing else job.state.value
            raise NotPending(2057, f"job {job_id}: is {doing}, not pending", job_id, retryable=job.completing)
        return job

    def _editable(self, job: Job) -> Job:
        """22.05 cannot change a typed request: the job would end in BadConstraints."""
        if job.request.gpu_type is None or job.unmanageable or self._facts(10.0).site.slurm_version >= (23, 11, 0):
            return job
        why = "it asks for typed GPUs, which this Slurm cannot edit; ask with --gres=gpu:N and --constraint=TYPE"
        return replace(job, unmanageable=why)

    def _gpu_type(self, name: str) -> GpuType:
        section = self._config.gpu_types.get(name)
        if section is None:
            return GpuType(name)
        memory = None if section.memory_gb is None else section.memory_gb * 1e9
        return GpuType(name, memory, section.power_max_w, section.power_idle_w)

    def _facts(self, deadline_s: float) -> SiteFacts:
        if self._slow.facts is None:
            self._slow.facts = read_site(self._commands, self._config.slurm.cluster, deadline_s)
        return self._slow.facts

    def _refresh_slow(self, deadline_s: float) -> None:
        if time.monotonic() - self._slow.read_s < SLOW_FACTS_S:
            return
        facts = read_site(self._commands, self._config.slurm.cluster, deadline_s)
        self._slow = _Slow(
            read_s=time.monotonic(),
            partitions=self.partitions(deadline_s),
            reservations=self.reservations(deadline_s),
            limits=read_limits(self._commands, facts, deadline_s),
            facts=facts,
            leaf_switches=switches(self._commands, deadline_s),
        )


def with_use_by_others(nodes: tuple[Node, ...], jobs: tuple[Job, ...]) -> tuple[Node, ...]:
    """Nodes with the CPUs and memory that undeclared jobs hold on them, from each job's request spread evenly."""
    cpus: dict[str, int] = {}
    memory: dict[str, int] = {}
    for job in jobs:
        if job.allocation is None or "sia:" in job.comment:
            continue
        names = job.allocation.nodes
        for name in names:
            cpus[name] = cpus.get(name, 0) + -(-job.request.cpus // len(names))
            memory[name] = memory.get(name, 0) + -(-(job.request.memory_mb or 0) // len(names))
    return tuple(
        replace(
            node,
            cpus_used_by_others=min(node.cpus, cpus.get(node.name, 0)),
            memory_mb_used_by_others=min(node.memory_mb, memory.get(node.name, 0)),
        )
        if node.name in cpus
        else node
        for node in nodes
    )


#: slurmctld serves 256 calls at once and queues messages to nodes; at these counts it has no room for ours.
_BUSY_THREADS = 128.0
_BUSY_MESSAGES = 500.0


def pressure_of(sdiag: str) -> float:
    """0 (idle) .. 1 (back off) from sdiag's text: threads that serve calls, and messages waiting to be sent."""
    counts = {key.strip(): n.count(value.strip()) for key, _, value in (ln.partition(":") for ln in sdiag.splitlines())}
    threads = counts.get("Server thread count", 0) / _BUSY_THREADS
    messages = max(counts.get("Agent queue size", 0), counts.get("DBD Agent queue size", 0) / 10) / _BUSY_MESSAGES
    return min(1.0, max(0.0, threads, messages))


#: Words of Slurm's complaint when it was built without JSON, or is too old for ``--json``.
_NO_JSON = ("serializer", "json", "data_parser", "unrecognized option")


def _prints_no_json(answer: Answer) -> bool:
    return answer.code != 0 and any(word in answer.err.lower() for word in _NO_JSON)


class _Refused(SlurmUnavailable):
    """A read that Slurm refused; the text is all it said."""


def _accepted(command: str, answer: Answer) -> None:
    if answer.code != 0:
        raise _Refused(f"{command}: {answer.err.strip()[-500:] or 'no reason given'}")


def _records(raw: bytes, key: str, command: str, err: str) -> Iterator[Record]:
    """Records as they are read; raises `SlurmUnavailable`, at the latest at their end, when the answer is no use."""
    try:
        yield from json_stream.records(raw, key)
    except json_stream.UnreadableAnswer as error:
        detail = err.strip().splitlines()[-1][:200] if err.strip() else "no error text"
        raise SlurmUnavailable(f"{command} --json gave no usable answer ({error}; {detail})") from None
