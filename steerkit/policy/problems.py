"""Plain data that may be wrong anywhere: looking into it never fails, and a mistake in it has a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from steerkit.types import Feature, Site

Location: TypeAlias = tuple[str | int, ...]


class Problem(NamedTuple):
    """One mistake and where it stands."""

    location: Location
    text: str
    """`got …, expected …`."""

    @property
    def path(self) -> str:
        """The location as people write it: `guard.rules[2].then`."""
        return dotted(self.location)


def dotted(location: Location) -> str:
    """`("rules", 2, "then")` as `rules[2].then`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def get(value: Any, key: str) -> Any:
    """The value of a key; None where there is none, or no mapping."""
    return value.get(key) if isinstance(value, Mapping) else None


def table(value: Any, key: str) -> Mapping[str, Any]:
    """The mapping of a key; an empty one where there is none."""
    found = get(value, key)
    return found if isinstance(found, Mapping) else {}


def items(value: Any, key: str) -> Sequence[Any]:
    """The list of a key; an empty one where there is none."""
    found = get(value, key)
    return found if isinstance(found, (list, tuple)) else ()


def read_feature(feature: Any) -> Feature | None:
    """A feature of a policy's data, where it says a site and an index."""
    site, index = get(feature, "site"), get(feature, "index")
    site = get(feature, "layer") if site is None else site
    if not isinstance(site, int | str) or not isinstance(index, int):
        return None
    try:
        return Feature(Site.of(site), index)
    except ValueError:
        return None
