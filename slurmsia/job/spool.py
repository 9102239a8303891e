"""The daemon's side of the spool: reads what jobs report, writes directives, clears away what is left behind.

Anybody may write into ``reports/``. Nothing there may make the daemon read another file, block, grow or crash: names
are known beforehand, opens never follow links or wait, every read is bounded, and only a file's owner speaks for him.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

from ..cluster import Allocation, JobId
from ..history import Report
from .names import REPORTS, ROTATED, report_name
from .report_line import BadLine, parse_line
from .spool_cleanup import Sweeper

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class SpoolLimits(Protocol):
    """What one user may put into the spool; the policy file's ``[jobs]`` section is one."""

    @property
    def max_line_bytes(self) -> int: ...
    @property
    def max_file_mb(self) -> float: ...
    @property
    def max_lines_per_poll(self) -> int: ...
    @property
    def max_user_kb_per_poll(self) -> float: ...
    @property
    def max_poll_s(self) -> float: ...
    @property
    def max_files_per_user(self) -> int: ...
    @property
    def linger_s(self) -> float: ...
    @property
    def keep_after_end_s(self) -> float: ...
    @property
    def stray_age_s(self) -> float: ...
    @property
    def cleanup_entries_per_poll(self) -> int: ...


class Expected(NamedTuple):
    """What Slurm says of a run: its user, and what it holds (``None`` when Slurm does not say)."""

    uid: int
    allocation: Allocation | None


