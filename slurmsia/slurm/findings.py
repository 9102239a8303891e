"""What the preflight check finds, as values: one line per finding, with why it matters and what to change where.

Pure: every check takes facts that were read before and returns findings. Reading them is `doctor`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..cluster import Node, NodeState, Partition
from . import normalise as n
from .sitefacts import SiteFacts, seconds


class Level(str, Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check. ``mend`` is empty for OK, else which file or command to change and how."""

    check: str
    level: Level
    what: str
    mend: str = ""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Level.OK, what)


def warn(check: str, what: str, mend: str) -> Finding:
    return Finding(check, Level.WARN, what, mend)


def fail(check: str, what: str, mend: str) -> Finding:
    return Finding(check, Level.FAIL, what, mend)


OLDEST = (22, 5)
NEWEST_TESTED = (26, 5)


def version(facts: SiteFacts) -> Finding:
    """Slurm's release against those that are tested."""
    major, minor, micro = facts.site.slurm_version
    found = f"Slurm {major}.{minor:02d}.{micro}"
    if (major, minor) < OLDEST:
        return fail("slurm-version", f"{found} is older than 22.05", "upgrade Slurm to 22.05 or newer")
    if (major, minor) > NEWEST_TESTED:
        return warn("slurm-version", f"{found} is newer than any tested release", "run in observe mode first")
    return ok("slurm-version", found)


def requeue_delay(facts: SiteFacts, grace_s: float) -> Finding:
    """The delay after a requeue is our dead-man's switch: it must outlast one edit, and not strand a job for long."""
    delay = facts.site.requeue_delay_s
    if delay < 20:
        what = f"a requeued job may start again after {delay:.0f} s, in its old shape, before an edit reaches it"
        return fail("requeue-delay", what, "slurm.conf: AuthInfo=cred_expire=120 (or requeue_delay >= 20)")
    if delay > 1800:
        what = f"a job whose daemon died waits {delay:.0f} s before Slurm starts it again"
        return warn("requeue-delay", what, "slurm.conf: lower cred_expire (or set requeue_delay, 25.11 and later)")
    if delay <= grace_s:
        what = f"the {delay:.0f} s until Slurm's own restart are no longer than a job's grace period ({grace_s:.0f} s)"
        return warn("requeue-delay", what, "slurm.conf: a longer cred_expire (or requeue_delay), or a shorter grace_s")
    explicit = n.number(facts.parameter("SchedulerParameters", "requeue_delay"))
    expire = n.number(facts.parameter("AuthInfo", "cred_expire") or 120)
    if explicit is not None and expire is not None and explicit < expire:
        what = (
            f"requeue_delay ({explicit:.0f} s) is shorter than cred_expire ({expire:.0f} s): a node that was away may "
            "still take the credential of the run before"
        )
        return warn("requeue-delay", what, "slurm.conf: requeue_delay above cred_expire")
    return ok("requeue-delay", f"{delay:.0f} s between a requeue and Slurm's own restart")


def job_requeue(facts: SiteFacts) -> Finding:
    if facts.config.get("JobRequeue", "1") == "0":
        what = "jobs are not requeueable unless they say --requeue"
        return warn("job-requeue", what, "slurm.conf: JobRequeue=1, or tell users to submit with --requeue")
    return ok("job-requeue", "jobs may be requeued by default")


def job_file_append(facts: SiteFacts) -> Finding:
    if facts.config.get("JobFileAppend", "0") == "0":
        what = "a restarted job truncates its log: what it printed before a move is lost"
        return warn("job-file-append", what, "slurm.conf: JobFileAppend=1, or submit with --open-mode=append")
    return ok("job-file-append", "logs are kept over restarts")


def kill_wait(facts: SiteFacts) -> Finding:
    wait = facts.site.kill_wait_s
    if wait >= facts.site.requeue_delay_s:
        what = (
            f"KillWait ({wait:.0f} s) outlasts the requeue delay: a job that ignores SIGTERM restarts in its old shape"
        )
        return warn("kill-wait", what, "slurm.conf: KillWait well below cred_expire")
    return ok("kill-wait", f"{wait:.0f} s from SIGTERM to SIGKILL")


def requeue_exit_hold(facts: SiteFacts) -> Finding:
    value = facts.config.get("RequeueExitHold", "")
    if value:
        what = f"jobs that exit with {value} are held by Slurm; slurmsia never relies on it"
        return warn("requeue-exit-hold", what, "nothing to do unless jobs of this site exit with that code by accident")
    return ok("requeue-exit-hold", "no exit code holds a job")


def scheduler_parameters(facts: SiteFacts) -> list[Finding]:
    """Parameters that slow moves down or forbid parts of them."""
    found = []
    if facts.parameter("SchedulerParameters", "defer") is not None:
        what = "`defer` makes an edited job wait for the next scheduling cycle"
        found.append(warn("defer", what, "slurm.conf: remove defer from SchedulerParameters where load allows"))
    else:
        found.append(ok("defer", "edited jobs are tried at once"))
    interval = facts.parameter("SchedulerParameters", "sched_min_interval")
    micros = int(interval) if interval and interval.isdigit() else 2
    if micros > 2_000_000:
        what = f"sched_min_interval is {micros / 1e6:.1f} s: every start waits that long"
        found.append(warn("sched-min-interval", what, "slurm.conf: sched_min_interval=2000000 or less"))
    else:
        found.append(ok("sched-min-interval", f"{micros / 1e6:.3g} s between scheduling attempts"))
    if not facts.site.job_shrink_allowed:
        what = "running jobs cannot give back nodes; they are requeued instead"
        found.append(warn("job-shrink", what, "nothing to do: shrinking is only a shortcut (disable_job_shrink)"))
    if facts.parameter("SchedulerParameters", "extra_constraints") is not None:
        what = "the Extra field steers scheduling here; slurmsia does not write it"
        found.append(ok("extra-constraints", what))
    for word in ("rl_enable", "rl_bucket_size"):
        if facts.parameter("SlurmctldParameters", word) is not None:
            what = "slurmctld limits the rate of requests; SlurmUser is exempt"
            found.append(warn("rate-limiting", what, "run the daemon as SlurmUser"))
            break
    return found


