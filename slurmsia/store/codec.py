"""Canonical, byte-stable JSON for the package's values: the same value always gives the same bytes.

Driven by the dataclasses themselves. Reading is tolerant: unknown fields are skipped and absent ones take their
defaults, so that a later version reads what an earlier one wrote. Fields that are no part of a value's equality
(solve times) are never written. This module does no I/O and never guesses: a body it cannot read is an error.
"""

from __future__ import annotations

import json
import math
import types
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import orjson

from .errors import UndecodableBody

#: Version of the encoding, written with every compressed body.
CODEC_VERSION = 1

T = TypeVar("T")
Convert = Callable[[Any], Any]


_patient = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def _text(plain: Any) -> str:
    """JSON of what is JSON's own. Keys are sorted where mappings are built, which is cheaper than in the writer."""
    try:
        return orjson.dumps(plain).decode()
    except TypeError:  # half a surrogate pair in a user's text, an integer of more than 64 bits
        return _patient(plain)


def to_json(kind: Any, value: Any) -> bytes:
    """Canonical UTF-8 JSON of ``value`` as the type ``kind`` (a dataclass or a generic of them)."""
    return to_text(kind, value).encode()


def to_text(kind: Any, value: Any) -> str:
    """`to_json` as text."""
    return _text(_encoder(kind)(value))


def mapping_text(texts: Mapping[str, str]) -> str:
    """Canonical JSON of a mapping whose values are canonical JSON already."""
    return "{" + ",".join(f"{_text(key)}:{texts[key]}" for key in sorted(texts)) + "}"


def with_texts(kind: type, value: Any, texts: Mapping[str, str]) -> str:
    """`to_text` of a dataclass; ``texts``: canonical JSON of some of its fields, where that is known already."""
    plain = _dataclass_encoder(kind, tuple(sorted(texts)))(value)
    try:
        return orjson.dumps(plain | {name: orjson.Fragment(text) for name, text in texts.items()}).decode()
    except TypeError:
        return mapping_text({name: texts[name] if name in texts else _text(part) for name, part in plain.items()})


class Kept:
    """Texts of the values written last, so that what stayed the same since is not written out again.

    A value is known by its type and ``key``; `turn` forgets what was not asked for since the last turn.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[type, Hashable], tuple[Any, str]] = {}
        self._now: dict[tuple[type, Hashable], tuple[Any, str]] = {}

    def text(self, kind: type, key: Hashable, value: Any) -> str:
        """`to_text`, taken from the last turn where the value there is this one or equal to it."""
        known = self._before.get((kind, key))
        if known is None or not (known[0] is value or known[0] == value):
            known = (value, to_text(kind, value))
        self._now[kind, key] = known
        return known[1]

    def turn(self) -> None:
        """The values asked for since the last turn are the ones remembered from now on."""
        self._before, self._now = self._now, {}


def sequence_text(texts: Iterable[str]) -> str:
    """Canonical JSON of a sequence whose items are canonical JSON already."""
    return f"[{','.join(texts)}]"


def plain_json(value: Any) -> str:
    """Canonical JSON of a value that is JSON already (mappings, sequences, scalars)."""
    return _text(_plain(value))


def from_json(kind: type[T], body: bytes | str) -> T:
    """The value of type ``kind`` written by `to_json`. Raises `UndecodableBody`."""
    try:
        value: T = _decoder(cast(Any, kind))(json.loads(body))
        return value
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        name = getattr(kind, "__name__", str(kind))
        raise UndecodableBody(f"a stored {name} cannot be read by this version ({error})") from error


def pack(kind: Any, value: Any) -> bytes:
    """Compressed body: one version byte, then zlib of the canonical JSON."""
    return pack_text(to_text(kind, value))


def pack_text(text: str) -> bytes:
    """`pack` of what is canonical JSON already."""
    return bytes([CODEC_VERSION]) + zlib.compress(text.encode(), 6)


def unpack_json(body: bytes) -> bytes:
    """The canonical JSON inside a compressed body. Raises `UndecodableBody` for a newer codec or torn bytes."""
    if not body or body[0] > CODEC_VERSION:
        version = body[0] if body else "none"
        raise UndecodableBody(f"a stored body has codec version {version}, this version reads up to {CODEC_VERSION}")
    try:
        return zlib.decompress(body[1:])
    except zlib.error as error:
        raise UndecodableBody(f"a stored body is torn ({error})") from error


def unpack(kind: type[T], body: bytes) -> T:
    """The value inside a compressed body."""
    return from_json(kind, unpack_json(body))


@cache
def _compared_fields(kind: type) -> tuple[tuple[str, Any, Any], ...]:
    """(name, type, default or MISSING-factory result) of the fields that make up the value."""
    hints = get_type_hints(kind)
    return tuple((f.name, hints[f.name], f) for f in fields(kind) if f.compare)


def _by_name(field: tuple[str, Any, Any]) -> str:
    return field[0]


def _members(kind: Any) -> tuple[Any, ...] | None:
    """The members of a union without ``None``, or ``None`` when the type is no union."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for member in get_args(kind) if member is not type(None))
    return None