@dataclass(frozen=True, slots=True)
class SpoolCounters:
    """What one poll did. ``deferred`` files wait for the next poll because a limit was reached."""

    files_read: int = 0
    bytes_read: int = 0
    lines_accepted: int = 0
    lines_dropped: int = 0
    files_refused: int = 0
    deferred: int = 0
    files_removed: int = 0
    poll_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SpoolBatch:
    """One poll: reports in order of job, restart and seq, and by job the sentences about what is wrong with its file.

    A job's problems are repeated at every poll until its run is forgotten. ``folder_problem`` is empty or says why
    the whole spool cannot be read, or who fills it.
    """

    reports: tuple[Report, ...] = ()
    problems: Mapping[JobId, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    counters: SpoolCounters = SpoolCounters()
    folder_problem: str = ""


@dataclass(slots=True)
class _Tail:
    """How far one run's file has been read. ``inode`` 0 = never opened; ``skipping``: inside an overlong line."""

    job_id: JobId
    restart: int
    expected: Expected
    offset: int = 0
    inode: int = 0
    last_seq: int = -1
    skipping: bool = False
    gone_since_s: float | None = None
    kinds: Counter[str] = field(default_factory=Counter)
    latest: dict[str, str] = field(default_factory=dict)

    def note(self, kind: str, sentence: str) -> None:
        self.kinds[kind] += 1
        self.latest[kind] = sentence

    @property
    def name(self) -> str:
        return report_name(self.job_id, self.restart, self.expected.uid)

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(
            self.latest[kind] if count == 1 else f"{self.latest[kind]} ({count} times)"
            for kind, count in sorted(self.kinds.items())
        )


class _Refused(Exception):
    """A file that is not read; ``imposter``: it stands where the job's own file should be."""

    def __init__(self, kind: str, sentence: str, imposter: bool = False) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence
        self.imposter = imposter


class SpoolReader:
    """Tails the report files of the runs it is told of. One instance per daemon; not thread-safe.

    ``path`` is the spool folder (its ``reports/`` is read); ``marks`` continues where an earlier reader's `marks`
    ended. Without marks files are read from their start; the store drops what it has already seen by seq.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        limits: SpoolLimits,
        *,
        marks: Mapping[str, tuple[int, int, int]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = os.path.join(os.fspath(path), REPORTS)
        self._limits = limits
        self._clock = clock
        self._marks = dict(marks or {})
        self._tails: dict[tuple[JobId, int], _Tail] = {}
        self._turn = 0
        self._sweeper = Sweeper(self._folder, limits)

    def marks(self) -> dict[str, tuple[int, int, int]]:
        """File name -> (inode, offset, last seq), for the next reader."""
        return {tail.name: (tail.inode, tail.offset, tail.last_seq) for tail in self._tails.values() if tail.inode}

    def poll(self, known: Mapping[tuple[JobId, int], tuple[int, Allocation | None]]) -> SpoolBatch:
        """Reads what is new of the known runs; also of runs known before, until ``linger_s`` after they vanished.

        ``known``: (job id, restart) -> (user id, allocation) as Slurm says. Never raises for anything a user did; a
        spool that cannot be opened is ``folder_problem``.
        """
        started = time.monotonic()
        now_s = self._clock()
        self._follow(known, now_s)
        tally: Counter[str] = Counter()
        reports: list[Report] = []
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            why = f"the report folder {self._folder} cannot be opened: {error.strerror}; jobs go on unreported"
            return SpoolBatch(folder_problem=why, problems=self._problems())
        try:
            spent_by_user: Counter[int] = Counter()
            for tail in self._in_turn():
                budget = int(self._limits.max_user_kb_per_poll * 1000) - spent_by_user[tail.expected.uid]
                if budget <= 0 or time.monotonic() - started > self._limits.max_poll_s:
                    tally["deferred"] += 1
                    continue
                used, found = self._read(folder, tail, budget, now_s, tally)
                spent_by_user[tail.expected.uid] += used
                reports += found
            self._forget(folder, now_s, tally)
        finally:
            os.close(folder)
        reports.sort(key=lambda report: (report.job_id, report.restart, report.seq))
        counters = replace(SpoolCounters(**tally), poll_s=time.monotonic() - started)
        batch = SpoolBatch(tuple(reports), self._problems(), counters, self._crowd())
        names = {tail.name for tail in self._tails.values()}
        self._sweeper.begin(names | {name + ROTATED for name in names}, now_s)
        return batch

    def finish_cleanup(self) -> tuple[int, int]:
        """Waits for the clean-up that the last poll began; entries looked at and files removed by all so far."""
        self._sweeper.wait()
        return self._sweeper.looked_at, self._sweeper.removed

    def _problems(self) -> Mapping[JobId, tuple[str, ...]]:
        found: dict[JobId, tuple[str, ...]] = {}
        crowds = self._sweeper.crowds
        for tail in self._tails.values():
            crowd = crowds.get(tail.expected.uid)
            if tail.kinds or crowd is not None:
                named = () if crowd is None else (self._crowd_sentence(tail.expected.uid, crowd),)
                told = found.get(tail.job_id, ())
                found[tail.job_id] = told + tail.problems + tuple(one for one in named if one not in told)
        return found

    def _crowd(self) -> str:
        return "; ".join(self._crowd_sentence(uid, count) for uid, count in sorted(self._sweeper.crowds.items())[:5])

    def _crowd_sentence(self, uid: int, count: int) -> str:
        return (
            f"user id {uid} left {count} files of no running job in {self._folder}, more than "
            f"{self._limits.max_files_per_user}; they are being removed"
        )

    def _follow(self, known: Mapping[tuple[JobId, int], tuple[int, Allocation | None]], now_s: float) -> None:
        for key, (uid, allocation) in known.items():
            tail = self._tails.get(key)
            expected = Expected(uid, allocation)
            if tail is None or tail.expected.uid != uid:
                tail = _Tail(key[0], key[1], expected)
                tail.inode, tail.offset, tail.last_seq = self._marks.pop(tail.name, (0, 0, -1))
                self._tails[key] = tail
            tail.gone_since_s = None
            if allocation is not None:
                tail.expected = expected
        for key, tail in self._tails.items():
            if key not in known and tail.gone_since_s is None:
                tail.gone_since_s = now_s

    def _in_turn(self) -> list[_Tail]:
        """All tails, beginning with another one at every poll so that no user's flood starves the rest."""
        tails = list(self._tails.values())
        if not tails:
            return tails
        self._turn = (self._turn + max(1, len(tails) // 7)) % len(tails)
        return tails[self._turn :] + tails[: self._turn]

    def _forget(self, folder: int, now_s: float, tally: Counter[str]) -> None:
        """Removes files of runs that are long over; later polls sweep whatever could not be removed here."""
        for key, tail in list(self._tails.items()):
            if tail.gone_since_s is None or now_s - tail.gone_since_s < self._limits.keep_after_end_s:
                continue
            del self._tails[key]
            for name in (tail.name, tail.name + ROTATED):
                tally["files_removed"] += remove(folder, name)

    def _read(
        self, folder: int, tail: _Tail, budget: int, now_s: float, tally: Counter[str]
    ) -> tuple[int, list[Report]]:
        if tail.gone_since_s is not None and now_s - tail.gone_since_s > self._limits.linger_s:
            return 0, []
        try:
            handle, status = self._open(folder, tail.name, tail.expected.uid)
        except FileNotFoundError:
            return 0, []
        except _Refused as refusal:
            tally["files_refused"] += 1
            tail.note(refusal.kind, refusal.sentence)
            if refusal.imposter:
                tally["files_removed"] += remove(folder, tail.name)
            return 0, []
        except OSError as error:
            tally["files_refused"] += 1
            tail.note("open", f"report file {tail.name} cannot be opened: {error.strerror}")
            return 0, []
        try:
            used = 0
            reports: list[Report] = []
            if tail.inode not in (0, status.st_ino):
                used, reports = self._rest_of_rotated(folder, tail, budget, now_s, tally)
                tail.offset, tail.skipping = 0, False
            tail.inode = status.st_ino
            more, found = self._read_open(handle, status.st_size, tail, budget - used, now_s, tally)
            return used + more, reports + found
        except OSError as error:
            tail.note("read", f"report file {tail.name} cannot be read: {error.strerror}")
            return 0, []
        finally:
            os.close(handle)

    def _rest_of_rotated(
        self, folder: int, tail: _Tail, budget: int, now_s: float, tally: Counter[str]
    ) -> tuple[int, list[Report]]:
        """What was not yet read of a file that its writer has renamed since."""
        try:
            handle, status = self._open(folder, tail.name + ROTATED, tail.expected.uid)
        except (OSError, _Refused):
            return 0, []
        try:
            if status.st_ino != tail.inode:
                return 0, []
            return self._read_open(handle, status.st_size, tail, budget, now_s, tally)
        finally:
            os.close(handle)

    def _open(self, folder: int, name: str, uid: int) -> tuple[int, os.stat_result]:
        """Opens a regular file of that owner. The check before keeps devices unopened, the one after decides."""
        self._check(name, os.stat(name, dir_fd=folder, follow_symlinks=False), uid)
        try:
            handle = os.open(name, _OPEN_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _Refused("link", f"report file {name} is a link; it is not read", imposter=True) from None
            raise
        try:
            status = os.fstat(handle)
            self._check(name, status, uid)
        except BaseException:
            os.close(handle)
            raise
        return handle, status

    def _check(self, name: str, status: os.stat_result, uid: int) -> None:
        if not stat.S_ISREG(status.st_mode):
            what = {
                stat.S_IFLNK: "a link",
                stat.S_IFIFO: "a FIFO",
                stat.S_IFSOCK: "a socket",
                stat.S_IFDIR: "a folder",
            }.get(stat.S_IFMT(status.st_mode), "a device")
            raise _Refused("type", f"report file {name} is {what}, not a plain file; it is not read", imposter=True)
        if status.st_uid != uid:
            raise _Refused(
                "owner",
                f"report file {name} belongs to user id {status.st_uid} but its job to user id {uid}; it is not read",
                imposter=True,
            )
        if status.st_size > self._limits.max_file_mb * 1e6:
            raise _Refused(
                "size",
                f"report file {name} has {status.st_size / 1e6:.0f} MB, more than {self._limits.max_file_mb:g} MB; "
                "it is not read",
            )

    def _read_open(
        self, handle: int, size: int, tail: _Tail, budget: int, now_s: float, tally: Counter[str]
    ) -> tuple[int, list[Report]]:
        if size < tail.offset:
            tail.note("cut", f"report file {tail.name} became shorter; it is read from its start")
            tail.offset, tail.skipping = 0, False
        longest = self._limits.max_line_bytes
        want = min(size - tail.offset, budget, max(longest + 1, self._limits.max_lines_per_poll * 1024))
        if want <= 0:
            return 0, []
        data = os.pread(handle, want, tail.offset)
        tally["files_read"] += 1
        tally["bytes_read"] += len(data)
        reports: list[Report] = []
        at = lines = 0
        while lines < self._limits.max_lines_per_poll:
            end = data.find(b"\n", at)
            if end < 0:
                if len(data) - at > longest:
                    if not tail.skipping:
                        self._drop(tail, "length", f"a line is longer than {longest} bytes", tally)
                    tail.skipping = True
                    at = len(data)
                break
            line, at = data[at:end], end + 1
            lines += 1
            if tail.skipping:
                tail.skipping = False
            elif len(line) > longest:
                self._drop(tail, "length", f"a line is longer than {longest} bytes", tally)
            elif line.strip():
                report = self._parse(line, tail, now_s, tally)
                if report is not None:
                    reports.append(report)
        tail.offset += at
        return len(data), reports

    def _parse(self, line: bytes, tail: _Tail, now_s: float, tally: Counter[str]) -> Report | None:
        try:
            report = parse_line(line, tail.job_id, tail.restart, tail.expected.allocation, tail.last_seq, now_s)
        except BadLine as bad:
            self._drop(tail, bad.kind, bad.sentence, tally)
            return None
        tail.last_seq = report.seq
        tally["lines_accepted"] += 1
        return report

    def _drop(self, tail: _Tail, kind: str, sentence: str, tally: Counter[str]) -> None:
        tally["lines_dropped"] += 1
        tail.note(kind, f"report line dropped: {sentence}")


def remove(folder: int, name: str) -> int:
    """Unlinks a name inside the folder (never what it points to); 1 when it is gone by this call, else 0."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return 0
    return 1
