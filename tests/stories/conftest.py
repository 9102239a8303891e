"""Counts the stories that were told and what went wrong in them; prints both at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from .teller import Ending

_told = {"stories": 0, "moves": 0, "violations": 0}


@pytest.fixture
def counted() -> Callable[[Iterable[Ending]], list[Ending]]:
    """Tells stories and adds them to the count."""

    def count(stories: Iterable[Ending]) -> list[Ending]:
        endings = list(stories)
        _told["stories"] += len(endings)
        _told["moves"] += sum(sum(ending.moves.values()) for ending in endings)
        _told["violations"] += sum(len(ending.violations) for ending in endings)
        return endings

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _told["stories"]:
        terminalreporter.section("stories of faults on the emulator")
        terminalreporter.write_line(
            f"in all: {_told['stories']} stories with {_told['moves']} moves, {_told['violations']} violations"
        )
