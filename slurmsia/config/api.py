"""Section ``[api]``: who may ask the daemon, and where."""

from __future__ import annotations

from pydantic import Field

from .base import Section


class ApiSection(Section):
    """Who may ask the daemon, and where."""

    socket: str = "/run/slurmsia/api.sock"
    """Unix socket of the API; empty for none."""
    listen: str = ""
    """Also listen on this `host:port`; empty for none. Callers prove who they are by MUNGE or Slurm's JWT."""
    tls_certificate: str = ""
    """Certificate file (PEM) for `listen`."""
    tls_key: str = ""
    """Key file (PEM) for `listen`."""
    jwt_key_file: str = ""
    """Slurm's jwt_hs256.key, to accept Slurm's JSON web tokens; empty for MUNGE only."""
    munge_socket: str = ""
    """Socket of munged; empty for its usual place."""
    operator_users: tuple[str, ...] = ()
    """Users who may pause, resume, reconfigure, pin and release, besides root and SlurmUser."""
    operator_groups: tuple[str, ...] = ()
    """Groups whose members may do the same."""
    credential_age_s: float = Field(default=30.0, gt=0, le=300)
    """A MUNGE credential older than this is refused."""
    requests_per_s: float = Field(default=20.0, gt=0)
    """Requests a second that one user may make, over time; bursts of ten times that are served."""
    largest_request_kb: float = Field(default=256.0, gt=0)
    """Requests larger than this are refused."""
    most_connections: int = Field(default=2000, ge=10, le=60_000)
    """Connections served at a time; more are told to come back later."""
