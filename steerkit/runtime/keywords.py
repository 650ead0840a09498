"""Misspelt keyword arguments as one-line errors that name the nearest known one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

from steerkit.errors import SettingError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def refuse_unknown(where: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Check names of settings.

    Raises:
        SettingError: the first that is unknown, and which was probably meant.
    """
    names = list(known)
    for name in given:
        if name not in names:
            near = get_close_matches(str(name), names, 1, 0.5)
            meant = f"did you mean '{near[0]}'? " if near else ""
            raise SettingError(
                f"{where}: got an unexpected keyword argument '{name}'; {meant}expected one of: {', '.join(names)}"
            )


def raises_setting_errors(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose TypeErrors for wrong arguments are SettingErrors of one line.

    Raises:
        SettingError: an argument that it does not take, one too many, or one that is missing.
    """
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name != "self"]
    if any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
        names = []  # it looks at those itself

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        where = function.__qualname__.split(".")[0] if function.__name__ == "__init__" else function.__name__
        if names:
            refuse_unknown(where, kwargs, names)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise SettingError(f"{where}: {error}; expected: {', '.join(signature.parameters)}") from None
        return function(*args, **kwargs)

    return wrapped


def init_raises_setting_errors(kind: type[T]) -> type[T]:
    """The class, with `raises_setting_errors` on its `__init__`."""
    setattr(kind, "__init__", raises_setting_errors(kind.__init__))  # noqa: B010  # the type checker knows its own
    return kind
