"""The two laboratories of the conformance suite: an emulated cluster, and a live Slurm seen from its controller.

Both offer the same few verbs to the tests: submit a job as a user would, wait for what Slurm shows, and look at what a
step of the job really gets. The client under test is `Lab.client`; nothing else may be used to observe the result.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from slurmsia.cluster import GpuForm, Job, JobId, JobState, NodeState, Request, Reservation
from slurmsia.config import Config
from slurmsia.slurm import normalise as n
from slurmsia.slurm.client import SlurmClient

#: What the submit plugin of a cluster under test is to rewrite: a job name and features, one a line.
REWRITES = Path("/tmp/slurmsia-rewrites")


@dataclass(frozen=True)
class Ask:
    """What a test submits, in sbatch's words."""

    gpus: int = 1
    nodes: int = 1
    form: GpuForm = GpuForm.PER_NODE_UNTYPED
    gpu_type: str | None = None
    feature: str = ""
    tasks_per_node: int | None = 1
    cpus_per_task: int | None = None
    exclusive: bool = False
    whole_memory: bool = False
    held: bool = False
    begin_in_s: float | None = None
    requeue: bool = True
    partitions: tuple[str, ...] = ("batch",)
    comment: str = ""
    name: str = "conformance"
    array: str = ""
    after: JobId = ""
    gpus_per_node: bool = False
    """Say ``--gpus-per-node`` rather than ``--gres``."""
    heterogeneous: bool = False
    """Two components alike; the id is the first one's."""
    reservation: str = ""
    output: str = "/dev/null"
    time_limit_min: int = 30
    script: str = "while :; do sleep 1; done"
    dies_s: int = 0
    """How long the job takes to die once it is told to; live, in place of ``script``."""


@dataclass(frozen=True)
class StepView:
    """What a step on one node sees: its GPUs, CPUs and memory (MB; ``None`` where Slurm does not say)."""

    node: str
    gpus: int
    cpus: int
    memory_mb: int | None


class Lab(Protocol):
    client: SlurmClient
    live: bool

    def submit(self, ask: Ask) -> JobId: ...

    def cancel(self, job_id: JobId) -> None: ...

    def pass_time(self, seconds: float) -> None: ...

    def step(self, job_id: JobId) -> list[StepView]: ...

    def reserve(self, name: str, nodes: tuple[str, ...], in_s: float, for_s: float) -> None:
        """Reserve nodes for the jobs of the tests' own user."""

    def rewrite_edits_of(self, name: str, features: str) -> None:
        """Have the site's submit plugin put these features into every edit of jobs with that name."""

    def launches(self, *, fail: bool) -> None:
        """Have every launch of a job fail on its node, or no longer; nodes that this drained come back."""

    def clean(self) -> None: ...


def job_of(lab: Lab, job_id: JobId) -> Job | None:
    return next((job for job in lab.client.jobs().jobs if job.id == job_id), None)


def wait_for(lab: Lab, job_id: JobId, reached: Callable[[Job], bool], what: str, timeout_s: float = 40.0) -> Job:
    """The job as soon as it is as wanted; `AssertionError` with its last state otherwise."""
    end = lab.client.now_s() + timeout_s
    while True:
        job = job_of(lab, job_id)
        if job is not None and reached(job):
            return job
        assert lab.client.now_s() < end, f"job {job_id} never became {what}; last seen: {job}"
        lab.pass_time(0.25)


def running(job: Job) -> bool:
    return job.state is JobState.RUNNING and not job.completing


def editable(job: Job) -> bool:
    return job.state is JobState.PENDING and not job.completing


#: What every live job runs: one step over all of its tasks notes what it gets on each node, then the test's own work.
_SCRIPT = """#!/bin/bash
unset SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_NODE SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_TRES_PER_TASK
me=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
seen=FOLDER/step.$me.${SLURM_RESTART_COUNT:-0}
tasks=$(scontrol -o show job $me | sed -n 's/.* NumTasks=\\([0-9]*\\).*/\\1/p' | head -n 1)
srun --nodes=$SLURM_JOB_NUM_NODES --ntasks=$tasks bash -c '
    [ $SLURM_LOCALID = 0 ] || exit 0
    granted=$(scontrol -o show step $SLURM_JOB_ID.$SLURM_STEP_ID | grep -o " TRES=[^ ]*")
    echo $SLURMD_NODENAME $SLURM_STEP_GPUS,$SLURM_JOB_GPUS,$CUDA_VISIBLE_DEVICES $SLURM_CPUS_ON_NODE $granted
' >$seen.tmp
mv $seen.tmp $seen
WORK
"""


