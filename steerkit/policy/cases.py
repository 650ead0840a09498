"""Files of cases: calls with a history and values, and the verdicts that a policy must give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from steerkit.decisions import Decision
from steerkit.errors import PolicyError
from steerkit.policy.conditions import PlaceName
from steerkit.policy.edits import FrozenModel, Name
from steerkit.policy.load import format_problems, problem_of, read_text
from steerkit.policy.quantities import Finite
from steerkit.policy.yaml_reader import read_document


class Done(FrozenModel):
    """A call of the conversation before the reply."""

    tool: Annotated[str, Field(min_length=1)]
    """Its exact name."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """As the model wrote them."""
    result: Any = None
    """What the tool gave back; a call without one has no answer, and did not run."""
    denied: bool = False
    """It was refused, and its answer says that it was not run."""


class Judged(FrozenModel):
    """A call of the reply, and the verdict that it must get."""

    tool: Annotated[str, Field(min_length=1)]
    """Its exact name."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """As the model wrote them."""
    expect: Decision
    """The verdict's decision."""
    rule: str | None = None
    """The rule that must decide; not said: any."""


class Case(FrozenModel):
    """A reply and what came before it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """What is said where it fails."""
    history: tuple[Done, ...] = ()
    """Calls before the reply, in order."""
    messages: tuple[dict[str, Any], ...] = ()
    """The conversation in OpenAI's form, instead of a history."""
    values: dict[Name, Finite | dict[PlaceName, Finite]] = Field(default_factory=dict)
    """Over those of the file."""
    calls: Annotated[tuple[Judged, ...], Field(min_length=1)]
    """Of the reply, in order."""


class Cases(FrozenModel):
    """A file of cases."""

    tools: str | tuple[dict[str, Any], ...] | None = None
    """Tools as they are declared, or the JSON file that they stand in, beside this one; not said: any call fits."""
    values: dict[Name, Finite | dict[PlaceName, Finite]] = Field(default_factory=dict)
    """Raw values of the features and probes that the guard reads: at every token, or by place (elsewhere 0)."""
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]
    """Each with a name."""


def load_cases(path: str | Path) -> Cases:
    """The cases in a YAML or JSON file, with the tools of the file that it names.

    Raises:
        PolicyError: the file cannot be read, or what it says is wrong; every mistake as `file:line path: got …`.
    """
    document = read_document(read_text(path, "cases (YAML)"), str(path), "cases: [{name: …, calls: […]}]")
    problems = list(document.problems)
    cases = None
    try:
        cases = Cases.model_validate(document.data)
    except ValidationError as error:
        said = [
            problem_of(entry, document, cases_schema())
            for entry in error.errors(include_url=False)
            if not _empty(entry)
        ]
        problems += [problem for problem in said if problem.location not in document.unread]
    if cases is None or problems:
        raise PolicyError(format_problems(problems, document, str(path)))
    if not isinstance(cases.tools, str):
        return cases
    where = Path(path).parent / cases.tools
    try:
        tools = json.loads(read_text(where, "tools (JSON)"))
    except (ValueError, RecursionError):
        tools = None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise PolicyError([f"{where}: expected a list of tools (JSON)"])
    return cases.model_copy(update={"tools": tuple(tools)})


def _empty(entry: Any) -> bool:
    """Whether pydantic calls a list too short only because nothing in it could be read."""
    return entry["type"] == "too_short" and bool(entry["input"])


def cases_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a file of cases, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Cases.model_json_schema()}
