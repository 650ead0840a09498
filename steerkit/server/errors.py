"""Errors as OpenAI's clients know them: a status, a type, a code, and the field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from steerkit.errors import (
    ApprovalError,
    AuditError,
    EngineError,
    MessageError,
    MissingExtraError,
    ModelError,
    PolicyError,
    SettingError,
    SteerkitError,
    ToolError,
)

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_STATUS: Final[tuple[tuple[type[SteerkitError], int, str, str | None], ...]] = (
    (MessageError, 400, "invalid_messages", "messages"),
    (ToolError, 400, "invalid_tools", "tools"),
    (PolicyError, 400, "invalid_policy", "steerkit.policy"),
    (SettingError, 400, "invalid_value", None),
    (MissingExtraError, 400, "unsupported_parameter", None),
    (EngineError, 503, "engine_failed", None),
    (ModelError, 400, "invalid_value", None),
    (AuditError, 503, "record_not_written", None),
)
"""Errors of steerkit: status, code, and the field that is wrong. All others are the server's."""


_FIELD: Final = re.compile(r"[a-z_]+([.\[][\w.\[\]]+)?")


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: where, what was got, what was expected and what to do next.
        code: stable, for programs.
        param: path of the field that is wrong.
        headers: beside those of every answer.
        told: the `steerkit` object, where there was a turn.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "invalid_value",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers, self.told = status, code, param, headers or {}, told

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error} if self.told is None else {"error": error, "steerkit": dict(self.told)}

    @classmethod
    def of(cls, error: BaseException) -> ApiError:
        """The answer to any error; what is no user's mistake keeps its details to the log."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, ApprovalError):
            if error.state is None:
                return cls(404, str(error), code="not_found")
            return cls(409, str(error), code=f"approval_{error.state}")
        for kind, status, code, param in _STATUS:
            if isinstance(error, kind):
                if "leaves no room" in str(error):
                    return cls(400, str(error), code="context_length_exceeded", param="messages")
                return cls(status, str(error), code=code, param=param or _field(error))
        if isinstance(error, SteerkitError):
            return cls(500, str(error), code="generation_failed")
        return cls(500, "the server failed; its log has the cause under this request's id", code="server_error")


def _field(error: SteerkitError) -> str | None:
    """The field that an error of settings begins with."""
    field = str(error).partition(":")[0]
    return field if isinstance(error, SettingError) and _FIELD.fullmatch(field) else None
