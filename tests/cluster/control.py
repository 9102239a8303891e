"""Brings one cluster up, checks it, opens a shell in it and takes it down again.

Touches only containers, networks and volumes of its own compose project (one per suite and checkout), and images of
its own repository name. Used by the Makefile, by CI and by the tests' harness.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import image
from engine import CHECKOUT, STATE, ClusterError, compose_command, docker, ensure_engine, quiet, stop_engine
from suites import DEFAULT_SUITE, GPUS_BY_TYPE, NODES_BY_CONTAINER, SUITES, Suite, suite_named

_COMPOSE_FILE = CHECKOUT / "tests" / "cluster" / "compose.yaml"
_SERVICES = ("controller", "accounting", "postgres", *NODES_BY_CONTAINER)
USAGE = """usage: python3 tests/cluster/control.py COMMAND [SUITE]
  engine          make sure that a Docker engine answers
  build SUITE...  build the images of suites (forky, trixie, bookworm)
  up SUITE        build what is missing, start the cluster, wait until every part works
  check SUITE     print versions, nodes and a job run on each GPU type
  shell SUITE     a shell in the controller
  status          which suites are up
  down [SUITE]    remove the cluster (of all suites when none is named)
  pg-url SUITE    print the URL of the cluster's PostgreSQL
  images          print the images and their sizes
  remove-images   remove the images of all suites, except those of running clusters
  engine-stop     stop the Docker engine if it was started from here"""


def project_name(suite: Suite) -> str:
    """Return the compose project: unique per suite and checkout."""
    return f"slurmsia-{suite.name}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]}"


def _containers_of(suite: Suite) -> list[str]:
    return ["docker", "ps", "-a", "-q", "--filter", f"label=com.docker.compose.project={project_name(suite)}"]


def _running_images(suite: Suite) -> list[str]:
    """Return the image of every container of the suite that runs."""
    argv = [*_containers_of(suite)[1:], "--filter", "status=running", "--format", "{{.Image}}"]
    return docker(*[word for word in argv if word != "-q"]).split()


def container_name(suite: Suite, service: str, *, running: bool = True) -> str:
    """Return the id of a service's container, or '' when there is none (or it does not run, unless that is fine)."""
    argv = [*_containers_of(suite)[1:], "--filter", f"label=com.docker.compose.service={service}"]
    return docker(*argv, *(["--filter", "status=running"] if running else [])).strip()


def is_up(suite: Suite) -> bool:
    """Return whether the suite's controller container runs (an engine that does not answer counts as no)."""
    try:
        return bool(container_name(suite, "controller"))
    except (ClusterError, FileNotFoundError):
        return False


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time build, start or remove clusters of this checkout."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compose(suite: Suite, tag: str, *args: str) -> None:
    state = STATE / suite.name
    environment = {
        **os.environ,
        "SLURMSIA_IMAGE": tag,
        "SLURMSIA_SUITE": suite.name,
        "SLURMSIA_CHECKOUT": str(CHECKOUT),
        "SLURMSIA_STATE": str(state),
    }
    argv = [*compose_command(), "-p", project_name(suite), "-f", str(_COMPOSE_FILE), *args]
    done = quiet(argv, env=environment)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(argv[:2])} {args[0]} failed:\n{done.stdout}{done.stderr}")


def build(suite: Suite) -> str:
    """Return the tag of the suite's image, built if it was missing."""
    ensure_engine()
    with _alone():
        return image.ensure_image(suite)


