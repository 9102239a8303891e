"""Resident memory must not grow with the threads that a daemon has had."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

_THREADS_ALLOCATE = """
import ctypes, sys, threading
if sys.argv[1] == "kept-whole":
    from slurmsia_daemon.upkeep import keep_heap_whole
    keep_heap_whole()
held, together = [], threading.Barrier(4)
def work():
    together.wait()
    held.append([bytes(3000) for _ in range(200)])
    together.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
library = ctypes.CDLL(None)
library.fopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(library.fopen(sys.argv[2].encode(), b"w"))
library.malloc_info(0, stream)
library.fclose(stream)
"""


def _heaps(how: str, told: Path) -> int:
    subprocess.run([sys.executable, "-c", _THREADS_ALLOCATE, how, str(told)], check=True, timeout=120)
    return told.read_text().count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
def test_all_threads_of_the_daemon_share_one_heap(tmp_path: Path) -> None:
    assert _heaps("kept-whole", tmp_path / "whole.xml") == 1
    assert _heaps("as-it-comes", tmp_path / "plain.xml") > 1, "nothing was measured: threads share a heap anyway"
