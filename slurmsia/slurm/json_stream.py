"""Reads the records of a large JSON document one after another.

``json.loads`` of a whole queue (2,000 jobs are 13 MB) holds the interpreter lock for a fifth of a second, and every
thread of the daemon with it. Here the parser never sees more than one record and a window of text at a time, so other
threads run between records, and the parsed queue never lies in memory as a whole. Pure functions.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]

#: Bytes of the document that are decoded at a time; a value longer than that doubles its window.
WINDOW_BYTES = 1 << 16
#: A number that ends this close to the end of the text may be cut in two (``1.5e-`` leaves two characters behind).
_CUT_CHARS = 4
_SPACE = " \t\n\r"


class UnreadableAnswer(ValueError):
    """An answer that is no JSON document of the expected kind."""


def records(raw: bytes, key: str, window_bytes: int = WINDOW_BYTES) -> Iterator[Record]:
    """The objects in the list under ``key`` of the document's outermost object, in their order.

    What in that list is no object is left out. Raises `UnreadableAnswer`, at the latest after the last record, when the
    document is cut short, is no JSON, or has no such list: what came before must not be used then. Bytes that are not
    UTF-8 become U+FFFD.
    """
    text = _Text(raw, window_bytes)
    text.expect("{")
    found = False
    separator = "}" if text.peek() == "}" else ","
    if separator == "}":
        text.expect("}")
    while separator == ",":
        name = text.value()
        if not isinstance(name, str):
            raise UnreadableAnswer(f"not JSON: a key is {type(name).__name__}")
        text.expect(":")
        if name == key:
            if found or text.peek() != "[":
                raise UnreadableAnswer(f"a document without one list of {key}")
            found = True
            yield from _objects(text)
        else:
            text.value()
        separator = text.expect(",}")
    if text.peek():
        raise UnreadableAnswer("not JSON: text after the document's end")
    if not found:
        raise UnreadableAnswer(f"a document without a list of {key}")


def _objects(text: _Text) -> Iterator[Record]:
    text.expect("[")
    if text.peek() == "]":
        text.expect("]")
        return
    separator = ","
    while separator == ",":
        value = text.value()
        if isinstance(value, dict):
            yield value
        separator = text.expect(",]")


class _Text:
    """The document as text, decoded window by window; what was read is dropped."""

    def __init__(self, raw: bytes, window_bytes: int) -> None:
        self._raw = memoryview(raw)
        self._next = 0
        self._window = window_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0

    @property
    def _complete(self) -> bool:
        return self._next >= len(self._raw)

    def _grow(self) -> None:
        """Drop what was read and decode at least as much again as is left."""
        left = self._text[self._at :]
        size = max(self._window, len(left))
        piece = self._raw[self._next : self._next + size]
        self._next += len(piece)
        self._text = left + self._utf8.decode(piece, final=self._complete)
        self._at = 0

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._complete:
                return ""
            self._grow()

    def expect(self, characters: str) -> str:
        """Read one of these characters."""
        found = self.peek()
        if not found or found not in characters:
            raise UnreadableAnswer(f"not JSON: {found!r} where one of {characters!r} should be")
        self._at += 1
        return found

    def value(self) -> Any:
        """Read one whole value."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if self._complete or isinstance(error, RecursionError):
                    raise UnreadableAnswer(f"not JSON: {error}") from None
            else:
                if self._complete or end + _CUT_CHARS <= len(self._text):
                    self._at = end
                    return value
            self._grow()
