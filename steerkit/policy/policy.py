"""The policy format, as frozen pydantic models: unknown keys are refused, and the field texts are its docs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from steerkit.decisions import Default, Ruling, severity
from steerkit.fingerprints import sha256_of
from steerkit.policy.checks import cross_problems, is_late
from steerkit.policy.conditions import Gate, GuardCondition, Hold, PlaceName
from steerkit.policy.edits import Edit, Name, NamedDirection, NamedFeature, PolicyName, Probe
from steerkit.policy.frozen import CHECKED, FrozenDict, FrozenModel, frozen
from steerkit.types import Mode

WriteBack: TypeAlias = Literal["delta", "reconstruction"]


Source: TypeAlias = Literal["from_user"]
Schema: TypeAlias = Annotated[dict[str, Any], AfterValidator(frozen)]
"""A JSON Schema (2020-12); `cross_problems` checks it, so that a mistake in it has its own line."""


class SteerRule(FrozenModel):
    """Changes features at a place, always or behind a gate."""

    name: Name
    when: Gate | Literal["retry"] | None = None
    """The gate; without one the rule acts at every token of its place. `retry`: only in retries that name the rule."""
    hold: Annotated[Hold, Field(alias="for")] = "token"
    """Time that the gate stays open once its condition held: that `token`, the rest of the `turn`, or `N tokens`."""
    where: PlaceName
    """Tokens at which the rule may act."""
    edit: Annotated[dict[Name, Edit], Field(min_length=1), AfterValidator(frozen)]
    """Edit by name of a feature or direction."""
    priority: Annotated[int, Field(strict=True, ge=-1000, le=1000)] = 0
    """Among open rules of a policy that edit one feature or direction at one token, the highest priority acts."""

    @property
    def hold_tokens(self) -> float:
        """Number of tokens that the gate stays open, the one that opened it included."""
        return {"token": 1.0, "turn": math.inf}.get(self.hold) or float(self.hold.split()[0])


class PriorCall(FrozenModel):
    """A call that was made earlier in the conversation, or before this one in the same reply."""

    tool: Annotated[str, Field(min_length=1)]
    """Exact name of a tool, or `*` for every one."""
    arguments: Schema | None = None
    """JSON Schema that its arguments must satisfy."""
    result: Schema | None = None
    """JSON Schema that its result must satisfy; a call without a result does not match."""


class GuardRule(FrozenModel):
    """Judges a call; every criterion that is given must hold."""

    name: Name
    tool: Annotated[str, Field(min_length=1)] = "*"
    """Exact name of a tool, or `*` for every one."""
    arguments: Schema | None = None
    """JSON Schema that the call's arguments must satisfy for the rule to match."""
    when: GuardCondition | Literal["invalid_arguments"] | None = None
    """Condition on features and probes, or `invalid_arguments`."""
    after: PriorCall | None = None
    """A call that must have been made before, whether or not it ran."""
    without: PriorCall | None = None
    """A call that must have run before for the rule not to match; one that was denied, refused or is held did not."""
    then: Ruling
    """`stop` overrides handoff overrides deny overrides hold overrides retry overrides flag overrides allow."""
    with_: Annotated[Name | None, Field(alias="with")] = None
    """Steering rule that acts without its gate when the reply is generated again; only for `retry`."""
    attempts: Annotated[int, Field(strict=True, ge=1, le=10)] | None = None
    """Most times to generate again (default 1), then the call is denied; only for `retry`."""
    tripwire: bool = False
    """End the reply in the middle of the call as soon as the rule is certain; only for `deny` and `handoff`; `stop`
    always does."""
    reason: str = ""
    """Shown with the verdict."""

    @model_validator(mode="after")
    def _fields_fit_the_ruling(self) -> GuardRule:
        if (self.with_ is not None) != (self.then == "retry"):
            raise ValueError("expected 'with' (the name of a steering rule) exactly where then is retry")
        if self.attempts is not None and self.then != "retry":
            raise ValueError(f"got attempts, expected them only where then is retry, not {self.then}")
        strict = severity(self.then) >= severity("deny")
        if self.tripwire and not strict:
            raise ValueError(f"got tripwire, expected it only where then is deny or handoff, not {self.then}")
        if self.when == "invalid_arguments" and not strict:
            raise ValueError(f"can never decide: invalid arguments are denied, got then: {self.then}")
        return self


