"""Facts of the site that Slurm's configuration tells: version, delays, privacy, licences, leaf switches.

Read rarely and cached by the clients. `doctor` judges the same facts; nothing here judges. Configuration text is the
administrator's, so ``scontrol show config`` may be read as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..cluster import Site
from . import normalise as n
from .client import SlurmUnavailable
from .process import Commands, last_line

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """`Site` plus the raw configuration (keys as Slurm prints them)."""

    site: Site
    config: Mapping[str, str] = field(default_factory=dict)

    def parameter(self, key: str, name: str) -> str | None:
        """Value of ``name`` in a parameter list such as SchedulerParameters; "" for a bare word, ``None`` if absent."""
        for part in self.config.get(key, "").split(","):
            word, _, value = part.strip().partition("=")
            if word.lower() == name.lower():
                return value
        return None


def version_of(text: str) -> tuple[int, int, int]:
    """(major, minor, micro) of ``slurm 22.05.8``; zeros when there is none."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def parse_config(text: str) -> dict[str, str]:
    """``key = value`` lines of ``scontrol show config``; "(null)" becomes empty."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and key.strip() and not line.startswith(" "):
            value = value.strip()
            found[key.strip()] = "" if value == "(null)" else value
    return found


def seconds(value: str | None, default: float) -> float:
    """Seconds of ``120 sec`` or ``120``."""
    match = re.match(r"^\s*(\d{1,12})", value or "", re.ASCII)
    return float(match[1]) if match else default


def requeue_delay_s(config: Mapping[str, str]) -> float:
    """Begin-time delay after a requeue: ``requeue_delay`` (25.11 on), else ``cred_expire`` + 1, else 121 s."""
    facts = SiteFacts(Site(), config)
    explicit = facts.parameter("SchedulerParameters", "requeue_delay")
    if explicit and n.number(explicit) is not None:
        return float(explicit)
    for key in ("AuthInfo", "CredType"):
        expire = facts.parameter(key, "cred_expire")
        if expire and n.number(expire) is not None:
            return float(expire) + 1.0
    return 121.0


def read_site(commands: Commands, cluster: str | None, deadline_s: float) -> SiteFacts:
    """Read the configuration and the licences; raises `SlurmUnavailable` when the controller does not answer."""
    answer = commands.run("scontrol", ["show", "config"], deadline_s)
    if answer.code != 0:
        raise SlurmUnavailable(f"scontrol show config: {last_line(answer.err)}")
    config = parse_config(answer.out.decode("utf-8", "replace"))
    disabled = SiteFacts(Site(), config).parameter("SchedulerParameters", "disable_job_shrink")
    site = Site(
        cluster=cluster or config.get("ClusterName", "cluster"),
        slurm_version=version_of(config.get("SLURM_VERSION", "")),
        requeue_delay_s=requeue_delay_s(config),
        kill_wait_s=seconds(config.get("KillWait"), 30.0),
        job_shrink_allowed=disabled is None,
        private_data=frozenset(
            word for word in config.get("PrivateData", "").lower().split(",") if word and word != "none"
        ),
        licenses=read_licenses(commands, deadline_s),
    )
    return SiteFacts(site, config)


def read_licenses(commands: Commands, deadline_s: float) -> tuple[tuple[str, int, int], ...]:
    """(name, total, used) of every licence."""
    answer = commands.run("scontrol", ["-o", "show", "licenses"], deadline_s)
    found = []
    for line in answer.out.decode("utf-8", "replace").splitlines():
        fields = n.key_values(line)
        if "LicenseName" in fields and n.number(fields.get("Total")) is not None:
            found.append((fields["LicenseName"], n.count(fields["Total"]), n.count(fields.get("Used"))))
    return tuple(sorted(found))


def switches(commands: Commands, deadline_s: float) -> dict[str, str]:
    """Leaf switch (or block) of each node where the site has a topology; empty where it has none."""
    try:
        answer = commands.run("scontrol", ["-o", "show", "topology"], deadline_s)
    except SlurmUnavailable:
        return {}
    found: dict[str, str] = {}
    for line in answer.out.decode("utf-8", "replace").splitlines():
        fields = n.key_values(line)
        name = fields.get("SwitchName") or fields.get("BlockName")
        if name and fields.get("Level", "0") == "0":
            for node in n.node_set(fields.get("Nodes")):
                found.setdefault(node, name)
    return found
