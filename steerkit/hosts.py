"""Hosts: names in `Host` and `Origin` headers, by which pages of other sites are told from one's own."""

from __future__ import annotations

from collections.abc import Mapping


def host_of(headers: Mapping[str, str]) -> tuple[str, str]:
    """The `Host` header in lower case, with its port and without."""
    host = headers.get("host", "").lower()
    name, _, port = host.rpartition(":")
    return host, name if port.isdecimal() else host


def is_of_host(origin: str, host: str) -> bool:
    """True if an `Origin` in lower case, scheme apart, is that of a host with its port."""
    return origin.partition("://")[2] == host