class Guard(FrozenModel):
    """The part of a policy that judges calls."""

    default: Default
    """Decision for a call that no rule matches."""
    rules: tuple[GuardRule, ...] = ()
    undeclared_arguments: Literal["deny", "flag", "allow"] | None = None
    """Decision for a call with an argument that the tool's schema does not list, unless that schema allows or forbids
    others itself (`additionalProperties`); default: deny."""
    arguments: Annotated[dict[str, Source | dict[str, Source]] | None, AfterValidator(frozen)] = None
    """Source of an argument's value, by the argument's name, or by the tool's and then the argument's. `from_user`: a
    call is denied whose value is not made of whole words, or a number, of the user's own text."""


class TraceSettings(FrozenModel):
    """Features that are kept in the turn's record."""

    watch: tuple[Name, ...] = ()
    """Features and probes whose value at every token is kept."""
    top_k: Annotated[int, Field(strict=True, ge=0, le=256)] = 0
    """Number of each token's strongest features to keep, in every layer; 0 for none."""
    at: PlaceName = "reply"
    """Place of the kept features, from its first to its last token; for `call` from the step before it on."""


class Policy(FrozenModel):
    """One policy: names of features and directions, rules that steer by them, and rules that judge calls."""

    steerkit: Literal[1]
    """Version of this format."""
    name: PolicyName
    """Unique among the policies that are used together; verdicts, records and traces name it."""
    description: str = ""
    model: str | None = None
    """Name or fingerprint of the model or SAE set it is for; any other is refused."""
    features: Annotated[dict[Name, NamedFeature], AfterValidator(frozen)] = Field(default_factory=FrozenDict)
    directions: Annotated[dict[Name, NamedDirection], AfterValidator(frozen)] = Field(default_factory=FrozenDict)
    """Vectors from files by name, which rules add and probes read."""
    probes: Annotated[dict[Name, Probe], AfterValidator(frozen)] = Field(default_factory=FrozenDict)
    steer: tuple[SteerRule, ...] = ()
    guard: Guard | None = None
    trace: TraceSettings = TraceSettings()
    mode: Mode = "enforce"
    """`shadow` computes and records everything and changes nothing."""
    write_back: WriteBack = "delta"
    """`delta` adds the change of the edited features; `reconstruction` writes the SAE's whole decoded output."""

    def without_gate(self, rule: str) -> Policy:
        """A copy in which a steering rule acts at every token of its place, for a retry."""
        steer = tuple(one.model_copy(update={"when": None}) if one.name == rule else one for one in self.steer)
        return self.model_copy(update={"steer": steer})

    def is_late(self, rule: SteerRule) -> bool:
        """Flag: the rule's gate reads a higher layer than the rule edits, and so acts from the next token on."""
        data = self.model_dump(include={"features", "directions", "probes"}, exclude_none=True)
        return is_late(rule.model_dump(exclude_none=True), data)

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:…` over the content, computed once; equal content, equal fingerprint."""
        said = self.model_dump(mode="json")
        for key in ("undeclared_arguments", "arguments"):
            if said["guard"] and said["guard"][key] is None:
                del said["guard"][key]  # as before there was such a key: policies keep their fingerprints
        for direction in said.get("directions", {}).values():
            if direction["fingerprint"] is not None:
                del direction["file"]  # the content is meant, wherever it lies
        content = json.dumps(said, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return sha256_of(content)

    @model_serializer(mode="wrap")
    def _without_empty_directions(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The form of policies from before there were directions, which keeps their fingerprints and records."""
        said: dict[str, Any] = inner(self)
        return said if said.get("directions") else {key: said[key] for key in said if key != "directions"}

    @model_validator(mode="after")
    def _agrees_with_itself(self, info: ValidationInfo) -> Policy:
        problems = [] if info.context is CHECKED else cross_problems(self.model_dump(exclude_none=True))
        if problems:
            raise ValueError("; ".join(f"{problem.path}: {problem.text}" for problem in problems))
        return self


def own_arguments(policies: Iterable[Policy], tool: str) -> frozenset[str]:
    """The arguments of a tool whose values must be the user's own by `Guard.arguments` of some policies."""
    found: set[str] = set()
    for policy in policies:
        for name, source in (policy.guard.arguments or {} if policy.guard else {}).items():
            found |= {name} if isinstance(source, str) else set(source) if name == tool else set()
    return frozenset(found)


def fingerprint(policy: Policy) -> str:
    """`sha256:…` over a policy's content, computed once for each policy object."""
    return policy.fingerprint


def watch_key(policy: Policy, name: str) -> str:
    """Key in `Trace.watched` of a feature or probe: two policies may use one name for different features."""
    return f"{policy.name}.{name}"
