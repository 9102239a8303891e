"""Builds a daemon from a policy file: store, Slurm client, models, actor, cycle. Nothing runs here.

Every failure is a sentence for the operator (`StartError`), never a traceback.
"""

from __future__ import annotations

import logging
from pathlib import Path

from slurmsia.config import Config, ConfigError
from slurmsia.config.loader import load
from slurmsia.job.directive_writer import DirectiveWriter
from slurmsia.models.estimator import Estimator
from slurmsia.moves.act import Actor
from slurmsia.moves.leases import limits_of
from slurmsia.moves.standings import StandingBook
from slurmsia.slurm.client import SlurmClient, SlurmError, SlurmUnavailable
from slurmsia.slurm.command import CommandClient
from slurmsia.slurm.pyslurm_client import PyslurmClient
from slurmsia.store import Store, StoreError
from slurmsia.store.settings import open_configured

from .cycle import Cycle, Parts
from .metrics import Metrics
from .movelog import StoreMoveLog
from .posted_reports import BothSpools
from .spool_channel import SpoolChannel

_log = logging.getLogger("slurmsia.daemon")


class StartError(Exception):
    """The daemon cannot start; the text says what to do."""


def read_config(file: Path) -> Config:
    """The policy file, or `StartError` with its mistakes."""
    try:
        return load(file)
    except ConfigError as error:
        raise StartError("\n".join(error.sentences)) from None


def make_client(config: Config) -> SlurmClient:
    """The Slurm client that the policy file asks for; "auto" takes pyslurm where it fits this Slurm."""
    wanted = config.slurm.client
    if wanted in ("auto", "pyslurm"):
        try:
            return PyslurmClient(config)
        except SlurmUnavailable as error:
            if wanted == "pyslurm":
                raise
            _log.info("using Slurm's commands, since pyslurm cannot be used: %s", error)
    return CommandClient(config)


def make_store(config: Config, cluster: str) -> Store:
    """The open store; raises `StartError` naming the command that mends it."""
    url = config.store.url
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        return open_configured(config.store, cluster)
    except StoreError as error:
        raise StartError(str(error)) from None


def make_cycle(config: Config, client: SlurmClient, store: Store) -> Cycle:
    """Everything a round works with."""
    channel = SpoolChannel(DirectiveWriter(config.jobs.spool_dir))
    log = StoreMoveLog(store)
    actor = Actor(client, log, limits=limits_of(config), types=config.gpu_types, channel=channel)
    parts = Parts(
        config=config,
        client=client,
        store=store,
        estimator=Estimator(shipped=config.models.use_shipped),
        book=StandingBook(config.moves.lease_s),
        actor=actor,
        log=log,
        spool=BothSpools(config),
        channel=channel,
        metrics=Metrics(),
    )
    return Cycle(parts, canonical(config))


def canonical(config: Config) -> str:
    """The policy in force as canonical JSON: what the store keeps beside each round."""
    return config.model_dump_json()


def apply_config(cycle: Cycle, config: Config) -> None:
    """Put a new policy file in force between two rounds. Store, client and spool keep their old settings until a
    restart; the operator is told."""
    old = cycle.parts.config
    for name in ("slurm", "store", "jobs", "api"):
        if getattr(old, name) != getattr(config, name):
            _log.warning("changes in [%s] take effect when the daemon is restarted", name)
    kept = {name: getattr(old, name) for name in ("slurm", "store", "jobs", "api")}
    cycle.parts.config = config.model_copy(update=kept)
    cycle.parts.actor.limits = limits_of(config)
    cycle.parts.actor.types = config.gpu_types
    cycle.config_text = canonical(cycle.parts.config)


def cluster_name(client: SlurmClient, config: Config) -> str:
    """The cluster's name from the policy file or from Slurm."""
    if config.slurm.cluster:
        return config.slurm.cluster
    try:
        return client.site(config.slurm.call_deadline_s).cluster
    except SlurmError as error:
        raise StartError(f"Slurm does not say its cluster's name ({error}); set slurm.cluster or start Slurm") from None
