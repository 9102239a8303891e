"""What cluster tests drive a running test cluster with: commands as a user, waiting, breaking things, evidence.

A ``ClusterHandle`` belongs to one suite that ``make cluster-up`` has started. It never starts or removes a cluster,
and it reads and changes Slurm only through Slurm's own commands inside the containers.
"""

from __future__ import annotations

import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import control
from engine import STATE, ClusterError
from suites import GPUS_BY_TYPE, NODES_BY_CONTAINER, suite_named

T = TypeVar("T")

VENV_PYTHON = "/opt/slurmsia/venv/bin/python"
PROJECT = "/opt/slurmsia/project"
"""The checkout inside every container, read-only and always current."""
SLACK = 3.0
"""Time limits in tests are written for a quiet machine; a busy one gets so many times as long."""
HEARTBEAT_FILE = "/var/spool/slurmsia/heartbeat"
_SCRIPTS = f"{PROJECT}/tests/cluster/image"
_TEST_CONF_HEAD = "# Empty unless a test adds lines.\n"
_FINISHED = frozenset(
    ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)


class CommandFailed(AssertionError):
    """A command in a container ended with another status than 0."""


@dataclass(frozen=True)
class Process:
    """A process in the background of a container, as :meth:`ClusterHandle.spawn` started it."""

    cluster: ClusterHandle
    container: str
    pid: int
    log: str

    def is_alive(self) -> bool:
        """Return whether it still runs (a zombie does not)."""
        state = self.cluster.run(["ps", "-o", "stat=", "-p", str(self.pid)], container=self.container, check=False)
        return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")

    def kill(self, signal: str = "KILL") -> None:
        """Send a signal to the process alone (not to its children)."""
        self.cluster.run(["kill", f"-{signal}", str(self.pid)], container=self.container, check=False)

    def kill_group(self, signal: str = "KILL") -> None:
        """Send a signal to the process and everything it started."""
        self.cluster.run(["kill", f"-{signal}", "--", f"-{self.pid}"], container=self.container, check=False)

    def output(self) -> str:
        """Return what it has written to stdout and stderr so far."""
        return self.cluster.read(self.log, container=self.container)


