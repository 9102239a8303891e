"""Facts about the GPUs and the host of a job: NVML where there are GPUs, psutil where it is installed.

Absent hardware and absent libraries are simply absent fields. Standard library only by itself, Python 3.8; never
raises, and is called from the reporter's own thread only, because a driver may take its time.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional

#: Where there is a GPU's driver there is one of these; elsewhere NVML is not even looked for.
_DEVICES = ("/dev/nvidiactl", "/dev/dxg")


class Facts:
    """Reads counters; `read` returns what changed since the call before where the counter only grows."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._gpus: List[Any] = []
        self._psutil: Any = None
        self._energy_j: Optional[float] = None
        self._net_bytes: Optional[float] = None
        self._ready = False

    def _prepare(self) -> None:
        self._ready = True
        if any(os.path.exists(path) for path in _DEVICES):
            try:
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
                self._gpus = _visible(pynvml)
            except Exception:  # a driver may fail in any way, and a training job must not notice
                self._gpus = []
        try:
            import psutil

            self._psutil = psutil
        except ImportError:
            self._psutil = None

    def read(self) -> Dict[str, Any]:
        """Fields for a report line: ``energy_j`` and ``net_bytes`` of this node since the last call, ``facts``."""
        if not self._ready:
            self._prepare()
        found: Dict[str, Any] = {}
        facts: Dict[str, float] = {}
        self._read_gpus(found, facts)
        self._read_host(found, facts)
        if facts:
            found["facts"] = facts
        return found

    def _read_gpus(self, found: Dict[str, Any], facts: Dict[str, float]) -> None:
        if not self._gpus:
            return
        nvml, gpus = self._nvml, self._gpus
        powers = _counters(lambda: [nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3 for gpu in gpus])
        if powers:
            facts["gpu_power_w"] = sum(powers)
        infos = _counters(lambda: [nvml.nvmlDeviceGetMemoryInfo(gpu) for gpu in gpus])
        if infos:
            facts["gpu_memory_used"] = float(max(info.used for info in infos))
            facts["gpu_memory_total"] = float(min(info.total for info in infos))
        busy = _counters(lambda: [float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu) for gpu in gpus])
        if busy:
            facts["gpu_busy_percent"] = sum(busy) / len(busy)
        energies = _counters(lambda: [nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3 for gpu in gpus])
        if energies:
            energy_j = sum(energies)
            if self._energy_j is not None and energy_j >= self._energy_j:
                found["energy_j"] = energy_j - self._energy_j
            self._energy_j = energy_j

    def _read_host(self, found: Dict[str, Any], facts: Dict[str, float]) -> None:
        if self._psutil is None:
            return
        try:
            facts["host_cpu_percent"] = float(self._psutil.cpu_percent(None))
            facts["rss_bytes"] = float(self._psutil.Process().memory_info().rss)
            counters = self._psutil.net_io_counters()
            net = float(counters.bytes_sent + counters.bytes_recv)
            if self._net_bytes is not None and net >= self._net_bytes:
                found["net_bytes"] = net - self._net_bytes
            self._net_bytes = net
        except Exception:  # containers may hide what psutil reads
            return


def _counters(read: Callable[[], List[Any]]) -> List[Any]:
    """What all GPUs say; empty when one of them lacks the counter."""
    try:
        return read()
    except Exception:  # boards lack counters, and drivers fail in any way
        return []


def _visible(nvml: Any) -> List[Any]:
    """Handles of the GPUs that this job may use, named by index or by UUID."""
    count = int(nvml.nvmlDeviceGetCount())
    chosen = []
    for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
        if item.isdigit() and int(item) < count:
            chosen.append(nvml.nvmlDeviceGetHandleByIndex(int(item)))
        elif item.startswith("GPU-"):
            chosen.append(nvml.nvmlDeviceGetHandleByUUID(item))
    return chosen or [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