@dataclass
class LiveLab:
    """A live Slurm, driven from a node that has its commands, as SlurmUser."""

    client: SlurmClient
    live: bool = True
    _ids: list[str] = field(default_factory=list)
    _reservations: list[str] = field(default_factory=list)
    _folder: Path = field(default_factory=lambda: Path("/home") / os.environ.get("SLURMSIA_CONFORMANCE_HOME", "slurm"))

    def submit(self, ask: Ask) -> JobId:
        options = [f"--job-name={ask.name}", f"--partition={','.join(ask.partitions)}", f"--nodes={ask.nodes}"]
        typed = f"{ask.gpu_type}:" if ask.gpu_type else ""
        per_node = ask.gpus // ask.nodes
        per_node_option = "--gpus-per-node=" if ask.gpus_per_node else "--gres=gpu:"
        options += {
            GpuForm.PER_NODE_UNTYPED: [f"{per_node_option}{per_node}"],
            GpuForm.PER_NODE_TYPED: [f"{per_node_option}{typed}{per_node}"],
            GpuForm.TOTAL: [f"--gpus={typed}{ask.gpus}"],
            GpuForm.PER_TASK: [f"--gpus-per-task={typed}1", f"--ntasks={ask.gpus}"],
            GpuForm.NONE: [],
        }[ask.form]
        if ask.tasks_per_node is not None and ask.form is not GpuForm.PER_TASK:
            options.append(f"--ntasks-per-node={ask.tasks_per_node}")
        if ask.cpus_per_task is not None:
            options.append(f"--cpus-per-task={ask.cpus_per_task}")
        options += ["--exclusive"] if ask.exclusive else []
        options += ["--mem=0"] if ask.whole_memory else ["--mem=100"]
        options += ["--hold"] if ask.held else []
        options += [f"--begin=now+{int(ask.begin_in_s)}"] if ask.begin_in_s is not None else []
        options += ["--requeue"] if ask.requeue else ["--no-requeue"]
        options += [f"--comment={ask.comment}"] if ask.comment else []
        options += [f"--constraint={ask.feature}"] if ask.feature else []
        options += [f"--array={ask.array}"] if ask.array else []
        options += [f"--dependency=afterok:{ask.after}"] if ask.after else []
        options += [f"--reservation={ask.reservation}"] if ask.reservation else []
        options += [f"--time={ask.time_limit_min}", f"--output={ask.output}", "--open-mode=append"]
        options += [":", *options] if ask.heterogeneous else []
        work = f"trap 'sleep {ask.dies_s}; exit' TERM; while :; do sleep 0.2; done" if ask.dies_s else ask.script
        script = _SCRIPT.replace("FOLDER", str(self._folder)).replace("WORK", work)
        done = subprocess.run(
            ["sbatch", "--parsable", *options],
            input=script,
            capture_output=True,
            text=True,
            cwd=self._folder,
            check=False,
        )
        assert done.returncode == 0, f"sbatch {' '.join(options)}: {done.stderr}"
        job_id = done.stdout.split()[-1].split(";")[0]
        self._ids.append(job_id)
        return job_id

    def cancel(self, job_id: JobId) -> None:
        subprocess.run(["scancel", job_id], check=False, capture_output=True)

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def step(self, job_id: JobId) -> list[StepView]:
        job = wait_for(self, job_id, running, "running")
        restarts = str(job.restarts) if job.restarts else "0"
        file = self._folder / f"step.{job_id}.{restarts}"
        end = time.monotonic() + 30
        while not file.exists():
            assert time.monotonic() < end, f"the step of job {job_id} (restart {restarts}) never reported to {file}"
            time.sleep(0.2)
        views = []
        for line in file.read_text().splitlines():
            node, gpus, cpus, tres = [*line.split(), "", "", ""][:4]
            lists = [part for part in gpus.split(",") if part]
            granted = n.tres(tres.removeprefix("TRES="))
            memory = None if "mem" not in granted else int(granted["mem"] / granted.get("node", 1))
            views.append(StepView(node, len(set(lists)), int(cpus or 0), memory))
        return sorted(views, key=lambda view: view.node)

    def output(self, job_id: JobId, name: str) -> str:
        """What stands in a job's own output file, once something does."""
        file = self._folder / name
        end = time.monotonic() + 10
        while time.monotonic() < end and not (file.exists() and file.stat().st_size):
            time.sleep(0.2)
        return file.read_text(errors="replace") if file.exists() else f"job {job_id} wrote nothing to {file}"

    def reserve(self, name: str, nodes: tuple[str, ...], in_s: float, for_s: float) -> None:
        start = "now" if in_s <= 0 else f"now+{int(in_s)}"
        words = [f"ReservationName={name}", f"StartTime={start}", f"Duration={max(1, int(for_s // 60))}"]
        words += [f"Nodes={','.join(nodes)}", f"Users={os.environ.get('USER', 'slurm')}"]
        done = subprocess.run(["scontrol", "create", *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"scontrol create {' '.join(words)}: {done.stderr}"
        self._reservations.append(name)

    def rewrite_edits_of(self, name: str, features: str) -> None:
        """The plugin of the cluster under test reads its words from a file; see test_conformance_live."""
        REWRITES.write_text(f"{name}\n{features}\n")

    def launches(self, *, fail: bool) -> None:
        """The prolog of the cluster under test fails while this file exists; see test_conformance_live."""
        file = self._folder / "launches-fail"
        if fail:
            file.touch()
            return
        failed = file.exists()
        file.unlink(missing_ok=True)
        # slurmd tells of the failed launch first, which holds the job, and only then has its node drained
        end = time.monotonic() + (20.0 if failed else 0.0)
        while not (drained := [node.name for node in self.client.nodes() if node.state is NodeState.DRAINED]):
            if time.monotonic() >= end:
                return
            time.sleep(0.2)
        for name in drained:
            words = ["scontrol", "update", f"NodeName={name}", "State=RESUME"]
            subprocess.run(words, check=True, capture_output=True)

    def clean(self) -> None:
        REWRITES.unlink(missing_ok=True)
        self.launches(fail=False)
        if self._ids:
            subprocess.run(["scancel", *self._ids], check=False, capture_output=True)
        end = time.monotonic() + 30
        mine = {job_id.split("_", maxsplit=1)[0] for job_id in self._ids}
        while time.monotonic() < end:
            alive = [
                job
                for job in self.client.jobs().jobs
                if job.id.split("_", maxsplit=1)[0] in mine and (job.state is not JobState.ENDED or job.completing)
            ]
            if not alive:
                break
            time.sleep(0.3)
        self._ids.clear()
        for name in self._reservations:
            done = subprocess.run(
                ["scontrol", "delete", f"ReservationName={name}"], check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, f"scontrol delete {name}: {done.stderr}"
        self._reservations.clear()


@dataclass
class EmulatorLab:
    """An emulated cluster of the same nodes as the live test cluster, on a virtual clock."""

    emulator: object
    client: SlurmClient
    live: bool = False
    _ids: list[str] = field(default_factory=list)

    def submit(self, ask: Ask) -> JobId:
        from slurmsia.slurm.emulator import Emulator, NeverEnding, Submission

        assert isinstance(self.emulator, Emulator)
        tasks = (ask.tasks_per_node or 1) * ask.nodes
        cpus = tasks * (ask.cpus_per_task or 1)
        request = Request(
            nodes=ask.nodes,
            tasks=tasks,
            cpus=cpus,
            memory_mb=0 if ask.whole_memory else 100 * ask.nodes,
            gpus=ask.gpus,
            gpu_type=ask.gpu_type,
            gpu_form=ask.form,
            features=ask.feature,
            exclusive=ask.exclusive,
            tasks_per_node=ask.tasks_per_node,
            cpus_per_task=ask.cpus_per_task,
        )
        now_s = self.emulator.now_s
        kind = "" if ask.requeue else "it was submitted with --no-requeue"
        kind = "it is part of a heterogeneous job" if ask.heterogeneous else kind
        kind = f"it runs in the reservation {ask.reservation}" if ask.reservation else kind
        submission = Submission(
            request=request,
            name=ask.name,
            partitions=ask.partitions,
            comment=ask.comment,
            time_limit_s=ask.time_limit_min * 60.0,
            begin_s=None if ask.begin_in_s is None else now_s + ask.begin_in_s,
            held=ask.held,
            requeue=ask.requeue,
            dependency=(ask.after,) if ask.after else (),
            reservation=ask.reservation,
            kind=kind,
        )
        if ask.array:
            low, _, high = ask.array.partition("-")
            tasks_of = [NeverEnding() for _ in range(int(low), int(high) + 1)]
            ids = self.emulator.submit_array(submission, tasks_of)
            self._ids += ids
            return ids[0].split("_", maxsplit=1)[0]
        ids = [self.emulator.submit(submission, NeverEnding(ask.dies_s)) for _ in range(1 + ask.heterogeneous)]
        self._ids += ids
        return ids[0]

    def cancel(self, job_id: JobId) -> None:
        self.emulator.user_cancel(job_id)  # type: ignore[attr-defined]

    def pass_time(self, seconds: float) -> None:
        self.emulator.advance(seconds)  # type: ignore[attr-defined]

    def step(self, job_id: JobId) -> list[StepView]:
        job = wait_for(self, job_id, running, "running")
        assert job.allocation is not None
        share = -(-job.request.cpus // job.request.nodes)
        memory = None if job.request.memory_mb is None else job.request.memory_mb // job.request.nodes
        sizes = {node.name: (node.cpus, node.memory_mb) for node in self.client.nodes()}
        return [
            StepView(
                node,
                gpus,
                sizes[node][0] if job.request.exclusive else share,
                sizes[node][1] if memory == 0 else memory,
            )
            for node, gpus in job.allocation.gpus_by_node
        ]

    def reserve(self, name: str, nodes: tuple[str, ...], in_s: float, for_s: float) -> None:
        start_s = self.client.now_s() + max(0.0, in_s)
        self._reservation(Reservation(name, frozenset(nodes), start_s, start_s + for_s))

    def _reservation(self, reservation: Reservation) -> None:
        from slurmsia.slurm.emulator import Emulator

        assert isinstance(self.emulator, Emulator)
        self.emulator.reserve(reservation)

    def rewrite_edits_of(self, name: str, features: str) -> None:
        from slurmsia.slurm.emulator import Emulator

        assert isinstance(self.emulator, Emulator)
        self.emulator.modify_hook = lambda job, update: (
            replace(update, features=features) if job.name == name else update
        )

    def launches(self, *, fail: bool) -> None:
        from slurmsia.slurm.emulator import Emulator

        assert isinstance(self.emulator, Emulator)
        self.emulator.latencies = replace(
            self.emulator.latencies, launch_failure=1.0 if fail else 0.0, leftover_s=3600.0 if fail else 5.0
        )

    def clean(self) -> None:
        self.emulator.modify_hook = None  # type: ignore[attr-defined]
        for reservation in self.client.reservations():
            self._reservation(replace(reservation, start_s=0.0, end_s=1.0))
        for job_id in self._ids:
            self.cancel(job_id)
        self.pass_time(60.0)
        self._ids.clear()


TEST_SITE = Config.model_validate(
    {
        "slurm": {"accept_pyslurm_of_another_release": True, "writes_per_s": 50},
        "gpu_types": {name: {"feature": name} for name in ("t4", "rtx", "a100")},
    }
)


def make_lab(kind: str) -> Lab:
    """The laboratory of a client: "emulator", "command", "command-text" (no JSON) or "pyslurm"."""
    if kind in ("command", "command-text"):
        from slurmsia.slurm.command import CommandClient

        return LiveLab(CommandClient(TEST_SITE, text=kind == "command-text"))
    if kind == "pyslurm":
        from slurmsia.slurm.pyslurm_client import PyslurmClient

        return LiveLab(PyslurmClient(TEST_SITE))
    from slurmsia.slurm.emulator import Emulator, make_cluster

    spec = make_cluster([("a100", 1, 8), ("rtx", 2, 8), ("t4", 3, 4)], partition_per_type=True)
    nodes = tuple(replace(node, partitions=node.partitions | {"batch"}) for node in spec.nodes)
    batch = replace(spec.partitions[0], name="batch", nodes=frozenset(node.name for node in nodes))
    emulator = Emulator(replace(spec, nodes=nodes, partitions=(*spec.partitions, batch)))
    return EmulatorLab(emulator, emulator.client())
