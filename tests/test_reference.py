"""The reference has the fields, types and defaults that the code has."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parent.parent / "steerkit" / "REFERENCE.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE))
ROOMS = ("steerkit", "steerkit.agent", "steerkit.runtime", "steerkit.engine")


def value_of(name: str) -> Any:
    """A public name, from the first room that has it."""
    for room in ROOMS:
        try:
            return getattr(importlib.import_module(room), name)
        except (ImportError, AttributeError):
            continue
    raise AssertionError(f"{name}: in none of {', '.join(ROOMS)}")


def fields_of(value: Any) -> Iterator[tuple[str, str, str | None]]:
    """Name, type and default of each field or argument, as they are written; None for one that must be given."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            factory = field.default_factory
            default = None if field.default is dataclasses.MISSING else repr(field.default)
            if factory is not dataclasses.MISSING:
                default = f"{getattr(factory, '__name__', factory)}()"
            yield field.name, _written(field.type), default
    elif inspect.isclass(value):  # a TypedDict: what is not said has the default of its docstring, or of Sampling
        sampling = {name: default for name, _, default in fields_of(value_of("Sampling"))}
        own = inspect.getsource(value).split("max_new_tokens:")[0]
        for name, kind in value.__annotations__.items():
            said = re.search(rf'^    {name}: .*?"""(.*?)"""', own, flags=re.DOTALL | re.MULTILINE)
            numbers = re.findall(r"\b(\d[\d,]*)\b", said[1]) if said else []
            default = sampling.get(name) or (numbers[0] if numbers else "None")
            yield name, _written(kind.__forward_arg__ if hasattr(kind, "__forward_arg__") else kind), default
    else:
        for parameter in inspect.signature(value).parameters.values():
            empty = parameter.default is inspect.Parameter.empty
            yield parameter.name, _written(parameter.annotation), None if empty else repr(parameter.default)


def _written(kind: object) -> str:
    return re.sub(r"\s+", " ", str(kind)).strip("\"'")


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_every_field_has_its_row(name: str) -> None:
    """In the order of the code, with its type and its default, and a line that says what it is."""
    rows = re.findall(r"^\| `(\w+)` \| `(.*)` \| (.*?) \| (.+) \|$", SECTIONS[name], flags=re.MULTILINE)
    found = [
        (field, kind.replace("\\|", "|"), None if default == "required" else default.strip("`"))
        for field, kind, default, _ in rows
    ]
    assert found == list(fields_of(value_of(name)))
    assert all(line.strip() for *_, line in rows)


def test_the_reference_is_complete() -> None:
    """What a caller hands in and gets back has a section; a wrong row would be found."""
    assert {"Request", "Settings", "Sampling", "Turn", "Run", "load"} == set(SECTIONS)
    assert ("max_new_tokens", "int", "256") in list(fields_of(value_of("Sampling")))
    assert ("max_new_tokens", "int", "255") not in list(fields_of(value_of("Sampling")))
