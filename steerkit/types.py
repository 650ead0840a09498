"""Values that rooms hand to each other: pure, comparable, free of torch, without ids or times.

Positions count tokens of one sequence, prompt and reply together, from 0. A *step* at position t takes token t as input
and produces token t + 1, so the step that produces the reply's first token is at the prompt's last position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from steerkit.decisions import Decision, releases
from steerkit.sites import Feature, Site

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A JSON value; integers of any size."""

Message: TypeAlias = Mapping[str, Any]
"""One chat message in the OpenAI form: `role`, `content`, and `tool_calls` or `name` where they apply."""

Mode: TypeAlias = Literal["enforce", "shadow"]
"""`enforce`: the policy acts; `shadow`: it only records what it would have done."""

Place: TypeAlias = str
"""A place in the conversation: one of `PLACES`, or `call.arguments.NAME` for the value of one argument.

In the prompt it classifies tokens, in the reply steps by what they may produce.
"""

PLACES: Final = (
    "any",
    "prompt",
    "developer",
    "declaration",
    "user",
    "tool_result",
    "reply",
    "reply.start",
    "text",
    "call",
    "call.open",
    "call.name",
    "call.arguments",
)

PROMPT_PLACES: Final = frozenset({"prompt", "developer", "declaration", "user", "tool_result"})
"""Places of tokens of the prompt."""

JUDGING: Final = 2
"""Version of judging in records; since 2 only calls that ran satisfy `without`, undeclared arguments are denied."""


def in_one_line(kind: str, *parts: object) -> str:
    """Short form of a value: its kind and some parts, at most 200 characters, without control characters."""
    said = ", ".join(part if isinstance(part, str) else repr(part) for part in parts)
    short = said if len(said) + len(kind) < 198 else f"{said[: 196 - len(kind)]}…"
    return f"{kind}({''.join(char if char.isprintable() else ascii(char)[1:-1] for char in short)})"[:200]


class Span(NamedTuple):
    """Token positions `start` (included) to `end` (excluded)."""

    start: int
    end: int


NOWHERE = Span(0, 0)
"""Span of a value that was not parsed from tokens."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as it is declared to the model."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON Schema of the arguments, always an object schema."""
    strict: bool | None = None
    """True: a grammar holds its calls to the schema; False: never; None: where a reply has one (`tool_choice`)."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One top-level argument of a call, with its tokens."""

    name: str
    value: Json
    key_span: Span
    """Tokens of the key."""
    value_span: Span
    """Tokens of the value, string delimiters included."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function call as the model wrote it. Two calls with equal content and spans are equal."""

    name: str
    arguments: Mapping[str, Json]
    span: Span = NOWHERE
    """All tokens, from `<start_function_call>` to `<end_function_call>`."""
    name_span: Span = NOWHERE
    parts: tuple[Argument, ...] = ()
    """The arguments in written order, with their token spans."""

    def __repr__(self) -> str:
        return in_one_line(self.name, *(f"{name}={value!r}" for name, value in self.arguments.items()))


@dataclass(frozen=True, slots=True)
class MalformedCall:
    """A call that could not be parsed. It is never repaired and never released."""

    error: str
    """Error of the parser: what was got and what was expected."""
    position: int
    """Token at which parsing stopped."""
    raw: str
    """Text of the call, with its special tokens."""
    span: Span = NOWHERE

    def __repr__(self) -> str:
        return in_one_line("MalformedCall", self.error, repr(self.raw[:80]))


CallLike: TypeAlias = "Call | MalformedCall"


@dataclass(frozen=True, slots=True)
class Reading:
    """A value that decided a rule."""

    name: str
    """Name of the feature or probe in the policy."""
    value: float
    """Raw activation of a feature, or weighted sum of a probe."""
    threshold: float
    position: int
    """Token of the value; -1 if there was no token at the place."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's decision for one call."""

    decision: Decision
    """The enforced decision."""
    rule: str
    """Name of the rule that decided; `default`, or one of the built-in checks."""
    reason: str
    policy: str = ""
    """Name of the policy the rule stands in; empty for built-in checks."""
    readings: tuple[Reading, ...] = ()
    shadowed: Decision | None = None
    """Decision that policies in shadow mode would have led to; None without such policies."""
    matched: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Every rule that matched the call, as POLICY/RULE, whichever decided; those of policies in shadow mode too."""

    @property
    def full_name(self) -> str:
        """POLICY/RULE, the rule's name in reports and queries; of a built-in check its name alone."""
        return f"{self.policy}/{self.rule}" if self.policy else self.rule


