"""Record kinds and their fields: the one place that knows which keys a record has.

| kind | says |
|---|---|
| `run_opened` | what a run was opened with |
| `turn` | a turn: verdicts first, then what was generated and what shaped it |
| `approval` | what a person decided about a held call |
| `execution` | how a call was run |
| `run_closed` | how many records the run had |
| `redaction` | which content of which record was replaced by its keyed hash |
| `retention` | which records were deleted |

Private fields may hold a stand-in (`steerkit.audit.schema.gone`). A field that no kind has is kept in `more`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from steerkit.audit.schema.codec import (
    ALWAYS,
    COUNT,
    PRIVATE,
    Codec,
    Path,
    Reading,
    items,
    wrong,
)
from steerkit.audit.schema.parts import (
    AskedCall,
    Calls,
    Counterfactual,
    Messages,
    ModelIdentity,
    PolicyIdentity,
    PrivateCounts,
    PrivateObject,
    PrivateText,
    SaeSetIdentity,
    SamplingSettings,
)
from steerkit.decisions import Decision
from steerkit.types import Constrained, Edit, Tool, Verdict

FORMAT: Final = 2
"""Format of the records written now."""
DECISIONS: Final[tuple[str, ...]] = get_args(Decision)
"""Decisions that a verdict may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamps:
    """Fields that a run adds to each of its records."""

    run: str | None = None
    number: int | None = None
    """Place in the run, from 0."""
    lost_before: int = 0
    """Records that could not be written since the last one that was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record(Stamps):
    """Fields of every kind of record."""

    kind: ClassVar[str]
    lenient: ClassVar[bool] = False
    format: int = field(default=FORMAT, metadata=ALWAYS)
    committed: Mapping[str, str] = field(default_factory=dict)
    """Commitments to what may be redacted, in hex by JSON Pointer; only where the content itself is not there."""
    metadata: PrivateObject | None = None
    """The caller's own keys, such as who asked; queries find records by them."""
    more: Mapping[Path, Any] = field(default_factory=dict)
    """Keys that this version does not know, by path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnRecord(Record):
    """A turn: the decision first, then what was generated, then what shaped it."""

    kind: ClassVar[str] = "turn"
    lenient: ClassVar[bool] = True
    guard: str = field(default="", metadata=ALWAYS)
    """`policy`, or `none` where no policy had a guard."""
    judging: int = 1
    """Version of what verdicts mean (`steerkit.types.JUDGING`); the oldest records do not say it."""
    verdicts: tuple[Verdict, ...]
    """One per call, in order."""
    calls: Calls
    text: PrivateText
    finish: str
    """The end of the reply, as in `steerkit.types.Turn`."""
    attempt: int
    """Attempts that came before, judged `retry`."""
    retry_of: str | None = field(default=None, metadata=ALWAYS)
    """Record of the attempt before."""
    edits: tuple[Edit, ...]
    messages: Messages
    tools: Annotated[tuple[Tool, ...], PRIVATE]
    prompt_ids: PrivateCounts
    reply_ids: PrivateCounts
    model: ModelIdentity
    saes: SaeSetIdentity | None
    policies: tuple[PolicyIdentity, ...]
    sampling: SamplingSettings
    libraries: Mapping[str, str] | None = None
    """Versions by name; None where they are those of the run's opening."""
    seconds: float | None = None
    """Time that its batch took to generate."""
    call_ids: tuple[str, ...] = ()
    """One per call: ids that no other call of the conversation has."""
    conversation: str | None = None
    """Id that the records of one conversation share."""
    machine: Mapping[str, Any] | None = None
    """`processor`, `instructions`, `threads`, `accelerator`, `prepacked`, and `decoding` where graphs decoded."""
    batch: Mapping[str, int] | None = None
    """`size` of the batch, and the turn's `row` in it."""
    counterfactual: Counterfactual | None = None
    form: PrivateObject | None = None
    """What the reply had to be like, in the words of a request: `tool_choice`, `parallel_tool_calls`,
    `response_format`, `stop`; and `required_over_steering` where the operator chose so."""
    constrained: Constrained | None = None
    """What a grammar decided of the reply."""
    rules: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By POLICY/RULE of those that had a part in it: of a steering rule `opened`, tokens at which its gate was open; of
    a guard rule `matched`, calls that it matched, whichever decided. Older records do not say it."""

    @property
    def prepacked(self) -> bool:
        """True where the generation used packed copies of the linear weights."""
        return bool((self.machine or {}).get("prepacked"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Event(Record):
    """An event of a call after its turn."""

    turn: str | None
    """Id of the turn's record."""
    call_id: str
    """Id of the call in its conversation."""
    call: AskedCall
    conversation: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalRecord(_Event):
    """A person's decision about a held call."""

    kind: ClassVar[str] = "approval"
    decision: Literal["approve", "refuse"]
    by: PrivateText
    note: PrivateText
    error: Annotated[str | None, PRIVATE]
    """The error of asking, where it failed; the call is refused then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionRecord(_Event):
    """An execution of a call, or one that was only begun."""

    kind: ClassVar[str] = "execution"
    status: str
    """`ok`, `error`, `timeout`, `refused`, `denied` or `interrupted`."""
    result: Annotated[str | None, PRIVATE]
    """SHA-256 of the result's canonical JSON; the next turn's messages have the result itself."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOpenedRecord(Record):
    """The opening of a run: what its turns share."""

    kind: ClassVar[str] = "run_opened"
    model: ModelIdentity
    saes: SaeSetIdentity | None = field(default=None, metadata=ALWAYS)
    policies: tuple[PolicyIdentity, ...] = field(default=(), metadata=ALWAYS)
    """Policies of requests that bring none of their own, with their content."""
    sampling: SamplingSettings = field(default=SamplingSettings(), metadata=ALWAYS)
    libraries: Mapping[str, str] | None = None
    machine: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunClosedRecord(Record):
    """The closing of a run: counts of its records."""

    kind: ClassVar[str] = "run_closed"
    counts: Mapping[str, Any]
    """`turns`, `approvals`, `executions`, and `decisions` by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RedactionRecord(Record):
    """Content that was replaced by its keyed hash."""

    kind: ClassVar[str] = "redaction"
    of: int
    """Sequence of the record whose content it was."""
    id: str
    """Id of that record."""
    fields: Mapping[str, str]
    """Keyed hashes in hex, by JSON Pointer."""
    by: str = field(default="", metadata=ALWAYS)
    note: str = field(default="", metadata=ALWAYS)
    signature: str | None = None
    """A signed note over everything else that the record says."""


def _read_range(value: Any, at: Path, reading: Reading) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(COUNT.fits(one) for one in value if COUNT.fits):
        raise wrong(value, at, "[first, last] in order")
    if value[0] > value[1]:
        raise wrong(value, at, "[first, last] in order")
    return value[0], value[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionRecord(Record):
    """Records that were deleted: the tombstone of complete runs."""

    kind: ClassVar[str] = "retention"
    before: str
    """Runs closed before this time, in UTC."""
    ranges: Annotated[tuple[tuple[int, int], ...], items(Codec(_read_range, list))]
    """First and last sequence of each."""
    count: int
    root: str
    """Merkle root over sequences and hashes of what was deleted, in hex."""
    note: str
    """The signed note over it."""
    by: str = field(default="", metadata=ALWAYS)


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherRecord(Record):
    """A record of a kind that this version does not know; `more` has all its keys."""

    kind: str = ""  # type: ignore[misc]  # each has its own
    format: int = 0
