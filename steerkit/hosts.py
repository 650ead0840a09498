"""Hosts: what a door listens on, and the names in `Host` and `Origin` headers, by which pages of other sites are told
from one's own."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

_BACKLOG: Final = 2048
"""Connections that wait to be taken."""


def listener(host: str, port: int, refused: type[Exception]) -> socket.socket:
    """A socket that listens: from here on whoever connects waits, and is not turned away; port 0 takes a free one.

    Raises:
        refused: the address cannot be listened on.
    """
    # Only where a socket is said to be TCP's does asyncio turn off Nagle's algorithm, which would hold back the second
    # of two small writes until the reader's kernel acknowledges the first, 40 ms later.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise refused(f"{host}:{port}: cannot be listened on ({error.strerror}); give another --port") from None
    return found


def host_of(headers: Mapping[str, str]) -> tuple[str, str]:
    """The `Host` header in lower case, with its port and without."""
    host = headers.get("host", "").lower()
    name, _, port = host.rpartition(":")
    return host, name if port.isdecimal() else host


def is_of_host(origin: str, host: str) -> bool:
    """True if an `Origin` in lower case, scheme apart, is that of a host with its port."""
    return origin.partition("://")[2] == host
