"""A cluster with jobs, a daemon that can be stopped at any step of a move, and the judgement of what Slurm did.

The judgement uses Slurm's queue and accounting and the daemon's list of planned shapes, never its log. It says each
violation as a sentence; what the test itself did to a job (cancel, hold, requeue) is announced and then excused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pytest
from harness import PROJECT, SLACK, VENV_PYTHON, ClusterHandle
from live import CONFIG, SLURMSIA, LiveDaemon, accounted_runs

FOLDER = "/var/lib/slurmsia-fear"
HOME = "/home/alice"
LEASE_S = 60
#: Short rounds, the shortest lease; what keeps jobs safe is as shipped.
QUICKER: dict[str, object] = {
    "policy.round_s": 1,
    "moves.lease_s": LEASE_S,
    "moves.min_run_s": 0,
    "moves.first_report_s": 10,
    "moves.retry_s": 1,
    "daemon.early_round_after_s": 0.5,
    "daemon.tick_s": 0.3,
    "daemon.standby_s": 2,
}
#: Slurm's own restart after a requeue, where a test waits for it; otherwise 121 s.
SHORT_REQUEUE = "AuthInfo=cred_expire=12\n"
SHORT_REQUEUE_S = 13
#: Allowed beyond a promise's own time for Slurm and the machine to start a job that may start.
START_SLACK_S = 45.0
LIVING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
Shape = tuple[str, int]
"""GPU type and GPUs in all, as slurmdbd records them."""


class DrivenDaemon(LiveDaemon):
    """The daemon under the driver."""

    def start(self, mode: str = "enforce", wait: bool = True, wrap: Sequence[str] = ()) -> None:
        argv = [*wrap, "env", "-C", PROJECT, VENV_PYTHON, "-m", "tests.cluster.fear.driver", CONFIG, mode]
        before = self.rounds()
        self.process = self.cluster.spawn(argv, user="slurm")
        if wait:
            self.cluster.wait_for(lambda: self.rounds() > before, 40, f"the first round ({self.process.log})")


@dataclass
class Job:
    """One job of a test: what it was submitted as, and what the test did to it."""

    id: int
    submitted: Shape | None
    declared: bool = True
    allowed: set[Shape] = field(default_factory=set)
    excused_ends: set[str] = field(default_factory=set)
    excused_hold: bool = False


@dataclass
class Site:
    """One test's cluster, daemon, jobs, and count."""

    cluster: ClusterHandle
    runs: int = 0
    violations: list[str] = field(default_factory=list)
    jobs: dict[int, Job] = field(default_factory=dict)
    daemon: DrivenDaemon = field(init=False)
    others: list[DrivenDaemon] = field(default_factory=list)
    _shortened: bool = False

    def __post_init__(self) -> None:
        self.daemon = DrivenDaemon(self.cluster, dict(QUICKER))
        self.shell(f"rm -rf {FOLDER} {HOME}/finish {HOME}/samples.*; install -d -m 777 {FOLDER}")
        self._orders: dict[str, dict[str, object]] = {}

    def close(self) -> None:
        for daemon in (self.daemon, *self.others):
            daemon.kill()
        if self._shortened:
            self.cluster.set_extra_config("")
            self.cluster.restart_slurmctld()

    def shorten_requeue_delay(self) -> None:
        """Slurm starts a requeued job by itself after 21 s instead of 121 s; 22.05 reads this at its start only."""
        self._shortened = True
        self.cluster.set_extra_config(SHORT_REQUEUE)
        self.cluster.restart_slurmctld()

    def shell(self, script: str, user: str = "root", container: str = "controller") -> str:
        return self.cluster.run(["bash", "-c", script], user=user, container=container).stdout

    # ---- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, words: str = "gpus=1-8 level=restartable", gpus: int = 1, reports: bool = False,
               options: Sequence[str] = (), body: str = "", run: bool = True) -> int:  # fmt: skip
        """A declared job of alice's that runs until `finish`; running when this returns unless ``run`` is off."""
        loop = body or f"until [ -e {HOME}/finish ]; do sleep 0.2; done"
        if reports:
            loop = f"cd {PROJECT}; exec {VENV_PYTHON} -m tests.cluster.fear.fear_job {HOME}"
        comment = [f"--comment=sia: {words}"] if words else []
        argv = ["-p", "elastic", f"--gres=gpu:{gpus}", "--mem=100", "-t", "60", "--requeue", "--open-mode=append"]
        number = self.cluster.sbatch(*argv, *comment, *options, wrap=loop)
        self.jobs[number] = Job(number, None, declared=bool(words))
        if run:
            self.cluster.wait_for_state(number, "RUNNING", 30)
            self.jobs[number].allowed.add(self.held(number))
        return number

    def undeclared(self, gpus: int = 1, options: Sequence[str] = ()) -> int:
        return self.submit(words="", gpus=gpus, options=options)

    def fields(self, job: int) -> dict[str, str]:
        return self.cluster.show_job(job)

    def node(self, job: int) -> str:
        """The node that a one-node job holds."""
        return self.fields(job)["NodeList"]

    def held_now(self, job: int) -> Shape | None:
        """GPU type and GPUs of a job on nodes of one type; None when it does not run at this moment."""
        fields = self.fields(job)
        if fields.get("JobState") != "RUNNING":
            return None
        tres = dict(word.split("=") for word in (fields.get("AllocTRES") or fields["TRES"]).split(",") if "=" in word)
        if "gres/gpu" not in tres:
            return None
        return fields["NodeList"].split("-")[0], int(tres["gres/gpu"])

    def held(self, job: int) -> Shape:
        """GPU type and GPUs of a running job."""
        shape = self.held_now(job)
        assert shape is not None, f"job {job} does not run: {self.fields(job)}"
        return shape

    def elsewhere(self, job: int) -> str:
        """A GPU type that the job does not hold."""
        return "rtx" if self.held(job)[0] != "rtx" else "t4"

    def order(self, job: int, gpu_type: str, gpus: int = 1, node: str = "", pin: bool = False) -> None:
        """Tell the daemon's next rounds to move (or start) a job; holds for its present run only."""
        node = node or f"{gpu_type}-1"
        run = int(self.fields(job).get("Restarts", "0"))
        self._orders[str(job)] = {"run": run, "shape": [gpu_type, 1, gpus], "nodes": [[node, gpus]], "pin": pin}
        self._write_orders()

    def keep_waiting(self, job: int) -> None:
        """Tell the daemon to keep a waiting job on its lease."""
        self._orders[str(job)] = {"wait": True}
        self._write_orders()

    def no_orders(self) -> None:
        self._orders.clear()
        self._write_orders()

    def _write_orders(self) -> None:
        self.cluster.write(f"{FOLDER}/orders.json", json.dumps(self._orders))

    # ---- breakpoints ----------------------------------------------------------------------------------------------

    def stop_at(self, job: int, phase: str, moment: str) -> None:
        """Set a breakpoint: ``moment`` is before (the phase is written), saved (nothing called yet), or called."""
        self.cluster.write(f"{FOLDER}/break.{job}.{phase}.{moment}", "", mode="666")

    def wait_stopped(self, job: int, phase: str, moment: str, timeout: float = 40) -> None:
        try:
            self.cluster.wait_for(
                lambda: self.is_stopped(job, phase, moment), timeout, f"{phase}/{moment} of job {job}"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; moves: {self.daemon.moves()}; log: {self.daemon.log()[-3000:]}") from None

    def is_stopped(self, job: int, phase: str, moment: str) -> bool:
        return self.cluster.run(["test", "-e", f"{FOLDER}/reached.{job}.{phase}.{moment}"], check=False).returncode == 0

    def forget_breakpoints(self) -> None:
        self.shell(f"rm -f {FOLDER}/break.* {FOLDER}/reached.* {FOLDER}/go.*")

    def go_on(self, job: int, phase: str, moment: str) -> None:
        self.cluster.write(f"{FOLDER}/go.{job}.{phase}.{moment}", "")

    def wait_phase(self, job: int, phases: str, timeout: float = 60) -> str:
        """Wait until the job's latest move, or one that follows it, is in one of the phases (words); return it.

        The next round may begin another move within the second, before anybody has seen how this one ended.
        """

        def states() -> list[str]:
            return [state for number, _, state, *_ in self.daemon.moves() if number == str(job)]

        earlier = max(len(states()) - 1, 0)

        def reached() -> str:
            return next((state for state in states()[earlier:] if state in phases.split()), "")

        try:
            return self.cluster.wait_for(reached, timeout, f"a move of job {job} to be {phases}", every=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}; moves: {self.daemon.moves()}; log: {self.daemon.log()[-3000:]}") from None

    def wait_calm(self) -> None:
        """Wait until no move is under way."""
        final = ("verified", "aborted", "restored")
        self.cluster.wait_for(lambda: all(move[2] in final for move in self.daemon.moves()), 120, "moves to end", 0.5)

    def settle(self) -> None:
        """Take all orders back and wait until the daemon has heard of it and no move is under way."""
        self.no_orders()
        before = self.daemon.rounds()
        self.cluster.wait_for(lambda: self.daemon.rounds() >= before + 2, 60, "two more rounds", 0.5)
        self.wait_calm()

    def release_all(self) -> None:
        """What an operator runs when the daemon is gone."""
        argv = ["env", "-C", PROJECT, *SLURMSIA.split(), "release-all", "--config", CONFIG]
        done = self.cluster.run(argv, user="slurm", timeout=120, check=False)
        if done.returncode != 0:
            self.complain(f"slurmsia release-all: {done.stdout}{done.stderr}")
        print(done.stdout)

    def empty_postgresql(self) -> None:
        """A fresh schema in the cluster's PostgreSQL."""
        self.cluster.python(
            "import sqlalchemy as s\n"
            f"with s.create_engine({self.cluster.postgres_url_inside!r}).begin() as c:\n"
            "    c.execute(s.text('drop schema public cascade')); c.execute(s.text('create schema public'))\n"
        )
        argv = ["env", "-C", PROJECT, *SLURMSIA.split(), "db", "upgrade", "--url", self.cluster.postgres_url_inside]
        self.cluster.run(argv, user="slurm")

    def faketime(self) -> str:
        """The path of libfaketime in the controller, installed if need be; skips the test otherwise."""
        find = "ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | head -1"
        path = self.shell(find).strip()
        if not path:
            # A list of a Debian under development is out of date a week after it was made.
            update = "apt-get -o Acquire::Check-Valid-Until=false update"
            self.shell(f"({update} && apt-get install -y --no-install-recommends libfaketime) >&2 || true")
            path = self.shell(find).strip()
        if not path:
            pytest.skip("libfaketime cannot be installed in the controller")
        return path

    # ---- judgement ------------------------------------------------------------------------------------------------

    def count(self, runs: int = 1) -> None:
        """The fear came true so many times."""
        self.runs += runs

    def complain(self, sentence: str) -> None:
        self.violations.append(sentence)

    def check_waiting(self, beyond_s: float) -> None:
        """No declared job is held or waits for a time more than ``beyond_s`` seconds away."""
        now = float(self.cluster.run(["date", "+%s"]).stdout)
        for job in self.jobs.values():
            fields = self.fields(job.id)
            if fields.get("JobState") != "PENDING":
                continue
            if fields["Priority"] == "0" and not job.excused_hold:
                self.complain(f"job {job.id} is held ({fields['Reason']})")
            begin = fields["EligibleTime"]
            if begin not in ("Unknown", "N/A") and not job.excused_hold:
                wait = datetime.fromisoformat(begin).timestamp() - now
                if wait > beyond_s:
                    self.complain(
                        f"job {job.id} is kept from starting for {wait:.0f} s, at most {beyond_s:.0f} s are allowed"
                    )

    def check_free(self) -> None:
        """No declared job waits for a time, is held, or is tied to nodes: Slurm alone decides when each starts."""
        self.check_waiting(1.0)
        for job in self.jobs.values():
            listed = self.fields(job.id).get("ReqNodeList", "(null)")
            if job.declared and listed != "(null)":
                self.complain(f"job {job.id} is still pinned to {listed}")

    def all_run(self, within_s: float, what: str) -> None:
        """Every job that was neither cancelled nor held by the test runs within some seconds.

        Begin times are held to the second by `check_waiting`; here a busy machine gets more time to start the job.
        """
        end = time.monotonic() + within_s + START_SLACK_S
        waiting = [job.id for job in self.jobs.values() if not job.excused_ends and not job.excused_hold]
        while waiting and time.monotonic() < end:
            states = {row["job"]: row["state"] for row in self.cluster.squeue()}
            waiting = [job for job in waiting if states.get(str(job)) != "RUNNING"]
            time.sleep(0.5)
        for job in waiting:
            fields = self.fields(job)
            words = {
                key: fields.get(key)
                for key in ("JobState", "Reason", "EligibleTime", "Restarts", "ReqTRES", "ExitCode")
            }
            self.complain(f"job {job} does not run {within_s + START_SLACK_S:.0f} s after: {what} ({words})")

    def judge(self) -> None:
        """Let every job end and hold Slurm's accounting against what may have happened; raises on violations."""
        self.no_orders()
        self.check_waiting(max(LEASE_S, 122) + 10)
        self.shell(f"touch {HOME}/finish", user="alice")
        for job in self.jobs.values():
            if job.excused_hold:
                self.cluster.run(["scontrol", "release", str(job.id)], user="root", check=False)
        live = {str(job) for job in self.jobs}
        end = time.monotonic() + SLACK * 120
        while time.monotonic() < end and any(row["job"] in live for row in self.cluster.squeue()):
            time.sleep(0.5)
        planned = self._planned()
        ends: dict[int, list[dict[str, str]]] = {}
        deadline = time.monotonic() + SLACK * 15
        while time.monotonic() < deadline:
            ends = {}
            for run in accounted_runs(self.cluster):
                if run["JobID"].isdigit() and int(run["JobID"]) in self.jobs:
                    ends.setdefault(int(run["JobID"]), []).append(run)
            if all(ends.get(job) and ends[job][-1]["State"].split()[0] not in LIVING for job in self.jobs):
                break
            time.sleep(0.5)
        for job in self.jobs.values():
            self._judge_one(job, ends.get(job.id, []), planned.get(job.id, set()))
        assert not self.violations, "\n".join(self.violations)

    def _planned(self) -> dict[int, set[Shape]]:
        shapes: dict[int, set[Shape]] = {}
        rows = self.daemon.query("select j.slurm_id, m.target_json from moves m join jobs j on j.id = m.job_id")
        for job, target in rows:
            shape = json.loads(str(target))["shape"]
            if shape is not None:
                shapes.setdefault(int(str(job)), set()).add((shape["gpu_type"], shape["gpus"]))
        return shapes

    def _judge_one(self, job: Job, runs: list[dict[str, str]], planned: set[Shape]) -> None:
        if not runs:
            self.complain(f"job {job.id} is lost: Slurm's accounting does not know it")
            return
        last = runs[-1]["State"].split()[0]
        # A job that is cancelled between two runs has no run that ends as CANCELLED.
        if last == "REQUEUED" and job.excused_hold:
            # Slurm 24.11 sends no start to slurmdbd of a job that its user holds in the second in which it starts.
            last = self.fields(job.id).get("JobState", last)
        if last != "COMPLETED" and not (job.excused_ends and last in ("REQUEUED", *job.excused_ends)):
            self.complain(f"job {job.id} ended as {runs[-1]['State']} ({runs[-1]['ExitCode']}), not by itself")
        for run in runs[:-1]:
            state = run["State"].split()[0]
            if state not in ("REQUEUED", "PENDING", *job.excused_ends):
                self.complain(f"a run of job {job.id} ended as {run['State']} ({run['ExitCode']})")
        if not job.declared and len(runs) > 1:
            self.complain(f"undeclared job {job.id} was restarted: {runs}")
        for run in runs:
            tres = dict(word.split("=", 1) for word in run["AllocTRES"].split(",") if "=" in word)
            held = [(key.split(":")[1], int(count)) for key, count in tres.items() if key.startswith("gres/gpu:")]
            wanted = planned | job.allowed
            for shape in held if job.allowed else ():
                if shape not in wanted:
                    self.complain(f"job {job.id} ran as {shape}, which nobody chose ({sorted(wanted)})")
