"""The user's ``sia:`` words on a job, parsed and printed. Never raises on user text other than `DeclarationError`.

The words are documented in docs/jobs.md. A job without ``sia:`` in its comment is not managed. A job with words
that do not parse is left alone as rigid; the error says exactly what is wrong and where.
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any


class Level(str, Enum):
    """How much a job cooperates (JOBS.md); each level includes what the one before allows."""

    RIGID = "rigid"
    """Type may be chosen before it starts where several are allowed; never resized, never restarted."""
    MOLDABLE = "moldable"
    """Size and type chosen at start, never changed later."""
    RESTARTABLE = "restartable"
    """May be moved and resized at a fixed total batch."""
    ADAPTIVE = "adaptive"
    """May be moved and resized, and its batch size follows the directive."""


class DeclarationError(ValueError):
    """A declaration that cannot be honoured. ``position`` is the character offset in the comment."""

    def __init__(self, sentence: str, position: int = 0) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.position = position


@dataclass(frozen=True, slots=True)
class Declaration:
    """One parsed declaration. ``None`` means the user did not say.

    ``unit_gpus``: ((type or "*", GPUs per replica), ...), sorted; ``cpus_per_gpu``/``memory_mb_per_gpu`` default
    to the submitted request divided by its GPUs; ``weight`` in (0, 1] may only lower the job's weight.
    """

    min_gpus: int = 1
    max_gpus: int = 1
    level: Level = Level.RIGID
    types: tuple[str, ...] = ()
    batch_min: int | None = None
    batch_max: int | None = None
    local_min: int | None = None
    local_max: int | None = None
    unit_gpus: tuple[tuple[str, int], ...] = ()
    target_samples: float | None = None
    signal: str | None = None
    grace_s: float | None = None
    cpus_per_gpu: int | None = None
    memory_mb_per_gpu: int | None = None
    time_mode: str = "run"
    max_gpu_h: float | None = None
    min_efficiency: float | None = None
    weight: float = 1.0
    progress_regex: str | None = None

    def unit_for(self, gpu_type: str) -> int:
        """GPUs per replica on a type (1 for plain data-parallel jobs)."""
        table = dict(self.unit_gpus)
        return table.get(gpu_type, table.get("*", 1))


#: Longest text after ``sia:`` that is looked at; Slurm passes comments of any length along.
MAX_CHARS = 2000
#: Counts above this are typing mistakes, not wishes.
MAX_GPUS = 1_000_000
MAX_BATCH = 10**12
#: Signals that a job may ask for. KILL and STOP cannot be handled; the rest has another meaning to shells or srun.
SIGNALS = ("USR1", "USR2", "HUP", "INT", "TERM", "WINCH", "URG", "CONT")

_START = re.compile(r"(?:^|(?<=[\s;,|]))sia:", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z_]+")
_WORD = re.compile(r"[^\s;]+")
_COUNT = re.compile(r"[0-9]{1,15}")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MEMORY = re.compile(r"([0-9]{1,12})([KkMmGgTt]?)[Bb]?")
_MEMORY_KB = {"": 1024, "k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}


@dataclass(frozen=True, slots=True)
class _Word:
    """One ``key=value`` of the comment with the offsets of both."""

    key: str
    value: str
    at: int
    value_at: int


@dataclass(slots=True)
class _Draft:
    """Fields collected so far, and what the words around them say about the level."""

    fields: dict[str, Any] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)


def parse(comment: str, *, known_types: Collection[str] | None = None) -> Declaration | None:
    """The declaration in a job's comment, or ``None`` when the comment has no ``sia:`` words.

    The words follow ``sia:`` up to a ``;`` or the end. ``known_types``: the site's GPU types, to refuse others.
    Without ``level=`` the level follows from the other words: ``batch=M0:Mmax`` makes a job adaptive, ``signal=``
    restartable, ``gpus=`` moldable, nothing of these rigid. Raises `DeclarationError` with one sentence and position.
    """
    start = _START.search(comment)
    if start is None:
        return None
    return _parse(comment, start.start(), start.end(), None if known_types is None else tuple(sorted(known_types)))


@lru_cache(maxsize=1 << 14)
def _parse(comment: str, start: int, words_at: int, known_types: tuple[str, ...] | None) -> Declaration:
    """The words from ``words_at``, remembered: every round reads the same comments again."""
    draft = _Draft()
    for word in _words(comment, words_at):
        if word.key in draft.at:
            raise DeclarationError(f"{word.key}= is said twice in the sia: words; keep one of them", word.at)
        draft.at[word.key] = word.at
        _READERS[word.key](word, draft)
    return _finish(draft, start, known_types)


def format(declaration: Declaration) -> str:
    """The ``sia:`` words of a declaration, in the order of the documentation: ``parse(format(d)) == d``.

    Only what differs from the defaults is printed; ``level=`` only where the other words would not imply it.
    """
    d = declaration
    words: list[str] = []
    says_gpus = d.level is not Level.RIGID or (d.min_gpus, d.max_gpus) != (1, 1)
    if says_gpus:
        words.append(f"gpus={d.min_gpus}-{d.max_gpus}")
    if d.types:
        words.append("types=" + ",".join(d.types))
    wants_gpus = d.batch_min is not None or d.signal is not None
    if d.level is not _implied_level(d, says_gpus) or (wants_gpus and not says_gpus):
        words.append(f"level={d.level.value}")
    words += _range_words("batch", d.batch_min, d.batch_max)
    words += _range_words("local", d.local_min, d.local_max)
    if d.unit_gpus:
        plain = len(d.unit_gpus) == 1 and d.unit_gpus[0][0] == "*"
        words.append("unit=" + (str(d.unit_gpus[0][1]) if plain else ",".join(f"{t}:{n}" for t, n in d.unit_gpus)))
    if d.target_samples is not None:
        words.append(f"target={_print_number(d.target_samples)}")
    if d.signal is not None:
        words.append(f"signal={d.signal}" + ("" if d.grace_s is None else f"@{_print_number(d.grace_s)}"))
    if d.cpus_per_gpu is not None:
        words.append(f"cpus={d.cpus_per_gpu}")
    if d.memory_mb_per_gpu is not None:
        whole_gb = d.memory_mb_per_gpu % 1024 == 0
        words.append(f"mem={d.memory_mb_per_gpu // 1024}G" if whole_gb else f"mem={d.memory_mb_per_gpu}M")
    if d.time_mode != "run":
        words.append(f"time={d.time_mode}")
    if d.max_gpu_h is not None:
        words.append(f"max_gpu_h={_print_number(d.max_gpu_h)}")
    if d.min_efficiency is not None:
        words.append(f"min_efficiency={_print_number(d.min_efficiency)}")
    if d.weight != 1.0:
        words.append(f"weight={_print_number(d.weight)}")
    if d.progress_regex is not None:
        words.append("progress='" + d.progress_regex.replace("'", "''") + "'")
    return " ".join(["sia:", *words])


def _range_words(key: str, low: int | None, high: int | None) -> list[str]:
    if low is None or high is None:
        return []
    return [f"{key}={low}:{high}"]


def _print_number(value: float) -> str:
    text = repr(float(value))
    return text[:-2] if text.endswith(".0") else text


def _words(comment: str, at: int) -> list[_Word]:
    """Splits the text after ``sia:`` into words; quotes hold spaces and ``;``, a doubled quote is one quote."""
    words: list[_Word] = []
    end = len(comment)
    if end - at > MAX_CHARS:
        raise DeclarationError(f"the text after sia: is longer than {MAX_CHARS} characters; shorten it", at)
    while True:
        while at < end and comment[at].isspace():
            at += 1
        if at >= end or comment[at] == ";":
            return words
        key_at = at
        match = _KEY.match(comment, at)
        if match is None or comment[match.end() : match.end() + 1] != "=":
            found = _WORD.match(comment, at)
            text = _short(found.group() if found else comment[at])
            raise DeclarationError(f"{text} is not a key=value word; known keys: {', '.join(_READERS)}", at)
        key = match.group()
        if key not in _READERS:
            close = difflib.get_close_matches(key.lower(), _READERS, 1)
            hint = f"did you mean {close[0]}=?" if close else f"known keys: {', '.join(_READERS)}"
            raise DeclarationError(f"unknown key {_short(key)}= in the sia: words; {hint}", key_at)
        at = value_at = match.end() + 1
        if at < end and comment[at] in "'\"":
            value, at = _quoted(comment, at, key)
            if at < end and not comment[at].isspace() and comment[at] != ";":
                raise DeclarationError(f"there must be a space after the closing quote of {key}=", at)
        else:
            found = _WORD.match(comment, at)
            value = found.group() if found else ""
            at = found.end() if found else at
        if not value:
            raise DeclarationError(f"{key}= has no value", key_at)
        words.append(_Word(key, value, key_at, value_at))


def _quoted(comment: str, at: int, key: str) -> tuple[str, int]:
    quote, parts, begin = comment[at], [], at + 1
    while True:
        close = comment.find(quote, begin)
        if close < 0:
            raise DeclarationError(f"{key}= opens a quote {quote} that is never closed", at)
        parts.append(comment[begin:close])
        if comment[close + 1 : close + 2] != quote:
            return quote.join(parts), close + 1
        begin = close + 2


def _short(text: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return repr(printable if len(printable) <= 40 else printable[:37] + "...")


def _count(word: _Word, text: str, what: str, low: int, high: int) -> int:
    if not _COUNT.fullmatch(text) or not low <= int(text) <= high:
        raise DeclarationError(
            f"{word.key}={_short(word.value)}: {what} must be a whole number from {low} to {high}", word.value_at
        )
    return int(text)


def _number(word: _Word, text: str, what: str, high: float) -> float:
    """A finite number in (0, high]."""
    value = float(text) if _NUMBER.fullmatch(text) and len(text) <= 32 else math.nan
    if not 0 < value <= high or math.isinf(value):
        limit = "" if high >= 1e300 else f" and at most {_print_number(high)}"
        raise DeclarationError(
            f"{word.key}={_short(word.value)}: {what} must be a number greater than 0{limit}", word.value_at
        )
    return value


def _range(word: _Word, separator: str, what: str, high: int) -> tuple[int, int]:
    low_text, _, high_text = word.value.partition(separator)
    low = _count(word, low_text, what, 1, high)
    top = _count(word, high_text, what, 1, high) if separator in word.value else low
    if top < low:
        raise DeclarationError(
            f"{word.key}={_short(word.value)}: the range is upside down, write {word.key}={top}{separator}{low}",
            word.value_at,
        )
    return low, top


def _read_gpus(word: _Word, draft: _Draft) -> None:
    draft.fields["min_gpus"], draft.fields["max_gpus"] = _range(word, "-", "GPUs", MAX_GPUS)


def _read_types(word: _Word, draft: _Draft) -> None:
    names = word.value.split(",")
    for name in names:
        if not _TYPE.fullmatch(name):
            raise DeclarationError(
                f"types={_short(word.value)}: {_short(name)} is no GPU type name; write names separated by commas",
                word.value_at,
            )
    if len(set(names)) != len(names):
        raise DeclarationError(f"types={_short(word.value)} names a type twice", word.value_at)
    draft.fields["types"] = tuple(names)


def _read_level(word: _Word, draft: _Draft) -> None:
    try:
        draft.fields["level"] = Level(word.value)
    except ValueError:
        names = ", ".join(level.value for level in Level)
        raise DeclarationError(f"level={_short(word.value)} must be one of {names}", word.value_at) from None


def _read_batch(word: _Word, draft: _Draft) -> None:
    draft.fields["batch_min"], draft.fields["batch_max"] = _range(word, ":", "total batch", MAX_BATCH)


def _read_local(word: _Word, draft: _Draft) -> None:
    draft.fields["local_min"], draft.fields["local_max"] = _range(word, ":", "batch per GPU", MAX_BATCH)


def _read_unit(word: _Word, draft: _Draft) -> None:
    if ":" not in word.value:
        draft.fields["unit_gpus"] = (("*", _count(word, word.value, "GPUs per replica", 1, MAX_GPUS)),)
        return
    table: dict[str, int] = {}
    for part in word.value.split(","):
        name, _, count = part.partition(":")
        if (name != "*" and not _TYPE.fullmatch(name)) or name in table:
            raise DeclarationError(
                f"unit={_short(word.value)}: write GPUs per replica as a number, or as type:number,type:number",
                word.value_at,
            )
        table[name] = _count(word, count, "GPUs per replica", 1, MAX_GPUS)
    draft.fields["unit_gpus"] = tuple(sorted(table.items()))


def _read_signal(word: _Word, draft: _Draft) -> None:
    name, at_sign, grace = word.value.partition("@")
    name = name.upper()
    name = name[3:] if name.startswith("SIG") else name
    if name not in SIGNALS:
        raise DeclarationError(
            f"signal={_short(word.value)} must be one of {', '.join(SIGNALS)}, with seconds of grace after an @ "
            "as in signal=USR1@60",
            word.value_at,
        )
    draft.fields["signal"] = name
    if at_sign:
        draft.fields["grace_s"] = _number(word, grace, "seconds of grace", 86_400)


def _read_mem(word: _Word, draft: _Draft) -> None:
    match = _MEMORY.fullmatch(word.value)
    kb = int(match.group(1)) * _MEMORY_KB[match.group(2).lower()] if match else 0
    if kb <= 0:
        raise DeclarationError(
            f"mem={_short(word.value)}: memory per GPU must be a whole number with K, M, G or T as in mem=48G",
            word.value_at,
        )
    draft.fields["memory_mb_per_gpu"] = -(-kb // 1024)


def _read_time(word: _Word, draft: _Draft) -> None:
    if word.value not in ("run", "total"):
        raise DeclarationError(
            f"time={_short(word.value)} must be run (the limit counts for each run, as Slurm does) or total",
            word.value_at,
        )
    draft.fields["time_mode"] = word.value


def _read_progress(word: _Word, draft: _Draft) -> None:
    text = word.value
    if not text.isprintable():
        raise DeclarationError("progress= contains characters that cannot be printed", word.value_at)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            groups = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise DeclarationError(f"progress={_short(text)} is not a regular expression: {error}", word.value_at) from None
    if groups.groups == 0 or (groups.groupindex and not set(groups.groupindex) & {"samples", "rate"}):
        raise DeclarationError(
            f"progress={_short(text)} must mark the samples done so far with parentheses as in progress='samples="
            "([0-9]+)', or name a group (?P<samples>...) or (?P<rate>...) in samples per second",
            word.value_at,
        )
    draft.fields["progress_regex"] = text


def _reader(key: str, read: Callable[[_Word], Any]) -> Callable[[_Word, _Draft], None]:
    def reader(word: _Word, draft: _Draft) -> None:
        draft.fields[key] = read(word)

    return reader


_READERS: dict[str, Callable[[_Word, _Draft], None]] = {
    "gpus": _read_gpus,
    "types": _read_types,
    "level": _read_level,
    "batch": _read_batch,
    "local": _read_local,
    "unit": _read_unit,
    "target": _reader("target_samples", lambda word: _number(word, word.value, "the total work in samples", 1e300)),
    "signal": _read_signal,
    "cpus": _reader("cpus_per_gpu", lambda word: _count(word, word.value, "CPUs per GPU", 1, 100_000)),
    "mem": _read_mem,
    "time": _read_time,
    "max_gpu_h": _reader("max_gpu_h", lambda word: _number(word, word.value, "GPU hours", 1e300)),
    "min_efficiency": _reader("min_efficiency", lambda word: _number(word, word.value, "the efficiency", 1.0)),
    "weight": _reader("weight", lambda word: _number(word, word.value, "the weight", 1.0)),
    "progress": _read_progress,
}


def _implied_level(declaration: Declaration, said_gpus: bool) -> Level:
    """The level that the other words imply (docs/jobs.md)."""
    d = declaration
    if said_gpus and d.batch_min is not None and d.batch_max is not None and d.batch_max > d.batch_min:
        return Level.ADAPTIVE
    if said_gpus and d.signal is not None:
        return Level.RESTARTABLE
    return Level.MOLDABLE if said_gpus else Level.RIGID


def _finish(draft: _Draft, at: int, known_types: Collection[str] | None) -> Declaration:
    """Checks that concern several words, and the implied level."""
    said_gpus = "gpus" in draft.at
    declaration = Declaration(**draft.fields)
    if "level" not in draft.at:
        draft.fields["level"] = _implied_level(declaration, said_gpus)
        declaration = Declaration(**draft.fields)
    d = declaration
    wants_gpus = next((key for key in ("level", "batch", "signal") if key in draft.at), None)
    explicit_rigid = "level" in draft.at and d.level is Level.RIGID
    if not said_gpus and wants_gpus is not None and not explicit_rigid:
        raise DeclarationError(
            f"{wants_gpus}= needs gpus=MIN-MAX beside it (gpus=4-4 for a job that may move but keeps its size)",
            draft.at[wants_gpus],
        )
    if d.level is Level.ADAPTIVE and (d.batch_min is None or d.batch_min == d.batch_max):
        raise DeclarationError(
            "level=adaptive needs the range of the total batch beside it, as in batch=256:4096", draft.at["level"]
        )
    if d.local_min is not None and d.batch_max is not None and d.local_min > d.batch_max:
        raise DeclarationError(
            f"local= starts at {d.local_min} samples per GPU, more than the largest total batch {d.batch_max}",
            draft.at["local"],
        )
    for name, count in d.unit_gpus:
        if d.types and name not in ("*", *d.types):
            raise DeclarationError(f"unit= names {name}, which types= does not allow", draft.at["unit"])
        if said_gpus and count > d.max_gpus:
            raise DeclarationError(
                f"unit= asks {count} GPUs for one replica, more than the {d.max_gpus} that gpus= allows",
                draft.at["unit"],
            )
    if known_types is not None:
        for key, names in (("types", d.types), ("unit", tuple(name for name, _ in d.unit_gpus if name != "*"))):
            for name in names:
                if name not in known_types:
                    known = ", ".join(sorted(known_types)) or "none"
                    raise DeclarationError(
                        f"{key}= names {name}, which this site does not have; its GPU types are {known}", draft.at[key]
                    )
    return declaration
