"""`Reporter`: tells the daemon how fast a job runs and hears from it when to stop. Standard library, Python 3.8.

Calls in the training loop only add numbers under a lock; one thread of its own writes, reads directives and may be
slow. It must never raise into a training loop, never block it, and never grow: without a daemon, without a spool and
with a full disk a job goes on just the same.
"""

from __future__ import annotations

import os
import signal as signals
import sys
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from . import environment, proof
from .directive import CHECKPOINT, Directive, DirectiveReader
from .facts import Facts
from .names import spool_dir
from .report_file import ReportFile

_MAX_SETTINGS = 64
_MAX_EVENTS = 32

#: Not empty once a reporter has begun in this process.
_began: List[bool] = []


def _first_seconds() -> float:
    """Seconds since this process began, which every restart costs again; 0 for all reporters but its first."""
    began_s = None if _began else environment.process_age_s()
    _began.append(True)
    return began_s or 0.0


class Reporter:
    """Reports steps and progress of one job; use as a context manager, or call `start` and `close`.

    ``samples_done``: samples trained before this run (what the checkpoint says); ``target``: samples wanted in all;
    ``signal``: the signal that asks for a checkpoint ("USR1"; None = handle none); ``gpus``: GPUs in all, default
    from Slurm's environment (ranks of torchrun or MPI where Slurm knows no GPUs). Only rank 0 writes. All methods are
    safe to call from any thread and outside of Slurm.
    """

    def __init__(
        self,
        *,
        samples_done: float = 0.0,
        target: Optional[float] = None,
        signal: Optional[str] = "USR1",
        rank: Optional[int] = None,
        gpus: Optional[int] = None,
        spool: Optional[str] = None,
        period_s: float = 30.0,
        look_s: float = 10.0,
        source: str = "",
    ) -> None:
        self.rank = environment.rank() if rank is None else rank
        self.job_id = environment.job_id()
        self.restart = environment.restart_count()
        self._nodes = environment.nodes()
        held = self._nodes * environment.gpus_per_node()
        self._gpus = gpus or held or int(os.environ.get("WORLD_SIZE", "1") or 1)
        self._held_gpus = held
        self._target = target
        self._samples = float(samples_done)
        self._saved: Optional[Tuple[float, float]] = None
        self._period_s = period_s
        self._look_s = look_s
        self._source = source
        self._signal_name = signal
        self._previous_handler: Any = None
        self._handles = False
        spool = spool or spool_dir()
        self._file = ReportFile(spool, self.job_id, self.restart) if self.job_id and self.rank == 0 else None
        self._directives = DirectiveReader(spool, self.job_id) if self.job_id and self.rank == 0 else None
        self._facts = Facts()
        self._lock = threading.Lock()
        self._io = threading.Lock()
        self._wake = threading.Event()
        self._written = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._closing = False
        self._active = False
        self._warned = False
        self._last: Optional[float] = None
        self._begun = time.perf_counter()
        self._begin_s = 0.0
        self._first_step_s: Optional[float] = None
        self._sums: Dict[Tuple[float, int], List[float]] = {}
        self._gradient: Optional[Dict[str, float]] = None
        self._memory: Optional[Dict[str, float]] = None
        self._ckpt: Dict[str, float] = {}
        self._events: Deque[Tuple[str, Dict[str, Any]]] = deque(maxlen=_MAX_EVENTS)
        self._directive: Optional[Directive] = None
        self._answered_seq = -1
        self._signalled = False
        _reporters.add(self)

    def start(self) -> Reporter:
        """Begins: handles the signal (main thread only), starts the writing thread, reports ``start``."""
        if self._active:
            return self
        self._active = True
        self._closing = False
        self._begun = time.perf_counter()
        self._begin_s = _first_seconds()
        self._handle_signal()
        if self._file is not None:
            handles = {"handles": self._signal_name} if self._handles else {}
            self._event("start", {**handles, **proof.claimed()})
            self._thread = threading.Thread(target=self._run, name="slurmsia-reporter", daemon=True)
            self._thread.start()
        return self

    def close(self, wait_s: float = 2.0) -> None:
        """Reports ``end``, waits at most ``wait_s`` for it to be written, and gives the signal back."""
        if not self._active:
            return
        if self._file is not None:
            self._event("end", {})
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(wait_s)
        self._active = False
        self._release_signal()

    def __enter__(self) -> Reporter:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(
        self,
        local: Optional[float] = None,
        samples: Optional[float] = None,
        sync: float = 0.0,
        accum: int = 0,
        seconds: Optional[float] = None,
    ) -> None:
        """One optimiser step is done.

        ``local``: samples per GPU and micro-batch; ``samples``: samples of the step over all GPUs; either follows
        from the other. ``accum``: extra micro-batches; ``sync``: seconds spent waiting for other GPUs; ``seconds``:
        the step's time, default: since the step before. At most a few microseconds.
        """
        now = time.perf_counter()
        if not self._active:
            return
        micro = self._gpus * (accum + 1)
        if samples is None:
            samples = (local or 0.0) * micro
        if local is None:
            local = samples / micro
        with self._lock:
            last, self._last = self._last, now
            self._samples += samples
            if self._first_step_s is None:
                training_s = max(now - self._begun - self._ckpt.get("load_s", 0.0), 0.0)
                self._first_step_s = self._begin_s + training_s
                self._ckpt["first_step_s"] = round(self._first_step_s, 3)
            if seconds is None:
                if last is None:
                    return
                seconds = now - last
            if seconds <= 0 or local <= 0:
                return
            sums = self._sums.get((local, accum))
            if sums is None:
                if len(self._sums) >= _MAX_SETTINGS:
                    return
                sums = self._sums[(local, accum)] = [0.0, 0.0, 0.0, 0.0]
            sums[0] += 1.0
            sums[1] += seconds
            sums[2] += seconds * seconds
            sums[3] += min(max(sync, 0.0), seconds)

    def add(self, samples: float, seconds: float, steps: int = 1) -> None:
        """Work measured elsewhere: ``steps`` equal steps that took ``seconds`` together and did ``samples``."""
        if not self._active or samples <= 0 or seconds <= 0 or steps < 1:
            return
        with self._lock:
            self._samples += samples
            key = (samples / steps / self._gpus, 0)
            if key in self._sums or len(self._sums) < _MAX_SETTINGS:
                sums = self._sums.setdefault(key, [0.0, 0.0, 0.0, 0.0])
                sums[0] += steps
                sums[1] += seconds
                sums[2] += seconds * seconds / steps

    def pause(self) -> None:
        """The time until the next step is no training time (evaluation, checkpoint)."""
        self._last = None

    def progress(self, samples: float, target: Optional[float] = None) -> None:
        """Samples done in all, for jobs that count by themselves."""
        with self._lock:
            self._samples = float(samples)
            self._target = self._target if target is None else target

    def gradient(self, square: float, variance: float, scale: float) -> None:
        """Gradient moments at M0, measured at total batch ``scale`` * M0."""
        with self._lock:
            self._gradient = {"sqr": square, "var": variance, "scale": scale}

    def memory(self, peak_bytes: float, total_bytes: float, local: float) -> None:
        """Peak GPU memory at a local batch."""
        with self._lock:
            self._memory = {"peak": peak_bytes, "total": total_bytes, "local": local}

    def restored(self, samples: float, seconds: float) -> None:
        """A checkpoint with that many samples done was loaded in so many seconds."""
        with self._lock:
            self._samples = float(samples)
            self._ckpt["load_s"] = round(seconds, 3)

    def checkpointed(self, seconds: float, samples: Optional[float] = None, wait_s: float = 2.0) -> None:
        """A whole checkpoint is on disk; ``seconds``: what saving took. Waits at most ``wait_s`` until it is told."""
        with self._lock:
            saved = self._samples if samples is None else float(samples)
            self._saved = (saved, time.time())
            self._ckpt["save_s"] = round(seconds, 3)
        self.pause()
        if self._file is not None and self._active:
            self._written.clear()
            self._event("checkpointed", {})
            self._written.wait(wait_s)

    @property
    def samples(self) -> float:
        """Samples done in all."""
        return self._samples

    @property
    def directive(self) -> Optional[Directive]:
        """What the daemon said last, or None."""
        return self._directive

    @property
    def checkpoint_wanted(self) -> bool:
        """Whether this rank was asked for a checkpoint, by signal or directive. Ranks agree through `stop_now`."""
        directive = self._directive
        asked = directive is not None and directive.action == CHECKPOINT and directive.seq > self._answered_seq
        return self._signalled or asked

    def stop_now(self, share: Optional[Callable[[int], int]] = None) -> bool:
        """Whether all ranks are to checkpoint after this step. Call it at the same step on every rank.

        ``share``: takes rank 0's number and returns it on every rank (``lambda n: comm.bcast(n, 0)``); None for jobs
        of one process. Only rank 0's word counts, so all ranks stop at the same step.
        """
        wanted = int(self.checkpoint_wanted)
        return bool(wanted if share is None else share(wanted))

    def wait_for_requeue(self, limit_s: float = 300.0) -> bool:
        """After the checkpoint: waits for Slurm to end this run. Returns False when the job is to go on instead.

        That is when the daemon withdrew its wish, or when nothing came for ``limit_s`` after the deadline. Exits
        with the directive's exit code when it names one.
        """
        wish = self._directive
        if wish is not None and wish.exit_code is not None:
            self.close()
            sys.exit(wish.exit_code)
        until = time.monotonic() + limit_s
        if wish is not None and wish.deadline_s is not None:
            until += min(max(wish.deadline_s - time.time(), 0.0), 86_400.0)
        while time.monotonic() < until:
            time.sleep(min(0.5, self._look_s))
            self._look()
            now = self._directive
            if now is not None and now.action != CHECKPOINT and (wish is None or now.seq > wish.seq):
                break
        self.go_on()
        return False

    def go_on(self) -> None:
        """The wish for a checkpoint has been answered and the job goes on."""
        self._signalled = False
        if self._directive is not None:
            self._answered_seq = self._directive.seq
        self.pause()

    def _event(self, name: str, more: Dict[str, Any]) -> None:
        self._events.append((name, dict(more, t=time.time())))
        self._wake.set()

    def _handle_signal(self) -> None:
        if self._signal_name is None or self.job_id is None:
            return
        number = getattr(signals, "SIG" + self._signal_name.upper().replace("SIG", "", 1), None)
        if number is None or threading.current_thread() is not threading.main_thread():
            return
        self._previous_handler = signals.signal(number, self._on_signal)
        self._handles = True

    def _release_signal(self) -> None:
        if not self._handles or threading.current_thread() is not threading.main_thread():
            return
        number = getattr(signals, "SIG" + str(self._signal_name).upper().replace("SIG", "", 1))
        # A handler that came from outside of Python reads as None; ours stays then, it only sets a mark. The default
        # action would end a job that has just finished when the daemon's signal is already on its way.
        if signals.getsignal(number) == self._on_signal and self._previous_handler is not None:
            default = self._previous_handler == signals.SIG_DFL
            signals.signal(number, signals.SIG_IGN if default else self._previous_handler)
        self._handles = False

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signalled = True
        if callable(self._previous_handler):
            self._previous_handler(number, frame)

    def _run(self) -> None:
        looked = written = time.monotonic() - self._period_s
        written += self._period_s
        while True:
            closing = self._closing  # looked at first: what was reported before closing is written below
            now = time.monotonic()
            if now - looked >= self._look_s:
                self._look()
                looked = now
            due = now - written >= self._period_s
            if self._events or due:
                self._write_all(due)
                if due:
                    written = now
            if closing:
                return
            self._wake.wait(max(min(self._look_s, self._period_s, 1.0), 0.01))
            self._wake.clear()

    def _look(self) -> None:
        if self._directives is not None:
            self._directive = self._directives.read()

    def _write_all(self, due: bool) -> None:
        with self._io:
            while self._events:
                name, more = self._events[0]
                if not self._write(name, more):
                    self._written.set()
                    return
                self._events.popleft()
            self._written.set()
            if due and (self._sums or self._source):
                self._write("progress", {"t": time.time()})

    def _write(self, event: str, more: Dict[str, Any]) -> bool:
        assert self._file is not None
        with self._lock:
            sums, self._sums = self._sums, {}
            gradient, memory, ckpt = self._gradient, self._memory, self._ckpt
            self._gradient, self._memory, self._ckpt = None, None, {}
            samples, target, saved = self._samples, self._target, self._saved
        record: Dict[str, Any] = dict(more, ev=event, progress={"samples": samples})
        if target is not None:
            record["progress"]["target"] = target
        if saved is not None:
            record["progress"].update(saved=saved[0], saved_t=saved[1])
        if self._held_gpus:
            record["alloc"] = {"nodes": self._nodes, "gpus": self._held_gpus}
        if self._source:
            record["src"] = self._source
        if sums:
            record["steps"] = [
                {"local": key[0], "accum": key[1], "n": n, "step": step, "step2": step2, "sync": sync}
                for key, (n, step, step2, sync) in sums.items()
            ]
        for name, part in (("grad", gradient), ("mem", memory), ("ckpt", ckpt)):
            if part:
                record[name] = part
        if event == "progress":
            record.update(self._facts.read())
        if self._file.append(record):
            return True
        self._put_back(sums, gradient, memory, ckpt)
        self._warn(self._file.problem)
        return False

    def _put_back(
        self,
        sums: Dict[Tuple[float, int], List[float]],
        gradient: Optional[Dict[str, float]],
        memory: Optional[Dict[str, float]],
        ckpt: Dict[str, float],
    ) -> None:
        """Statistics of a line that could not be written are part of the next one."""
        with self._lock:
            newer, self._sums = self._sums, sums
            for key, values in newer.items():
                mine = self._sums.get(key)
                if mine is not None:
                    for index, value in enumerate(values):
                        mine[index] += value
                elif len(self._sums) < _MAX_SETTINGS:
                    self._sums[key] = values
            self._gradient = self._gradient or gradient
            self._memory = self._memory or memory
            self._ckpt = dict(ckpt, **self._ckpt)

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            sys.stderr.write(f"slurmsia: {problem}; the job goes on unreported until it can\n")

    def _after_fork_in_child(self) -> None:
        """A forked child (a data-loading worker) reports nothing; its copy of a lock may be held for ever."""
        self._active = False
        self._file = None
        self._directives = None
        self._thread = None
        self._lock = threading.Lock()


_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for reporter in list(_reporters):
        reporter._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
