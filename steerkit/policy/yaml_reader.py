"""YAML as plain data, with the line of every key and item, and without YAML's traps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from steerkit.errors import PolicyError
from steerkit.policy.problems import Location, Problem

_MAX_DEPTH = 40
_MAX_NODES = 250_000
_MAX_BITS = 14_000
"""Most bits of an integer: about the 4,300 digits that Python reads and writes."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character: YAML can write it, no file and no record can hold it."""

_BREAKS = re.compile("[\x85\u2028\u2029]")
_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""Scalars without quotes by YAML 1.2's core schema, as editors read them: pattern and first characters of each type.

PyYAML's own rules, those of YAML 1.1, make truth of `no`, eight of `010`, ninety of `1:30` and text of `1e-3`.
"""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the core schema; its errors are the ones that are shown."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # the stubs say instance, it is not


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # as the platform has it
    """libyaml's loader with the core schema, if PyYAML has it: ten times as fast."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes every text that either schema would read as something else."""


for _kind, (_pattern, _first) in _PLAIN.items():
    for _either in (_Loader, _FastLoader, _Dumper):
        _firsts = [letter.replace("\0", "") for letter in _first]
        _either.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern})$"), _firsts)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text; characters that PyYAML takes for a line break are escaped, or they would come back as spaces."""
    return dumper.represent_scalar(_TAG + "str", text, '"' if _BREAKS.search(text) else None)


_Dumper.add_representer(str, _text)


def write_document(data: dict[str, Any]) -> str:
    """Plain data as YAML text; reading it gives equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


@dataclass
class Document:
    """Content of a file, with the line of each value."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """Mistakes that the data no longer shows, such as a key given twice."""
    unread: set[Location] = field(default_factory=set)
    """Locations of values that could not be read; the data has a placeholder there."""

    def known(self, location: Location) -> Location:
        """A location without the names that pydantic adds and the file does not have."""
        kept: Location = ()
        for part in location:
            if (*kept, part) in self.lines:
                kept = (*kept, part)
        return kept

    def line(self, location: Location) -> int:
        """Line of a location, or of the closest one around it; from 1."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


def read_document(text: str, source: str, expected: str = "a policy: steerkit: 1, name: …") -> Document:
    """Parse a YAML mapping.

    Raises:
        PolicyError: the text is not YAML, uses aliases, is nested too deeply, or is not a mapping.
    """
    try:
        root = _composed(text)
    except yaml.YAMLError as error:
        raise PolicyError([_no_yaml(error, text, source)]) from None
    except RecursionError:
        raise PolicyError([f"{source}:1 nested too deeply; expected at most {_MAX_DEPTH} levels"]) from None
    if not isinstance(root, yaml.MappingNode):
        raise PolicyError([f"{source}:1 got no mapping, expected {expected}"])
    document = Document()
    reader = _Reader(document, source)
    data = reader.read(root, ())
    document.data = data if isinstance(data, dict) else {}
    return document


def _composed(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_FastLoader)
    except (yaml.YAMLError, RecursionError, ValueError):  # the slower one has the better error, or reads it
        return yaml.compose(text, Loader=_Loader)


def _no_yaml(error: yaml.YAMLError, text: str, source: str) -> str:
    """The error of a text that is not YAML: line and reason, and the line where the broken construct begins."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{source}:{line} not YAML: the character {chr(error.character)!r} may not stand in it"
    mark, began, context = (getattr(error, name, None) for name in ("problem_mark", "context_mark", "context"))
    what = getattr(error, "problem", None) or "the text cannot be read"
    since = f" ({context}, begun in line {began.line + 1})" if began and context else ""
    return f"{source}:{mark.line + 1 if mark else 1} not YAML: {what}{since}"


class _Reader:
    def __init__(self, document: Document, source: str) -> None:
        self.document, self.source = document, source
        self.seen: set[int] = set()

    def read(self, node: yaml.Node, location: Location) -> Any:
        line = node.start_mark.line + 1
        if id(node) in self.seen:
            raise PolicyError([f"{self.source}:{line} got a YAML alias (*), expected the value itself"])
        self.seen.add(id(node))
        if len(location) > _MAX_DEPTH or len(self.seen) > _MAX_NODES:
            most = f"{_MAX_DEPTH} levels and {_MAX_NODES} values"
            raise PolicyError([f"{self.source}:{line} too deep or too large; expected at most {most}"])
        self.document.lines.setdefault(location, line)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in (_TAG + "map", _TAG + "seq"):
            self._unreadable(node, location)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*location, number)) for number, item in enumerate(node.value)]
        return self._scalar(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or _SURROGATE.search(key):
                inner = (*location, "?")
                self.document.lines.setdefault(inner, line)
                self.document.problems.append(Problem(inner, "got a key that is no text, expected a name"))
                continue
            inner = (*location, key)
            if key in found:
                problem = (
                    f"got the key '{key}' a second time (first in line {self.document.lines[inner]}); expected it once"
                )
                self.document.lines[inner] = line
                self.document.problems.append(Problem(inner, problem))
            self.document.lines[inner] = line
            found[key] = self.read(value_node, inner)
        return found

    def _scalar(self, node: yaml.Node, location: Location) -> Any:
        try:
            value = _value(node.tag.removeprefix(_TAG), node.value)
        except ValueError:
            self._unreadable(node, location)
            return None
        if isinstance(value, str) and _SURROGATE.search(value):
            self.document.problems.append(Problem(location, f"got {value[:80]!r}, expected Unicode text"))
            self.document.unread.add(location)
            return None
        return value

    def _unreadable(self, node: yaml.Node, location: Location) -> None:
        got = repr(node.value[:80]) if isinstance(node, yaml.ScalarNode) else "a collection"
        tag = node.tag.replace(_TAG, "!!")
        self.document.unread.add(location)
        self.document.problems.append(Problem(location, f"got {got} as {tag}, which YAML cannot read here"))


def _value(kind: str, text: str) -> Any:
    """A scalar's value. Raises ValueError: it is not of its type, or of a type that a policy does not use."""
    match kind:
        case "str":
            return text
        case "null":
            return None
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "int":
            number = int(text, 0 if text.startswith(("0x", "0o")) else 10)
            if number.bit_length() > _MAX_BITS:
                raise ValueError(kind)
            return number
        case "float":
            return float(re.sub(r"^([-+]?)\.(?=[iInN])", r"\1", text))
    raise ValueError(kind)
