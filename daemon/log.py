"""The daemon's log: one line a message to standard error, text or JSON, with the cause id of every action.

journald adds the time when systemd runs the service; otherwise the line starts with it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

#: Attributes that callers put on a record by ``extra=`` and that a JSON line carries.
FIELDS = ("cause", "job", "move", "round", "user")


class TextFormatter(logging.Formatter):
    """``LEVEL logger: message [cause=…]``."""

    def __init__(self, with_time: bool) -> None:
        super().__init__()
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        said = " ".join(f"{name}={getattr(record, name)}" for name in FIELDS if getattr(record, name, None) is not None)
        message = record.getMessage().replace("\n", "\\n")
        if record.exc_info:
            message += " | " + self.formatException(record.exc_info).replace("\n", " | ")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime(record.created)) if self._with_time else ""
        return f"{stamp}{record.levelname.lower()} {record.name}: {message}" + (f" [{said}]" if said else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "t": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(log_format: str, level: str) -> None:
    """Send everything to standard error in the chosen form."""
    handler = logging.StreamHandler(sys.stderr)
    under_journal = "JOURNAL_STREAM" in os.environ
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(with_time=not under_journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "uvicorn.access", "uvicorn.error", "alembic", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
