"""Logs as JSON, a line each: what was asked, by whom and how it ended, never what was said or with which key."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

logger: Final = logging.getLogger("steerkit.server")


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, with what was said beside its message."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "said", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def log(message: str, said: Mapping[str, Any], level: int = logging.INFO) -> None:
    """Write a line."""
    logger.log(level, message, extra={"said": dict(said)})


def log_failure(message: str, said: Mapping[str, Any], error: BaseException) -> None:
    """Write a line about an error that is the server's, with its traceback."""
    logger.error(message, exc_info=error, extra={"said": dict(said)})
