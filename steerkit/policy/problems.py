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


class Target(NamedTuple):
    """What an edit changes or a gate reads at one hook point: a feature, or a direction's vector."""

    site: Site
    key: Any
    """Index of the feature, or what tells directions apart."""
    text: str
    """Name in messages."""

    def __str__(self) -> str:
        return self.text


def read_targets(data: Any, name: str) -> list[Target]:
    """The targets that a name of a policy's data stands for; none where it is not said well enough."""
    feature, direction = table(data, "features").get(name), table(data, "directions").get(name)
    if direction is not None:
        key, text = (get(direction, "fingerprint") or get(direction, "file"), get(direction, "random")), "the direction"
        sites = [_read_site(site) for site in items(direction, "sites")]
        file = get(direction, "file")
        return [Target(site, str(key), f"{text} of {file} at {site.name}") for site in sites if site is not None]
    index, said = get(feature, "index"), get(feature, "site")
    site = _read_site(get(feature, "layer") if said is None else said)
    if site is None or not isinstance(index, int):
        return []
    return [Target(site, index, str(Feature(site, index)))]


def _read_site(value: Any) -> Site | None:
    try:
        return Site.of(value) if isinstance(value, int | str) else None
    except ValueError:
        return None
