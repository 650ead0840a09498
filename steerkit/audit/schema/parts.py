"""Parts of records: the identities of models, SAEs and policies, settings, calls, verdicts and edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from steerkit.audit.log.canonical import in_order, plain_objects
from steerkit.audit.schema.codec import (
    COUNT,
    FORMS,
    NUMBER,
    PRIVATE,
    TEXT,
    Codec,
    Path,
    Reading,
    Slot,
    codec_of,
    in_slots,
    items,
    path_of,
    plain,
    private,
    wrong,
)
from steerkit.decisions import Decision
from steerkit.errors import AuditError
from steerkit.sites import Site
from steerkit.types import NOWHERE, Call, Constrained, Edit, MalformedCall, Message, Span, Tool, Verdict
from steerkit.types import Reading as RuleReading

PrivateText: TypeAlias = Annotated[str, PRIVATE]
PrivateObject: TypeAlias = Annotated[Mapping[str, Any], PRIVATE]
PrivateCounts: TypeAlias = Annotated[tuple[int, ...], PRIVATE]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model of a turn or run, and where it ran."""

    lenient: ClassVar[bool] = True
    name: str
    fingerprint: str = ""
    """`sha256:…` over the weights."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer."""
    template: str = ""
    """Fingerprint of the chat template; empty in older records."""
    device: str = ""
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class SaeSetIdentity:
    """The SAEs of a turn or run."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class PolicyIdentity:
    """A policy of a turn or run."""

    name: str
    fingerprint: str = ""
    """`sha256:…` over the content."""
    mode: str = ""
    """`enforce` or `shadow`."""
    content: Mapping[str, Any] | None = None
    """The policy's file as JSON, quantities raw; None in a turn whose run's opening has it."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Settings of a generation, as `steerkit.engine.Sampling` has them; None where a record does not say one."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: Annotated[Any, plain("an integer", lambda value: type(value) is int, int)] = None
    """An integer of any size."""


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """The turn that the same policies let the model make without steering."""

    text: PrivateText
    calls: Calls
    verdicts: tuple[Verdict, ...]
    finish: str
    reply_ids: PrivateCounts
    layers: Mapping[str, float] = field(default_factory=dict)
    """By site, the activation of its strongest features over the reply, a token's mean; empty without such a trace."""


def _slots(**hints: Any) -> tuple[Slot, ...]:
    """Keys that must all be there."""
    return tuple(Slot(key, key, codec_of(hint)) for key, hint in hints.items())


def _read_span(value: Any, at: Path, reading: Reading) -> Span:
    if not isinstance(value, list) or len(value) != 2 or not all(COUNT.fits(one) for one in value if COUNT.fits):
        raise wrong(value, at, "[start, end]")
    return Span(*value)


SPAN: Final = Codec(_read_span, list, Span)
_SPAN_SLOT: Final = Slot("span", "span", SPAN, lambda: NOWHERE)
_OBJECT: Final = codec_of(Mapping[str, Any])
_IN_ORDER: Final = Codec(lambda *of: plain_objects(_OBJECT.read(*of)), in_order, _OBJECT.kind)
"""An object whose keys are in the order that they were written in."""
_CALLED: Final = (*_slots(name=str), Slot("arguments", "arguments", private(_IN_ORDER, _OBJECT.kind)))
_MALFORMED: Final = (
    Slot("malformed", "error", codec_of(PrivateText)),
    Slot("position", "position", COUNT, lambda: 0),
    *_slots(raw=PrivateText),
    _SPAN_SLOT,
)
FORMS[Call] = (*_CALLED, _SPAN_SLOT)
FORMS[MalformedCall] = _MALFORMED
FORMS[RuleReading] = _slots(name=str, value=float, threshold=float, position=int)
FORMS[Verdict] = _slots(
    decision=Decision,
    rule=str,
    policy=str,
    reason=PrivateText,
    readings=tuple[RuleReading, ...],
    shadowed=Decision | None,
)


def _read_site(value: Any, at: Path, reading: Reading) -> Site:
    try:
        return Site.of(TEXT.read(value, at, reading))
    except ValueError:
        raise wrong(value, at, "a hook point and a layer, such as resid_post.3") from None


def _edit(key: str, site: Codec) -> Codec:
    """An edit whose site stands under a key."""
    slots = (
        Slot(key, "site", site),
        Slot("positions", "positions", items(COUNT, least=1)),
        Slot("norm", "norm", NUMBER),
    )
    return in_slots(Edit, (*_slots(rule=str, policy=str), *slots))


_EDITS: Final = {
    "layer": _edit("layer", Codec(lambda *of: Site(COUNT.read(*of)), lambda site: site.layer, Site)),
    "site": _edit("site", Codec(_read_site, str, Site)),
}
"""By the key of its site: that of an `attn_out` is its layer, as in records of before there were other hook points."""
FORMS[Edit] = Codec(
    lambda value, *of: _EDITS["site" if isinstance(value, dict) and "site" in value else "layer"].read(value, *of),
    lambda edit: _EDITS[next(iter(edit.site.content))].write(edit),
    Edit,
)
FORMS[Tool] = (
    *_slots(name=str),
    Slot("description", "description", TEXT, lambda: ""),
    Slot("parameters", "parameters", _IN_ORDER, lambda: Tool("").parameters),
    Slot("strict", "strict", codec_of(bool | None), lambda: None, always=False),
)


FORMS[Constrained] = (
    *_slots(grammar=str),
    Slot("forced", "forced", items(SPAN), tuple, always=False),
    Slot("masked", "masked", items(COUNT), tuple, always=False),
    Slot("turned_away", "turned_away", codec_of(int | None), lambda: None, always=False),
)


def _read_call(value: Any, at: Path, reading: Reading) -> Call | MalformedCall:
    is_malformed = isinstance(value, dict) and bool({"malformed", "position"} & value.keys())  # its texts may be gone
    kind = MalformedCall if is_malformed else Call
    found: Call | MalformedCall = codec_of(kind).read(value, at, reading)
    return found


CALL: Final = Codec(_read_call, lambda value: codec_of(type(value)).write(value), Call)
"""A call, or what stood where one should be."""
ASKED: Final = in_slots(Call, _CALLED)
"""A call by its name and arguments alone."""
Calls: TypeAlias = Annotated[tuple[Call | MalformedCall, ...], items(CALL)]
AskedCall: TypeAlias = Annotated[Call, ASKED]


def _read_message(value: Any, at: Path, reading: Reading) -> Message:
    if not isinstance(value, dict):
        raise wrong(value, at, "an object")
    if "role" not in value:
        raise AuditError(f"{path_of((*at, 'role'))}: got nothing, expected one")
    TEXT.read(value["role"], (*at, "role"), reading)
    return dict(plain_objects(value))


def _write_message(message: Message) -> dict[str, Any]:
    """The message, with arguments and results in the order of their keys, as prompts are written from it."""
    written, calls = dict(message), message.get("tool_calls")
    if isinstance(calls, list):
        written["tool_calls"] = [_write_asked(call) for call in calls]
    if message["role"] == "tool" and isinstance(message.get("content"), (dict, list)):
        written["content"] = in_order(message["content"])
    return written


def _write_asked(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _write_asked(call["function"])}
    return {**call, "arguments": in_order(call["arguments"])} if isinstance(call.get("arguments"), Mapping) else call


Messages: TypeAlias = Annotated[tuple[Message, ...], private(items(Codec(_read_message, _write_message)), tuple)]
