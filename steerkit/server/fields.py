"""Fields that both endpoints share, and the rule for all: a field is honoured, or refused by its name."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerkit.audit import ASKER, ENDPOINT
from steerkit.engine import Sampling
from steerkit.errors import SteerkitError
from steerkit.policy import Policy
from steerkit.runtime import Request, metadata_of
from steerkit.server.errors import ApiError
from steerkit.server.keys import Key
from steerkit.server.names import Names
from steerkit.server.options import Limits

RESERVED: Final = ("request_id", ASKER, "user", ENDPOINT, "instructions", "store")
"""Keys of a record's metadata that the server writes; a request's own metadata may not have them."""


class Form(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Own(Form):
    """The `steerkit` object of a request."""

    policy: str | list[str] | None = None
    """Policies that the operator allows, instead of the default ones."""
    conversation: str | None = Field(default=None, min_length=1, max_length=64)
    """Id that the records of one conversation share."""
    top_k: int | None = None
    """Sample among this many most likely tokens."""

    @property
    def policies(self) -> list[str] | None:
        """Names of the policies."""
        return [self.policy] if isinstance(self.policy, str) else self.policy


class Common(Form):
    """Fields that chat completions and Responses share."""

    model: str
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    steerkit: Own = Own()


class Refused(NamedTuple):
    """A field that is not served."""

    neutral: tuple[Any, ...]
    """Values that ask for nothing, which are fine."""
    why: str


SHARED_REFUSED: Final[Mapping[str, Refused]] = {
    "service_tier": Refused((None, "auto", "default"), "there is one tier"),
    "verbosity": Refused((None,), "the model has no such setting"),
    "prompt_cache_retention": Refused((None,), "the prefix cache keeps what fits its memory"),
    "top_logprobs": Refused((None, 0), "log-probabilities are not given"),
}
HINTS: Final = ("prompt_cache_key",)
"""Fields that ask for nothing that could be missing: the prefix cache finds beginnings by their content."""

F = TypeVar("F", bound=Common)


def read_form(form: type[F], body: Mapping[str, Any], refused: Mapping[str, Refused]) -> F:
    """A request's fields.

    Raises:
        ApiError: a field is not known, not served or has a value that it cannot have; `param` names it.
    """
    given = {name: value for name, value in body.items() if name not in HINTS}
    for name, row in refused.items():
        if name in given:
            value = given.pop(name)
            if not any(value is one or (value == one and type(value) is type(one)) for one in row.neutral):
                expected = " or ".join("null" if one is None else repr(one) for one in row.neutral)
                raise ApiError(
                    400,
                    f"{name}: got {value!r:.80}, expected {expected}: {row.why}",
                    code="unsupported_parameter",
                    param=name,
                )
    return valid(form, given)


B = TypeVar("B", bound=BaseModel)


def valid(form: type[B], given: Mapping[str, Any], where: str = "") -> B:
    """The values of a form. Raises ApiError for the first that is wrong."""
    try:
        return form.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        path = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in _location(first["loc"], given)
        ).lstrip(".")
        path = f"{where}.{path}".strip(".") if where else path
        got = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
        if first["type"] == "extra_forbidden":
            raise ApiError(
                400,
                f"{path}: got {got}, but there is no such field here; leave it out",
                code="unknown_parameter",
                param=path,
            ) from None
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ApiError(400, f"{path}: got {got}; {message}", code="invalid_value", param=path) from None


def _location(parts: Sequence[str | int], given: Any) -> list[str | int]:
    """A path without the names of types that pydantic puts between: what can be followed in the value, and one more."""
    found: list[str | int] = []
    for number, part in enumerate(parts, start=1):
        if isinstance(given, Mapping):
            if part not in given and number < len(parts):
                continue
            found.append(part)
            if part not in given:
                break
            given = given[str(part)]
        elif isinstance(given, list) and isinstance(part, int) and part < len(given):
            found.append(part)
            given = given[part]
    return found


class Shape(NamedTuple):
    """The form that a reply must have, as OpenAI's fields say it."""

    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    stop: str | Sequence[str] = ()


@dataclass(frozen=True)
class Asker:
    """Asker of a request, and what came with it beside its body."""

    key: Key
    request_id: str
    policy_header: str | None
    endpoint: str


@dataclass(frozen=True)
class Asked:
    """A request of either endpoint in the runtime's terms."""

    form: Common
    request: Request
    policies: tuple[str, ...]
    """Names of its policies, the base not counted."""


def asked(
    form: Common,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    shape: Shape,
    asker: Asker,
    names: Names,
    *,
    default: Sequence[Policy] = (),
    conversation: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Asked:
    """A request whose policies are allowed and whose metadata can be recorded. Raises ApiError."""
    policies = names.chosen(form.model, form.steerkit.policies, asker.policy_header, asker.key)
    said = {
        **_own_metadata(form),
        "request_id": asker.request_id,
        ENDPOINT: asker.endpoint,
        **({ASKER: asker.key.name} if asker.key.name else {}),
        **(more or {}),
    }
    user = form.user if form.user is not None else form.safety_identifier
    if user:
        said["user"] = user
    if form.store is False:
        said["store"] = False
    try:
        metadata = metadata_of(said)
    except SteerkitError as error:
        raise ApiError(400, str(error), param="metadata") from None
    request = Request(
        messages,
        tools,
        policies,
        sampling,
        metadata=metadata,
        conversation=form.steerkit.conversation or conversation,
        # `auto` is what a request without a choice gets: held to a grammar where a tool is strict.
        tool_choice=None if shape.tool_choice == "auto" else shape.tool_choice,
        parallel_tool_calls=shape.parallel_tool_calls,
        response_format=shape.response_format,
        stop=shape.stop,
    )
    in_force = default if policies is None else policies
    return Asked(form, request, tuple(one.name for one in in_force))


def _own_metadata(form: Common) -> dict[str, Any]:
    """Metadata of the request. Raises ApiError where it has a key that the server writes."""
    given = form.metadata or {}
    if taken := [key for key in RESERVED if key in given]:
        raise ApiError(
            400,
            f"metadata: got the key {taken[0]!r}, which the server writes itself; expected another",
            param="metadata",
        )
    return given


def sampling_of(form: Common, most: int | None, seed: int | None, limits: Limits, param: str) -> Sampling:
    """Settings of the generation: greedy where no temperature is given, and a seed that is recorded where it samples.

    Raises:
        ApiError: a value that cannot be.
    """
    if most is not None and not 1 <= most <= limits.new_tokens:
        raise ApiError(400, f"{param}: got {most}, expected 1 to {limits.new_tokens:,}", param=param)
    temperature = 0.0 if form.temperature is None else form.temperature
    if seed is None:
        seed = secrets.randbits(31) if temperature > 0 else 0
    try:
        return Sampling(
            max_new_tokens=limits.default_new_tokens if most is None else most,
            temperature=temperature,
            top_p=1.0 if form.top_p is None else form.top_p,
            top_k=form.steerkit.top_k or 0,
            seed=seed,
        )
    except SteerkitError as error:
        field = str(error).partition(":")[0].removeprefix("sampling.")
        raise ApiError(400, str(error), param=field) from None


def check_count(name: str, given: Sequence[Any], most: int) -> None:
    """Refuse more items than a request may have. Raises ApiError."""
    if len(given) > most:
        raise ApiError(400, f"{name}: got {len(given):,}, expected at most {most:,}", param=name)
