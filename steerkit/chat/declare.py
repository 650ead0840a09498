"""Declarations of tools: a schema in the few words that Gemma's chat templates have, and the losses by that.

The guard checks the schema itself. A template knows properties with a description, one type, and an enum, properties
or items; so references are put in, `allOf` is one schema and a union is its first member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from steerkit.chat.dialects import NAME, Dialect
from steerkit.chat.plain import plain_json
from steerkit.chat.schemas import KEYWORDS, Inliner, Lint
from steerkit.errors import ToolError
from steerkit.types import Tool

_VANISHING: Final = ("description", "type", "properties", "required", "nullable")
_UNTYPED: Final = "parameters without a type leave the declaration's brace open; add type: object"
_MEMBERS: Final = ("allOf", "anyOf", "oneOf")
_UNTOLD: Final = ("patternProperties", "not", "if", "dependentRequired", "dependentSchemas", "dependencies", "contains")
_NOISE: Final = frozenset(
    {
        *("title", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "id"),
        *("additionalProperties", "unevaluatedProperties", "propertyOrdering", "property_ordering"),
    }
)
"""Keys that say nothing of a single item, or that the model cannot use."""
_SIGNS: Final = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""Keys that give the type of a schema that names none."""


def declared(tool: Tool, dialect: Dialect | None = None) -> dict[str, Any]:
    """The tool as the OpenAI tool dict that the chat template is given: with its schema as it is where the dialect
    declares schemas, else in the words of Gemma's templates.

    Raises:
        ToolError: its schema holds what is no JSON, or too much, or a key that the format cannot write.
    """
    as_it_is = _declares_schemas(dialect)
    parameters = plain_json(tool.parameters, _where(tool), ToolError) if as_it_is else _told(tool)[0]
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def lint(tool: Tool, dialect: Dialect | None = None) -> list[Lint]:
    """Losses of this tool in the published template, or in the words of any template of Gemma's: none where the
    dialect declares the schema as it is. Raises ToolError.
    """
    return [] if _declares_schemas(dialect) else _told(tool)[1]


def _declares_schemas(dialect: Dialect | None) -> bool:
    return dialect is not None and dialect.syntax.declares == "schema"


def _where(tool: Tool) -> str:
    return f"tool {tool.name}: parameters"


def _told(tool: Tool) -> tuple[dict[str, Any], list[Lint]]:
    lints = [] if "type" in tool.parameters else [Lint("error", "parameters", _UNTYPED)]
    where = _where(tool)
    schema = plain_json(tool.parameters, where, ToolError)
    try:
        inlined = Inliner(schema, lints).inlined()
        found = _Teller(lints).root(inlined)
    except ToolError as error:
        raise ToolError(f"{where}: {error}") from None
    except RecursionError:
        raise ToolError(f"{where}: got schemas nested too deeply; expected fewer levels") from None
    except (AttributeError, TypeError, KeyError, ValueError):
        raise ToolError(f"{where}: expected a JSON Schema") from None
    return found, list(dict.fromkeys(lints))


