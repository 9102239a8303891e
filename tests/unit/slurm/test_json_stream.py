"""Records of a large JSON answer, read one by one: the same as the whole document's, and never much text at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slurmsia.slurm import json_stream
from slurmsia.slurm.json_stream import UnreadableAnswer, records

CORPUS = Path(__file__).parent / "corpus"
ANSWERS = sorted((*CORPUS.glob("*/jobs.json"), *CORPUS.glob("*/nodes.json")))

numbers = st.integers() | st.floats(allow_nan=False) | st.sampled_from([1e300, -1.5e-7, 12345678901234567890])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(st.text(max_size=9).filter(lambda key: key != "jobs"), values, max_size=3)


@pytest.mark.parametrize("file", ANSWERS, ids=lambda file: f"{file.parent.name}-{file.stem}")
@pytest.mark.parametrize("window", [7, 4096, 1 << 20])
def test_captured_answers_give_the_records_of_the_whole_document(file: Path, window: int) -> None:
    raw = file.read_bytes()
    assert list(records(raw, file.stem, window)) == json.loads(raw)[file.stem]


@given(documents, st.lists(values), documents, st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
@example({}, [{"jobs": [1]}, 1.5e-7, {'"jobs": [': "\\", "é": "\ud800"}], {}, 1, None, True)
def test_any_document_gives_the_objects_of_its_list(
    before: dict[str, Any], listed: list[Any], after: dict[str, Any], window: int, indent: int | None, ascii_: bool
) -> None:
    said = json.dumps({**before, "jobs": listed, **after}, indent=indent, ensure_ascii=ascii_)
    raw = said.encode("utf-8", "replace")
    whole = json.loads(raw.decode("utf-8", "replace"))["jobs"]
    assert list(records(raw, "jobs", window)) == [value for value in whole if isinstance(value, dict)]


def test_an_answer_cut_anywhere_is_refused_and_never_a_shorter_queue() -> None:
    raw = json.dumps({"meta": {"a": [1.5e-3]}, "jobs": [{"job_id": 1}, {"job_id": 22}], "errors": []}).encode()
    assert len(list(records(raw, "jobs", 5))) == 2
    for length in range(len(raw)):
        with pytest.raises(UnreadableAnswer):
            list(records(raw[:length], "jobs", 5))


@pytest.mark.parametrize(
    "raw",
    [
        b"slurm_load_jobs error: Unexpected message received",
        b'{"jobs": [{}]} {"jobs": [{}]}',
        b'{"jobs": [{}], "jobs": []}',
        b'{"jobs": {"1": {}}}',
        b'{"jobs": [{}] "meta": 1}',
        b'{"jobs": [{} {}]}',
        b'{1: 2, "jobs": []}',
        b'{"jobs": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b'{"meta": [' + b"9" * 100_000 + b'], "jobs": []}',
    ],
)
def test_what_is_no_answer_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        list(records(raw, "jobs"))


def test_no_call_of_the_parser_ever_sees_much_more_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser holds the interpreter lock for one call: over a queue of 8 MB its text stays below two windows."""
    seen: list[int] = []

    class Watched(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            seen.append(len(s))
            return super().raw_decode(s, idx)

    monkeypatch.setattr(json_stream.json, "JSONDecoder", Watched)
    job = {"job_id": 1, "text": "x" * 4000, "more": list(range(500))}
    raw = json.dumps({"jobs": [job] * 1500}).encode()
    assert count(records(raw, "jobs")) == 1500
    assert max(seen) < 2 * json_stream.WINDOW_BYTES
    assert sum(seen) > len(raw)


def count(found: Iterable[Any]) -> int:
    return sum(1 for _ in found)
