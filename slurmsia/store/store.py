"""The store as the rest of slurmsia sees it: one object, its methods named after questions and events.

Every method is one transaction and raises only `StoreError`s. The store never decides anything; when it is away the
daemon goes on in observe mode and calls `ping` until it is back: no state here outlives a failed transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

from sqlalchemy import Connection, text

from ..cluster import JobId, JobState, Snapshot
from ..history import JobHistory, JobKind, Report, SimilarHistory
from ..standing import Standing
from . import codec, fits, identity, intents, lease, questions, reports, retention, rounds, upgrade
from .engine import Database, database_url
from .errors import StoreError
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
    ReportContext,
    RoundHead,
    RoundRecord,
    StoredRound,
    TableSize,
    VerdictSpan,
)  # fmt: skip


class Store:
    """The job-history store of one cluster. Safe to share between threads; implements `HistorySource`.

    ``generation`` of the lease taken with `acquire_lease` fences every write of this object from then on.
    """

    def __init__(self, db: Database, cluster: str, point_every_s: float = 300.0) -> None:
        self.db = db
        self.cluster = cluster
        self._point_every_s = point_every_s
        self._guard = RLock()
        self._generation: int | None = None
        self._cluster_id: int | None = None
        self._seen: dict[JobId, tuple[int, Any]] | None = None
        self._histories: dict[JobId, JobHistory] = {}
        self._standings: dict[int, str] = {}
        self._spans: dict[int, rounds.OpenSpan] = {}
        self._kept = codec.Kept()

    @classmethod
    def open(
        cls, url: str, cluster: str = "cluster", *, auto_upgrade: bool = False, password_file: str | None = None,
        busy_timeout_s: float = 10.0, point_every_s: float = 300.0,
    ) -> Store:  # fmt: skip
        """Open the store; ``sqlite://`` is a fresh one in memory.

        Raises `StoreUnavailable`, or `SchemaMismatch` with the command that mends it. ``auto_upgrade`` migrates an
        older or empty SQLite file by itself, never PostgreSQL. Progress and gradient series keep one point per
        ``point_every_s`` of a run.
        """
        db = Database(database_url(url, password_file), busy_timeout_s)
        try:
            if db.in_memory:
                upgrade.create_all(db)
            elif auto_upgrade and db.is_sqlite and not upgrade.is_at_head(db):
                upgrade.migrate(db, "head")
            with db.read() as connection:
                upgrade.require_head(connection)
        except StoreError:
            db.close()
            raise
        return cls(db, cluster, point_every_s)

    def close(self) -> None:
        """Give back all connections. The lease, if any, is not released: see `release_lease`."""
        self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ping(self) -> None:
        """Ask the database for a sign of life and a schema of ours. Raises what is wrong; opens a new connection
        where the old one broke."""
        with self.db.read() as connection:
            connection.execute(text("SELECT 1"))
            upgrade.require_head(connection)

    @contextmanager
    def _writing(self, generation: int | None = None) -> Iterator[tuple[Connection, int]]:
        """A fenced write transaction and the cluster's row id; remembered facts are forgotten when it fails."""
        with self._guard:
            try:
                with self.db.write() as connection:
                    lease.fence(connection, self.cluster, self._generation if generation is None else generation)
                    if self._cluster_id is None:
                        cluster_id = identity.ensure_cluster(
                            self.db, connection, self.cluster, self.db.now_s(connection)
                        )
                    else:
                        cluster_id = self._cluster_id
                    yield connection, cluster_id
                self._cluster_id = cluster_id
            except BaseException:
                self._cluster_id = None
                self._forget()
                raise

    def _forget(self) -> None:
        """What is known of the rows may no longer be so: ask the database again."""
        self._seen = None
        self._standings.clear()
        self._spans.clear()

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, int]]:
        """A read transaction and the cluster's row id (-1 while the store has never heard of the cluster)."""
        with self.db.read() as connection:
            known = self._cluster_id
            yield connection, known if known is not None else identity.cluster_row(connection, self.cluster)

    # Events: what happened outside.

    def see_jobs(self, snapshot: Snapshot) -> int:
        """Bring jobs and runs to what the snapshot shows; returns how many jobs changed.

        Only jobs with GPUs or with our words are kept. Jobs that Slurm no longer shows have ended.
        """
        with self._writing() as (connection, cluster_id):
            return self._see(connection, cluster_id, snapshot)

    def _see(self, connection: Connection, cluster_id: int, snapshot: Snapshot) -> int:
        jobs = {job.id: job for job in snapshot.jobs if identity.is_of_interest(job)}
        if self._seen is None:
            gone = [job_id for job_id in identity.unfinished_ids(connection, cluster_id) if job_id not in jobs]
            before: dict[JobId, tuple[int, Any]] = {}
        else:
            before = self._seen
            gone = [job_id for job_id in before if job_id not in jobs]
        prints = {job_id: identity.fingerprint(job) for job_id, job in jobs.items()}
        changed = [job for job in jobs.values() if job.id not in before or before[job.id][1] != prints[job.id]]
        identity.end_vanished(connection, cluster_id, gone, snapshot.taken_s)
        rows = identity.write_jobs(self.db, connection, cluster_id, changed, snapshot.taken_s)
        self._seen = {
            job_id: (rows[job_id] if job_id in rows else before[job_id][0], prints[job_id]) for job_id in jobs
        }
        alive = {self._seen[job.id][0] for job in jobs.values() if job.state is not JobState.ENDED}
        for known in (self._standings, self._spans):
            for row_id in known.keys() - alive:
                del known[row_id]
        return len(changed) + len(gone)

    def ingest(self, offered: Sequence[tuple[Report, ReportContext | None]]) -> IngestResult:
        """Store job reports, each exactly once by (job, restart, seq); on disk when this returns.

        A report whose seq is not above the highest stored for its run is a duplicate. A report without context
        needs a job that a snapshot has shown.
        """
        if not offered:
            return IngestResult(0, 0)
        with self._writing() as (connection, cluster_id):
            return reports.ingest(
                self.db, connection, cluster_id, offered, self._point_every_s, self.db.now_s(connection)
            )

    def save_fits(self, fitted: Sequence[FitRecord]) -> int:
        """Replace the fitted models of these jobs and types; feeds the ratios that similar jobs start from."""
        if not fitted:
            return 0
        with self._writing() as (connection, cluster_id):
            return fits.save_fits(self.db, connection, cluster_id, fitted)

    def save_standing(self, standing: Iterable[Standing], now_s: float) -> None:
        """Replace what slurmsia remembers of these jobs; jobs that no snapshot showed are passed over."""
        bodies = {entry.job_id: codec.to_json(Standing, entry).decode() for entry in standing}
        if not bodies:
            return
        with self._writing() as (connection, cluster_id):
            rows = identity.current_rows(connection, cluster_id, bodies)
            self._write_standings(connection, {rows[job].id: bodies[job] for job in bodies if job in rows}, now_s)

    def _write_standings(self, connection: Connection, bodies: Mapping[int, str], now_s: float) -> None:
        changed = {row_id: body for row_id, body in bodies.items() if self._standings.get(row_id) != body}
        rounds.write_standings(self.db, connection, changed, now_s)
        self._standings.update(changed)

    def save_round(self, record: RoundRecord) -> int:
        """Store a round in one transaction: jobs, snapshot, plan, models, standing, verdicts. Returns its id.

        Saving a round again (same cluster and time) changes nothing and returns the first one's id.
        """
        encoded = rounds.encode(record, self._kept)
        with self._writing(record.generation) as (connection, cluster_id):
            self._see(connection, cluster_id, record.snapshot)
            assert self._seen is not None
            rows = {job_id: row_id for job_id, (row_id, _) in self._seen.items()}
            spoken = {*encoded.verdicts, *encoded.standings} - rows.keys()
            if spoken:
                rows |= {job: row.id for job, row in identity.current_rows(connection, cluster_id, spoken).items()}
            round_id = rounds.write_round(self.db, connection, cluster_id, encoded, rows, self._spans)
            remembered = {rows[job]: body for job, body in encoded.standings.items() if job in rows}
            self._write_standings(connection, remembered, record.taken_s)
            return round_id

    def record_move_intent(self, move: MoveRecord) -> None:
        """Write a move before its first call to Slurm. Repeating it is harmless; an older leader is `Fenced`."""
        with self._writing(move.generation) as (connection, cluster_id):
            intents.record_intents(self.db, connection, cluster_id, self.cluster, [move], move.generation)

    def record_move_event(self, happened: MoveEvent) -> None:
        """Write one transition of a move. Repeating it is harmless; an older leader is `Fenced`."""
        with self._writing(happened.generation) as (connection, _):
            intents.record_events(self.db, connection, self.cluster, [happened], happened.generation)

    def record_moves(self, begun: Sequence[tuple[MoveRecord, MoveEvent]]) -> None:
        """Write moves before their first calls to Slurm, each with its first transition: all of them or none."""
        if not begun:
            return
        fenced = begun[0][0].generation
        with self._writing(fenced) as (connection, cluster_id):
            intents.record_intents(self.db, connection, cluster_id, self.cluster, [move for move, _ in begun], fenced)
            intents.record_events(self.db, connection, self.cluster, [happened for _, happened in begun], fenced)

    def operator_action(self, action: OperatorAction) -> None:
        """Write who did what, when."""
        with self._writing(action.generation) as (connection, _):
            intents.record_operator_action(self.db, connection, self.cluster, action)

    def prune(
        self,
        policy: Mapping[str, Keep],
        now_s: float,
        dry_run: bool = False,
        batch: int = 500,
        between: Callable[[], None] | None = None,
    ) -> tuple[Pruned, ...]:
        """Forget what ``policy`` (by table) no longer keeps, in short transactions; ``dry_run`` only counts."""
        done = retention.prune(self.db, policy, now_s, dry_run, batch, between)
        with self._guard:
            self._forget()
        return done

    def sizes(self) -> tuple[TableSize, ...]:
        """Rows and bytes by table, largest first. Reads the whole file on SQLite: for hours, not for rounds."""
        return retention.sizes(self.db)

    # Leadership.

    def acquire_lease(self, holder: str, lease_s: float, now_s: float | None = None) -> int | None:
        """Become the leader of this cluster: the new generation, or ``None`` while another holder's lease is fresh.

        All later writes of this object carry the generation. ``now_s`` defaults to the database server's clock.
        """
        with self._guard:
            with self.db.write() as connection:
                taken = lease.acquire(self.db, connection, self.cluster, holder, lease_s, now_s)
            if taken is None:
                return None
            self._generation = taken.generation
            self._forget()
            return taken.generation

    def renew_lease(self, holder: str, generation: int, lease_s: float, now_s: float | None = None) -> bool:
        """Stay the leader. ``False``: somebody else leads now, stop acting at once."""
        with self._guard, self.db.write() as connection:
            return lease.renew(self.db, connection, self.cluster, holder, generation, lease_s, now_s)

    def release_lease(self, holder: str, generation: int) -> None:
        """Let the next daemon lead at once."""
        with self._guard:
            with self.db.write() as connection:
                lease.release(connection, self.cluster, holder, generation)
            self._generation = None

    def lease(self) -> Lease | None:
        """The lease as stored, expired or not; the holder is empty after a release."""
        with self.db.read() as connection:
            return lease.present(connection, self.cluster)

    # Questions.

    def history(self, job_ids: Sequence[JobId]) -> dict[JobId, JobHistory]:
        """What was measured of these jobs, pooled over runs; jobs the store never heard of are absent.

        Histories that did not change since the last call are the same objects.
        """
        with self._reading() as (connection, cluster_id):
            found = questions.job_histories(connection, cluster_id, job_ids, self._histories)
        self._histories = found
        return dict(found)

    def similar(self, kind: JobKind) -> SimilarHistory | None:
        """The closest history of other jobs there is; see `questions.similar`."""
        with self._reading() as (connection, cluster_id):
            return questions.similar(connection, cluster_id, kind)

    def standing(self, job_ids: Iterable[JobId] | None = None) -> dict[JobId, Standing]:
        """What slurmsia remembers of these jobs; of every unfinished job by default."""
        with self._reading() as (connection, cluster_id):
            return rounds.standings(connection, cluster_id, job_ids)

    def fits_of(self, job_ids: Sequence[JobId]) -> dict[JobId, tuple[FitRecord, ...]]:
        """The latest fitted models of jobs."""
        with self._reading() as (connection, cluster_id):
            return fits.fits_of(connection, cluster_id, job_ids)

    def signal_handlers(self, job_ids: Sequence[JobId]) -> frozenset[JobId]:
        """Jobs whose present run said that it handles our signal."""
        with self._reading() as (connection, cluster_id):
            return questions.signal_handlers(connection, cluster_id, job_ids)

    def last_reports_s(self, job_ids: Sequence[JobId]) -> dict[JobId, float]:
        """When each job's present run last reported."""
        with self._reading() as (connection, cluster_id):
            return questions.last_reports_s(connection, cluster_id, job_ids)

    def jobs_named(self, job_id: JobId) -> tuple[JobRecord, ...]:
        """Every job that ever had this Slurm id with its runs, newest first."""
        with self._reading() as (connection, cluster_id):
            return questions.jobs_named(connection, cluster_id, job_id)

    def rounds_between(
        self, start_s: float | None = None, end_s: float | None = None, limit: int | None = None
    ) -> tuple[RoundHead, ...]:
        """Rounds taken in [start, end), newest first."""
        with self._reading() as (connection, cluster_id):
            return rounds.heads(connection, cluster_id, start_s, end_s, limit)

    def round(self, round_id: int) -> StoredRound | RoundHead | None:
        """A round with its bodies; its head alone once retention dropped them; ``None`` if there is none."""
        with self._reading() as (connection, cluster_id):
            return rounds.stored_round(connection, cluster_id, round_id)

    def verdicts_of(self, job_id: JobId, limit: int = 100) -> tuple[VerdictSpan, ...]:
        """What was decided about a job and for how long it stood, newest first."""
        with self._reading() as (connection, cluster_id):
            return rounds.verdicts_of(connection, cluster_id, job_id, limit)

    def unfinished_moves(self) -> tuple[MoveRecord, ...]:
        """Moves to take up again after a start, oldest first."""
        with self._reading() as (connection, cluster_id):
            return intents.unfinished(connection, cluster_id)

    def moves_of(self, job_id: JobId) -> tuple[MoveRecord, ...]:
        """All moves of a job, oldest first."""
        with self._reading() as (connection, cluster_id):
            return intents.moves_of(connection, cluster_id, job_id)

    def moves_between(self, start_s: float, end_s: float) -> tuple[MoveRecord, ...]:
        """Moves created in [start, end), oldest first."""
        with self._reading() as (connection, cluster_id):
            return intents.moves_between(connection, cluster_id, start_s, end_s)

    def move_events(self, move_ids: Sequence[str]) -> dict[str, tuple[MoveEvent, ...]]:
        """The transitions of moves, in order."""
        with self._reading() as (connection, _):
            return intents.events_of(connection, move_ids)

    def operator_actions(self, start_s: float, end_s: float) -> tuple[OperatorAction, ...]:
        """Operator actions in [start, end), oldest first."""
        with self._reading() as (connection, _):
            return intents.operator_actions(connection, start_s, end_s)
