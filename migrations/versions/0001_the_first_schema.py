"""The first schema: jobs, runs, sums, rounds, verdicts, moves, the lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('clusters',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('created_s', sa.Float(precision=53), nullable=False),
    sa.CheckConstraint("name <> ''", name=op.f('ck_clusters_name')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_clusters')),
    sa.UniqueConstraint('name', name=op.f('uq_clusters_name'))
    )
    op.create_table('configs',
    sa.Column('hash', sa.Text(), nullable=False),
    sa.Column('body_json', sa.Text(), nullable=False),
    sa.Column('first_used_s', sa.Float(precision=53), nullable=False),
    sa.PrimaryKeyConstraint('hash', name=op.f('pk_configs'))
    )
    op.create_table('leases',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('holder', sa.Text(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=False),
    sa.Column('acquired_s', sa.Float(precision=53), nullable=False),
    sa.Column('renewed_s', sa.Float(precision=53), nullable=False),
    sa.Column('expires_s', sa.Float(precision=53), nullable=False),
    sa.CheckConstraint('generation >= 1', name=op.f('ck_leases_generation')),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_leases'))
    )
    op.create_table('operator_actions',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('t_s', sa.Float(precision=53), nullable=False),
    sa.Column('who', sa.Text(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=True),
    sa.Column('what', sa.Text(), nullable=False),
    sa.Column('slurm_id', sa.Text(), nullable=True),
    sa.Column('detail_json', sa.Text(), nullable=False),
    sa.CheckConstraint("who <> '' AND what <> ''", name=op.f('ck_operator_actions_names')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_operator_actions'))
    )
    with op.batch_alter_table('operator_actions', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_operator_actions_t_s'), ['t_s'], unique=False)

    op.create_table('kinds',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('cluster_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('likeness', sa.Text(), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('script', sa.Text(), nullable=False),
    sa.Column('jobs', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('last_report_s', sa.Float(precision=53), nullable=True),
    sa.Column('gradient_t_s', sa.Float(precision=53), nullable=True),
    sa.Column('gradient_square', sa.Float(precision=53), nullable=True),
    sa.Column('gradient_variance', sa.Float(precision=53), nullable=True),
    sa.Column('gradient_scale', sa.Float(precision=53), nullable=True),
    sa.CheckConstraint("(likeness = 'user+script') = (user_id >= 0)", name=op.f('ck_kinds_user')),
    sa.CheckConstraint("likeness IN ('user+script', 'script', 'cluster')", name=op.f('ck_kinds_likeness')),
    sa.CheckConstraint('jobs >= 0', name=op.f('ck_kinds_jobs')),
    sa.ForeignKeyConstraint(['cluster_id'], ['clusters.id'], name=op.f('fk_kinds_cluster_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_kinds')),
    sa.UniqueConstraint('cluster_id', 'likeness', 'user_id', 'script', name=op.f('uq_kinds_cluster_id_likeness_user_id_script'))
    )
    with op.batch_alter_table('kinds', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_kinds_last_report_s'), ['last_report_s'], unique=False)

    op.create_table('rounds',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('cluster_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('taken_s', sa.Float(precision=53), nullable=False),
    sa.Column('mode', sa.Text(), nullable=False),
    sa.Column('policy', sa.Text(), nullable=False),
    sa.Column('policy_hash', sa.Text(), nullable=False),
    sa.Column('config_hash', sa.Text(), nullable=False),
    sa.Column('objective', sa.Float(precision=53), nullable=True),
    sa.Column('bound', sa.Float(precision=53), nullable=True),
    sa.Column('gap', sa.Float(precision=53), nullable=True),
    sa.Column('stage', sa.Text(), nullable=False),
    sa.Column('sentence', sa.Text(), nullable=False),
    sa.Column('jobs', sa.BigInteger(), nullable=False),
    sa.Column('moves', sa.BigInteger(), nullable=False),
    sa.Column('times_json', sa.Text(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=True),
    sa.CheckConstraint('gap >= 0 AND jobs >= 0 AND moves >= 0', name=op.f('ck_rounds_numbers')),
    sa.CheckConstraint('taken_s > 0 AND taken_s < 1e11', name=op.f('ck_rounds_taken_s')),
    sa.ForeignKeyConstraint(['cluster_id'], ['clusters.id'], name=op.f('fk_rounds_cluster_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['config_hash'], ['configs.hash'], name=op.f('fk_rounds_config_hash')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_rounds')),
    sa.UniqueConstraint('cluster_id', 'taken_s', name=op.f('uq_rounds_cluster_id_taken_s')),
    sqlite_autoincrement=True
    )
    with op.batch_alter_table('rounds', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_rounds_config_hash'), ['config_hash'], unique=False)

    op.create_table('jobs',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('cluster_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('slurm_id', sa.Text(), nullable=False),
    sa.Column('first_submit_s', sa.Float(precision=53), nullable=False),
    sa.Column('last_submit_s', sa.Float(precision=53), nullable=False),
    sa.Column('current', sa.Boolean(), server_default=sa.true(), nullable=False),
    sa.Column('sluid', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('user_id', sa.BigInteger(), nullable=False),
    sa.Column('name', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('account', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('comment', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('script_hash', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('user_kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('script_kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('counted', sa.Boolean(), server_default=sa.false(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('restarts', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('ended_s', sa.Float(precision=53), nullable=True),
    sa.Column('end_state', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('last_seen_s', sa.Float(precision=53), nullable=False),
    sa.Column('history_version', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('throughput_only', sa.Boolean(), server_default=sa.false(), nullable=False),
    sa.Column('gradient_t_s', sa.Float(precision=53), nullable=True),
    sa.Column('gradient_square', sa.Float(precision=53), nullable=True),
    sa.Column('gradient_variance', sa.Float(precision=53), nullable=True),
    sa.Column('gradient_scale', sa.Float(precision=53), nullable=True),
    sa.Column('progress_t_s', sa.Float(precision=53), nullable=True),
    sa.Column('progress_samples', sa.Float(precision=53), nullable=True),
    sa.Column('target_samples', sa.Float(precision=53), nullable=True),
    sa.Column('checkpoint_samples', sa.Float(precision=53), nullable=True),
    sa.Column('checkpoint_t_s', sa.Float(precision=53), nullable=True),
    sa.Column('final_samples', sa.Float(precision=53), nullable=True),
    sa.CheckConstraint("(state = 'ended') = (ended_s IS NOT NULL)", name=op.f('ck_jobs_ended')),
    sa.CheckConstraint("slurm_id <> ''", name=op.f('ck_jobs_slurm_id')),
    sa.CheckConstraint("state IN ('pending', 'running', 'suspended', 'ended')", name=op.f('ck_jobs_state')),
    sa.CheckConstraint('(gradient_t_s IS NULL) = (gradient_square IS NULL)', name=op.f('ck_jobs_gradient')),
    sa.CheckConstraint('(progress_t_s IS NULL) = (progress_samples IS NULL)', name=op.f('ck_jobs_progress')),
    sa.CheckConstraint('user_id >= 0 AND restarts >= 0 AND history_version >= 0', name=op.f('ck_jobs_counts')),
    sa.ForeignKeyConstraint(['cluster_id'], ['clusters.id'], name=op.f('fk_jobs_cluster_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['script_kind_id'], ['kinds.id'], name=op.f('fk_jobs_script_kind_id'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['user_kind_id'], ['kinds.id'], name=op.f('fk_jobs_user_kind_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_jobs')),
    sa.UniqueConstraint('cluster_id', 'slurm_id', 'first_submit_s', name=op.f('uq_jobs_cluster_id_slurm_id_first_submit_s'))
    )
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.create_index('ix_jobs_ended_s', ['ended_s'], unique=False)
        batch_op.create_index('ix_jobs_script_kind_ended', ['script_kind_id', 'ended_s'], unique=False)
        batch_op.create_index('ix_jobs_unfinished', ['cluster_id', 'slurm_id'], unique=False, sqlite_where=sa.text('ended_s IS NULL'), postgresql_where=sa.text('ended_s IS NULL'))
        batch_op.create_index('ix_jobs_user_kind_ended', ['user_kind_id', 'ended_s'], unique=False)
        batch_op.create_index('uq_jobs_current', ['cluster_id', 'slurm_id'], unique=True, sqlite_where=sa.text('current'), postgresql_where=sa.text('current'))

    op.create_table('kind_memory_peaks',
    sa.Column('kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('gpu_type', sa.Text(), nullable=False),
    sa.Column('local_batch', sa.Float(precision=53), nullable=False),
    sa.Column('peak_bytes', sa.Float(precision=53), nullable=False),
    sa.Column('total_bytes', sa.Float(precision=53), nullable=True),
    sa.CheckConstraint('peak_bytes >= 0', name=op.f('ck_kind_memory_peaks_peak')),
    sa.ForeignKeyConstraint(['kind_id'], ['kinds.id'], name=op.f('fk_kind_memory_peaks_kind_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('kind_id', 'gpu_type', 'local_batch', name=op.f('pk_kind_memory_peaks')),
    sqlite_with_rowid=False
    )
    op.create_table('kind_observations',
    sa.Column('kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('gpu_type', sa.Text(), nullable=False),
    sa.Column('nodes', sa.BigInteger(), nullable=False),
    sa.Column('gpus', sa.BigInteger(), nullable=False),
    sa.Column('local_batch', sa.Float(precision=53), nullable=False),
    sa.Column('accumulation', sa.BigInteger(), nullable=False),
    sa.Column('count', sa.Float(precision=53), nullable=False),
    sa.Column('step_sum_s', sa.Float(precision=53), nullable=False),
    sa.Column('step_square_sum_s2', sa.Float(precision=53), nullable=False),
    sa.Column('sync_sum_s', sa.Float(precision=53), nullable=False),
    sa.CheckConstraint('count > 0 AND step_sum_s >= 0 AND step_square_sum_s2 >= 0 AND sync_sum_s >= 0', name=op.f('ck_kind_observations_sums')),
    sa.CheckConstraint('local_batch > 0 AND accumulation >= 0', name=op.f('ck_kind_observations_batch')),
    sa.CheckConstraint('nodes >= 1 AND gpus >= 1', name=op.f('ck_kind_observations_shape')),
    sa.ForeignKeyConstraint(['kind_id'], ['kinds.id'], name=op.f('fk_kind_observations_kind_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('kind_id', 'gpu_type', 'nodes', 'gpus', 'local_batch', 'accumulation', name=op.f('pk_kind_observations')),
    sqlite_with_rowid=False
    )
    op.create_table('kind_ratios',
    sa.Column('kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('gpu_type', sa.Text(), nullable=False),
    sa.Column('reference_type', sa.Text(), nullable=False),
    sa.Column('jobs', sa.BigInteger(), nullable=False),
    sa.Column('log_sum', sa.Float(precision=53), nullable=False),
    sa.Column('log_square_sum', sa.Float(precision=53), nullable=False),
    sa.CheckConstraint('gpu_type <> reference_type', name=op.f('ck_kind_ratios_types')),
    sa.CheckConstraint('jobs >= 0', name=op.f('ck_kind_ratios_jobs')),
    sa.ForeignKeyConstraint(['kind_id'], ['kinds.id'], name=op.f('fk_kind_ratios_kind_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('kind_id', 'gpu_type', 'reference_type', name=op.f('pk_kind_ratios'))
    )
    op.create_table('round_bodies',
    sa.Column('round_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('snapshot', sa.LargeBinary(), nullable=False),
    sa.Column('plan', sa.LargeBinary(), nullable=False),
    sa.Column('models', sa.LargeBinary(), nullable=False),
    sa.Column('standing', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['round_id'], ['rounds.id'], name=op.f('fk_round_bodies_round_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('round_id', name=op.f('pk_round_bodies'))
    )
    op.create_table('fits',
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('gpu_type', sa.Text(), nullable=False),
    sa.Column('params_json', sa.Text(), nullable=False),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('rel_error', sa.Float(precision=53), nullable=False),
    sa.Column('observations', sa.Float(precision=53), nullable=False),
    sa.Column('fitted_s', sa.Float(precision=53), nullable=False),
    sa.Column('one_gpu_samples_per_s', sa.Float(precision=53), nullable=True),
    sa.CheckConstraint('one_gpu_samples_per_s > 0', name=op.f('ck_fits_throughput')),
    sa.CheckConstraint('rel_error >= 0 AND observations >= 0', name=op.f('ck_fits_numbers')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_fits_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'gpu_type', name=op.f('pk_fits'))
    )
    op.create_table('memory_peaks',
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('gpu_type', sa.Text(), nullable=False),
    sa.Column('local_batch', sa.Float(precision=53), nullable=False),
    sa.Column('peak_bytes', sa.Float(precision=53), nullable=False),
    sa.Column('total_bytes', sa.Float(precision=53), nullable=True),
    sa.CheckConstraint('peak_bytes >= 0', name=op.f('ck_memory_peaks_peak')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_memory_peaks_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'gpu_type', 'local_batch', name=op.f('pk_memory_peaks')),
    sqlite_with_rowid=False
    )
    op.create_table('moves',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('round_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('target_json', sa.Text(), nullable=False),
    sa.Column('cause', sa.Text(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=False),
    sa.Column('created_s', sa.Float(precision=53), nullable=False),
    sa.Column('updated_s', sa.Float(precision=53), nullable=False),
    sa.Column('ended_s', sa.Float(precision=53), nullable=True),
    sa.CheckConstraint("id <> '' AND state <> ''", name=op.f('ck_moves_names')),
    sa.CheckConstraint('generation >= 0', name=op.f('ck_moves_generation')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_moves_job_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['round_id'], ['rounds.id'], name=op.f('fk_moves_round_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_moves'))
    )
    with op.batch_alter_table('moves', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_moves_created_s'), ['created_s'], unique=False)
        batch_op.create_index(batch_op.f('ix_moves_ended_s'), ['ended_s'], unique=False)
        batch_op.create_index(batch_op.f('ix_moves_job_id'), ['job_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_moves_round_id'), ['round_id'], unique=False)
        batch_op.create_index('uq_moves_unfinished', ['job_id'], unique=True, sqlite_where=sa.text('ended_s IS NULL'), postgresql_where=sa.text('ended_s IS NULL'))

    op.create_table('runs',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('restart', sa.BigInteger(), nullable=False),
    sa.Column('started_s', sa.Float(precision=53), nullable=False),
    sa.Column('ended_s', sa.Float(precision=53), nullable=True),
    sa.Column('how_ended', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('gpu_type', sa.Text(), nullable=True),
    sa.Column('nodes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('gpus', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('node_names', sa.Text(), server_default=sa.text("('')"), nullable=False),
    sa.Column('last_seq', sa.BigInteger(), server_default=sa.text('(-1)'), nullable=False),
    sa.Column('last_report_s', sa.Float(precision=53), nullable=True),
    sa.Column('last_point_s', sa.Float(precision=53), nullable=True),
    sa.Column('handles_signal', sa.Boolean(), server_default=sa.false(), nullable=False),
    sa.Column('energy_j', sa.Float(precision=53), server_default=sa.text('0'), nullable=False),
    sa.Column('net_bytes', sa.Float(precision=53), server_default=sa.text('0'), nullable=False),
    sa.Column('extra_json', sa.Text(), server_default=sa.text("'{}'"), nullable=False),
    sa.CheckConstraint("(ended_s IS NULL) = (how_ended = '')", name=op.f('ck_runs_ended')),
    sa.CheckConstraint('ended_s IS NULL OR ended_s >= started_s', name=op.f('ck_runs_times')),
    sa.CheckConstraint('energy_j >= 0 AND net_bytes >= 0', name=op.f('ck_runs_sums')),
    sa.CheckConstraint('restart >= 0 AND nodes >= 0 AND gpus >= 0', name=op.f('ck_runs_counts')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_runs_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_runs')),
    sa.UniqueConstraint('job_id', 'restart', name=op.f('uq_runs_job_id_restart'))
    )
    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.create_index('uq_runs_open', ['job_id'], unique=True, sqlite_where=sa.text('ended_s IS NULL'), postgresql_where=sa.text('ended_s IS NULL'))

    op.create_table('standings',
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('body_json', sa.Text(), nullable=False),
    sa.Column('updated_s', sa.Float(precision=53), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_standings_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', name=op.f('pk_standings'))
    )
    op.create_table('verdicts',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('open', sa.Boolean(), nullable=False),
    sa.Column('code', sa.Text(), nullable=False),
    sa.Column('term', sa.Text(), nullable=False),
    sa.Column('body_json', sa.Text(), nullable=False),
    sa.Column('first_round', sa.BigInteger(), nullable=False),
    sa.Column('last_round', sa.BigInteger(), nullable=False),
    sa.Column('first_s', sa.Float(precision=53), nullable=False),
    sa.Column('last_s', sa.Float(precision=53), nullable=False),
    sa.Column('rounds', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('first_round <= last_round AND first_s <= last_s AND rounds >= 1', name=op.f('ck_verdicts_span')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_verdicts_job_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_verdicts'))
    )
    with op.batch_alter_table('verdicts', schema=None) as batch_op:
        batch_op.create_index('ix_verdicts_job_id_last_s', ['job_id', 'last_s'], unique=False)
        batch_op.create_index(batch_op.f('ix_verdicts_last_s'), ['last_s'], unique=False)
        batch_op.create_index('uq_verdicts_open', ['job_id'], unique=True, sqlite_where=sa.text('open'), postgresql_where=sa.text('open'))

    op.create_table('gradient_points',
    sa.Column('run_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('seq', sa.BigInteger(), nullable=False),
    sa.Column('t_s', sa.Float(precision=53), nullable=False),
    sa.Column('square', sa.Float(precision=53), nullable=False),
    sa.Column('variance', sa.Float(precision=53), nullable=False),
    sa.Column('scale', sa.Float(precision=53), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_gradient_points_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', 'seq', name=op.f('pk_gradient_points')),
    sqlite_with_rowid=False
    )
    with op.batch_alter_table('gradient_points', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_gradient_points_t_s'), ['t_s'], unique=False)

    op.create_table('move_events',
    sa.Column('move_id', sa.Text(), nullable=False),
    sa.Column('seq', sa.BigInteger(), nullable=False),
    sa.Column('t_s', sa.Float(precision=53), nullable=False),
    sa.Column('event', sa.Text(), nullable=False),
    sa.Column('from_state', sa.Text(), nullable=False),
    sa.Column('to_state', sa.Text(), nullable=False),
    sa.Column('cause', sa.Text(), nullable=False),
    sa.Column('detail', sa.Text(), nullable=False),
    sa.Column('actions_json', sa.Text(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('seq >= 1', name=op.f('ck_move_events_seq')),
    sa.ForeignKeyConstraint(['move_id'], ['moves.id'], name=op.f('fk_move_events_move_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('move_id', 'seq', name=op.f('pk_move_events'))
    )
    op.create_table('observations',
    sa.Column('run_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('gpu_type', sa.Text(), nullable=False),
    sa.Column('nodes', sa.BigInteger(), nullable=False),
    sa.Column('gpus', sa.BigInteger(), nullable=False),
    sa.Column('local_batch', sa.Float(precision=53), nullable=False),
    sa.Column('accumulation', sa.BigInteger(), nullable=False),
    sa.Column('count', sa.Float(precision=53), nullable=False),
    sa.Column('step_sum_s', sa.Float(precision=53), nullable=False),
    sa.Column('step_square_sum_s2', sa.Float(precision=53), nullable=False),
    sa.Column('sync_sum_s', sa.Float(precision=53), nullable=False),
    sa.CheckConstraint('count > 0 AND step_sum_s >= 0 AND step_square_sum_s2 >= 0 AND sync_sum_s >= 0', name=op.f('ck_observations_sums')),
    sa.CheckConstraint('local_batch > 0 AND accumulation >= 0', name=op.f('ck_observations_batch')),
    sa.CheckConstraint('nodes >= 1 AND gpus >= 1', name=op.f('ck_observations_shape')),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_observations_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', 'gpu_type', 'nodes', 'gpus', 'local_batch', 'accumulation', name=op.f('pk_observations')),
    sqlite_with_rowid=False
    )
    op.create_table('progress_points',
    sa.Column('run_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('seq', sa.BigInteger(), nullable=False),
    sa.Column('t_s', sa.Float(precision=53), nullable=False),
    sa.Column('samples', sa.Float(precision=53), nullable=False),
    sa.CheckConstraint('samples >= 0', name=op.f('ck_progress_points_samples')),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_progress_points_run_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', 'seq', name=op.f('pk_progress_points')),
    sqlite_with_rowid=False
    )
    with op.batch_alter_table('progress_points', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_progress_points_t_s'), ['t_s'], unique=False)

    op.create_table('restart_costs',
    sa.Column('run_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('cluster_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('user_kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('script_kind_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('t_s', sa.Float(precision=53), nullable=False),
    sa.Column('save_s', sa.Float(precision=53), nullable=True),
    sa.Column('requeue_s', sa.Float(precision=53), nullable=True),
    sa.Column('load_s', sa.Float(precision=53), nullable=True),
    sa.Column('first_step_s', sa.Float(precision=53), nullable=True),
    sa.CheckConstraint('coalesce(save_s, 0) >= 0 AND coalesce(requeue_s, 0) >= 0 AND coalesce(load_s, 0) >= 0 AND coalesce(first_step_s, 0) >= 0', name=op.f('ck_restart_costs_parts')),
    sa.ForeignKeyConstraint(['cluster_id'], ['clusters.id'], name=op.f('fk_restart_costs_cluster_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_restart_costs_run_id'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['script_kind_id'], ['kinds.id'], name=op.f('fk_restart_costs_script_kind_id'), ondelete='SET NULL'),
    sa.ForeignKeyConstraint(['user_kind_id'], ['kinds.id'], name=op.f('fk_restart_costs_user_kind_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('run_id', name=op.f('pk_restart_costs'))
    )
    with op.batch_alter_table('restart_costs', schema=None) as batch_op:
        batch_op.create_index('ix_restart_costs_cluster', ['cluster_id', 't_s'], unique=False)
        batch_op.create_index('ix_restart_costs_script_kind', ['script_kind_id', 't_s'], unique=False)
        batch_op.create_index('ix_restart_costs_user_kind', ['user_kind_id', 't_s'], unique=False)



def downgrade() -> None:
    with op.batch_alter_table('restart_costs', schema=None) as batch_op:
        batch_op.drop_index('ix_restart_costs_user_kind')
        batch_op.drop_index('ix_restart_costs_script_kind')
        batch_op.drop_index('ix_restart_costs_cluster')

    op.drop_table('restart_costs')
    with op.batch_alter_table('progress_points', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_progress_points_t_s'))

    op.drop_table('progress_points')
    op.drop_table('observations')
    op.drop_table('move_events')
    with op.batch_alter_table('gradient_points', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_gradient_points_t_s'))

    op.drop_table('gradient_points')
    with op.batch_alter_table('verdicts', schema=None) as batch_op:
        batch_op.drop_index('uq_verdicts_open', sqlite_where=sa.text('open'), postgresql_where=sa.text('open'))
        batch_op.drop_index(batch_op.f('ix_verdicts_last_s'))
        batch_op.drop_index('ix_verdicts_job_id_last_s')

    op.drop_table('verdicts')
    op.drop_table('standings')
    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.drop_index('uq_runs_open', sqlite_where=sa.text('ended_s IS NULL'), postgresql_where=sa.text('ended_s IS NULL'))

    op.drop_table('runs')
    with op.batch_alter_table('moves', schema=None) as batch_op:
        batch_op.drop_index('uq_moves_unfinished', sqlite_where=sa.text('ended_s IS NULL'), postgresql_where=sa.text('ended_s IS NULL'))
        batch_op.drop_index(batch_op.f('ix_moves_round_id'))
        batch_op.drop_index(batch_op.f('ix_moves_job_id'))
        batch_op.drop_index(batch_op.f('ix_moves_ended_s'))
        batch_op.drop_index(batch_op.f('ix_moves_created_s'))

    op.drop_table('moves')
    op.drop_table('memory_peaks')
    op.drop_table('fits')
    op.drop_table('round_bodies')
    op.drop_table('kind_ratios')
    op.drop_table('kind_observations')
    op.drop_table('kind_memory_peaks')
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_index('uq_jobs_current', sqlite_where=sa.text('current'), postgresql_where=sa.text('current'))
        batch_op.drop_index('ix_jobs_user_kind_ended')
        batch_op.drop_index('ix_jobs_unfinished', sqlite_where=sa.text('ended_s IS NULL'), postgresql_where=sa.text('ended_s IS NULL'))
        batch_op.drop_index('ix_jobs_script_kind_ended')
        batch_op.drop_index('ix_jobs_ended_s')

    op.drop_table('jobs')
    with op.batch_alter_table('rounds', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_rounds_config_hash'))

    op.drop_table('rounds')
    with op.batch_alter_table('kinds', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_kinds_last_report_s'))

    op.drop_table('kinds')
    with op.batch_alter_table('operator_actions', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_operator_actions_t_s'))

    op.drop_table('operator_actions')
    op.drop_table('leases')
    op.drop_table('configs')
    op.drop_table('clusters')
