"""Mutated output of Slurm through every parser: the short run of tests/fuzz, and Hypothesis' own ideas."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[3]))

from slurmsia.cluster import JobState
from slurmsia.slurm import normalise as n
from slurmsia.slurm import text_form
from tests.fuzz.parsers import fuzz

_EVERYTHING = st.text(st.characters(codec="utf-8"), max_size=60)


def test_no_mutated_line_raises_anything_but_the_named_errors() -> None:
    outcome = fuzz(3000, seed=20261121)
    assert outcome.faults == []
    assert len(outcome.lines) >= 10


@given(_EVERYTHING)
def test_any_text_normalises_to_something(text: str) -> None:
    assert all(gres.count >= 0 for gres in n.parse_gres(text))
    assert len(n.node_set(text)) <= n.LARGEST_NODE_SET
    assert n.memory_mb(text) is None or (n.memory_mb(text) or 0) >= 0


@given(st.integers(1, 3), st.integers(0, 10**9), st.integers(2, 40))
def test_an_endless_range_of_nodes_is_refused_and_not_expanded(first: int, low: int, digits: int) -> None:
    assert n.node_set(f"n[{low}-{'9' * (digits + 10)}]") == ()
    assert n.node_set(f"n[1-99999]x[1-{'9' * first}9999]") == ()


def counted(**values: str) -> str:
    whole = {
        "job_id": "7", "array_job_id": "7", "array_task": "N/A", "user_id": "1001", "job_state": "RUNNING",
        "node_count": "2", "cpus": "4", "tasks": "2", "requeue": "1", "batch_flag": "1", "limit": "1:00:00",
        "federation_siblings_active": "NA", "het_job_id": "N/A",
        "tres_alloc_str": "cpu=4,mem=200M,node=2,gres/gpu=4",
    } | values  # fmt: skip
    return "".join(f"{whole.get(key, '0')[:width]:{width}}{WORD}" for _, width, key in text_form.COUNTED) + "\n"


def written(**values: str) -> str:
    whole = {"job_id": "7", "nodes": "t4-[1-2]", "tres_per_node": "gres:gpu:2", "account": "lab"} | values
    return WORD.join(whole.get(key, "") for _, key in text_form.WRITTEN) + WORD[::-1] + "\n"


WORD = text_form.separator()


@given(_EVERYTHING, _EVERYTHING, _EVERYTHING)
def test_user_text_never_becomes_a_field_or_a_job(name: str, comment: str, folder: str) -> None:
    lines = written(name=name, comment=comment, current_working_directory=folder)
    found, unreadable = text_form.jobs(counted().encode(), lines.encode(), WORD, {"t4-1": "t4", "t4-2": "t4"})
    (job,) = found
    assert unreadable == 0
    assert (job.id, job.user_id, job.state, job.account, job.unmanageable) == ("7", 1001, JobState.RUNNING, "lab", "")
    assert job.comment == ("" if comment in ("(null)", "N/A") else comment)
    assert job.allocation is not None
    assert (job.allocation.gpu_type, job.allocation.gpus_by_node) == ("t4", (("t4-1", 2), ("t4-2", 2)))


def test_the_exit_code_is_read_as_22_05_prints_it_and_as_later_releases_do() -> None:
    for said, code in (("10", 138), ("768", 3), ("0", 0), ("0:10", 138), ("3:0", 3), ("0:0", 0)):
        line = counted(job_state="FAILED", exit_code=said)
        ((job,), _) = text_form.jobs(line.encode(), written().encode(), WORD, {})
        assert job.exit_code == code, said


def test_two_reads_never_share_their_separator() -> None:
    assert len({text_form.separator() for _ in range(100)}) == 100


def test_a_job_that_cannot_be_told_is_left_alone_and_its_gpus_still_count() -> None:
    types: dict[str, str | None] = {"t4-1": "t4", "t4-2": "t4"}
    ((cut,), _) = text_form.jobs(
        counted(tres_per_job="gres:gpu:4," * 40).encode(), written(tres_per_node="").encode(), WORD, types
    )
    assert "cut short" in cut.unmanageable
    assert cut.allocation is not None
    assert cut.allocation.gpus == 4
    ((gone,), _) = text_form.jobs(b"", written().encode(), WORD, types)
    assert gone.unmanageable
    assert gone.allocation is not None
    assert gone.allocation.gpus == 4
    ((new,), _) = text_form.jobs(counted().encode(), b"", WORD, types)
    assert new.unmanageable


def test_whole_nodes_are_read_from_the_column_that_says_so() -> None:
    said = b"362 362 N/A NODE\n363 363 N/A NO\n9 5 0 NODE\nrubbish\n"
    assert text_form.whole_nodes(said) == {"362": True, "363": False, "5_0": True}
