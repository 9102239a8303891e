"""Captures what a running test cluster's Slurm really prints, as the corpus of the parsers' unit tests.

``python tests/cluster/capture.py forky`` needs ``make cluster-up SUITE=forky``; it submits jobs with hostile names and
comments and writes tests/unit/slurm/corpus/<release>/. Run it again when a release is added.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from harness import ClusterHandle

CORPUS = Path(__file__).parents[1] / "unit" / "slurm" / "corpus"

HOSTILE = (
    "x UserId=root(0) JobState=FAILED",
    "line1\nJobId=1 JobName=x UserId=root(0)",
    "quotes \" and ' and \\ and %s ${HOME} $(id)",
    "é ü 漢字 \u202e reversed",
    "gres:gpu:a100:64 tres=cpu=1,mem=1G",
    "tabs\tand = signs = everywhere , commas | pipes",
)
READS = {
    "jobs.json": ["squeue", "--json", "--all", "--states=all"],
    "partitions.txt": ["scontrol", "-o", "--all", "show", "partition"],
    "reservations.txt": ["scontrol", "-o", "show", "reservation"],
    "config.txt": ["scontrol", "show", "config"],
    "licenses.txt": ["scontrol", "-o", "show", "licenses"],
    "qos.txt": ["sacctmgr", "-n", "-P", "show", "qos", "format=Name,GrpTRES,MaxTRES,MaxTRESPerUser,MaxTRESPerAccount"],
    "jobs.txt": ["scontrol", "-o", "-d", "show", "job"],
    "sacct.txt": ["sacct", "-D", "-X", "-a", "-P", "--starttime=now-1hour", "--format=ALL"],
}


def main(suite: str) -> None:
    cluster = ClusterHandle(suite)
    cluster.clean()
    loop = "while :; do sleep 1; done"
    for text in HOSTILE:
        cluster.sbatch(
            "-p", "batch", "--gres=gpu:1", "--hold", "-J", text.replace("\n", " "), f"--comment={text}", wrap=loop
        )
    cluster.sbatch("-p", "batch", "--gres=gpu:2", "-N2", "-C", "t4", "--mem=100", wrap=loop)
    cluster.sbatch("-p", "rtx", "--gres=gpu:rtx:3", "--mem=0", wrap=loop)
    cluster.sbatch("-p", "a100", "--gpus=3", "--mem-per-cpu=50", "-n3", wrap=loop)
    cluster.sbatch("-p", "batch", "--gpus-per-node=1", "--exclusive", "--array=0-3%2", wrap=loop)
    cluster.sbatch("-p", "batch", "-n2", "--gpus-per-task=1", "--begin=now+1hour", wrap=loop)
    cluster.sbatch("-p", "batch", "--gres=gpu:1", "--no-requeue", "--time=10", wrap=loop)
    cluster.sbatch("-p", "batch", "-N1", "--gres=gpu:1", ":", "-N1", "--gres=gpu:1", wrap=loop)
    cluster.sbatch("-p", "t4", "--gres=gpu:4", wrap="exit 7")
    cluster.scontrol("create", "reservation=maint", "StartTime=now+1hour", "Duration=60", "Nodes=t4-1", "Users=root")
    cluster.scontrol("update", "NodeName=rtx-2", "State=DRAIN", "Reason=broken fan = loud")
    cluster.run(["sleep", "4"])
    version = cluster.run(["scontrol", "--version"]).stdout.split()[-1]
    reads = dict(READS)
    nodes = (
        ["sinfo", "--json", "--all"]
        if version.startswith("22.05")
        else ["scontrol", "show", "nodes", "--json", "--all"]
    )
    reads["nodes.json"] = nodes
    folder = CORPUS / version
    folder.mkdir(parents=True, exist_ok=True)
    for name, argv in reads.items():
        command = f"{shlex.join(argv)} >/tmp/capture 2>/dev/null"
        cluster.run(["sh", "-c", command], user="slurm", env={"SLURM_TIME_FORMAT": "%s"}, check=False)
        cluster.copy_out("/tmp/capture", folder / name)
    cluster.scontrol("delete", "reservation=maint", check=False)
    cluster.scontrol("update", "NodeName=rtx-2", "State=RESUME")
    cluster.clean()
    print(f"{folder}: {len(reads)} captures")


if __name__ == "__main__":
    main(sys.argv[1])
