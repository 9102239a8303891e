"""Who asks, and what he may: MUNGE credential, Slurm's JSON web token, or the peer of the Unix socket.

A caller is what the kernel, munged or Slurm's key proves; nothing in a request's own words counts. Never asks Slurm.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurmsia import credential
from slurmsia.config.api import ApiSection

#: What the server puts in place of an address for a Unix socket's client; no network address begins so.
PEER_PREFIX = "peer-uid:"
_NAMES_KEPT_S = 300.0


class Refused(Exception):
    """No credential, or none that proves anything; the text is the sentence for the caller."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A proven caller. ``operator``: may pause, resume, reconfigure, pin, release and see everything."""

    user_id: int
    name: str
    operator: bool
    by: str


class Names:
    """User names by id and back, remembered for some minutes."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, float]] = {}

    def name(self, user_id: int) -> str:
        known = self._names.get(user_id)
        now = time.monotonic()
        if known is not None and now - known[1] < _NAMES_KEPT_S:
            return known[0]
        try:
            name = pwd.getpwuid(user_id).pw_name
        except (KeyError, OverflowError):
            name = str(user_id)
        if len(self._names) > 100_000:
            self._names.clear()
        self._names[user_id] = (name, now)
        return name


class CallerCheck:
    """Proves callers as the policy file's ``[api]`` says. Thread-safe; may block on munged for a moment."""

    def __init__(self, section: ApiSection, slurm_user_id: int | None = None) -> None:
        self._section = section
        self._names = Names()
        self._key = Path(section.jwt_key_file).read_bytes() if section.jwt_key_file else b""
        self._operators: tuple[frozenset[int], float] = (frozenset(), float("-inf"))
        self._slurm_user_id = slurm_user_id if slurm_user_id is not None else slurm_user()

    @property
    def names(self) -> Names:
        return self._names

    def caller(self, client: str, method: str, target: str, body: bytes, headers: dict[str, str]) -> Caller:
        """The caller of one request. ``client``: from the transport. Raises `Refused`."""
        authorization = headers.get("authorization", "")
        scheme, _, value = authorization.partition(" ")
        token = headers.get("x-slurm-user-token", "") or (
            value.strip() if scheme.lower() == credential.TOKEN_SCHEME.lower() else ""
        )
        if scheme.upper() == credential.MUNGE_SCHEME:
            try:
                proven = credential.check(
                    value.strip(), method, target, body, self._section.credential_age_s, self._section.munge_socket
                )
            except credential.MungeError as error:
                raise Refused(str(error)) from None
            return self._of(proven.user_id, "munge")
        if token:
            return self._of(self._token_user(token), "jwt")
        if authorization:
            raise Refused(f"the Authorization scheme {scheme[:20]!r} is not known; use MUNGE or Slurm's token (Bearer)")
        if client.startswith(PEER_PREFIX):
            return self._of(int(client.removeprefix(PEER_PREFIX)), "peer")
        raise Refused(
            "this door needs a MUNGE credential in the Authorization header, or a token from `scontrol token`"
        )

    def _of(self, user_id: int, by: str) -> Caller:
        return Caller(user_id, self._names.name(user_id), user_id in self._operator_ids(), by)

    def _operator_ids(self) -> frozenset[int]:
        ids, read_s = self._operators
        now = time.monotonic()
        if now - read_s < 60.0:
            return ids
        found = {0, os.geteuid()}
        if self._slurm_user_id is not None:
            found.add(self._slurm_user_id)
        for name in self._section.operator_users:
            found |= _user_id(name)
        for group in self._section.operator_groups:
            found |= _members(group)
        self._operators = (frozenset(found), now)
        return self._operators[0]

    def _token_user(self, token: str) -> int:
        if not self._key:
            raise Refused("tokens are not accepted here (the policy file names no api.jwt_key_file); use MUNGE")
        import jwt

        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._key, algorithms=["HS256"], options={"require": ["exp"], "verify_aud": False}
            )
        except jwt.InvalidTokenError as error:
            raise Refused(f"the token is not good: {error}; get a new one with `scontrol token`") from None
        name = claims.get("sun") or claims.get("username") or ""
        try:
            return pwd.getpwnam(str(name)).pw_uid
        except (KeyError, ValueError):
            raise Refused(f"the token's user {str(name)[:40]!r} is not known on this host") from None


def slurm_user() -> int | None:
    """SlurmUser as slurm.conf says, where this process can read it; ``None`` otherwise."""
    path = Path(os.environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf")
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"^\s*SlurmUser\s*=\s*([^\s#(]+)", text, re.IGNORECASE | re.MULTILINE)
    return next(iter(_user_id(found[1])), None) if found else None


def _user_id(name: str) -> set[int]:
    if name.isdigit():
        return {int(name)}
    try:
        return {pwd.getpwnam(name).pw_uid}
    except KeyError:
        return set()


def _members(group: str) -> set[int]:
    try:
        entry = grp.getgrnam(group)
    except KeyError:
        return set()
    ids: set[int] = set()
    for name in entry.gr_mem:
        ids |= _user_id(name)
    return ids | {user.pw_uid for user in pwd.getpwall() if user.pw_gid == entry.gr_gid}
