"""The tables of what similar jobs taught: kinds of jobs and the sums pooled over them, kept up to date by every ingest.

Part of the schema (`schema` names all of it). What hangs on a kind goes with it. No query and no session belongs here.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from .tables import Base, RowId, shape_checks


class Kind(Base):
    """What jobs have in common: "user+script" (with a user), or "script" (user -1). Parents of pooled statistics."""

    __tablename__ = "kinds"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    cluster_id: Mapped[int] = mapped_column(RowId, ForeignKey("clusters.id", ondelete="CASCADE"))
    likeness: Mapped[str]
    user_id: Mapped[int]
    script: Mapped[str]
    jobs: Mapped[int] = mapped_column(server_default=text("0"))
    last_report_s: Mapped[float | None] = mapped_column(index=True)
    gradient_t_s: Mapped[float | None]
    gradient_square: Mapped[float | None]
    gradient_variance: Mapped[float | None]
    gradient_scale: Mapped[float | None]

    __table_args__ = (
        UniqueConstraint("cluster_id", "likeness", "user_id", "script"),
        CheckConstraint("likeness IN ('user+script', 'script', 'cluster')", name="likeness"),
        CheckConstraint("(likeness = 'user+script') = (user_id >= 0)", name="user"),
        CheckConstraint("jobs >= 0", name="jobs"),
    )


class KindObservation(Base):
    """The sums of `schema.RunObservation` over all jobs of a kind."""

    __tablename__ = "kind_observations"

    kind_id: Mapped[int] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="CASCADE"), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(primary_key=True)
    nodes: Mapped[int] = mapped_column(primary_key=True)
    gpus: Mapped[int] = mapped_column(primary_key=True)
    local_batch: Mapped[float] = mapped_column(primary_key=True)
    accumulation: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[float]
    step_sum_s: Mapped[float]
    step_square_sum_s2: Mapped[float]
    sync_sum_s: Mapped[float]

    __table_args__ = (*shape_checks(), {"sqlite_with_rowid": False})


class KindMemoryPeak(Base):
    """Highest GPU memory that any job of a kind was seen to use at a local batch on a type."""

    __tablename__ = "kind_memory_peaks"

    kind_id: Mapped[int] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="CASCADE"), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(primary_key=True)
    local_batch: Mapped[float] = mapped_column(primary_key=True)
    peak_bytes: Mapped[float]
    total_bytes: Mapped[float | None]

    __table_args__ = (CheckConstraint("peak_bytes >= 0", name="peak"), {"sqlite_with_rowid": False})


class KindNoise(Base):
    """Gradient noise that a kind's jobs reported along their work, summed by cells of samples done and batch scale.

    ``log_sum`` and ``log_square_sum``: sums of log r and of its square over ``count`` reports (`history.NoiseCell`);
    numbers that a report may have make at most some thousands of cells.
    """

    __tablename__ = "kind_noise"

    kind_id: Mapped[int] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="CASCADE"), primary_key=True)
    samples_cell: Mapped[int] = mapped_column(primary_key=True)
    scale_doubling: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[float]
    log_sum: Mapped[float]
    log_square_sum: Mapped[float]

    __table_args__ = (CheckConstraint("count >= 0", name="count"), {"sqlite_with_rowid": False})


class KindRatio(Base):
    """Sums of the log ratios of 1-GPU throughput between two types over the fitted jobs of a kind."""

    __tablename__ = "kind_ratios"

    kind_id: Mapped[int] = mapped_column(RowId, ForeignKey("kinds.id", ondelete="CASCADE"), primary_key=True)
    gpu_type: Mapped[str] = mapped_column(primary_key=True)
    reference_type: Mapped[str] = mapped_column(primary_key=True)
    jobs: Mapped[int]
    log_sum: Mapped[float]
    log_square_sum: Mapped[float]

    __table_args__ = (
        CheckConstraint("jobs >= 0", name="jobs"),
        CheckConstraint("gpu_type <> reference_type", name="types"),
    )
