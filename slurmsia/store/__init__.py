"""The job-history store: what was seen, measured, decided and done, in SQLite or PostgreSQL.

`Store` is the door; everything else in this package is behind it.
"""

from .errors import (
    Fenced,
    SchemaMismatch,
    StoreConflict,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UndecodableBody,
)
from .records import (
    FitRecord,
    IngestResult,
    JobRecord,
    Keep,
    Lease,
    MoveEvent,
    MoveRecord,
    OperatorAction,
    Pruned,
    RejectedReport,
    ReportContext,
    RoundHead,
    RoundRecord,
    RunRecord,
    StoredRound,
    TableSize,
    VerdictSpan,
)
from .store import Store

__all__ = [
    "Fenced",
    "FitRecord",
    "IngestResult",
    "JobRecord",
    "Keep",
    "Lease",
    "MoveEvent",
    "MoveRecord",
    "OperatorAction",
    "Pruned",
    "RejectedReport",
    "ReportContext",
    "RoundHead",
    "RoundRecord",
    "RunRecord",
    "SchemaMismatch",
    "Store",
    "StoreConflict",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "StoredRound",
    "TableSize",
    "UndecodableBody",
    "VerdictSpan",
]
