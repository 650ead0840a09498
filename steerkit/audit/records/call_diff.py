"""Differences between two lists of calls: name by name, argument by argument, value by value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from steerkit.audit.schema import as_json, path_of
from steerkit.types import CallLike

_ABSENT: Final = object()


class Node(NamedTuple):
    """One leaf of the two trees."""

    path: str
    """Such as `calls[0].name` or `calls[0].arguments.to`."""
    kind: Literal["same", "changed", "removed", "added"]
    """`removed`: only the first has it; `added`: only the second."""
    first: Any
    """None where it has none."""
    second: Any


def diff_calls(first: Sequence[CallLike], second: Sequence[CallLike]) -> list[Node]:
    """Every leaf of two turns' calls, in written order; calls are paired by their place."""
    one, other = ([_tree(call) for call in calls] for calls in (first, second))
    return list(_walk(one, other, ("calls",)))


def _tree(call: CallLike) -> dict[str, Any]:
    """A call as its record has it, without positions."""
    return {key: value for key, value in as_json(call).items() if key not in ("span", "position")}


def _walk(first: Any, second: Any, path: tuple[str | int, ...]) -> Iterator[Node]:
    there = [one for one in (first, second) if one is not _ABSENT]
    trees = any(all(isinstance(one, kind) for one in there) for kind in (Mapping, list))
    if trees and any(there):
        for key in dict.fromkeys(key for one in there for key in _keys(one)):
            yield from _walk(_child(first, key), _child(second, key), (*path, key))
    elif first is _ABSENT:
        yield Node(path_of(path), "added", None, second)
    elif second is _ABSENT:
        yield Node(path_of(path), "removed", first, None)
    elif len(path) > 1:
        same = first == second and isinstance(first, bool) == isinstance(second, bool)
        yield Node(path_of(path), "same" if same else "changed", first, second)


def _keys(value: Any) -> Iterable[Any]:
    return value if isinstance(value, Mapping) else range(len(value))


def _child(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(key, _ABSENT)
    return value[key] if isinstance(value, list) and key < len(value) else _ABSENT
