"""From the policy file's ``[store]`` section to an open store and to what retention keeps."""

from __future__ import annotations

from ..config.store import StoreSection
from .records import Keep
from .store import Store

_DAY_S = 86_400.0


def open_configured(section: StoreSection, cluster: str, auto_upgrade: bool | None = None) -> Store:
    """Open the store that the policy file names; ``auto_upgrade`` overrides the file. Raises `StoreError`s."""
    return Store.open(
        section.url,
        cluster,
        auto_upgrade=section.auto_upgrade if auto_upgrade is None else auto_upgrade,
        password_file=section.password_file,
        busy_timeout_s=section.busy_timeout_s,
        point_every_s=section.point_every_s,
    )


def keep(section: StoreSection) -> dict[str, Keep]:
    """What `Store.prune` keeps, by table."""
    points = Keep(section.keep_points_days * _DAY_S)
    return {
        "round_bodies": Keep(section.keep_round_bodies_days * _DAY_S, section.keep_round_bodies_mb * 1024**2),
        "rounds": Keep(section.keep_rounds_days * _DAY_S),
        "verdicts": Keep(section.keep_verdicts_days * _DAY_S),
        "gradient_points": points,
        "progress_points": points,
        "moves": Keep(section.keep_moves_days * _DAY_S),
        "operator_actions": Keep(section.keep_operator_actions_days * _DAY_S),
        "jobs": Keep(section.keep_jobs_days * _DAY_S),
        "kinds": Keep(section.keep_kinds_days * _DAY_S),
    }
