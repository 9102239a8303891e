"""Talks to the daemon's API: over its Unix socket, or over TCP with a MUNGE credential or Slurm's token.

Standard library alone, because `slurmsia status` must start at once. Every failure is one sentence and an exit code.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import click

ENVIRONMENT = "SLURMSIA_API"
DEFAULT_SOCKET = "/run/slurmsia/api.sock"
DEFAULT_CONFIG = "/etc/slurmsia/slurmsia.toml"
TIMEOUT_S = 10.0

#: Exit codes of every command that asks the daemon (docs/cli.md).
EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_REFUSED, EXIT_NOT_FOUND = 1, 2, 3, 4, 5

Json = dict[str, Any]


class Unreachable(Exception):
    """Nothing answers at the address; the text says where was looked and what to do."""


class Refused(Exception):
    """The API answered with a problem: its status and its sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence

    @property
    def exit_code(self) -> int:
        return {401: EXIT_REFUSED, 403: EXIT_REFUSED, 404: EXIT_NOT_FOUND, 422: EXIT_USAGE}.get(
            self.status, EXIT_FAILED
        )


def address(server: str | None) -> str:
    """Where the API is: ``--server``, SLURMSIA_API, the policy file's [api], else the usual socket."""
    given = server or os.environ.get(ENVIRONMENT)
    if given:
        return given
    section = _api_section(Path(os.environ.get("SLURMSIA_CONFIG") or DEFAULT_CONFIG))
    path = str(section.get("socket", DEFAULT_SOCKET))
    listen = str(section.get("listen", ""))
    if listen and not (path and os.path.exists(path)):
        host, _, port = listen.rpartition(":")
        scheme = "https" if section.get("tls_certificate") else "http"
        host = "localhost" if host in ("", "0.0.0.0", "[::]") else host
        return f"{scheme}://{host}:{port}"
    return f"unix:{path or DEFAULT_SOCKET}"


def _api_section(file: Path) -> Json:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        section = tomllib.loads(text).get("api", {})
    except tomllib.TOMLDecodeError:
        return {}
    return section if isinstance(section, dict) else {}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


class Client:
    """One API. ``get`` and ``post`` return the answer's JSON or raise `Unreachable` or `Refused`."""

    def __init__(self, server: str | None = None) -> None:
        self.address = address(server)
        if not self.address.startswith(("unix:", "http://", "https://")):
            raise click.UsageError(
                f"--server {self.address!r} is no address; write unix:/path/to/socket or http://host:port"
            )

    def get(self, path: str, **query: object) -> Json:
        given = {key: value for key, value in query.items() if value not in (None, "", False)}
        words = {key: "true" if value is True else value for key, value in given.items()}
        target = quote(path) + (f"?{urlencode(words)}" if words else "")
        return self._ask("GET", target, b"")

    def post(self, path: str, body: Json | None = None) -> Json:
        return self._ask("POST", quote(path), json.dumps(body).encode() if body is not None else b"")

    def _ask(self, method: str, target: str, body: bytes) -> Json:
        headers = {"Accept": "application/json", "User-Agent": "slurmsia"}
        if body:
            headers["Content-Type"] = "application/json"
        connection = self._connection()
        if not self.address.startswith("unix:"):
            headers["Authorization"] = _authorization(method, target, body)
        try:
            connection.request(method, target, body or None, headers)
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(_unreachable(self.address, error)) from None
        finally:
            connection.close()
        try:
            found = json.loads(raw)
        except ValueError:
            raise Unreachable(
                f"What answers at {self.address} is not slurmsia's API (status {answer.status}); check the address."
            ) from None
        if answer.status >= 400:
            raise Refused(answer.status, str(found.get("detail", answer.reason)))
        assert isinstance(found, dict)
        return found

    def _connection(self) -> http.client.HTTPConnection:
        if self.address.startswith("unix:"):
            return _UnixConnection(self.address.removeprefix("unix:"))
        url = urlsplit(self.address)
        if not url.hostname:
            raise click.UsageError(f"{self.address!r} names no host")
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=os.environ.get("SLURMSIA_API_CA") or None)
            return http.client.HTTPSConnection(url.hostname, url.port or 443, timeout=TIMEOUT_S, context=context)
        return http.client.HTTPConnection(url.hostname, url.port or 80, timeout=TIMEOUT_S)


def _authorization(method: str, target: str, body: bytes) -> str:
    """Slurm's token where the user has one, else a MUNGE credential of the calling user."""
    token = os.environ.get("SLURM_JWT", "")
    if token:
        return f"Bearer {token}"
    from slurmsia import credential

    try:
        made = credential.encode(credential.digest(method, target, body), os.environ.get("SLURMSIA_MUNGE_SOCKET", ""))
    except credential.MungeError as error:
        raise Refused(401, f"{error} Or set SLURM_JWT to a token from `scontrol token`.") from None
    return f"{credential.MUNGE_SCHEME} {made}"


def _unreachable(where: str, error: Exception) -> str:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return (
        f"The daemon does not answer at {where} ({why}). Jobs are Slurm's meanwhile and none is held. "
        f"Is it running (systemctl status slurmsia)? On another host set {ENVIRONMENT}=http://HOST:PORT."
    )


def fail(error: Unreachable | Refused) -> NoReturn:
    """Say the sentence and end with its exit code."""
    click.echo(f"slurmsia: {error}", err=True)
    sys.exit(error.exit_code if isinstance(error, Refused) else EXIT_UNREACHABLE)
