"""Two lists of calls as syntax trees, held against each other: name by name, argument by argument, value by value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from steerkit.audit.records.recorded import path_of

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


def diff_calls(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Every leaf of two turns' calls, in written order; calls are paired by their place.

    Args:
        first, second: as a record holds them: `name` and `arguments`, or `malformed` and `raw`.
    """
    one, other = ([_tree(call) for call in calls] for calls in (first, second))
    return list(_walk(one, other, ("calls",)))


def _tree(call: Mapping[str, Any]) -> dict[str, Any]:
    return {key: call[key] for key in ("name", "arguments", "malformed", "raw") if key in call}


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
