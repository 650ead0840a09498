"""Reads and writes policy files. A bad file gets all its mistakes at once, each with its line and path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steerkit.errors import PolicyError
from steerkit.policy.binding import bound_data
from steerkit.policy.checks import cross_problems
from steerkit.policy.frozen import CHECKED
from steerkit.policy.policy import Policy
from steerkit.policy.problems import Location, Problem
from steerkit.policy.schema import keys_at
from steerkit.policy.shipped import find_file, suggestion
from steerkit.policy.yaml_reader import Document, read_document, write_document

_MAX_BYTES = 1 << 20


def load(path: str | Path) -> Policy:
    """The policy in a YAML file, or one that ships by its name: `payments`, `functiongemma/guard`.

    Raises:
        PolicyError: the file cannot be read or has mistakes, each as `file:line path: got …`.
    """
    return loads(read_text(path), str(path), find_file(path).parent)


def locate(path: str | Path, problems: Iterable[Problem]) -> list[str]:
    """Problems of the policy in a file that loads, as `file:line path: text`."""
    return format_problems(list(problems), read_document(read_text(path), str(path)), str(path))


def read_text(path: str | Path, kind: str = "a policy (YAML)") -> str:
    """The text of a file, or of a policy that ships. Raises PolicyError."""
    try:
        data = find_file(path).read_bytes()
    except (FileNotFoundError, ValueError):  # a NUL in a path
        raise PolicyError([f"{path}: no such file; expected {kind}{suggestion(path)}"]) from None
    except OSError as error:
        raise PolicyError([f"{path}: cannot be read ({error.strerror}); expected {kind}"]) from None
    if len(data) > _MAX_BYTES:
        raise PolicyError([f"{path}: got {len(data)} bytes, expected at most {_MAX_BYTES}"])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError([f"{path}: not UTF-8 text (byte {error.start})"]) from None


def loads(text: str, source: str = "<string>", folder: Path | None = None) -> Policy:
    """The policy in a YAML text.

    Args:
        text: its content.
        source: its name in errors.
        folder: where the paths of its directions begin (default: the working directory).

    Raises:
        PolicyError: the text has mistakes, or a direction's file cannot be used.
    """
    document = read_document(text, source)
    data, unbound = bound_data(document.data, folder or Path())
    found = [*unbound, *cross_problems(data)]
    problems = [*document.problems, *(one for one in found if one.location not in document.unread)]
    policy = None
    try:
        policy = Policy.model_validate(data, context=CHECKED)
    except ValidationError as error:
        # The model's own cross-check, without lines, repeats cross_problems.
        entries = [
            entry
            for entry in error.errors(include_url=False)
            if entry["loc"] and not _of_the_other_form(entry, document)
        ]
        said = [problem_of(entry, document) for entry in entries]
        problems += [problem for problem in said if problem.location not in document.unread]
        problems = problems or [Problem((), str(error))]  # every refusal has a line
    if policy is None or problems:
        raise PolicyError(format_problems(problems, document, source))
    return policy


def recorded_policy(content: Any, source: str) -> Policy:
    """The policy that a record has as JSON; `source` names it in the error. Raises PolicyError."""
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        raise PolicyError([f"{source}: this steerkit cannot read it: {error.errors()[0]['msg']}"]) from None


def dump(policy: Policy, folder: Path | None = None) -> str:
    """YAML that loads to an equal policy, without defaults; files of directions below `folder` are named from there."""
    content = policy.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for direction in content.get("directions", {}).values() if folder is not None else ():
        path = Path(direction["file"])
        if folder is not None and path.is_relative_to(folder.absolute()):
            direction["file"] = path.relative_to(folder.absolute()).as_posix()
    return write_document({"steerkit": 1, "name": policy.name, **content})


def format_problems(problems: list[Problem], document: Document, source: str) -> list[str]:
    """Problems as `file:line path: text`, in the order of the lines."""
    numbered = sorted((document.line(problem.location), problem.path, problem.text) for problem in problems)
    return [f"{source}:{line} {path + ': ' if path else ''}{text}" for line, path, text in dict.fromkeys(numbered)]


def _of_the_other_form(entry: Any, document: Document) -> bool:
    """True if an error is about the other form of a field that takes a word or a mapping."""
    if document.known(entry["loc"]) == entry["loc"]:
        return False  # pydantic adds the name of the form, so this field has only one
    word = isinstance(entry["input"], str)
    return (entry["type"] == "model_type" and word) or (
        entry["type"] == "literal_error" and isinstance(entry["input"], dict)
    )


def problem_of(entry: Any, document: Document, schema: Mapping[str, Any] | None = None) -> Problem:
    """A pydantic error as a problem; `schema` has the keys of another kind of file."""
    location = document.known(entry["loc"])
    got, context = _show(entry["input"]), entry.get("ctx", {})
    match entry["type"]:
        case "missing":
            return Problem(location, f"got no '{entry['loc'][-1]}', expected one")
        case "extra_forbidden":
            return Problem(location, f"got an unknown key '{entry['loc'][-1]}'{_closest(entry, location[:-1], schema)}")
        case "literal_error":
            return Problem(location, f"got {got}, expected {context['expected']}")
        case "value_error":
            return Problem(location, f"got {got}; {context['error']}")
        case _:
            return Problem(location, f"got {got}, expected {_expected(entry['msg'])}")


def _expected(message: str) -> str:
    for prefix in ("Input should be ", "Input should have ", "Value should have ", "String should "):
        if message.startswith(prefix):
            return message.removeprefix(prefix)
    return message[0].lower() + message[1:]


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool)) or value is None else f"a {_kind(value)}"
    return text if len(text) <= 80 else text[:77] + "..."


def _kind(value: object) -> str:
    return {"dict": "mapping", "list": "list"}.get(type(value).__name__, type(value).__name__)


def _closest(entry: Any, location: Location, schema: Mapping[str, Any] | None) -> str:
    """End of the sentence about an unknown key: the closest known one, or all."""
    keys = keys_at(location, schema)
    close = get_close_matches(str(entry["loc"][-1]), keys, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; expected one of {', '.join(keys)}" if keys else ""
