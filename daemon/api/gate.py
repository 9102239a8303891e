"""What every request passes first: size limit, proof of the caller, rate limit. Plain ASGI, before any route.

A request that fails here costs no more than its own bytes; whatever goes wrong behind it is a sentence, never a trace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .callers import CallerCheck, Refused
from .limits import RateLimit
from .problems import Problem, problem_response

_log = logging.getLogger("slurmsia.api")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Open to everybody: liveness, readiness, metrics without names, and the description of the API.
OPEN_PATHS = frozenset({"/v1/healthz", "/v1/readyz", "/v1/metrics", "/v1/openapi.json"})
_BODY_WAIT_S = 10.0
_PROOF_WAIT_S = 5.0


class Gate:
    """ASGI middleware; puts the `Caller` into ``scope["state"]["caller"]``."""

    def __init__(self, app: App, check: CallerCheck, rate: RateLimit, largest_bytes: int) -> None:
        self._app = app
        self._check = check
        self._rate = rate
        self._strangers = RateLimit(50.0)
        self._largest = largest_bytes
        self._provers = ThreadPoolExecutor(4, thread_name_prefix="munge")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(scope, receive)
            await self._admit(scope, body)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        given = False

        async def replay() -> dict[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        begun = False

        async def watch(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, replay, watch)
        except Exception:
            _log.exception("a request for %s failed", scope.get("path"))
            if not begun:
                await problem_response(500, "The API failed on this request; the daemon's log says why.")(
                    scope, receive, send
                )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._largest:
            raise Problem(413, f"The request has {int(declared)} bytes; at most {self._largest} are read.")
        if scope["method"] in ("GET", "HEAD") and declared == b"0" and b"transfer-encoding" not in headers:
            return b""
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await asyncio.wait_for(receive(), _BODY_WAIT_S)
                if message["type"] == "http.disconnect":
                    raise Problem(400, "The request ended before its body.")
                part = message.get("body", b"")
                size += len(part)
                if size > self._largest:
                    raise Problem(413, f"The request is longer than {self._largest} bytes.")
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
        except (TimeoutError, asyncio.TimeoutError):
            raise Problem(408, f"The body did not come within {_BODY_WAIT_S:g} s.") from None

    async def _admit(self, scope: Scope, body: bytes) -> None:
        client = scope["client"][0] if scope.get("client") else ""
        state = scope.setdefault("state", {})
        if scope["path"] in OPEN_PATHS:
            self._limit(self._strangers, client, "this address")
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        target = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else scope["path"]
        query = scope.get("query_string", b"").decode("latin-1")
        full = f"{target}?{query}" if query else target
        try:
            if "authorization" in headers or "x-slurm-user-token" in headers:
                # Checking costs a call to munged, so strangers are limited before it and users after it.
                self._limit(self._strangers, client, "this address")
                proof = asyncio.get_running_loop().run_in_executor(
                    self._provers, self._check.caller, client, scope["method"], full, body, headers
                )
                caller = await asyncio.wait_for(proof, _PROOF_WAIT_S)
            else:
                caller = self._check.caller(client, scope["method"], full, body, headers)
        except Refused as refusal:
            raise Problem(401, f"You are not let in: {refusal}.", {"WWW-Authenticate": "MUNGE, Bearer"}) from None
        except (TimeoutError, asyncio.TimeoutError):
            raise Problem(503, "munged does not answer on the API's host; tell the administrator.") from None
        self._limit(self._rate, caller.user_id, f"user {caller.name}")
        state["caller"] = caller

    def _limit(self, rate: RateLimit, key: Any, who: str) -> None:
        wait = rate.take(key)
        if wait:
            raise Problem(
                429,
                f"Too many requests from {who}; ask again in {wait:.1f} s (api.requests_per_s sets the rate).",
                {"Retry-After": str(max(1, round(wait)))},
            )
