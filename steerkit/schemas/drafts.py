"""The drafts of JSON Schema: a validator class for each, within a budget, and the keywords of the newest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jsonschema import validators
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it ships no types
from referencing import Registry
from referencing.jsonschema import specification_with

from steerkit.schemas.keywords import CORRECTED, counted

_BASE: Final = "https://json-schema.org/draft/2020-12/"
_VOCABULARIES: Final = [part["$ref"] for part in validators.Draft202012Validator.META_SCHEMA["allOf"]]
KEYWORDS: Final = frozenset(
    ("definitions", *(key for one in _VOCABULARIES for key in REGISTRY[_BASE + one].contents["properties"]))
)
"""Keywords of draft 2020-12; a validator ignores all others, and an ignored keyword restricts nothing."""
DEFAULT: Final = "2020-12"
"""Draft of a schema without a `$schema`."""


class DraftError(ValueError):
    """A `$schema` that is not known."""


def _evolved(self: Any, **changes: Any) -> Any:
    """A validator of the same class for another schema; jsonschema's own would change class at a `$schema`."""
    return type(self)(changes["schema"], registry=self._registry, _resolver=changes.get("_resolver", self._resolver))


def _bounded(stock: Any) -> Any:
    keywords = {key: CORRECTED.get(key, keyword) for key, keyword in stock.VALIDATORS.items()}
    if "dependencies" not in keywords:  # left out since 2019, still what it says where it stands
        keywords["dependencies"] = validators.Draft7Validator.VALIDATORS["dependencies"]
    extend: Any = validators.extend  # its stubs leave it untyped
    made = extend(stock, {key: counted(keyword) for key, keyword in keywords.items()})
    said = stock._APPLICABLE_VALIDATORS
    made.applicable_keywords = lambda self: dict(said(self.schema))
    made.evolve = _evolved
    made.SPECIFICATION = specification_with(stock.META_SCHEMA.get("$schema", stock.META_SCHEMA.get("id")))
    return made


_CLASSES: Final = {
    "2020-12": _bounded(validators.Draft202012Validator),
    "2019-09": _bounded(validators.Draft201909Validator),
    **{f"draft-0{number}": _bounded(getattr(validators, f"Draft{number}Validator")) for number in (7, 6, 4, 3)},
}


def draft_of(schema: Any) -> str:
    """The draft that a schema declares. Raises DraftError."""
    said = schema.get("$schema") if isinstance(schema, Mapping) else None
    if said is None:
        return DEFAULT
    for draft in _CLASSES:
        name = f"draft/{draft}" if draft[0] == "2" else draft
        if isinstance(said, str) and said.rstrip("#").partition("://")[2] == f"json-schema.org/{name}/schema":
            return draft
    raise DraftError(f"got {str(said)[:80]!r}, expected the address of draft 3, 4, 6, 7, 2019-09 or 2020-12")


def validator_of(schema: Any) -> Any:
    """The validator of a schema, in its own draft; nothing is ever fetched for a `$ref`. Raises DraftError."""
    nothing: Registry[Any] = Registry()  # without one of its own, jsonschema would ask the network
    return _CLASSES[draft_of(schema)](schema, registry=nothing)


def meta_validator(draft: str) -> Any:
    """The validator of schemas of a draft."""
    made = _CLASSES[draft]
    return made(made.META_SCHEMA, registry=Registry())
