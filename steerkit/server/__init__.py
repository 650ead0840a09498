"""A server that OpenAI's clients talk to: steered, guarded and recorded as every turn. Needs the extra `serve`."""

from steerkit.errors import MissingExtraError

try:
    import prometheus_client as _metrics  # noqa: F401
    import starlette as _http  # noqa: F401
    import uvicorn as _process  # noqa: F401
except ImportError:
    raise MissingExtraError.of("the server", "serve") from None

from steerkit.server.app import make_app
from steerkit.server.errors import ApiError
from steerkit.server.keys import ANYBODY, Key, hashed, read_keys
from steerkit.server.names import Names
from steerkit.server.options import Limits, Options
from steerkit.server.run import serve
from steerkit.server.service import Service

__all__ = [
    "ANYBODY",
    "ApiError",
    "Key",
    "Limits",
    "Names",
    "Options",
    "Service",
    "hashed",
    "make_app",
    "read_keys",
    "serve",
]
