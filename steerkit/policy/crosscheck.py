"""What must hold between the parts of a policy, checked on plain data that may be wrong elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

Location = tuple[str | int, ...]


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


def cross_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Every disagreement between the parts of a policy's data."""
    features, probes = _table(data, "features"), _table(data, "probes")
    found = [
        Problem(("probes", name), f"got '{name}', which is also a feature; expected another name")
        for name in probes
        if name in features
    ]
    for name, probe in probes.items():
        for part in _table(probe, "weights"):
            found += _unknown(("probes", name, "weights", part), part, features, "feature")
    found += _steer_problems(_list(data, "steer"), features, probes)
    for number, rule in enumerate(_list(_table(data, "guard"), "rules")):
        found += _reading_problems(("guard", "rules", number, "when"), rule, features, probes)
    for number, name in enumerate(_list(_table(data, "trace"), "watch")):
        found += _unknown(("trace", "watch", number), name, {**features, **probes}, "feature or probe")
    found += _twice(("steer",), _list(data, "steer"))
    found += _twice(("guard", "rules"), _list(_table(data, "guard"), "rules"))
    return found


def _steer_problems(rules: Sequence[Any], features: Mapping[str, Any], probes: Mapping[str, Any]) -> Iterator[Problem]:
    owners: dict[tuple[Any, Any], str] = {}
    for number, rule in enumerate(rules):
        where = ("steer", number)
        yield from _reading_problems((*where, "when"), rule, features, probes)
        edited = _table(rule, "edit")
        for name in edited:
            yield from _unknown((*where, "edit", name), name, features, "feature")
            site = _site(features.get(name))
            title = str(_get(rule, "name"))
            if site is not None and owners.setdefault(site, f"{title}/{name}") != f"{title}/{name}":
                other = owners[site].split("/")[0]
                text = f"got layer {site[0]} feature {site[1]}, which rule '{other}' edits too; expected one edit of it"
                yield Problem((*where, "edit", name), text)
        yield from _layer_problems(where, rule, features, probes)


def _layer_problems(
    where: Location, rule: Any, features: Mapping[str, Any], probes: Mapping[str, Any]
) -> Iterator[Problem]:
    """A gate is read before the edit is written: its layers can be no higher."""
    when = _table(rule, "when")
    names = [when["feature"]] if "feature" in when else list(_table(probes.get(str(when.get("probe"))), "weights"))
    read = [site[0] for name in names if (site := _site(features.get(name)))]
    written = [site[0] for name in _table(rule, "edit") if (site := _site(features.get(name)))]
    if read and written and max(read) > min(written):
        text = (
            f"got a gate at layer {max(read)} for an edit at layer {min(written)}; expected a gate at no higher layer"
        )
        yield Problem((*where, "when"), text)


def _reading_problems(
    where: Location, rule: Any, features: Mapping[str, Any], probes: Mapping[str, Any]
) -> Iterator[Problem]:
    when = _table(rule, "when")
    if "feature" in when:
        yield from _unknown((*where, "feature"), when["feature"], features, "feature")
    if "probe" in when:
        yield from _unknown((*where, "probe"), when["probe"], probes, "probe")


def _unknown(where: Location, name: Any, known: Mapping[str, Any], kind: str) -> list[Problem]:
    if not isinstance(name, str) or name in known:
        return []
    close = get_close_matches(name, known, n=1)
    hint = (
        f"did you mean '{close[0]}'?"
        if close
        else f"expected one of {', '.join(sorted(known)) or 'none: there are none'}"
    )
    return [Problem(where, f"got '{name[:80]}', which is no {kind} of this policy; {hint}")]


def _twice(where: Location, rules: Sequence[Any]) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        name = _get(rule, "name")
        if isinstance(name, str) and name in seen:
            yield Problem((*where, number, "name"), f"got '{name}' a second time; expected a name of its own")
        elif isinstance(name, str):
            seen.add(name)


def _site(feature: Any) -> tuple[Any, Any] | None:
    layer, index = _get(feature, "layer"), _get(feature, "index")
    return (layer, index) if isinstance(layer, int) and isinstance(index, int) else None


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _table(value: Any, key: str) -> Mapping[str, Any]:
    found = _get(value, key)
    return found if isinstance(found, Mapping) else {}


def _list(value: Any, key: str) -> Sequence[Any]:
    found = _get(value, key)
    return found if isinstance(found, (list, tuple)) else ()