class _Teller:
    """Says schemas without references in the template's words."""

    def __init__(self, lints: list[Lint]) -> None:
        self._lints = lints

    def root(self, schema: Any) -> dict[str, Any]:
        """The declaration of all parameters."""
        one = self.one(schema, "parameters")
        if one.setdefault("type", "object") != "object":
            raise ToolError(f"got a schema of type {one['type']}, expected an object")
        self._lose_untold(one, "parameters")
        return {"type": "object", **self._inside_of_object(one, "parameters")}

    def _property(self, schema: Any, path: str) -> dict[str, Any]:
        """The declaration of one parameter."""
        one = self.one(schema, path)
        kind = self._kind(one, path)
        if one.get("nullable") == "by union":
            if one.get("default", "none") is not None:
                self._lose("error", path, "null is not declared beside another type; give it a default of null instead")
            one["nullable"] = True
        if "enum" in one and kind != "string":
            self._lose("warning", path, f"an enum of type {kind} is dropped from the declaration; use strings")
            del one["enum"]
        return self._declaration(one, kind, path)

    def _item(self, schema: Any, path: str) -> dict[str, Any]:
        """The declaration of a list's items: the template writes all that their schema says of a single value."""
        one = self.one(schema, path)
        kind = self._kind(one, path) if one else "string"
        if one.get("nullable") == "by union":
            one["nullable"] = True
        plain = {key: value for key, value in one.items() if key in KEYWORDS - _NOISE and not _holds_schemas(value)}
        return {**plain, **self._declaration(one, kind, path)} if one else {}

    def _declaration(self, one: Mapping[str, Any], kind: str, path: str) -> dict[str, Any]:
        found = {key: one[key] for key in ("description", "enum", "nullable") if key in one}
        self._lose_untold(one, path)
        if kind == "object":
            if not one.get("properties"):
                text = "an object without properties is declared with its schema's own keys; list them"
                self._lose("error", path, text)
            found |= self._inside_of_object(one, path)
        if kind == "array" and (items := self._items(one, path)):
            found["items"] = items
        return {**found, "type": kind}

    def _inside_of_object(self, one: Mapping[str, Any], path: str) -> dict[str, Any]:
        """An object's properties and which of them are required."""
        properties = {}
        for name, item in one.get("properties", {}).items():
            here = f"{path}.properties.{name}"
            if strange := unwritable(name):
                raise ToolError(f"got the parameter {name!r:.80} {strange}")
            if name in _VANISHING:
                self._lose("error", here, f"a parameter named '{name}' vanishes from the declaration; rename it")
            properties[name] = self._property(item, here)
        found: dict[str, Any] = {"properties": properties}
        if one.get("required"):
            found["required"] = list(one["required"])
            if unknown := [name for name in one["required"] if name not in properties]:
                self._lose("error", path, f"'{unknown[0]}' is required, and not declared among the properties")
        if properties and isinstance(one.get("additionalProperties"), dict) and one["additionalProperties"]:
            self._lose("warning", path, "the schema of additionalProperties is not declared")
        return found

    def _items(self, one: Mapping[str, Any], path: str) -> dict[str, Any]:
        items = one.get("items", True)
        places = one.get("prefixItems") or (items if isinstance(items, list) else [])
        if places:
            self._lose("error", path, "a list with a schema for each place is declared as one of the first place's")
            items = places[0]
        return self._item(items, f"{path}.items") if isinstance(items, Mapping) else {}

    def one(self, schema: Any, path: str) -> dict[str, Any]:
        """A schema without `allOf`, `anyOf`, `oneOf`, `const` and lists of types."""
        if not isinstance(schema, Mapping):
            if schema is False:
                self._lose("error", path, "the schema false, which nothing fits, is not declared")
            return {}
        found = {key: value for key, value in schema.items() if key not in _MEMBERS}
        kinds = found.get("type")
        if isinstance(kinds, list):
            del found["type"]
            union = self._either([{"type": kind} for kind in kinds], path)
            found = self._both(found, union, path)
        if "const" in found:
            found["enum"] = [found.pop("const")]
        if None in found.get("enum", ()):
            found["enum"] = [value for value in found["enum"] if value is not None]
            found = {**found, "nullable": "by union"} if found["enum"] else {"type": "null"}
        for part in schema.get("allOf", ()):
            found = self._both(found, self.one(part, path), path)
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                found = self._both(found, self._either([self.one(part, path) for part in schema[key]], path), path)
        return found

    def _both(self, one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> dict[str, Any]:
        """A schema for values that fit both; a word of which there can be one is the first's."""
        found = {**other, **one}
        kinds = {one.get("type", other.get("type")), other.get("type", one.get("type"))}
        if kinds == {"integer", "number"}:
            found["type"] = "integer"
        elif len(kinds) > 1:
            self._lose("error", path, f"two types in one, {' and '.join(sorted(map(str, kinds)))}, are not declared")
        if "properties" in one and "properties" in other:
            mine, others = one["properties"], other["properties"]
            both = {name: {"allOf": [mine[name], others[name]]} for name in mine if name in others}
            found["properties"] = {**mine, **others, **both}
        if "required" in one and "required" in other:
            found["required"] = list(dict.fromkeys((*one["required"], *other["required"])))
        if "enum" in one and "enum" in other:
            found["enum"] = [value for value in one["enum"] if value in other["enum"]]
        if isinstance(one.get("items"), Mapping) and isinstance(other.get("items"), Mapping):
            found["items"] = {"allOf": [one["items"], other["items"]]}
        return found

    def _either(self, options: Sequence[dict[str, Any]], path: str) -> dict[str, Any]:
        """A schema for values that fit one of them, as far as one type can say it."""
        some = [one for one in options if one.get("type") != "null"]
        if not some:
            return {"type": "null"} if options else {}
        kinds = [self._kind(one, None) for one in some]
        found = dict(some[0])
        if all(one == some[0] for one in some):
            pass
        elif set(kinds) == {"object"}:
            self._lose("error", path, "alternatives of an object are declared as one with all their properties")
            found = self._one_object(some)
        elif set(kinds) == {"array"}:
            found = {"type": "array", "items": {"anyOf": [one.get("items", {}) for one in some]}}
        elif len(set(kinds)) == 1 or set(kinds) == {"integer", "number"}:
            found = {"type": "number" if "number" in kinds else kinds[0]}
            if all("enum" in one for one in some):
                values = [value for one in some for value in one["enum"]]
                found["enum"] = [value for number, value in enumerate(values) if value not in values[:number]]
        else:
            told = " or ".join(dict.fromkeys(kinds))
            self._lose("error", path, f"a union type is not declared as one ({told}); give a single type")
            found["type"] = kinds[0]
        return {**found, "nullable": "by union"} if len(some) < len(options) else found

    def _one_object(self, some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for one in some:
            for name, item in one.get("properties", {}).items():
                properties[name] = {"anyOf": [properties[name], item]} if name in properties else item
        shared = [name for name in some[0].get("required", ()) if all(name in one.get("required", ()) for one in some)]
        return {"type": "object", "properties": properties, "required": shared}

    def _kind(self, one: Mapping[str, Any], path: str | None) -> str:
        """The type that is declared; without a path, of a schema whose loss is reported elsewhere."""
        if isinstance(one.get("type"), str):
            return str(one["type"])
        kinds = list(dict.fromkeys(map(_kind_of, one.get("enum", ()))))
        if set(kinds) == {"integer", "number"}:
            kinds = ["number"]
        if len(kinds) > 1 and path is not None:
            self._lose("error", path, f"an enum of several types ({', '.join(kinds)}) is declared as {kinds[0]}")
        if kinds:
            return kinds[0]
        kind = next((kind for kind, signs in _SIGNS.items() if any(sign in one for sign in signs)), None)
        if kind is None and path is not None:
            self._lose("error", path, "a parameter without a type is declared as a string; give it one")
        return kind or "string"

    def _lose_untold(self, one: Mapping[str, Any], path: str) -> None:
        for key in _UNTOLD:
            if key in one:
                self._lose("warning", path, f"{key} is not declared")

    def _lose(self, severity: Any, path: str, text: str) -> None:
        self._lints.append(Lint(severity, path, text))


def unwritable(name: Any) -> str:
    """The fault of a parameter's name; empty if it has none."""
    if isinstance(name, str) and NAME.fullmatch(name):
        return ""
    strange = next((char for char in str(name) if not NAME.fullmatch(char)), "")
    return (f"with {strange!r}, " if strange else "") + "expected letters (a to z), digits, '_', '.' and '-'"


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    found = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}.get(type(value))
    return found or "null"


def _holds_schemas(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
    )
