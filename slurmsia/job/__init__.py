"""What a job imports: `Reporter` for any framework, ``slurmsia.job.torch`` for PyTorch.

Everything that runs inside a job is standard library only and works with Python 3.8; the daemon's side of the spool
(``spool``, ``report_line``, ``directive_writer``, ``log_tail``) lives beside it and is never imported from here.
"""

from __future__ import annotations

from .directive import Directive
from .reporter import Reporter

__all__ = ["Directive", "Reporter"]