def up(suite: Suite) -> None:
    """Start the suite's cluster and wait until it is healthy; a healthy one is left as it is."""
    started = time.monotonic()
    print(f"cluster {suite.name} (Slurm {suite.slurm}): starting", flush=True)
    tag = build(suite)
    with _alone():
        logs = STATE / suite.name / "logs"
        running = _running_images(suite)
        if len(running) == len(_SERVICES):
            if set(running) != {tag}:
                print(f"cluster {suite.name}: is up with an older image; 'make cluster-down' first takes the new one")
        else:
            # Half a cluster has state that does not fit together: begin afresh.
            _compose(suite, tag, "down", "-v", "--remove-orphans", "-t", "1")
            shutil.rmtree(logs, ignore_errors=True)
            logs.mkdir(parents=True, exist_ok=True)
            logs.chmod(0o1777)
            # The engine copies the image's folders into a new volume when a container is created, and two containers
            # that are created at the same moment trip over each other's copy: the controller, which mounts every
            # volume, goes first.
            _compose(suite, tag, "up", "--no-start", "controller")
            _compose(suite, tag, "up", "-d")
        _wait_until_healthy(suite)
    print(f"cluster {suite.name}: every node idle, accounting and PostgreSQL answer, a job ran on each GPU type")
    print(f"cluster {suite.name}: up in {time.monotonic() - started:.0f} s; logs in {logs}", flush=True)


