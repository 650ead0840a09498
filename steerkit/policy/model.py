"""What a policy file may say, as frozen pydantic models: unknown keys are refused, and the field texts are its docs."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

import jsonschema
from jsonschema.validators import Draft202012Validator
from pydantic import AfterValidator, Field, model_validator

from steerkit.policy.crosscheck import cross_problems
from steerkit.policy.parts import Edit, Evidence, Gate, Name, NamedFeature, Part, Probe
from steerkit.types import Mode

WriteBack: TypeAlias = Literal["delta", "reconstruction"]
Ruling: TypeAlias = Literal["allow", "flag", "hold", "deny"]


def _checked_schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"expected a JSON Schema: {error.message[:200]}") from None
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("expected a JSON Schema: finite numbers, and keys that are text") from None
    return schema


class SteerRule(Part):
    """Changes features at a place, always or behind a gate."""

    name: Name
    when: Gate | None = None
    """The gate; without one the rule acts at every token of its place."""
    where: Literal["any", "prompt", "reply", "reply.start"]
    """Tokens at which the rule may act. `reply.start` is the step that produces the reply's first token."""
    edit: Annotated[dict[Name, Edit], Field(min_length=1)]
    """By the name of a feature."""


class GuardRule(Part):
    """Judges a call; every criterion that is given must hold."""

    name: Name
    tool: Annotated[str, Field(min_length=1)] = "*"
    """Exact name of a tool, or `*` for every one."""
    arguments: Annotated[dict[str, Any], AfterValidator(_checked_schema)] | None = None
    """JSON Schema (2020-12) that the call's arguments must satisfy for the rule to match."""
    when: Evidence | Literal["invalid_arguments"] | None = None
    """What the features must have shown, or `invalid_arguments`."""
    then: Ruling
    """Deny overrides hold overrides flag overrides allow."""
    reason: str = ""
    """Shown with the verdict."""


class Guard(Part):
    """The policy's judgement of calls."""

    default: Ruling
    """What happens to a call that no rule matches."""
    rules: tuple[GuardRule, ...] = ()


class TraceSettings(Part):
    """What is kept of the features in the turn's record."""

    watch: tuple[Name, ...] = ()
    """Features and probes whose value at every token is kept."""
    top_k: Annotated[int, Field(strict=True, ge=0, le=256)] = 0
    """How many of each token's strongest features to keep, in every layer; 0 for none."""
    at: Literal["any", "prompt", "reply", "call"] = "reply"
    """Tokens whose strongest features are kept."""


class Policy(Part):
    """One policy: what features mean, how they are steered and how calls are judged."""

    steerkit: Literal[1]
    """Version of this format."""
    name: Name
    description: str = ""
    model: str | None = None
    """Name or fingerprint of the model or SAE set it is for; any other is refused."""
    features: dict[Name, NamedFeature] = Field(default_factory=dict)
    probes: dict[Name, Probe] = Field(default_factory=dict)
    steer: tuple[SteerRule, ...] = ()
    guard: Guard | None = None
    trace: TraceSettings = TraceSettings()
    mode: Mode = "enforce"
    """`shadow` computes and records everything and changes nothing."""
    write_back: WriteBack = "delta"
    """`delta` adds the change of the edited features; `reconstruction` writes the SAE's whole decoded output."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Policy:
        problems = cross_problems(self.model_dump(exclude_none=True))
        if problems:
            raise ValueError("; ".join(f"{problem.path}: {problem.text}" for problem in problems))
        return self
