"""The preflight check against the live cluster: reads facts, asks the pure checks of `findings`, changes nothing.

The only writes are files of its own in the spool and a MUNGE credential to itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..config import Config
from . import findings as f
from .client import SlurmError, SlurmUnavailable
from .command import CommandClient
from .findings import Finding, fail, ok, warn
from .process import Commands, last_line
from .pyslurm_client import PyslurmClient
from .sitefacts import SiteFacts, read_site


def examine(config: Config, check_store: Callable[[], str] | None = None) -> list[Finding]:
    """All findings in order. ``check_store`` raises or returns a sentence; it belongs to the caller's packages."""
    commands = Commands(config.slurm.bin_dir)
    try:
        facts = read_site(commands, config.slurm.cluster, config.slurm.call_deadline_s)
    except SlurmUnavailable as error:
        return [
            fail("slurm", str(error), "start slurmctld, or run this on a host with Slurm's commands and slurm.conf")
        ]
    found = [f.version(facts)]
    found += _permissions(commands, facts, config)
    found += _client(config)
    found += [
        f.requeue_delay(facts, config.moves.grace_s),
        f.job_requeue(facts),
        f.job_file_append(facts),
        f.kill_wait(facts),
        f.requeue_exit_hold(facts),
        *f.scheduler_parameters(facts),
        *f.accounting(facts),
        f.min_job_age(facts, config.policy.round_s),
        f.submit_hooks(facts),
        f.preemption(facts),
    ]
    found += _nodes(config)
    found += [_clock(commands, config), _munge(config), *_spool(Path(config.jobs.spool_dir)), _heartbeat(config)]
    if check_store is not None:
        found.append(_store(check_store))
    return found


def _permissions(commands: Commands, facts: SiteFacts, config: Config) -> list[Finding]:
    """May we requeue and edit? SlurmUser and root may; others need AdminLevel=Operator."""
    user = facts.config.get("SlurmUser", "").split("(")[0]
    me = _user_name()
    if os.geteuid() == 0:
        return [
            warn("permissions", "running as root", f"run the daemon as SlurmUser ({user or 'slurm'}), never as root")
        ]
    if me == user:
        return [ok("permissions", f"running as SlurmUser ({user}): may requeue and edit, exempt from rate limits")]
    try:
        asked = ["-n", "-P", "show", "user", me, "format=AdminLevel"]
        answer = commands.run("sacctmgr", asked, config.slurm.call_deadline_s)
        level = answer.out.decode("utf-8", "replace").strip().lower()
    except SlurmUnavailable:
        level = ""
    if level in ("operator", "administrator"):
        return [ok("permissions", f"{me} is {level}: may requeue and edit")]
    mend = f"run the daemon as {user or 'SlurmUser'}, or `sacctmgr modify user {me} set AdminLevel=Operator`"
    return [fail("permissions", f"{me} may not requeue or edit other users' jobs", mend)]


def _client(config: Config) -> list[Finding]:
    if config.slurm.client == "command":
        return [ok("pyslurm", "not used (slurm.client = command)")]
    try:
        client = PyslurmClient(config)
    except SlurmError as error:
        if config.slurm.client == "pyslurm":
            return [fail("pyslurm", str(error), "install the pyslurm of this Slurm release, or slurm.client = 'auto'")]
        return [ok("pyslurm", f"Slurm's commands are used ({error})")]
    versions = client.versions
    client.close()
    return [ok("pyslurm", f"pyslurm {versions.get('pyslurm')} works")]


def _nodes(config: Config) -> list[Finding]:
    client = CommandClient(config)
    try:
        nodes = client.nodes(config.slurm.call_deadline_s)
        partitions = client.partitions(config.slurm.call_deadline_s)
    except SlurmError as error:
        return [fail("nodes", f"nodes cannot be read: {error}", "check that `scontrol show nodes` works for this user")]
    finally:
        client.close()
    return [*f.gpu_types(nodes), f.node_states(nodes), f.partition_tiers(partitions)]


