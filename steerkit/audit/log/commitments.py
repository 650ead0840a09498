"""Contents that may be redacted: they are stored beside a record's body, which has commitments to them.

The commitment is SHA-256 over a random salt of 16 bytes and the content's canonical JSON (for a trace, its packed
bytes). With the salt gone it says nothing about the content, however short that was; so a redaction takes salt and
content away, and the record's hash still holds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steerkit.audit.log.canonical import canonical, parse_canonical
from steerkit.errors import AuditError

SALT_BYTES: Final = 16
TRACE: Final = "/trace"
"""The name under which a turn's packed trace is kept."""

PRIVATE: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "turn": (
        ("metadata",),
        ("form",),
        ("messages",),
        ("tools",),
        ("text",),
        ("prompt_ids",),
        ("reply_ids",),
        ("calls", "*", "arguments"),
        ("calls", "*", "raw"),
        ("calls", "*", "malformed"),
        ("verdicts", "*", "reason"),
        ("counterfactual", "text"),
        ("counterfactual", "reply_ids"),
        ("counterfactual", "calls", "*", "arguments"),
        ("counterfactual", "calls", "*", "raw"),
        ("counterfactual", "calls", "*", "malformed"),
        ("counterfactual", "verdicts", "*", "reason"),
    ),
    "approval": (("call", "arguments"), ("by",), ("note",), ("error",), ("metadata",)),
    "execution": (("call", "arguments"), ("result",), ("metadata",)),
    "run_opened": (("metadata",),),
}
"""Paths of private content in each kind of record: what people said, and what may reveal it; `*` is every item."""


@dataclass(frozen=True, slots=True)
class Content:
    """One piece of content beside a record."""

    salt: bytes | None
    """None once it is redacted."""
    data: bytes
    """Canonical JSON, or a packed trace; once redacted, the keyed hash of it."""

    @property
    def is_redacted(self) -> bool:
        """True if only its keyed hash is left."""
        return self.salt is None

    @property
    def commitment(self) -> str:
        """The commitment in the body, in hex."""
        return hashlib.sha256((self.salt or b"") + self.data).hexdigest()


def keyed_hash(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256 of a content's bytes: equal contents are equal under one key, and without it say nothing."""
    return hmac.new(key, data, hashlib.sha256).digest()


def split(body: Mapping[str, Any], trace: bytes) -> tuple[dict[str, Any], dict[str, Content]]:
    """The body with commitments in `committed`, and the contents by their JSON Pointer."""
    found: dict[str, Content] = {}
    public: Any = dict(body)
    for path in PRIVATE.get(str(body.get("kind")), ()):
        public = _cut(public, path, "", found)
    if trace:
        found[TRACE] = _salted(trace)
    if found:
        public["committed"] = {name: content.commitment for name, content in found.items()}
    return public, found


def join(body: dict[str, Any], contents: Mapping[str, Content]) -> dict[str, Any]:
    """The body with its contents in it; changes `body`. Raises AuditError where a commitment has no place there."""
    for name in body.pop("committed", {}):
        if name == TRACE:
            continue
        content = contents.get(name)
        if content is None:
            value: Any = {"missing": True}
        else:
            value = {"redacted": content.data.hex()} if content.is_redacted else parse_canonical(content.data)
        try:
            _put(body, name.split("/")[1:], value)
        except (LookupError, TypeError, ValueError):
            raise AuditError(f"its content '{name[:40]}' has no place in its body") from None
    return body


def _cut(value: Any, path: Sequence[str], at: str, found: dict[str, Content]) -> Any:
    key, *rest = path
    if key == "*" and isinstance(value, list):
        return [_cut(item, rest, f"{at}/{number}", found) for number, item in enumerate(value)]
    if not isinstance(value, Mapping) or key not in value:
        return value
    if rest:
        return {**value, key: _cut(value[key], rest, f"{at}/{key}", found)}
    found[f"{at}/{key}"] = _salted(canonical(value[key]))
    return {other: item for other, item in value.items() if other != key}


def _salted(data: bytes) -> Content:
    return Content(secrets.token_bytes(SALT_BYTES), data)


def _put(value: Any, path: Sequence[str], content: Any) -> None:
    for key in path[:-1]:
        value = value[int(key) if isinstance(value, list) else key]
    value[path[-1]] = content
