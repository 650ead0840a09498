"""Bodies of requests: bounded in bytes and depth, JSON and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from steerkit.files import strict_json
from steerkit.server.errors import ApiError
from steerkit.server.options import Limits


async def read_body(request: Request, limits: Limits) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        ApiError: it is too large, of another type, no JSON, nested too deep, or no object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type: got {kind[:80]!r}, expected application/json", code="invalid_content_type")
    data = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.body:
                    said = f"body: got more than {limits.body:,} bytes, expected fewer"
                    raise ApiError(413, said, code="body_too_large")
    except TimeoutError:
        said = f"body: got {len(data):,} bytes in {limits.body_seconds:g} s, expected all of it"
        raise ApiError(408, said, code="body_too_slow") from None
    try:
        value = strict_json(bytes(data))
    except RecursionError:
        raise _too_deep(limits) from None
    except ValueError as error:
        raise ApiError(400, f"body: got no JSON ({str(error)[:99]}), expected an object", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"body: got {type(value).__name__}, expected an object", code="invalid_json")
    _check_depth(value, limits)
    return value


def _check_depth(value: Any, limits: Limits) -> None:
    level: list[Any] = [value]
    for _ in range(limits.depth):
        level = [
            item
            for one in level
            if isinstance(one, (dict, list))
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise _too_deep(limits)


def _too_deep(limits: Limits) -> ApiError:
    return ApiError(400, f"body: got more than {limits.depth} levels of JSON, expected fewer", code="invalid_json")
