"""What all tables of the store share: the declarative base, how constraints are named, row ids, checks of a shape."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Float, Integer, LargeBinary, MetaData, Text
from sqlalchemy.orm import DeclarativeBase

#: SQLite numbers rows by itself only for a plain INTEGER key.
RowId = BigInteger().with_variant(Integer, "sqlite")

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all tables; names of constraints are fixed so that migrations can drop them on both databases."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {float: Float(53), str: Text(), int: BigInteger(), bytes: LargeBinary()}  # noqa: RUF012


def shape_checks() -> tuple[CheckConstraint, ...]:
    return (
        CheckConstraint("nodes >= 1 AND gpus >= 1", name="shape"),
        CheckConstraint("local_batch > 0 AND accumulation >= 0", name="batch"),
        CheckConstraint("count > 0 AND step_sum_s >= 0 AND step_square_sum_s2 >= 0 AND sync_sum_s >= 0", name="sums"),
    )
