"""Problems of a policy with their locations, and lookups in plain data of any shape that never fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from steerkit.sites import Feature, Site

Location: TypeAlias = tuple[str | int, ...]


class Problem(NamedTuple):
    """One mistake and its location."""

    location: Location
    text: str
    """`got …, expected …`."""

    @property
    def path(self) -> str:
        """The location as a dotted path: `guard.rules[2].then`."""
        return dotted(self.location)


def dotted(location: Location) -> str:
    """`("rules", 2, "then")` as `rules[2].then`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def get(value: Any, key: str) -> Any:
    """The value of a key; None without the key, or without a mapping."""
    return value.get(key) if isinstance(value, Mapping) else None


def table(value: Any, key: str) -> Mapping[str, Any]:
    """The mapping of a key; empty without one."""
    found = get(value, key)
    return found if isinstance(found, Mapping) else {}


def items(value: Any, key: str) -> Sequence[Any]:
    """The list of a key; empty without one."""
    found = get(value, key)
    return found if isinstance(found, (list, tuple)) else ()


def conditions(where: Location, condition: Any) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    """A condition and all conditions inside it, with their locations; nothing for anything but a mapping."""
    if not isinstance(condition, Mapping):
        return
    yield where, condition
    for key in ("all", "any"):
        for number, part in enumerate(items(condition, key)):
            yield from conditions((*where, key, number), part)
    yield from conditions((*where, "not"), condition.get("not"))


def read_feature(feature: Any) -> Feature | None:
    """The feature that a policy's data names; None unless it has a site and an index."""
    site, index = get(feature, "site"), get(feature, "index")
    site = get(feature, "layer") if site is None else site
    if not isinstance(site, int | str) or not isinstance(index, int):
        return None
    try:
        return Feature(Site.of(site), index)
    except ValueError:
        return None
