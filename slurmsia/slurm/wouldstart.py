"""The start check as the clients use it; it lives beside the values because the round asks the same question.

Nothing here does I/O.
"""

from __future__ import annotations

from ..wouldstart import StartRules, feature_match, would_start

__all__ = ["StartRules", "feature_match", "would_start"]
