"""Section ``[models]``: how throughput and efficiency are learnt."""

from __future__ import annotations

from .base import Section


class ModelsSection(Section):
    """How throughput and efficiency are learnt."""

    use_shipped: bool = True
    """Use the parameters shipped with the package as priors for applications that look alike."""
