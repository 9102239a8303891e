"""A real slurmsia-daemon on a running test cluster: started, killed, asked, and judged by Slurm's own words.

The daemon runs in the controller's container as SlurmUser from the checkout. Judgement uses Slurm's accounting and the
daemon's own database, never the daemon's log alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from harness import PROJECT, VENV_PYTHON, ClusterHandle, Process

STATE = "/var/lib/slurmsia"
DATABASE = f"{STATE}/slurmsia.db"
CONFIG = "/etc/slurmsia/slurmsia.toml"
SPOOL = "/var/spool/slurmsia"

SLURMSIA = f"{VENV_PYTHON} -m slurmsia_cli"

#: Quick rounds and short waits; everything that keeps jobs safe is as shipped.
QUICK = {
    "slurm.accept_pyslurm_of_another_release": True,
    "gpu_types.t4.feature": "t4",
    "gpu_types.rtx.feature": "rtx",
    "gpu_types.a100.feature": "a100",
    "policy.round_s": 4,
    "moves.min_run_s": 8,
    "moves.lease_s": 90,
    "moves.first_report_s": 30,
    "daemon.early_round_after_s": 2,
    "daemon.tick_s": 0.5,
    "api.socket": "",
    "store.url": f"sqlite:///{DATABASE}",
}


def toml(settings: dict[str, object]) -> str:
    """A policy file from dotted keys."""
    tables: dict[str, list[str]] = {}
    for dotted, value in settings.items():
        table, _, key = dotted.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {json.dumps(value)}")
    return "\n".join(f"[{table}]\n" + "\n".join(lines) + "\n" for table, lines in tables.items())


@dataclass
class LiveDaemon:
    """One daemon; ``settings`` override `QUICK`, dotted."""

    cluster: ClusterHandle
    settings: dict[str, object] = field(default_factory=dict)
    process: Process | None = None

    def prepare(self) -> None:
        """Fresh state, spool and policy file."""
        commands = (
            f"rm -rf {STATE} {SPOOL}/reports {SPOOL}/directives /etc/slurmsia/freeze /home/alice/runs.*",
            f"cp {PROJECT}/contrib/job_submit.lua /etc/slurm/job_submit.lua",
            f"install -d -m 755 -o slurm {STATE} {SPOOL} {SPOOL}/directives /home/slurm",
            f"install -d -m 1777 -o slurm {SPOOL}/reports",
            "install -d -m 755 /etc/slurmsia",
        )
        self.cluster.run(["bash", "-c", "; ".join(commands)])
        self.configure()

    def configure(self, **settings: object) -> None:
        """Write the policy file; the daemon reads it at its start or on SIGHUP."""
        self.settings.update(settings)
        self.cluster.write(CONFIG, toml({**QUICK, **self.settings}))

    def start(self, mode: str = "enforce") -> None:
        """Start and wait for the first round."""
        argv = ["env", "-C", PROJECT, VENV_PYTHON, "-m", "slurmsia_daemon", "--config", CONFIG, "--mode", mode]
        before = self.rounds()
        self.process = self.cluster.spawn(argv, user="slurm")
        self.cluster.wait_for(lambda: self.rounds() > before, 40, f"the daemon's first round ({self.process.log})")

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        process = self.process
        if process is not None:
            process.kill("TERM")
            self.cluster.wait_for(lambda: not process.is_alive(), 40, "the daemon to stop")
            self.process = None

    def kill(self) -> None:
        """kill -9, its worker and API processes with it."""
        if self.process is not None:
            self.process.kill_group("KILL")
            self.process = None

    def log(self) -> str:
        return self.process.output() if self.process is not None else ""

    def query(self, sql: str) -> list[list[object]]:
        """Rows of the daemon's SQLite database; empty when there is none yet."""
        code = (
            "import json,sqlite3,sys\n"
            f"try:\n d=sqlite3.connect('file:{DATABASE}?mode=ro',uri=True,timeout=20)\n"
            f" print(json.dumps([list(r) for r in d.execute({sql!r})]))\n"
            "except sqlite3.OperationalError as e: print('[]')\n"
        )
        rows = json.loads(self.cluster.python(code) or "[]")
        assert isinstance(rows, list)
        return rows

    def rounds(self) -> int:
        rows = self.query("select count(*) from rounds")
        return int(str(rows[0][0])) if rows else 0

    def moves(self) -> list[tuple[str, str, str, float, float]]:
        """(job, kind, last state, created, ended) of every move so far."""
        rows = self.query(
            "select j.slurm_id, json_extract(m.target_json,'$.kind'), m.state, m.created_s, coalesce(m.ended_s,0)"
            " from moves m join jobs j on j.id = m.job_id order by m.created_s"
        )
        return [(str(r[0]), str(r[1]), str(r[2]), float(str(r[3])), float(str(r[4]))) for r in rows]


def accounted_runs(cluster: ClusterHandle) -> list[dict[str, str]]:
    """Every run of every job since the cluster's start, as slurmdbd has them."""
    fields = "JobID,JobName,State,Submit,Eligible,Start,End,AllocTRES,NNodes,NodeList,User,ExitCode,Comment"
    out = cluster.run(["sacct", "-D", "-X", "-a", "-n", "-P", "--starttime=now-2hours", f"--format={fields}"]).stdout
    names = fields.split(",")
    return [dict(zip(names, line.split("|"), strict=False)) for line in out.splitlines() if line]
