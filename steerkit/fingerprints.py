"""Fingerprints: content known by its SHA-256, in the form that policies, records and messages have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeAlias

Part: TypeAlias = str | bytes | memoryview


def sha256_of(content: str | bytes | Iterable[Part]) -> str:
    """`sha256:…` over bytes, text in UTF-8, or the parts of something large, which are read one after the other."""
    digest = hashlib.sha256()
    for part in (content,) if isinstance(content, (str, bytes)) else content:
        digest.update(part.encode() if isinstance(part, str) else part)
    return f"sha256:{digest.hexdigest()}"
