"""GPU facts come through the real nvidia-ml-py: absent without a driver, read where a driver library answers.

The driver library of the last test is a small C file that answers like one; no GPU is involved.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slurmsia.job import facts

pytest.importorskip("pynvml")

DRIVER = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } rates_t;
static unsigned long long asked = 0;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 4; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetHandleByUUID(const char *name, void **device) { *device = (void *)3L; return strcmp(name, "GPU-c"); }
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) { *mw = 100000 * (unsigned)(long)device; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory_t *m) { m->total = 80; m->used = 10 * (long)device; return 0; }
int nvmlDeviceGetUtilizationRates(void *device, rates_t *r) { return 3; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) { *mj = 5000 * ++asked; return 0; }
"""
READ_TWICE = """
import json
from slurmsia.job import facts
facts._DEVICES = ("/",)
reader = facts.Facts()
reader.read()
print(json.dumps(reader.read()))
"""


def read_twice(visible: str, library: Path | None = None) -> dict[str, Any]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    if library is not None:
        env["LD_LIBRARY_PATH"] = str(library.parent)
    done = subprocess.run([sys.executable, "-c", READ_TWICE], env=env, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def gpu_fields(found: dict[str, Any]) -> dict[str, float]:
    own = {name: value for name, value in found.get("facts", {}).items() if name.startswith("gpu_")}
    return {**own, **({"energy_j": found["energy_j"]} if "energy_j" in found else {})}


def test_without_a_gpu_no_gpu_field_is_there_and_the_host_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_DEVICES", ("/dev/no-such-device",))
    found = facts.Facts().read()
    assert gpu_fields(found) == {}
    assert found["facts"]["rss_bytes"] > 0


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a driver")
def test_a_device_without_a_driver_library_means_no_gpu_fields() -> None:
    assert gpu_fields(read_twice("0")) == {}


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_counters_of_the_jobs_own_gpus_are_read_and_a_missing_one_is_left_out(tmp_path: Path) -> None:
    source, library = tmp_path / "driver.c", tmp_path / "libnvidia-ml.so.1"
    source.write_text(DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    both = gpu_fields(read_twice("0,1", library))
    # two GPUs, four reads: 5 and 10 J, then 15 and 20 J
    assert both == {"gpu_power_w": 300.0, "gpu_memory_used": 20.0, "gpu_memory_total": 80.0, "energy_j": 20.0}
    by_name = gpu_fields(read_twice("GPU-c", library))
    assert by_name["gpu_power_w"] == 300.0
    assert gpu_fields(read_twice("", library))["gpu_power_w"] == 1000.0