class ClusterHandle:
    """One running test cluster.

    ``container`` arguments name a service of compose.yaml: controller, accounting, postgres, compute-t4,
    compute-rtx, compute-a100. Users are root, slurm, alice and bob.
    """

    def __init__(self, suite: str) -> None:
        self.suite = suite_named(suite)
        self._ids: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"ClusterHandle({self.suite.name!r})"

    def is_up(self) -> bool:
        """Return whether the cluster's containers run."""
        return control.is_up(self.suite)

    # ---- commands -------------------------------------------------------------------------------------------------

    def docker_prefix(
        self, user: str, container: str = "controller", env: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return the argv that, put before a command, runs it as that user in that container."""
        if container not in self._ids:
            found = control.container_name(self.suite, container)
            if not found:
                raise ClusterError(f"container {container} of cluster {self.suite.name} does not run")
            self._ids[container] = found
        home = "/root" if user == "root" else f"/home/{user}" if user in ("alice", "bob", "slurm") else "/tmp"
        words = ["docker", "exec", "-i", "-u", user, "-w", home, "-e", f"HOME={home}", "-e", f"USER={user}"]
        for name, value in (env or {}).items():
            words += ["-e", f"{name}={value}"]
        return [*words, self._ids[container]]

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        container: str = "controller",
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container; :class:`CommandFailed` with its output unless ``check`` is off."""
        done = subprocess.run(
            [*self.docker_prefix(user, container, env), *argv],
            capture_output=True,
            text=True,
            errors="replace",
            input=input if input is not None else "",
            timeout=SLACK * timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandFailed(
                f"as {user} in {container}: {shlex.join(argv)}\n"
                f"ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def run_as(
        self, user: str, argv: Sequence[str], *, container: str = "controller", **options: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user; the options are those of :meth:`run`."""
        return self.run(argv, user=user, container=container, **options)  # type: ignore[arg-type]

    def python(self, code: str, *, user: str = "slurm", container: str = "controller", timeout: float = 60) -> str:
        """Run Python code in the environment where slurmsia is installed; return what it prints."""
        return self.run([VENV_PYTHON, "-c", code], user=user, container=container, timeout=timeout).stdout

    def pytest_inside(
        self, *args: str, user: str = "slurm", env: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run pytest inside the controller on tests of the checkout (paths relative to its root)."""
        options = ["-p", "no:cacheprovider", "-o", "addopts=", "--rootdir", PROJECT, "-c", f"{PROJECT}/pyproject.toml"]
        argv = ["env", "-C", PROJECT, VENV_PYTHON, "-m", "pytest", *options, *args]
        inside = {"SLURMSIA_CLUSTER_INSIDE": self.suite.name, **(env or {})}
        return self.run(argv, user=user, env=inside, timeout=timeout, check=False)

    def spawn(
        self, argv: Sequence[str], *, user: str, container: str = "controller", env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a command in the background, in a session of its own; its output goes to a log file."""
        log = f"/var/log/slurm/{Path(argv[0]).name}-{time.time_ns()}.log"
        script = 'log=$1; shift; setsid "$@" >"$log" 2>&1 </dev/null & echo $!'
        out = self.run(["bash", "-c", script, "spawn", log, *argv], user=user, container=container, env=env)
        return Process(self, container, int(out.stdout), log)

    # ---- waiting --------------------------------------------------------------------------------------------------

    @staticmethod
    def wait_for(condition: Callable[[], T], timeout: float, what: str, every: float = 0.2) -> T:
        """Return the first truthy value of ``condition``; AssertionError saying what was waited for (seconds).

        ``timeout`` is for a quiet machine (`SLACK`).
        """
        deadline = time.monotonic() + SLACK * timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"after {SLACK * timeout:.0f} s still waiting for: {what}")
            time.sleep(every)

    # ---- Slurm ----------------------------------------------------------------------------------------------------

    def scontrol(self, *args: str, user: str = "slurm", check: bool = True) -> str:
        """Run ``scontrol ARGS`` and return what it prints, errors included."""
        done = self.run(["scontrol", *args], user=user, check=check)
        return done.stdout + done.stderr

    def show_job(self, job: int | str) -> dict[str, str]:
        """Return the fields of ``scontrol show job``; {} for a job that slurmctld no longer knows."""
        done = self.run(["scontrol", "-o", "show", "job", str(job)], user="slurm", check=False)
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise CommandFailed(f"scontrol show job {job}: {done.stderr.strip()}")
        return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)

    def job_state(self, job: int | str) -> str:
        """Return the state of a job as slurmctld has it (``NONE`` when it is forgotten)."""
        return self.show_job(job).get("JobState", "NONE")

    def squeue(self, user: str = "slurm") -> list[dict[str, str]]:
        """Return the queue: job, state, user, partition, nodes, reason of every job that is not finished."""
        names = ("job", "state", "user", "partition", "nodes", "reason")
        out = self.run(["squeue", "-h", "-a", "-o", "%i|%T|%u|%P|%N|%r"], user=user).stdout
        return [dict(zip(names, line.split("|"), strict=True)) for line in out.splitlines()]

    def nodes(self) -> dict[str, str]:
        """Return node -> state as sinfo says it in full words (``idle``, ``mixed``, ``down*``, ...)."""
        out = self.run(["sinfo", "-h", "-N", "-p", "elastic", "-o", "%N %T"], user="slurm").stdout
        return dict(line.split() for line in out.splitlines())

    def sbatch(self, *options: str, script: str | None = None, wrap: str | None = None, user: str = "alice") -> int:
        """Submit a batch job with sbatch's own options and return its id (of the array, for an array)."""
        if (script is None) == (wrap is None):
            raise ValueError("give either script= or wrap=")
        if wrap is not None:
            script = f"#!/bin/bash\n{wrap}\n"
        out = self.run(["sbatch", "--parsable", *options], user=user, input=script).stdout
        return int(out.split()[-1].split(";")[0])

    def wait_for_state(self, job: int | str, state: str | Sequence[str], timeout: float = 30) -> dict[str, str]:
        """Wait until a job is in a state (or one of several) and not completing; return its fields."""
        wanted = {state} if isinstance(state, str) else set(state)

        def reached() -> dict[str, str]:
            fields = self.show_job(job)
            now = fields.get("JobState", "NONE")
            if now in _FINISHED and not wanted & _FINISHED:
                raise AssertionError(f"job {job} ended as {now} while waiting for it to be {' or '.join(wanted)}")
            return fields if now in wanted else {}

        return self.wait_for(reached, timeout, f"job {job} to be {' or '.join(sorted(wanted))}")

    def job_output(self, job: int | str, user: str = "alice") -> str:
        """Return what a job has written to its standard output file so far."""
        path = self.show_job(job)["StdOut"].replace("%j", str(job))
        return self.run(["cat", path], user=user, check=False).stdout

    def set_heartbeat(self, age_s: float | None) -> None:
        """Write the daemon's heartbeat as if its last round was ``age_s`` seconds ago; None removes it."""
        if age_s is None:
            self.run(["rm", "-f", HEARTBEAT_FILE])
        else:
            self.write(HEARTBEAT_FILE, f"{time.time() - age_s:.0f}\n", owner="slurm")

    def clean(self) -> None:
        """Make the cluster as new: everything runs, no job, no reservation, every node idle, no heartbeat."""
        self._ids.clear()
        self.resume_slurmctld()
        if not self._slurmctld_pid():
            self.start_slurmctld()
        self.set_heartbeat(None)
        self.set_extra_config("")
        if self.run(["squeue", "-h", "-a"], user="slurm").stdout.strip():
            self.run(["scancel", "-u", "alice,bob,slurm,root"], user="root", check=False)
            for name in ("alice", "bob", "slurm", "root"):
                self.run(["scancel", "-f", "-u", name], user="root", check=False)
        for line in self.scontrol("-o", "show", "reservation", check=False).splitlines():
            if line.startswith("ReservationName="):
                self.scontrol("delete", line.split()[0], user="root", check=False)
        if set(self.nodes().values()) - {"idle"}:
            for nodes in NODES_BY_CONTAINER.values():
                for node in nodes:
                    self.start_node(node)
        self.wait_for(lambda: not self.squeue() and set(self.nodes().values()) == {"idle"}, 60, "an idle cluster")

    # ---- breaking things --------------------------------------------------------------------------------------------

    def _slurmctld_pid(self) -> int | None:
        out = self.run(["pgrep", "-x", "slurmctld"], check=False).stdout.split()
        return int(out[0]) if out else None

    def wait_until_saved(self, job: int) -> None:
        """Wait until slurmctld has written all that it knows by now to disk, by a mark set on ``job`` last of all.

        It writes some 5 s after a change, later when its disk is slow, and when the file's time is younger than a
        change the file may yet have been packed before it. What is not in the file is lost when slurmctld is killed
        with SIGKILL: a property of Slurm, not of slurmsia.
        """
        mark = f"saved-{uuid.uuid4().hex}"
        self.scontrol("update", f"JobId={job}", f"AdminComment={mark}")
        looks = ["grep", "-c", "-F", mark, "/var/spool/slurmctld/job_state"]
        self.wait_for(lambda: int(self.run(looks, check=False).stdout.strip() or 0), 60, "slurmctld to save its state")

    def kill_slurmctld(self, signal: str = "KILL") -> None:
        """Kill slurmctld and wait until it is gone; the container stays."""
        self.run(["pkill", f"-{signal}", "-x", "slurmctld"], check=False)
        self.wait_for(lambda: self._slurmctld_pid() is None, 30, "slurmctld to be gone")

    def start_slurmctld(self) -> None:
        """Start slurmctld and wait until it answers."""
        self.run([f"{_SCRIPTS}/start-slurmctld"])
        self.wait_for(lambda: "is UP" in self.scontrol("ping", check=False), 30, "slurmctld to answer")

    def restart_slurmctld(self) -> None:
        """Stop slurmctld in an orderly way (it saves its state) and start it again."""
        self.kill_slurmctld("TERM")
        self.start_slurmctld()

    def pause_slurmctld(self) -> None:
        """Freeze slurmctld (SIGSTOP): it holds its port, and no call is answered."""
        self.run(["pkill", "-STOP", "-x", "slurmctld"])

    def resume_slurmctld(self) -> None:
        """Let a frozen slurmctld go on."""
        self.run(["pkill", "-CONT", "-x", "slurmctld"], check=False)

    def container_of(self, node: str) -> str:
        """Return the container in which a node's slurmd runs."""
        return next(container for container, nodes in NODES_BY_CONTAINER.items() if node in nodes)

    def stop_node(self, node: str) -> None:
        """Take a node away as a power cut would: its slurmd and all of its jobs' processes, nothing reported."""
        self.run([f"{_SCRIPTS}/stop-node", node], container=self.container_of(node))

    def start_node(self, node: str) -> None:
        """Start a node's slurmd if it does not run, and bring the node back from down or drained."""
        container = self.container_of(node)
        if not self.run(["pgrep", "-f", f"^slurmd -N {node}$"], container=container, check=False).stdout:
            self.run([f"{_SCRIPTS}/start-slurmd", node], container=container)
        state = self.nodes().get(node, "")
        if state.startswith(("down", "drain", "draining", "drained", "fail", "unk")):
            self.scontrol("update", f"NodeName={node}", "State=RESUME", user="root", check=False)

    def set_extra_config(self, text: str) -> None:
        """Put lines into test.conf, the last include of slurm.conf, and reconfigure; '' takes them out again."""
        path = "/etc/slurm/test.conf"
        whole = f"{_TEST_CONF_HEAD}{text}"
        if self.read(path) == whole:
            return
        self.write(path, whole)
        self.scontrol("reconfigure", user="root")

    # ---- files ----------------------------------------------------------------------------------------------------

    def write(
        self, path: str, text: str, *, container: str = "controller", owner: str = "root", mode: str = "644"
    ) -> None:
        """Write a file in a container, replacing it by rename, as that owner."""
        script = 'cat >"$1.new" && chown "$2:" "$1.new" && chmod "$3" "$1.new" && mv -f "$1.new" "$1"'
        self.run(["bash", "-c", script, "write", path, owner, mode], container=container, input=text)

    def read(self, path: str, *, container: str = "controller") -> str:
        """Return a file's text; '' when it is not there."""
        return self.run(["cat", path], container=container, check=False).stdout

    def copy_in(self, local: Path, path: str, *, container: str = "controller") -> None:
        """Copy a file or folder of this machine into a container."""
        subprocess.run(["docker", "cp", str(local), f"{self.docker_prefix('root', container)[-1]}:{path}"], check=True)

    def copy_out(self, path: str, local: Path, *, container: str = "controller") -> None:
        """Copy a file or folder of a container to this machine."""
        subprocess.run(["docker", "cp", f"{self.docker_prefix('root', container)[-1]}:{path}", str(local)], check=True)

    @property
    def gpus_by_type(self) -> dict[str, tuple[int, int]]:
        """GPU type -> (nodes, GPUs per node)."""
        return dict(GPUS_BY_TYPE)

    @property
    def postgres_url(self) -> str:
        """SQLAlchemy URL of the cluster's PostgreSQL, as this machine reaches it."""
        return control.postgres_url(self.suite)

    @property
    def postgres_url_inside(self) -> str:
        """SQLAlchemy URL of the cluster's PostgreSQL, as the containers reach it."""
        return "postgresql+psycopg://slurmsia:slurmsia@postgres:5432/slurmsia"

    # ---- evidence -------------------------------------------------------------------------------------------------

    def keep_evidence(self, folder: Path) -> Path:
        """Write queue, nodes, jobs, accounting and every log into a folder; never raises; return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        commands = {
            "queue": ["squeue", "-a", "-o", "%i %T %u %P %D %N %b %f %S %r"],
            "nodes": ["scontrol", "-d", "show", "nodes"],
            "jobs": ["scontrol", "-d", "show", "jobs"],
            "reservations": ["scontrol", "show", "reservations"],
            "config": ["scontrol", "show", "config"],
            "accounting": [
                "sacct",
                "-a",
                "-X",
                "-D",
                "-o",
                "JobID,User,State,ExitCode,AllocTRES%60,NodeList,Start,End",
            ],
            "processes": ["ps", "-eo", "pid,ppid,user,stat,lstart,args"],
            "spool": ["find", "/var/spool/slurmsia", "-ls"],
        }
        for name, argv in commands.items():
            try:
                done = self.run(["timeout", "10", *argv], user="slurm", timeout=20, check=False)
                text = done.stdout + done.stderr
            except Exception as problem:
                text = f"could not be read: {problem}"
            (folder / f"{name}.txt").write_text(text)
        for service in ("controller", "accounting", "postgres", *NODES_BY_CONTAINER):
            try:
                container = control.container_name(self.suite, service, running=False)
                done = subprocess.run(
                    ["docker", "logs", container], capture_output=True, text=True, errors="replace", check=False
                )
                text = done.stdout + done.stderr
            except (ClusterError, OSError) as problem:
                text = f"could not be read: {problem}"
            (folder / f"container-{service}.txt").write_text(text)
        subprocess.run(
            ["cp", "-r", "--no-preserve=ownership", str(STATE / self.suite.name / "logs"), str(folder / "logs")],
            check=False,
            capture_output=True,
        )
        return folder
