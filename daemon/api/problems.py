"""Errors of the API as RFC 9457 problem documents: every one is a sentence that a person can act on.

Nothing here decides; it only says.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """Ends a request with ``status`` and one sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers or {}

    def response(self) -> Response:
        return problem_response(self.status, self.sentence, self.headers)


def problem_response(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """The document; ``detail`` is the sentence."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": sentence}
    return Response(json.dumps(body), status, headers=headers, media_type=MEDIA_TYPE)
