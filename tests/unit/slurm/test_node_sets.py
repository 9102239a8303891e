"""Node set expressions: what Slurm writes is expanded, what would expand to millions of names is not even begun."""

from __future__ import annotations

import pytest

from slurmsia.slurm import normalise as n


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("rtx-1", ("rtx-1",)),
        ("t4-[2-3],rtx-2", ("rtx-2", "t4-2", "t4-3")),
        ("n[008-011,3]", ("n008", "n009", "n010", "n011", "n3")),
        ("(null)", ()),
        ("n[1-", ()),
    ],
)
def test_what_slurm_writes_is_expanded(text: str, names: tuple[str, ...]) -> None:
    assert n.node_set(text) == names


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["n[0-9999-19999999]", "R[0-99999-1999999]x", "n[1-9[99999999]", "n[0-999]x[0-999]"])
def test_an_expression_of_too_many_names_is_refused_before_it_is_expanded(text: str) -> None:
    """The first was found by the fuzzer: ClusterShell worked on it for 22 s."""
    assert n.node_set(text) == ()


def test_the_largest_set_is_expanded() -> None:
    assert len(n.node_set(f"n[1-{n.LARGEST_NODE_SET}]")) == n.LARGEST_NODE_SET