def _clock(commands: Commands, config: Config) -> Finding:
    """Our clock against slurmctld's: begin times and credentials depend on it."""
    try:
        answer = commands.run("scontrol", ["show", "config"], config.slurm.call_deadline_s)
    except SlurmUnavailable as error:
        return fail("clock", str(error), "start slurmctld")
    head = answer.out.decode("utf-8", "replace").splitlines()[:1]
    stamp = head[0].rsplit(" ", 1)[-1] if head else ""
    theirs = _epoch(stamp)
    if theirs is None:
        return ok("clock", "slurmctld's clock could not be compared")
    skew = abs(time.time() - theirs)
    if skew > 30:
        return fail("clock", f"this host's clock is {skew:.0f} s away from slurmctld's", "run chrony or ntpd on both")
    return ok("clock", f"within {max(skew, 1):.0f} s of slurmctld")


def _epoch(stamp: str) -> float | None:
    if stamp.isdigit():
        return float(stamp)
    try:
        return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def _munge(config: Config) -> Finding:
    munge, unmunge = shutil.which("munge"), shutil.which("unmunge")
    if munge is None or unmunge is None:
        return warn(
            "munge", "munge and unmunge are not installed here", "install munge: API callers prove who they are by it"
        )
    socket_args = ["--socket", config.api.munge_socket] if config.api.munge_socket else []
    try:
        made = subprocess.run([munge, "--no-input", *socket_args], capture_output=True, timeout=5, check=False)
        read = subprocess.run([unmunge, *socket_args], input=made.stdout, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return fail("munge", f"munged does not answer: {error}", "start munged")
    if made.returncode or read.returncode:
        why = last_line((made.stderr or read.stderr).decode("utf-8", "replace"))
        return fail("munge", f"no credential could be made: {why}", "start munged; the same key on every host")
    return ok("munge", "credentials can be made and read")


def _spool(spool: Path) -> list[Finding]:
    """The folder through which jobs report: `reports/` mode 1777, `directives/` ours, on a shared file system."""
    reports, directives = spool / "reports", spool / "directives"
    make = f"install -d -m 1777 {reports} && install -d -m 755 -o {_user_name()} {directives}"
    found = []
    try:
        mode = reports.stat().st_mode
        if not stat.S_ISDIR(mode) or mode & 0o1777 != 0o1777:
            what = f"{reports} has mode {stat.S_IMODE(mode):o}, so jobs of some users cannot report"
            found.append(fail("spool", what, f"chmod 1777 {reports}"))
        else:
            found.append(ok("spool", f"{reports} takes reports of every user"))
    except OSError as error:
        found.append(fail("spool", f"{reports}: {error.strerror}", make))
    try:
        with tempfile.NamedTemporaryFile(dir=directives, prefix=".doctor-"):
            pass
        if directives.stat().st_mode & 0o022:
            found.append(fail("spool-directives", f"{directives} is writable by others", f"chmod 755 {directives}"))
        elif directives.stat().st_uid != os.geteuid():
            owner = directives.stat().st_uid
            what = f"{directives} belongs to uid {owner}, and jobs obey only what the daemon's user writes"
            found.append(fail("spool-directives", what, f"chown {_user_name()} {directives}"))
        else:
            found.append(ok("spool-directives", f"{directives} is ours to write"))
    except OSError as error:
        found.append(fail("spool-directives", f"{directives}: {error.strerror}", make))
    return found


def _heartbeat(config: Config) -> Finding:
    folder = Path(config.daemon.heartbeat_file).parent
    if not os.access(folder, os.W_OK):
        what = f"{folder} is not writable: no heartbeat, so new jobs start without a lease"
        return warn("heartbeat", what, f"let {_user_name()} write {folder}, and read it from slurmctld's host")
    return ok("heartbeat", f"{config.daemon.heartbeat_file} can be written")


def _store(check_store: Callable[[], str]) -> Finding:
    try:
        return ok("store", check_store())
    except Exception as error:
        return fail("store", str(error), "see `slurmsia db check`")


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def host() -> str:
    """This host's name, for the report's head."""
    return socket.gethostname()
