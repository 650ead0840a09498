"""Turns a Python function with type hints and a docstring into a tool."""

from __future__ import annotations

import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Annotated, Any, Final, NamedTuple, TypeGuard

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, create_model
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticUndefined

from steerkit.errors import ToolError

_CHOICES: Final = re.compile(r"\(choices:\s*(?P<choices>\[.*\])\s*\)\s*\Z", re.DOTALL)
_PLAIN: Final = (str, int, float, bool, list, dict, type(None), Any)
"""Types whose values are what JSON gives: they reach the function as they are."""
_EXPECTED: Final = (
    "expected type hints on all arguments and a docstring with an entry for each, in Google, NumPy or Sphinx style"
)


class Described(NamedTuple):
    """A function as a tool."""

    tool: dict[str, Any]
    """The OpenAI tool dict."""
    model: type[BaseModel]
    """Reads its arguments."""
    converted: Mapping[str, str]
    """By parameter the model's field, where the type is not JSON's own."""
    filled: Mapping[str, str]
    """Arguments whose default is a `Field(…)`, which the function would get as it is."""


def tool_from_function(function: Callable[..., Any]) -> dict[str, Any]:
    """The OpenAI tool dict of a function, a bound method, a `functools.partial` or an object that can be called.

    Types are read by pydantic; descriptions stand in the docstring, in Google, NumPy or Sphinx style, or in
    `Annotated[…, Field(description=…)]`. Arguments that a partial binds are not declared.

    Raises:
        ToolError: a type hint or a docstring entry is missing, or a type has no JSON form; says which.
    """
    if is_model(function):
        schema = function.model_json_schema(schema_generator=_Untitled)
        body = {
            "name": function.__name__,
            "description": inspect.cleandoc(function.__doc__ or ""),
            "parameters": _cleaned(schema),
        }
        return {"type": "function", "function": body}
    return deepcopy(described(function).tool)


class _Untitled(GenerateJsonSchema):
    """JSON Schemas without the titles that only repeat names."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as pydantic declares it

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        """A number, as a model writes it; pydantic's own takes text beside it."""
        found = {"type": "number"}
        self.update_with_validations(found, schema, self.ValidationsMapping.numeric)
        return found


def is_model(given: Any) -> TypeGuard[type[BaseModel]]:
    """True if it is a pydantic model, whose fields are the arguments."""
    return isinstance(given, type) and issubclass(given, BaseModel)


def described(function: Callable[..., Any]) -> Described:
    """The description of a function, made once where the function has a hash."""
    try:
        return _remembered(function)
    except TypeError:
        return _described(function)


@functools.lru_cache(maxsize=256)
def _remembered(function: Callable[..., Any]) -> Described:
    return _described(function)


