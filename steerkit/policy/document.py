"""A YAML text as plain data, with the line of every key and item, and without YAML's traps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from steerkit.errors import PolicyError
from steerkit.policy.plain import Location, Problem

_MAX_DEPTH = 40
_MAX_NODES = 50_000
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character: YAML can write it, no file and no record can hold it."""


@dataclass
class Document:
    """What a file says and where."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """Mistakes that plain data no longer shows, such as a key given twice."""

    def known(self, location: Location) -> Location:
        """The parts of a location that stand in the file; pydantic adds names of its own to some."""
        kept: Location = ()
        for part in location:
            if (*kept, part) in self.lines:
                kept = (*kept, part)
        return kept

    def line(self, location: Location) -> int:
        """Line of a location, or of the closest thing around it; from 1."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


def read_document(text: str, source: str) -> Document:
    """Parse a YAML mapping.

    Raises:
        PolicyError: the text is no YAML, uses aliases, is nested too deeply, or is no mapping.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "the text cannot be read"
        raise PolicyError([f"{source}:{mark.line + 1 if mark else 1} not YAML: {what}"]) from None
    except RecursionError:
        raise PolicyError([f"{source}:1 nested too deeply; expected at most {_MAX_DEPTH} levels"]) from None
    if not isinstance(root, yaml.MappingNode):
        raise PolicyError([f"{source}:1 got no mapping, expected a policy: steerkit: 1, name: …"])
    document = Document()
    reader = _Reader(document, source)
    data = reader.read(root, ())
    document.data = data if isinstance(data, dict) else {}
    return document


class _Reader:
    def __init__(self, document: Document, source: str) -> None:
        self.document, self.source = document, source
        self.constructor = yaml.SafeLoader("")
        self.seen: set[int] = set()

    def read(self, node: yaml.Node, location: Location) -> Any:
        line = node.start_mark.line + 1
        if id(node) in self.seen:
            raise PolicyError([f"{self.source}:{line} got a YAML alias (*), expected the value itself"])
        self.seen.add(id(node))
        if len(location) > _MAX_DEPTH or len(self.seen) > _MAX_NODES:
            raise PolicyError([f"{self.source}:{line} too deep or too large; expected at most {_MAX_DEPTH} levels"])
        self.document.lines.setdefault(location, line)
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
                self.document.problems.append(Problem(location, "got a key that is no text, expected a name"))
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
            value = self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self.document.problems.append(Problem(location, f"got {str(node.value)[:80]!r}, which YAML cannot read"))
            return None
        if isinstance(value, str) and _SURROGATE.search(value):
            self.document.problems.append(Problem(location, f"got {value[:80]!r}, expected Unicode text"))
            return ""
        if isinstance(value, (str, int, float, bool)) or value is None:
            return value
        return str(node.value)  # dates and the like: a policy has none, the text is what was meant
