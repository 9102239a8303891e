"""What systemd hears, on a real notification socket: READY after the first good snapshot, and progress, not timers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_stage import Stage

MakeStage = Callable[..., Stage]


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    path = tmp_path / "notify"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    listener.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "1")

    def take() -> list[str]:
        said: list[str] = []
        while True:
            try:
                said += listener.recv(65536).decode().split("\n")
            except BlockingIOError:
                return said

    return take


def test_ready_comes_with_the_first_good_snapshot_and_not_before(
    stage: MakeStage, heard: Callable[[], list[str]]
) -> None:
    scene = stage()
    scene.emulator.faults.inject("fails", "snapshot", times=1)
    scene.play(30)
    said = heard()
    assert "READY=1" not in said
    assert any(line.startswith("STATUS=Skipped") for line in said)
    scene.play(70)
    said = heard()
    assert said.count("READY=1") == 1
    assert any(line.startswith("STATUS=") and "declared" in line for line in said)


def test_a_reload_says_reloading_and_ready_and_a_bad_file_is_in_the_status(
    stage: MakeStage, heard: Callable[[], list[str]]
) -> None:
    scene = stage()
    scene.play(10)
    heard()
    scene.daemon.file = ["line 1: unknown key"]
    scene.daemon.loop.reload()
    scene.play(70)
    said = heard()
    assert said.index("RELOADING=1") < said.index("READY=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in said)
    assert any(line.startswith("STATUS=") and "the old one stays in force" in line for line in said)


def test_the_watchdog_is_fed_by_the_loop_and_stopping_is_said(stage: MakeStage, heard: Callable[[], list[str]]) -> None:
    scene = stage()
    scene.daemon.loop.wake()
    scene.play(10)
    assert "WATCHDOG=1" not in heard()
    scene.daemon.loop.stop()
    scene.daemon.loop.run()
    assert "STOPPING=1" in heard()


def test_a_standby_is_ready_for_systemd(stage: MakeStage, heard: Callable[[], list[str]]) -> None:
    scene = stage()
    scene.play(10)
    heard()
    second = scene.start()
    second.loop.turn()
    said = heard()
    assert "READY=1" in said
    assert any("standing by" in line for line in said)