def _described(function: Callable[..., Any]) -> Described:
    name, inner = _named(function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise _undescribed(name, "it has no signature") from None
    description, entries = _documented(function, inner)
    if not description:
        raise _undescribed(name, "it has no docstring")
    fields: dict[str, Any] = {}
    converted, filled, choices = {}, {}, {}
    for number, parameter in enumerate(_declared(function, signature, name)):
        hint, key, said = _hint(parameter, inner, name), f"p{number}", entries.get(parameter.name)
        if said is not None and (found := _CHOICES.search(said)):
            choices[parameter.name] = _choices(found["choices"], parameter.name, name)
            said = said[: found.start()].strip()
        if isinstance(parameter.default, FieldInfo):
            hint, filled[parameter.name] = Annotated[hint, parameter.default], key
        elif not _is_plain(hint):
            converted[parameter.name] = key
        fields[key] = (hint, _field(parameter, said, hint, name))
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid", populate_by_name=False), **fields)
        schema = model.model_json_schema(schema_generator=_Untitled)
    except (PydanticUserError, PydanticSchemaGenerationError, TypeError, NameError) as error:
        reason = str(error).strip().splitlines()[0]
        raise _undescribed(name, f"a type has no JSON form: {reason[:200]}") from None
    parameters = {"type": "object", "properties": {}, **_cleaned(schema, choices)}
    body = {"name": name, "description": description, "parameters": parameters}
    return Described({"type": "function", "function": body}, model, converted, filled)


def _named(function: Any) -> tuple[str, Any]:
    """A function's name, and the function whose code it is, where its hints and its docstring stand."""
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", None) or type(inner).__name__
    if isinstance(inner, type):
        inner = inner.__init__  # type: ignore[misc]  # of the very class that is called
    elif not inspect.isroutine(inner):
        inner = type(inner).__call__
    return str(name), inspect.unwrap(getattr(inner, "__func__", inner))


def _documented(function: Any, inner: Any) -> tuple[str, dict[str, str]]:
    """Descriptions of a function and its arguments by its docstrings; of an object or a class, by both of them."""
    while isinstance(function, functools.partial):
        function = function.func
    docs = [inner.__doc__] if inspect.isroutine(inner) and hasattr(inner, "__code__") else []
    if isinstance(function, type):
        docs.insert(0, function.__doc__)
    elif not inspect.isroutine(function):
        docs.append(type(function).__doc__)
    read = [docstring_parser.parse(inspect.cleandoc(doc)) for doc in docs if doc]
    description = next((str(one.description).strip() for one in read if one.description), "")
    return description, {_bare(entry.arg_name): entry.description or "" for one in read for entry in one.params}


def _declared(function: Any, signature: inspect.Signature, name: str) -> list[inspect.Parameter]:
    """The parameters that a call may name."""
    bound: set[str] = set()
    while isinstance(function, functools.partial):
        bound |= set(function.keywords)
        function = function.func
    found = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise _undescribed(name, f"got {parameter}, and a call names each argument")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise _undescribed(name, f"'{parameter.name}' is positional only, and a call names each argument")
        if parameter.name not in bound:
            found.append(parameter)
    return found


def _hint(parameter: inspect.Parameter, inner: Any, name: str) -> Any:
    if parameter.annotation is parameter.empty:
        raise _undescribed(name, f"'{parameter.name}' has no type hint")
    holder = types.SimpleNamespace(__annotations__={"hint": parameter.annotation})
    try:
        return typing.get_type_hints(holder, getattr(inner, "__globals__", {}), include_extras=True)["hint"]
    except Exception as error:  # whatever evaluating a hint raises
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        reason = f"the type hint {parameter.annotation!s:.80} of '{parameter.name}' cannot be resolved ({said})"
        raise ToolError(
            f"tool {name}: got a function that cannot be described ({reason}); expected a type that its module knows"
        ) from None


def _field(parameter: inspect.Parameter, entry: str | None, hint: Any, name: str) -> FieldInfo:
    """The model's field: its description, the default and the parameter's name."""
    said = [one if isinstance(one, str) else getattr(one, "description", None) for one in _metadata(hint)]
    description = next((one for one in reversed(said) if one), entry)
    if description is None:
        raise _undescribed(name, f"'{parameter.name}' has no description")
    default = parameter.default
    if isinstance(default, FieldInfo):
        default = default.get_default(call_default_factory=True)
    required = default is parameter.empty or default is PydanticUndefined
    field: FieldInfo = Field(
        ... if required else default, alias=parameter.name, description=" ".join(description.split())
    )
    return field


def _metadata(hint: Any) -> tuple[Any, ...]:
    return tuple(getattr(hint, "__metadata__", ()))


def _choices(text: str, parameter: str, name: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise _undescribed(name, f"the choices of '{parameter}' are no JSON list: {text[:80]}") from None
    return list(found)


def _cleaned(schema: dict[str, Any], choices: Mapping[str, list[Any]] = MappingProxyType({})) -> dict[str, Any]:
    """The schema without the model's own title, and with the choices that the docstring names.

    A default is the function's business; that null stands for leaving an argument out, the model has to be told.
    """
    plain = {key: value for key, value in schema.items() if key not in ("title", "description")}
    for name, one in plain.get("properties", {}).items():
        if one.get("default") is not None:
            del one["default"]
        if name in choices:
            one["enum"] = choices[name]
    return plain


def _is_plain(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _is_plain(arguments[0])
    if origin is typing.Literal:
        return all(type(value) in (str, int, bool, type(None)) for value in arguments)
    if origin in (typing.Union, types.UnionType, list, dict):
        return all(map(_is_plain, arguments))
    return hint in _PLAIN


def _bare(name: str) -> str:
    """The name of a docstring's entry, which NumPy's style may give a star and Sphinx's escape."""
    return name.replace("\\", "").lstrip("*").split(",")[0].strip()


def _undescribed(name: str, reason: str) -> ToolError:
    return ToolError(f"tool {name}: got a function that cannot be described ({reason}); {_EXPECTED}")