def accounting(facts: SiteFacts) -> list[Finding]:
    """Accounting is optional; typed GPU TRES make usage and limits by type possible."""
    if "slurmdbd" not in facts.config.get("AccountingStorageType", ""):
        what = "no slurmdbd: limits by association and QOS are not seen, history comes from our own store only"
        return [warn("accounting", what, "slurm.conf: AccountingStorageType=accounting_storage/slurmdbd")]
    tracked = facts.config.get("AccountingStorageTRES", "")
    if "gres/gpu:" not in tracked:
        what = "GPU types are not accounted: limits by type and sacct by type are missing"
        found = warn("accounting-tres", what, "slurm.conf: AccountingStorageTRES=gres/gpu,gres/gpu:<type>,...")
    else:
        found = ok("accounting", "slurmdbd with GPU types")
    if "limits" not in facts.config.get("AccountingStorageEnforce", "").lower():
        what = "Slurm enforces no limits of associations and QOS, so slurmsia does not either"
        return [found, warn("limits", what, "slurm.conf: AccountingStorageEnforce=associations,limits,qos if wanted")]
    return [found, ok("limits", "limits of associations and QOS are enforced and read")]


def min_job_age(facts: SiteFacts, round_s: float) -> Finding:
    age = seconds(facts.config.get("MinJobAge"), 300.0)
    if age < 2 * round_s:
        what = f"Slurm forgets an ended job after {age:.0f} s; a round every {round_s:.0f} s may miss how it ended"
        return warn("min-job-age", what, f"slurm.conf: MinJobAge={int(4 * round_s)}")
    return ok("min-job-age", f"ended jobs stay visible for {age:.0f} s")


def submit_hooks(facts: SiteFacts) -> Finding:
    plugins = facts.config.get("JobSubmitPlugins", "")
    if not plugins:
        what = "no job_submit plugin: new jobs get their lease when the daemon first sees them, some start before that"
        return warn("job-submit", what, "slurm.conf: JobSubmitPlugins=lua, with contrib/job_submit.lua")
    others = [name for name in plugins.split(",") if name.strip() not in ("lua", "")]
    if others:
        what = f"job_submit plugins {', '.join(others)} also see our edits and may rewrite them; such a move is undone"
        return warn("job-submit", what, "nothing to do unless moves fail with 'should be ... but Slurm has ...'")
    return ok("job-submit", f"job_submit plugins: {plugins}")


def preemption(facts: SiteFacts) -> Finding:
    """Slurm's own preemption requeues jobs too; both together work, and people should know."""
    kind = facts.config.get("PreemptType", "")
    if "none" in kind or kind in ("", "(null)") or facts.config.get("PreemptMode", "OFF") == "OFF":
        return ok("preemption", "Slurm itself preempts no job")
    what = f"Slurm preempts jobs by itself ({kind}): such a job restarts in the shape it had"
    return warn("preemption", what, "nothing to do, or keep managed jobs in partitions and QOS that are not preempted")


def partition_tiers(partitions: Sequence[Partition]) -> Finding:
    """Overlapping partitions of different tiers decide starts before any priority does."""
    for index, first in enumerate(partitions):
        for second in partitions[index + 1 :]:
            if first.nodes & second.nodes and first.priority_tier != second.priority_tier:
                what = (
                    f"partitions {first.name} (tier {first.priority_tier}) and {second.name} "
                    f"(tier {second.priority_tier}) share nodes: the higher tier always starts first"
                )
                return warn(
                    "priority-tier", what, "slurm.conf: the same PriorityTier, or keep managed jobs in one of them"
                )
    return ok("priority-tier", "overlapping partitions have the same tier")


def gpu_types(nodes: Sequence[Node]) -> list[Finding]:
    """Every GPU node must have one known type."""
    found = [
        fail(
            "gpu-types", f"node {node.name}: {node.reason}", "gres.conf: type the GPUs, or name the type in [gpu_types]"
        )
        for node in nodes
        if node.gpus and (node.gpu_type is None or "mixes several GPU types" in node.reason)
    ]
    if found:
        return found[:5]
    with_gpus = [node for node in nodes if node.gpus]
    if not with_gpus:
        return [fail("gpu-types", "no node has GPUs", "slurm.conf and gres.conf: declare Gres=gpu:<type>:<count>")]
    types = sorted({str(node.gpu_type) for node in with_gpus})
    return [ok("gpu-types", f"{sum(node.gpus for node in with_gpus)} GPUs of {len(types)} types: {', '.join(types)}")]


def node_states(nodes: Sequence[Node]) -> Finding:
    unusable = [node.name for node in nodes if node.gpus and node.state is NodeState.UNUSABLE]
    if unusable:
        shown = ", ".join(unusable[:4]) + (" ..." if len(unusable) > 4 else "")
        return warn("nodes", f"{len(unusable)} GPU nodes are unusable: {shown}", "sinfo -R says why")
    return ok("nodes", "every GPU node is usable")


def exit_code(findings: Sequence[Finding]) -> int:
    """0 all ok, 1 warnings, 2 failures."""
    levels = {finding.level for finding in findings}
    return 2 if Level.FAIL in levels else 1 if Level.WARN in levels else 0
