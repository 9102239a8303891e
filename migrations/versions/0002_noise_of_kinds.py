"""Gradient noise pooled by kind: the table `kind_noise`, begun from the points that are stored.

Every ingest adds to the cells of a job's kinds. What was reported before is added from the points that are still
there (one per 300 s of a run, 30 days of them by default): fewer reports than were made, each exactly as an ingest
would have added it. The newest runs come first and half a million points are enough, because a daemon that upgrades
by itself must not be long about its start. Read by pages, so memory holds one page and its cells. Stepping down drops
the table and nothing else; stepping up again begins from the points once more.
"""

from __future__ import annotations

import math

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

_PAGE = 10_000
_PAGES = 50
# Points of one report have one key. _AFTER_ALL is behind all of them.
_AFTER_ALL = (2**62, 0)
_POINTS = sa.text(
    "SELECT g.run_id, g.seq, g.square, g.variance, g.scale, p.samples, j.user_kind_id, j.script_kind_id "
    "FROM gradient_points g "
    "JOIN progress_points p ON p.run_id = g.run_id AND p.seq = g.seq "
    "JOIN runs r ON r.id = g.run_id JOIN jobs j ON j.id = r.job_id "
    "WHERE (g.run_id, g.seq) < (:run, :seq) ORDER BY g.run_id DESC, g.seq DESC LIMIT :page"
)
_ADD = sa.text(
    "INSERT INTO kind_noise (kind_id, samples_cell, scale_doubling, count, log_sum, log_square_sum) "
    "VALUES (:kind, :samples, :scale, :count, :log, :square) "
    "ON CONFLICT (kind_id, samples_cell, scale_doubling) DO UPDATE SET count = kind_noise.count + excluded.count, "
    "log_sum = kind_noise.log_sum + excluded.log_sum, "
    "log_square_sum = kind_noise.log_square_sum + excluded.log_square_sum"
)


def upgrade() -> None:
    op.create_table('kind_noise',
    sa.Column('kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('samples_cell', sa.BigInteger(), nullable=False),
    sa.Column('scale_doubling', sa.BigInteger(), nullable=False),
    sa.Column('count', sa.Float(precision=53), nullable=False),
    sa.Column('log_sum', sa.Float(precision=53), nullable=False),
    sa.Column('log_square_sum', sa.Float(precision=53), nullable=False),
    sa.CheckConstraint('count >= 0', name=op.f('ck_kind_noise_count')),
    sa.ForeignKeyConstraint(['kind_id'], ['kinds.id'], name=op.f('fk_kind_noise_kind_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('kind_id', 'samples_cell', 'scale_doubling', name=op.f('pk_kind_noise')),
    sqlite_with_rowid=False
    )
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    last = _AFTER_ALL
    for _ in range(_PAGES):
        page = connection.execute(_POINTS, {'run': last[0], 'seq': last[1], 'page': _PAGE}).all()
        sums: dict[tuple[int, int, int], list[float]] = {}
        for run, seq, square, variance, scale, samples, *kinds in page:
            last = (run, seq)
            found = _cell(samples, square, variance, scale)
            for kind in kinds:
                if found is not None and kind is not None:
                    total = sums.setdefault((kind, found[0], found[1]), [0.0, 0.0, 0.0])
                    for index, number in enumerate((1.0, found[2], found[2] ** 2)):
                        total[index] += number
        if sums:
            connection.execute(_ADD, [
                {'kind': key[0], 'samples': key[1], 'scale': key[2], 'count': sum_[0], 'log': sum_[1], 'square': sum_[2]}
                for key, sum_ in sorted(sums.items())
            ])
        if len(page) < _PAGE:
            return


def _cell(samples: float, square: float, variance: float, scale: float) -> tuple[int, int, float] | None:
    """Cell of samples, doubling of the batch and log r, as `history.noise_cell` said when this revision was made."""
    if not (1.0 <= samples < 1e18 and 0 < square < math.inf and 0 <= variance < math.inf and 0 < scale < 1e9):
        return None
    log = math.log(min(max(variance / square, 1e-3), 1e6))
    return math.floor(4 * math.log2(samples)), round(math.log2(max(scale, 1.0))), log


def downgrade() -> None:
    op.drop_table('kind_noise')
