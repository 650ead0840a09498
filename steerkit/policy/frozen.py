"""Mappings and lists that cannot be changed: a policy stays what was checked, and its fingerprint stays true."""

from __future__ import annotations

from typing import Any, NoReturn


class FrozenDict(dict[str, Any]):
    """A dict that refuses every change with a TypeError; copies and pickles refuse it too."""

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


class FrozenList(list[Any]):
    """A list that refuses every change with a TypeError; copies and pickles refuse it too."""

    def __reduce__(self) -> Any:
        return type(self), (list(self),)


def _refuse(self: object, *args: object, **named: object) -> NoReturn:
    raise TypeError("a policy cannot be changed; make a changed copy of it: policy.model_copy(update={…})")


_CHANGES = ("__setitem__", "__delitem__", "__ior__", "__iadd__", "__imul__", "clear", "pop", "popitem", "setdefault")
for _name in (*_CHANGES, "update", "append", "extend", "insert", "remove", "reverse", "sort"):
    for _kind in (FrozenDict, FrozenList):
        if hasattr(_kind, _name):
            setattr(_kind, _name, _refuse)


def frozen(value: Any) -> Any:
    """JSON data with every mapping and list in it frozen; other values as they are."""
    if isinstance(value, dict):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    return FrozenList(map(frozen, value)) if isinstance(value, list | tuple) else value