@dataclass(frozen=True, slots=True)
class Edit:
    """A steering rule that changed activations in a turn."""

    rule: str
    policy: str
    site: Site
    positions: tuple[int, ...]
    """Tokens at which the rule wrote (or, in shadow mode, would have written)."""
    norm: float
    """Largest L2 norm of the change over those tokens, in the units of the activation."""

    @property
    def layer(self) -> int:
        """Index of the decoder layer, from 0."""
        return self.site.layer

    @property
    def full_name(self) -> str:
        """POLICY/RULE, the rule's name in reports and queries."""
        return f"{self.policy}/{self.rule}"


@dataclass(frozen=True, slots=True)
class TopK:
    """The strongest features of one site for each token: row t belongs to position `start + t`."""

    site: Site
    start: int
    count: int
    """Number of tokens."""
    k: int
    index: bytes
    """count * k little-endian uint16, strongest first."""
    value: bytes
    """count * k little-endian float16 activations; 0 fills rows with fewer than k active features."""

    @property
    def layer(self) -> int:
        """Index of the decoder layer, from 0."""
        return self.site.layer

    def __repr__(self) -> str:
        return in_one_line("TopK", self.site.name, f"{self.count} tokens from {self.start}", f"k={self.k}")


@dataclass(frozen=True, slots=True)
class Constrained:
    """A grammar's part in a reply: the tokens that it decided, and not the model."""

    grammar: str
    """`sha256:…` over its text."""
    forced: tuple[Span, ...] = ()
    """Tokens that it left no choice about."""
    masked: tuple[int, ...] = ()
    """Tokens that were drawn again, as it refused what the model chose."""
    turned_away: int | None = None
    """Token from which on no call was let through: one was required, and steering had turned the model away from it."""

    @property
    def reason(self) -> str:
        """Sentence on why there is no call although one was required, or nothing."""
        return "" if self.turned_away is None else "steering turned the model away from the call that was required"


@dataclass(frozen=True, slots=True)
class Trace:
    """Features of the model in a turn, read before any edit."""

    start: int = 0
    """Position of the first traced token."""
    watched: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Per watched feature or probe of the policy: its raw value at each traced token."""
    features: Mapping[str, Feature] = field(default_factory=dict)
    """The feature behind each watched name; probes have no entry."""
    top: tuple[TopK, ...] = ()
    edits: tuple[Edit, ...] = ()
    places: Mapping[Place, tuple[Span, ...]] = field(default_factory=dict)
    """Steps at each place, as spans."""
    forced: tuple[Span, ...] = ()
    """Tokens that a grammar chose and not the model."""
    opened: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Per steering rule whose gate opened, as POLICY/RULE: at how many tokens it was open."""

    def __repr__(self) -> str:
        layers = "layers" if all(top.site.point == "attn_out" for top in self.top) else "sites"
        edits = ", ".join(f"{edit.full_name} at {edit.site.name}" for edit in self.edits)
        said = f"watched [{', '.join(self.watched)}], edits [{edits}]"
        return in_one_line("Trace", said, f"top features of {len(self.top)} {layers}")


@dataclass(frozen=True, slots=True)
class Turn:
    """One finished turn: its text and calls, their verdicts, the trace, and the id of its audit record."""

    text: str
    """Plain text outside calls."""
    calls: tuple[CallLike, ...]
    verdicts: tuple[Verdict, ...]
    """One per call, in order."""
    trace: Trace
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    finish: str
    """`stop`, `tool_call` (the model waits for a result), `fabricated` (it began a result of its own), `tripwire` (a
    rule was certain of a call and ended the reply there) or `length` (it was cut at `max_new_tokens`). A call that was
    cut off in its middle is malformed, and its error and its verdict's reason give the cause."""
    record_id: str | None = None
    """Id of the audit record; None if auditing is off."""
    attempts: tuple[Turn, ...] = ()
    """Earlier attempts that were judged `retry`, in order; each has a record of its own."""
    counterfactual: Turn | None = None
    """The turn without steering, under the same policies, where that was asked for; its calls must not be run."""
    call_ids: tuple[str, ...] = ()
    """An id per call, in order, unique in the conversation."""
    constrained: Constrained | None = None
    """What a grammar decided of the reply; None where none held it."""
    cached_tokens: int = field(default=0, compare=False)
    """Tokens of the prompt that the prefix cache knew."""

    def __repr__(self) -> str:
        pairs = zip(self.calls, self.verdicts, strict=False)
        calls = [f"{call!r}: {verdict.decision}" for call, verdict in pairs]
        said = [repr(self.text)] if self.text else []
        return in_one_line("Turn", self.finish, f"record {self.record_id}", *calls, *said)

    @property
    def released(self) -> tuple[Call, ...]:
        """The only calls that an executor may run: well-formed and allowed, flagged or unguarded, beside no handoff."""
        pairs, said = zip(self.calls, self.verdicts, strict=True), [one.decision for one in self.verdicts]
        return tuple(c for c, v in pairs if isinstance(c, Call) and releases(v.decision, said))


Messages: TypeAlias = Sequence[Message]
