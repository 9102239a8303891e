"""Prometheus metrics of the daemon. Few, stable names; never a job id or a user name as a label.

One registry of our own, so that tests can make as many daemons as they like.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_WAITS = (10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 4 * 86400.0)


class Metrics:
    """Everything `/v1/metrics` shows."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.rounds = Counter(
            "slurmsia_rounds",
            "Rounds by how they ended: done, skipped, degraded, overrun",
            ["outcome"],
            registry=registry,
        )
        self.phase = Histogram(
            "slurmsia_round_phase_seconds",
            "Time of each phase of a round",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.gap = Gauge("slurmsia_gap", "Proven relative gap of the last round", registry=registry)
        self.moves = Counter("slurmsia_moves", "Moves by kind and outcome", ["kind", "outcome"], registry=registry)
        self.move_seconds = Histogram(
            "slurmsia_move_seconds", "Decision to outcome of a move", ["kind"], buckets=_SECONDS, registry=registry
        )
        self.in_flight = Gauge("slurmsia_moves_in_flight", "Moves not yet at their end", registry=registry)
        self.goodput = Gauge(
            "slurmsia_goodput_ratio",
            "Observed over predicted throughput, running mean",
            ["gpu_type"],
            registry=registry,
        )
        self.gpus = Gauge("slurmsia_gpus", "GPUs by type and use", ["gpu_type", "use"], registry=registry)
        self.verdicts = Gauge("slurmsia_jobs", "Jobs by verdict of the last round", ["verdict"], registry=registry)
        self.rpc = Counter("slurmsia_slurm_calls", "Calls made to Slurm", registry=registry)
        self.reports = Counter("slurmsia_reports", "Job reports by what became of them", ["outcome"], registry=registry)
        self.snapshot_age = Gauge("slurmsia_snapshot_age_seconds", "Age of the last good snapshot", registry=registry)
        self.mode = Gauge("slurmsia_mode", "1 for the mode the daemon is in", ["mode"], registry=registry)
        self.leader = Gauge("slurmsia_leader", "1 when this daemon leads", registry=registry)
        self.waits = Gauge(
            "slurmsia_undeclared_wait_seconds", "Mean wait of undeclared pending GPU jobs", registry=registry
        )
        self.memory = Gauge("slurmsia_resident_bytes", "Resident memory of the daemon", registry=registry)
        self.worker_restarts = Gauge("slurmsia_worker_restarts", "Starts of the pyslurm worker", registry=registry)
        self.start_waits = Histogram(
            "slurmsia_undeclared_start_wait_seconds",
            "How long undeclared GPU jobs had waited when they started",
            buckets=_WAITS,
            registry=registry,
        )
        self.cpu = Gauge("slurmsia_cpu_cores", "CPU used by the daemon since the last round", registry=registry)
        self.children_memory = Gauge(
            "slurmsia_children_resident_bytes", "Resident memory of the daemon's own processes", registry=registry
        )
        self.reports_held = Gauge("slurmsia_reports_held", "Reports read and not yet stored", registry=registry)
        self.pruned = Gauge("slurmsia_store_rows_pruned", "Old rows removed since the start", registry=registry)
        self.mishaps = Counter(
            "slurmsia_internal_errors", "Mistakes of slurmsia's own that were survived", ["where"], registry=registry
        )
        self._rpc_seen = 0

    def calls_made(self, total: int) -> None:
        """Calls to Slurm so far, as the client counts them."""
        if total > self._rpc_seen:
            self.rpc.inc(total - self._rpc_seen)
        self._rpc_seen = total

    def set_mode(self, mode: str) -> None:
        for name in ("observe", "enforce", "paused", "standby"):
            self.mode.labels(name).set(1.0 if name == mode else 0.0)

    def set_gpus(self, table: Mapping[str, Mapping[str, int]]) -> None:
        """GPUs by type and use (total, managed, other, down)."""
        for gpu_type, uses in table.items():
            for use, count in uses.items():
                self.gpus.labels(gpu_type, use).set(count)

    def set_goodput(self, ratios: Mapping[str, float]) -> None:
        """Observed over predicted throughput by GPU type."""
        for gpu_type, ratio in ratios.items():
            self.goodput.labels(gpu_type).set(ratio)

    def set_verdicts(self, counts: Mapping[str, int]) -> None:
        self.verdicts.clear()
        for code, count in counts.items():
            self.verdicts.labels(code).set(count)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
