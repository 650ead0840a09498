"""API keys: kept as hashes, each with the policies and the load that it may ask for."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerkit.errors import SettingError
from steerkit.files import read_json

_MINUTE: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Key:
    """Holder of a key, and what it may do."""

    name: str
    """Stands in records and logs; the key itself never does."""
    digest: str = ""
    """SHA-256 of the key, in hex."""
    policies: frozenset[str] | None = None
    """Policies that its requests may choose; None for all that the server allows."""
    default: tuple[str, ...] | None = None
    """Policies of its requests that choose none; None for the server's own."""
    per_minute: int | None = None
    """Requests in a minute; None for no limit."""
    concurrent: int | None = None
    """Requests at a time; None for no limit."""
    approves: bool = True
    """May decide about held calls."""
    reads_all: bool = True
    """May read every record and held call; else those of its own requests."""

    @property
    def sees(self) -> str | None:
        """Name of the asker whose records and held calls it may read; None for all."""
        return None if self.reads_all else self.name

    def may_see(self, asker: str) -> bool:
        """True if it may read what the request of an asker led to."""
        return self.sees in (None, asker)

    def may_choose(self, policy: str) -> bool:
        """True if a request with this key may name a policy."""
        return self.policies is None or policy in self.policies


ANYBODY: Final = Key(name="")
"""Whoever comes, where no keys are asked for."""


@dataclass
class Usage:
    """Requests of one key, for its limits."""

    begun: deque[float] = field(default_factory=deque)
    """Times of those of the last minute."""
    running: int = 0

    def wait(self, key: Key) -> float | None:
        """Seconds after which another request may come; None if it may now, and is counted then."""
        now = time.monotonic()
        while self.begun and self.begun[0] <= now - _MINUTE:
            self.begun.popleft()
        if key.concurrent is not None and self.running >= key.concurrent:
            return 1.0
        if key.per_minute is not None and len(self.begun) >= key.per_minute:
            return self.begun[0] + _MINUTE - now
        if key.per_minute is not None:
            self.begun.append(now)
        self.running += 1
        return None


class Keys:
    """The keys of a server; with none of them everybody may come in."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = {key.digest: key for key in keys}
        self.usage: dict[str, Usage] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def holder(self, given: str | None) -> Key | None:
        """The holder of a key; None where it is none of them."""
        if not self._keys:
            return ANYBODY
        digest = hashed(given or "")
        found = None
        for one in self._keys.values():  # all of them, so that the time tells nothing
            found = one if hmac.compare_digest(one.digest, digest) else found
        return found

    def usage_of(self, key: Key) -> Usage:
        """Requests of a key's holder."""
        return self.usage.setdefault(key.name, Usage())


def hashed(key: str) -> str:
    """SHA-256 of a key, in hex: what a key file holds."""
    return hashlib.sha256(key.encode()).hexdigest()


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    policies: list[str] | None = None
    default: list[str] | None = None
    per_minute: int | None = Field(None, ge=1)
    concurrent: int | None = Field(None, ge=1)
    approves: bool = False
    reads_all: bool = False

    def key(self) -> Key:
        return Key(
            name=self.name,
            digest=self.sha256,
            policies=None if self.policies is None else frozenset(self.policies),
            default=None if self.default is None else tuple(self.default),
            per_minute=self.per_minute,
            concurrent=self.concurrent,
            approves=self.approves,
            reads_all=self.reads_all,
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    keys: list[_Row] = Field(min_length=1)


def read_keys(path: Path) -> list[Key]:
    """The keys of a file `{"keys": [{"name": "ann", "sha256": "…"}]}`. Raises SettingError for what is wrong in it."""
    data: Any = read_json(path, SettingError, "a JSON file with keys")
    if not isinstance(data, Mapping):
        raise SettingError(f'{path}: got {type(data).__name__}, expected {{"keys": [...]}}')
    try:
        rows = _File.model_validate(data).keys
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingError(f"{path} {where}: {first['msg']}; expected name, sha256 and limits") from None
    for name in ("name", "sha256"):
        values = [getattr(row, name) for row in rows]
        if len(set(values)) < len(values):
            raise SettingError(f"{path} keys: got the same {name} twice, expected its own for each")
    return [row.key() for row in rows]