def in_controller(suite: Suite, *argv: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    """Run a command in the controller container."""
    return quiet(["docker", "exec", "-u", user, container_name(suite, "controller") or "no-controller", *argv])


def _wait_until_healthy(suite: Suite) -> None:
    nodes = sum(map(len, NODES_BY_CONTAINER.values()))

    def nodes_idle() -> bool:
        states = in_controller(suite, "sinfo", "-h", "-N", "-p", "elastic", "-o", "%N %t").stdout.split("\n")
        usable = [line for line in states if line.split()[1:] in (["idle"], ["mix"], ["alloc"])]
        return len(usable) == nodes

    _until(suite, 300, f"{nodes} nodes idle", nodes_idle)
    _until(suite, 120, "accounting", lambda: "lab" in in_controller(suite, "sacctmgr", "-n", "list", "account").stdout)
    _until(suite, 120, "PostgreSQL", lambda: _postgres_answers(suite))
    run_a_job_on_each_type(suite)


def _postgres_answers(suite: Suite) -> bool:
    argv = ["docker", "exec", container_name(suite, "postgres") or "no-postgres"]
    return quiet([*argv, "pg_isready", "-q", "-h", "localhost", "-d", "slurmsia"]).returncode == 0


def _until(suite: Suite, limit_s: float, what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        gone = quiet([*_containers_of(suite), "--filter", "status=exited"]).stdout.split()
        if gone or time.monotonic() > deadline:
            raise ClusterError(
                f"cluster {suite.name} is not healthy, still waiting for: {what}\n{_last_errors(suite)}"
                f"Logs: {STATE / suite.name / 'logs'}; look inside with 'make cluster-shell SUITE={suite.name}'; "
                f"begin again with 'make cluster-down SUITE={suite.name}'"
            )
        time.sleep(0.3)


def _last_errors(suite: Suite) -> str:
    """Return the last lines in which a daemon of the cluster complains, each with its log's name."""
    found = []
    for log in sorted((STATE / suite.name / "logs").glob("slurm*.log")):
        lines = [line for line in log.read_text(errors="replace").splitlines() if "error:" in line or "fatal:" in line]
        found += [f"    {log.name}: {line}\n" for line in lines[-2:]]
    return "".join(found)


def run_a_job_on_each_type(suite: Suite) -> dict[str, str]:
    """Run one short batch job with one GPU of each type; return GPU type -> job id."""
    script = "for t in {types}; do sbatch --parsable -p $t --gres=gpu:$t:1 -o /dev/null --wrap true; done; "
    script += "sacctmgr -n -P show cluster format=cluster >/dev/null"
    types = list(GPUS_BY_TYPE)
    out = in_controller(suite, "bash", "-c", "cd /tmp; " + script.format(types=" ".join(types)), user="alice")
    ids = out.stdout.split()
    if len(ids) != len(types):
        raise ClusterError(f"cluster {suite.name} takes no jobs: {out.stderr.strip()}")
    for job in ids:
        _until(
            suite,
            180,
            f"job {job} to complete",
            lambda job=job: "JobState=COMPLETED" in in_controller(suite, "scontrol", "show", "job", job).stdout,
        )
    return dict(zip(types, ids, strict=True))


def check(suite: Suite) -> None:
    """Print what the cluster is: versions, GPU types by node, a job id run on each type, pyslurm's view."""
    if not is_up(suite):
        raise ClusterError(f"cluster {suite.name} is not up: 'make cluster-up SUITE={suite.name}'")
    version = in_controller(suite, "slurmctld", "-V").stdout.split()[-1]
    if not version.startswith(f"{suite.slurm}."):
        raise ClusterError(f"suite {suite.name} stands for Slurm {suite.slurm}, but its slurmctld is {version}")
    print(f"suite {suite.name}: Slurm {version}")
    for line in sorted(in_controller(suite, "sinfo", "-h", "-N", "-p", "elastic", "-o", "%N %G %t").stdout.split("\n")):
        if line:
            name, gres, state = line.split()
            print(f"  node {name}: {gres.split('(')[0]} ({state})")
    for gpu_type, job in run_a_job_on_each_type(suite).items():
        shown = in_controller(suite, "scontrol", "-o", "show", "job", job).stdout
        fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        print(f"  GPU type {gpu_type}: job {job} {fields['JobState']} on {fields['NodeList']}")
    if suite.pyslurm is None:
        print(f"  pyslurm: none (no release of it builds against Slurm {suite.slurm})")
        return
    code = "import pyslurm; print(pyslurm.__version__); print(*sorted(pyslurm.Jobs.load()))"
    told = in_controller(suite, "/opt/slurmsia/venv/bin/python", "-c", code, user="slurm")
    if told.returncode != 0:
        raise ClusterError(f"pyslurm does not work in suite {suite.name}: {told.stderr.strip()}")
    pyslurm_version, jobs = told.stdout.splitlines()
    print(f"  pyslurm {pyslurm_version} reads jobs: {jobs}")


def postgres_url(suite: Suite) -> str:
    """Return the URL under which this machine reaches the cluster's PostgreSQL."""
    container = container_name(suite, "postgres")
    if not container:
        raise ClusterError(f"cluster {suite.name} is not up: 'make cluster-up SUITE={suite.name}'")
    address = docker("port", container, "5432").split()[0]
    return f"postgresql+psycopg://slurmsia:slurmsia@{address}/slurmsia"


def down(suite: Suite) -> None:
    """Remove the suite's containers, network and volumes; images stay."""
    if quiet(["docker", "version"]).returncode != 0:
        print(f"cluster {suite.name}: no Docker engine answers, so nothing of it runs")
        return
    with _alone():
        _compose(suite, "none", "down", "-v", "--remove-orphans", "-t", "1")
    print(f"cluster {suite.name}: removed")


def shell(suite: Suite) -> int:
    """Open an interactive shell in the controller, as root."""
    container = container_name(suite, "controller")
    if not container:
        raise ClusterError(f"cluster {suite.name} is not up: 'make cluster-up SUITE={suite.name}'")
    print(f"controller of {suite.name}; users: alice, bob, slurm (su - alice). Leave with 'exit'.")
    return subprocess.call(["docker", "exec", "-it", container, "bash"])


def main(words: list[str]) -> int:
    """Carry out one command line; return the exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    command, *rest = words
    if command == "engine":
        ensure_engine()
    elif command == "engine-stop":
        print(stop_engine())
    elif command == "build" and rest:
        for name in rest:
            build(suite_named(name))
    elif command == "remove-images":
        for suite in SUITES.values():
            for tag in image.image_tags(suite):
                quiet(["docker", "rmi", tag])
    elif command == "status":
        for suite in SUITES.values():
            print(f"{suite.name}: {'up' if is_up(suite) else 'not up'}")
    elif command == "images":
        for suite in SUITES.values():
            print(image.describe(suite))
    elif command == "down" and not rest:
        for suite in SUITES.values():
            down(suite)
    elif command in ("up", "check", "shell", "down", "pg-url"):
        suite = suite_named(rest[0] if rest else DEFAULT_SUITE)
        if command == "shell":
            return shell(suite)
        if command == "pg-url":
            print(postgres_url(suite))
        else:
            {"up": up, "check": check, "down": down}[command](suite)
    else:
        print(f"there is no command {command!r}\n{USAGE}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ClusterError, subprocess.CalledProcessError) as problem:
        sys.exit(f"cluster: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
