"""Steering rules that contradict each other, can never act or cannot be honoured, found on plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit.policy.problems import Location, Problem, Target, conditions, get, read_targets, table
from steerkit.sites import Site
from steerkit.types import PROMPT_PLACES, Place

_PROMPT = PROMPT_PLACES | {"any"}


def steering_problems(where: Location, rule: Any, data: Mapping[str, Any]) -> Iterator[Problem]:
    """Places of one rule of a policy's data at which it can never act or cannot be honoured."""
    when = get(rule, "when")
    if not isinstance(when, Mapping):
        return
    read, written = _sites(rule, data)
    place, at_place = get(rule, "where"), when.get("at", "any")
    if not isinstance(place, str) or not isinstance(at_place, str):
        return
    late = _late(read, written)
    if late and place in _PROMPT:
        yield Problem(
            (*where, "where"),
            f"got {place!r} for an edit at {min(written).name} behind a gate at {max(read).name}; such a gate acts "
            f"from the next token on and cannot act in the prompt, expected reply, reply.start, text or a place of "
            f"the call (or a gate at no higher layer)",
        )
    if not late and get(rule, "for") in (None, "token") and not can_meet(at_place, place):
        yield Problem(
            (*where, "where"),
            f"got {place!r} behind a gate that is read at {at_place!r} and holds for one token, so the rule can never "
            f"act; expected a place that meets it, or for: turn",
        )
    elif _ends(place) < _begins(at_place):
        yield Problem(
            (*where, "where"),
            f"got {place!r}, which is over before the gate is read at {at_place!r}, so the rule can never act; "
            f"expected a later place",
        )


def is_late(rule: Any, data: Mapping[str, Any]) -> bool:
    """True if a rule's gate reads a later site than the rule edits, and so acts from the next token on."""
    return _late(*_sites(rule, data))


def _late(read: Sequence[Site], written: Sequence[Site]) -> bool:
    return bool(read and written) and max(read) > min(written)


def _sites(rule: Any, data: Mapping[str, Any]) -> tuple[list[Site], list[Site]]:
    """Sites that a rule's gate reads, and sites that the rule edits, of what is known."""
    names = (_sources(get(rule, "when"), table(data, "probes")), table(rule, "edit"))
    read, written = ([at.site for name in some for at in read_targets(data, name)] for some in names)
    return read, written


def conflicts(rules: Sequence[Any], data: Mapping[str, Any]) -> Iterator[Problem]:
    """Pairs of rules of one priority that may edit the same thing at one token, and rules that edit one twice."""
    editors: dict[tuple[str, Target], dict[str, tuple[int, Any]]] = {}  # the first at each place
    for second, other in enumerate(rules):
        place, priority = get(other, "where"), str(get(other, "priority") or 0)
        if not isinstance(place, str):
            continue
        mine = [(name, at) for name in table(other, "edit") for at in read_targets(data, name)]
        for name, at in mine:
            places = editors.get((priority, at), {})
            met = min((editor for there, editor in places.items() if can_meet(there, place)), default=None, key=_number)
            if met is not None:
                yield Problem(
                    ("steer", second, "edit", name),
                    f"got {at}, which rule '{get(met[1], 'name')}' (steer[{met[0]}]) edits at the same tokens as "
                    f"'{get(other, 'name')}' may; expected one edit of it, places that never meet, or a priority that "
                    f"decides",
                )
        for _, at in mine:
            editors.setdefault((priority, at), {}).setdefault(place, (second, other))
    for number, rule in enumerate(rules):
        seen: dict[Target, str] = {}
        for name in table(rule, "edit"):
            for at in read_targets(data, name):
                if seen.setdefault(at, name) != name:
                    text = f"got {at}, which '{seen[at]}' names too; expected one edit of it"
                    yield Problem(("steer", number, "edit", name), text)


def _number(editor: tuple[int, Any]) -> int:
    return editor[0]


def _sources(condition: Any, probes: Mapping[str, Any]) -> Iterator[str]:
    """Names of the features and directions that a condition reads, itself or through a probe."""
    for _, part in conditions((), condition):
        if isinstance(part.get("feature"), str):
            yield part["feature"]
        if isinstance(part.get("probe"), str):
            yield from table(probes.get(part["probe"]), "weights")


def _begins(place: str) -> int:
    """Earliest stage of the turn at a place: 0 the prompt, 1 the reply, 2 a call."""
    return 0 if place in _PROMPT else 2 if place.startswith("call") else 1


def _ends(place: str) -> int:
    """Latest stage of the turn at a place."""
    return 1 if place in _PROMPT - {"any"} or place == "reply.start" else 2


def can_meet(one: Place, other: Place) -> bool:
    """True if a step can be at both places, or if that is not known."""
    if one == other or "any" in (one, other):
        return True
    if PROMPT_PLACES.issuperset((one, other)):
        return "prompt" in (one, other) or {one, other} == {"developer", "declaration"}
    if one in PROMPT_PLACES or other in PROMPT_PLACES:
        return bool({one, other} & {"reply", "reply.start", "text"})  # the reply starts at the prompt's last token
    if "reply" in (one, other) or {one, other} == {"reply.start", "text"}:
        return True
    longer, shorter = sorted((one, other), key=len, reverse=True)
    return longer.startswith(f"{shorter}.") or {one, other} == {"call.open", "call.name"}
