"""Proof of who asks: MUNGE credentials over a digest of the request, made and checked through libmunge.

The same digest is made by the command line and by the API, so they cannot disagree. Standard library and libmunge
alone; nothing here decides what a caller may do, and a credential is good for one request only.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import time
from dataclasses import dataclass
from functools import cache

_OPT_ENCODE_TIME = 6
_OPT_SOCKET = 8
#: Words of the Authorization header before a MUNGE credential and before one of Slurm's JSON web tokens.
MUNGE_SCHEME = "MUNGE"
TOKEN_SCHEME = "Bearer"


class MungeError(Exception):
    """MUNGE is not there, or refuses; the text is a sentence for whoever asked."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What a good credential says: who made it, when (this host's clock), over which payload."""

    user_id: int
    group_id: int
    made_s: float
    payload: bytes


def digest(method: str, target: str, body: bytes) -> bytes:
    """What a credential must carry: SHA-256 over method, path with query, and body, in hexadecimal."""
    head = f"{method.upper()}\n{target}\n".encode()
    return hashlib.sha256(head + body).hexdigest().encode()


@cache
def _library() -> ctypes.CDLL:
    last: OSError | None = None
    for name in ("libmunge.so.2", ctypes.util.find_library("munge")):
        if name:
            try:
                library = ctypes.CDLL(name)
            except OSError as error:
                last = error
                continue
            library.munge_ctx_create.restype = ctypes.c_void_p
            library.munge_ctx_destroy.argtypes = [ctypes.c_void_p]
            library.munge_ctx_strerror.argtypes = [ctypes.c_void_p]
            library.munge_ctx_strerror.restype = ctypes.c_char_p
            library.munge_strerror.restype = ctypes.c_char_p
            return library
    raise MungeError(f"libmunge is not installed on this host ({last or 'libmunge.so.2 not found'}); install munge")


class _Context:
    """One libmunge context; freed at the end of the ``with`` block."""

    def __init__(self, socket: str) -> None:
        self.library = _library()
        self.pointer = ctypes.c_void_p(self.library.munge_ctx_create())
        if not self.pointer:
            raise MungeError("libmunge has no memory")
        if socket:
            self.library.munge_ctx_set(self.pointer, _OPT_SOCKET, ctypes.c_char_p(socket.encode()))

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.munge_ctx_destroy(self.pointer)

    def said(self, code: int) -> str:
        text = self.library.munge_ctx_strerror(self.pointer) or self.library.munge_strerror(code) or b"unknown error"
        return str(text.decode(errors="replace"))


def encode(payload: bytes, socket: str = "") -> str:
    """A credential of the calling process over ``payload``. Raises `MungeError`."""
    with _Context(socket) as context:
        made = ctypes.c_void_p()
        code = context.library.munge_encode(
            ctypes.byref(made), context.pointer, ctypes.c_char_p(payload), ctypes.c_int(len(payload))
        )
        if code != 0:
            raise MungeError(f"MUNGE gives no credential: {context.said(code)}; is munged running here?")
        try:
            text = ctypes.cast(made, ctypes.c_char_p).value or b""
        finally:
            _free(made)
        return text.decode()


def decode(credential: str, socket: str = "") -> Proven:
    """Who made the credential. Raises `MungeError` for a forged, expired, rewound or replayed one."""
    with _Context(socket) as context:
        payload, length = ctypes.c_void_p(), ctypes.c_int()
        user, group, made = ctypes.c_uint32(), ctypes.c_uint32(), ctypes.c_long()
        code = context.library.munge_decode(
            ctypes.c_char_p(credential.encode("ascii", "replace")),
            context.pointer,
            ctypes.byref(payload),
            ctypes.byref(length),
            ctypes.byref(user),
            ctypes.byref(group),
        )
        try:
            if code != 0:
                raise MungeError(f"MUNGE refuses the credential: {context.said(code)}")
            context.library.munge_ctx_get(context.pointer, _OPT_ENCODE_TIME, ctypes.byref(made))
            body = ctypes.string_at(payload, length.value) if payload and length.value else b""
        finally:
            _free(payload)
        return Proven(int(user.value), int(group.value), float(made.value), body)


def check(credential: str, method: str, target: str, body: bytes, age_s: float, socket: str = "") -> Proven:
    """`decode`, and the credential must be over this very request and at most ``age_s`` old."""
    proven = decode(credential, socket)
    if proven.payload != digest(method, target, body):
        raise MungeError("the credential was made for another request")
    age = time.time() - proven.made_s
    if age > age_s or age < -age_s:
        raise MungeError(f"the credential is {age:.0f} s old; at most {age_s:g} s are accepted (are the clocks right?)")
    return proven


def _free(pointer: ctypes.c_void_p) -> None:
    if pointer:
        libc = ctypes.CDLL(None)
        libc.free.argtypes = [ctypes.c_void_p]
        libc.free(pointer)
