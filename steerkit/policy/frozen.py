"""Models, mappings and lists that cannot be changed: a policy stays as checked, and its fingerprint stays true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, Self

from pydantic import BaseModel, ConfigDict

CHECKED: Final = {"checked": True}
"""Validation context of data whose parts are known to agree: each value is validated, `cross_problems` is not asked."""


class FrozenModel(BaseModel):
    """Base of everything in a policy: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, serialize_by_alias=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; unlike pydantic's own it validates what is updated and keeps no cached property."""
        if update:
            fields = {name: getattr(self, name) for name in type(self).model_fields}
            checked = self.model_validate({**fields, **update}, by_alias=False, by_name=True, context=CHECKED)
            update = {name: getattr(checked, name) for name in update}
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


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
