"""Files of cases: calls with a history and values, and the verdicts that a policy must give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from steerkit.decisions import Decision
from steerkit.errors import PolicyError
from steerkit.policy.conditions import PlaceName
from steerkit.policy.edits import Name
from steerkit.policy.frozen import FrozenModel
from steerkit.policy.load import format_problems, problem_of, read_text
from steerkit.policy.quantities import Finite
from steerkit.policy.yaml_reader import read_document


class HistoryCall(FrozenModel):
    """A call of the conversation before the reply."""

    tool: Annotated[str, Field(min_length=1)]
    """Exact name of the tool."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments as the model wrote them."""
    result: Any = None
    """Result of the tool; a call without one has no answer, and did not run."""
    denied: bool = False
    """True if the call was refused: its answer says that it was not run."""


class ExpectedCall(FrozenModel):
    """A call of the reply, and its expected verdict."""

    tool: Annotated[str, Field(min_length=1)]
    """Exact name of the tool."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments as the model wrote them."""
    expect: Decision
    """Decision of the verdict."""
    rule: str | None = None
    """Rule that must decide; any if not given."""


class Case(FrozenModel):
    """A reply and the conversation before it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Name of the case in the results."""
    history: tuple[HistoryCall, ...] = ()
    """Calls before the reply, in order."""
    messages: tuple[dict[str, Any], ...] = ()
    """The conversation in OpenAI's form, instead of a history."""
    values: dict[Name, Finite | dict[PlaceName, Finite]] = Field(default_factory=dict)
    """Values of this case; they override those of the file."""
    calls: Annotated[tuple[ExpectedCall, ...], Field(min_length=1)]
    """Calls of the reply, in order."""


class Cases(FrozenModel):
    """A file of cases."""

    tools: str | tuple[dict[str, Any], ...] | None = None
    """Tool declarations, or the name of a JSON file with them, beside this one; without, any call fits its tool."""
    values: dict[Name, Finite | dict[PlaceName, Finite]] = Field(default_factory=dict)
    """Raw values of the features and probes that the guard reads: at every token, or by place (elsewhere 0)."""
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]
    """The cases, each with a name."""


def load_cases(path: str | Path) -> Cases:
    """The cases in a YAML or JSON file, with the tools of the file that it names.

    Raises:
        PolicyError: the file cannot be read or has mistakes, each as `file:line path: got …`.
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
    """True if pydantic calls a list too short only because no item of it could be read."""
    return entry["type"] == "too_short" and bool(entry["input"])


def cases_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a file of cases, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Cases.model_json_schema()}
