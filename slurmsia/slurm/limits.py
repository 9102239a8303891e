"""Limits of associations and QOS on GPUs, read from ``sacctmgr`` and turned into linear limits on what jobs hold.

Only GPU limits matter to the program; CPU and memory limits follow the job's own scaling. Sites without slurmdbd have
no such limits. Limits that Slurm would not enforce (AccountingStorageEnforce without "limits") are left out.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..cluster import GpuLimit, Job
from . import normalise as n
from .client import SlurmUnavailable
from .process import Commands
from .sitefacts import SiteFacts

#: Columns asked of sacctmgr, in this order.
_QOS_COLUMNS = ("Name", "GrpTRES", "MaxTRES", "MaxTRESPerUser", "MaxTRESPerAccount")
_ASSOC_COLUMNS = ("Account", "User", "Partition", "ParentName", "GrpTRES", "MaxTRES")


@dataclass(frozen=True, slots=True)
class LimitRule:
    """A limit as the site wrote it. ``each`` is "user" or "account" when it holds for each of them apart, else ""."""

    limit: GpuLimit
    each: str = ""


def for_jobs(rules: Iterable[LimitRule], jobs: Sequence[Job]) -> tuple[GpuLimit, ...]:
    """The linear limits of a round: rules for each user or account are written out for those that have jobs now, and
    limits of users and accounts without any job are left out (a site has thousands of associations)."""
    users = sorted({job.user_id for job in jobs})
    accounts = sorted({job.account for job in jobs if job.account})
    found: list[GpuLimit] = []
    for rule in rules:
        limit = rule.limit
        if rule.each == "user":
            found += [replace(limit, user_id=user, what=f"{limit.what} (uid {user})") for user in users]
        elif rule.each == "account":
            found += [replace(limit, account=name, what=f"{limit.what} ({name})") for name in accounts]
        elif limit.user_id not in (None, *users) or limit.account not in (None, *accounts):
            continue
        elif limit.accounts is None or not limit.accounts.isdisjoint(accounts):
            found.append(limit)
    return tuple(found)


def read_limits(commands: Commands, facts: SiteFacts, deadline_s: float) -> tuple[LimitRule, ...]:
    """All GPU limits in force; empty where the site has no accounting or does not enforce limits."""
    enforced = facts.config.get("AccountingStorageEnforce", "").lower()
    if "slurmdbd" not in facts.config.get("AccountingStorageType", "") or "limits" not in enforced:
        return ()
    try:
        qos = _table(commands, ["show", "qos", f"format={','.join(_QOS_COLUMNS)}"], len(_QOS_COLUMNS), deadline_s)
        where = [f"cluster={facts.site.cluster}"]
        asked = ["show", "assoc", *where, f"format={','.join(_ASSOC_COLUMNS)}"]
        assoc = _table(commands, asked, len(_ASSOC_COLUMNS), deadline_s)
    except SlurmUnavailable:
        return ()
    return tuple(sorted([*qos_limits(qos), *association_limits(assoc)], key=lambda rule: rule.limit.what))


def _table(commands: Commands, arguments: list[str], columns: int, deadline_s: float) -> list[list[str]]:
    answer = commands.run("sacctmgr", ["-n", "-P", *arguments], deadline_s)
    return rows(answer.out.decode("utf-8", "replace"), columns)


def rows(text: str, columns: int) -> list[list[str]]:
    """Rows of ``sacctmgr -P``; lines with another number of columns are left out."""
    found = [line.split("|") for line in text.splitlines()]
    return [row for row in found if len(row) == columns]


def gpu_limits_in(tres: str) -> dict[str | None, int]:
    """GPU limits of a TRES limit string by type (``None`` = all types): ``gres/gpu=8,gres/gpu:a100=4``."""
    return {gres.type: gres.count for gres in n.parse_gres(tres) if gres.kind == "gpu"}


def qos_limits(rows: Sequence[Sequence[str]]) -> list[LimitRule]:
    """Limits of QOS rows, in the order of the columns above."""
    found: list[LimitRule] = []
    for name, group, per_job, per_user, per_account in rows:
        columns = (
            ("GrpTRES", group, ""),
            ("MaxTRES", per_job, ""),
            ("MaxTRESPerUser", per_user, "user"),
            ("MaxTRESPerAccount", per_account, "account"),
        )
        for kind, tres, each in columns:
            for gpu_type, most in gpu_limits_in(tres).items():
                what = f"QOS {name}: {kind}={most} GPUs" + (f" of {gpu_type}" if gpu_type else "")
                limit = GpuLimit(what, most, per_job=kind == "MaxTRES", qos=name, gpu_type=gpu_type)
                found.append(LimitRule(limit, each))
    return found


def association_limits(rows: Sequence[Sequence[str]]) -> list[LimitRule]:
    """Limits of association rows, in the order of the columns above.

    A GrpTRES of an account covers every account below it. A MaxTRES is told by the rows of users alone: sacctmgr
    writes there what a user inherits, so the row of an account would only repeat it and miss a user's own exception.
    """
    found: list[LimitRule] = []
    uids: dict[str, int | None] = {}
    below = _below({row[0]: row[3] for row in rows if not row[1] and row[3]})
    for account, user, partition, _, group, per_job in rows:
        if user and user not in uids:
            uids[user] = _uid(user)
        if user and uids[user] is None:
            continue
        for kind, tres in (("GrpTRES", group), ("MaxTRES", per_job if user else "")):
            for gpu_type, most in gpu_limits_in(tres).items():
                who = f"user {user} in account {account}" if user else f"account {account}"
                covered = frozenset() if user else below.get(account, frozenset())
                limit = GpuLimit(
                    what=f"{who}: {kind}={most} GPUs" + (f" of {gpu_type}" if gpu_type else ""),
                    max_gpus=most,
                    per_job=kind == "MaxTRES",
                    account=None if covered else account,
                    user_id=uids[user] if user else None,
                    partition=partition or None,
                    gpu_type=gpu_type,
                    accounts=covered | {account} if covered else None,
                )
                found.append(LimitRule(limit))
    return found


def _below(parents: dict[str, str]) -> dict[str, frozenset[str]]:
    """Every account below an account, from each account's parent; a loop, which Slurm never writes, ends."""
    found: dict[str, set[str]] = {}
    for account in parents:
        above = parents.get(account)
        seen = {account}
        while above is not None and above not in seen:
            found.setdefault(above, set()).add(account)
            seen.add(above)
            above = parents.get(above)
    return {account: frozenset(names) for account, names in found.items()}


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return None