def _plain(value: Any) -> Any:
    """A value of an open type (``Any``): tuples become lists, everything else must be JSON already."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return _by_key({str(key): _plain(item) for key, item in value.items()})
    return _float_out(value) if isinstance(value, float) else value


def _by_key(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: mapping[key] for key in sorted(mapping)}


def _float_out(value: Any) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else repr(number)


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


@cache
def _encoder(kind: Any) -> Convert:
    members = _members(kind)
    if members is not None:
        if len(members) == 1:
            return _optional(_encoder(members[0]))
        by_type = {member: _encoder(member) for member in members}

        def tagged(value: Any) -> Any:
            return None if value is None else {"$": type(value).__name__, **by_type[type(value)](value)}

        return tagged
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_encoder(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            item = _encoder(args[0])
            return lambda value: [item(part) for part in value]
        each = tuple(_encoder(arg) for arg in args)
        return lambda value: [convert(part) for convert, part in zip(each, value, strict=True)]
    if origin in (frozenset, set):
        item = _encoder(args[0])
        return lambda value: sorted(item(part) for part in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        item = _encoder(args[1])
        return lambda value: _by_key({str(key): item(part) for key, part in value.items()})
    return _SCALARS_OUT.get(kind) or _enum_out(kind)


@cache
def _dataclass_encoder(kind: type, left: tuple[str, ...] = ()) -> Convert:
    """Fields are fetched at once and converted only where they are not what JSON takes: a round has a million.

    The fields named in ``left`` are left as they are.
    """
    hints = {name: hint for name, hint, _ in sorted(_compared_fields(kind), key=_by_name)}
    if len(hints) < 2:  # attrgetter of one name gives no tuple
        return lambda value: {name: _encoder(hint)(getattr(value, name)) for name, hint in hints.items()}
    names, fetch = tuple(hints), attrgetter(*hints)
    hints = {name: hint for name, hint in hints.items() if name not in left}
    floats = tuple((name, _encoder(hint)) for name, hint in hints.items() if hint in _FLOATS)
    exact = tuple((name, hint, _encoder(hint)) for name, hint in hints.items() if hint in (int, bool, str))
    others = tuple(
        (name, _encoder(hint)) for name, hint in hints.items() if hint not in _FLOATS and hint not in (int, bool, str)
    )

    def encode(value: Any) -> dict[str, Any]:
        out = dict(zip(names, fetch(value), strict=True))
        for name, scalar, convert in exact:
            if type(out[name]) is not scalar:
                out[name] = convert(out[name])
        for name, convert in floats:
            number = out[name]
            if number is not None and (type(number) is not float or number - number != 0.0):
                out[name] = convert(number)
        for name, convert in others:
            out[name] = convert(out[name])
        return out

    return encode


def _enum_out(kind: Any) -> Convert:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda value: value.value
    raise TypeError(f"no encoding for {kind!r}")


_FLOATS = (float, float | None)
_SCALARS_OUT: dict[Any, Convert] = {float: _float_out, int: int, bool: bool, str: str, Any: _plain}
_SCALARS_IN: dict[Any, Convert] = {float: float, int: int, bool: bool, str: str, Any: lambda value: value}


@cache
def _decoder(kind: Any) -> Convert:
    members = _members(kind)
    if members is not None:
        if len(members) == 1:
            return _optional(_decoder(members[0]))
        by_name = {member.__name__: _decoder(member) for member in members}
        return lambda value: None if value is None else by_name[value["$"]](value)
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_decoder(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            item = _decoder(args[0])
            return lambda value: tuple(item(part) for part in value)
        each = tuple(_decoder(arg) for arg in args)
        return lambda value: tuple(convert(part) for convert, part in zip(each, value, strict=False))
    if origin in (frozenset, set):
        item = _decoder(args[0])
        return lambda value: frozenset(item(part) for part in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        item = _decoder(args[1])
        return lambda value: {key: item(part) for key, part in value.items()}
    return _SCALARS_IN.get(kind) or _enum_in(kind)


def _enum_in(kind: Any) -> Convert:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    raise TypeError(f"no decoding for {kind!r}")


def _dataclass_decoder(kind: type) -> Convert:
    parts = tuple((name, _decoder(hint)) for name, hint, _ in _compared_fields(kind))
    needed = {
        name
        for name, _, f in _compared_fields(kind)
        if f.default is MISSING and f.default_factory is MISSING and f.init
    }

    def decode(value: Any) -> Any:
        missing = needed - value.keys()
        if missing:
            raise ValueError(f"{kind.__name__} lacks {', '.join(sorted(missing))}")
        return kind(**{name: convert(value[name]) for name, convert in parts if name in value})

    return decode
