"""Settings of a server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from steerkit.errors import SettingError
from steerkit.server.keys import Key

UI: Final = "/ui"
"""Path of pages for a browser, which brings a key as the password of any name, and sends it with every request."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of what a request may be."""

    body: int = 4 << 20
    """Bytes."""
    body_seconds: float = 30.0
    """Seconds in which it must have arrived."""
    depth: int = 64
    """Levels of the JSON."""
    messages: int = 2000
    """Messages, or items of `input`."""
    tools: int = 256
    new_tokens: int = 16384
    """Most tokens of a reply that a request may ask for."""
    default_new_tokens: int = 1024
    """Most tokens of a reply where the request does not say."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a server.

    Raises:
        SettingError: another host than this machine without keys.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    """Name of the model in requests; None takes the model's own."""
    allowed: tuple[str, ...] = ()
    """Policies that requests may choose, beside the default ones; `none` allows requests without any."""
    keys: tuple[Key, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the server may be addressed, beside its own."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may call it; by default none but its own."""
    batch_size: int = 16
    """Rows that are generated together."""
    most_waiting: int = 64
    """Requests that may wait; the next one is told to come again."""
    approval_seconds: float = 3600.0
    """Seconds that a held call waits for a decision."""
    drain_seconds: float = 30.0
    """Seconds that requests have to finish when the server ends."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise SettingError(
                f"host: got {self.host} without keys, so that anybody there could use the model; give --api-key or "
                f"--keys, or serve on 127.0.0.1"
            )

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names in a `Host` header that are its own; None for any, where it listens on all addresses with keys."""
        if not self.allowed_hosts and self.host in ("0.0.0.0", "::"):
            return None
        return frozenset(one.lower() for one in ("127.0.0.1", "localhost", "[::1]", self.host, *self.allowed_hosts))


def is_loopback(host: str) -> bool:
    """True if only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
