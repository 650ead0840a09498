"""Contrasts in a recorded call: the step at which the tool, a value or calling at all was chosen, and over what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from steerkit.chat import Tokenizer, dialect_of, token_bytes
from steerkit.errors import AuditError
from steerkit.types import Argument, Call, CallLike, Span


class Contrast(NamedTuple):
    """One step of a turn, the token that was taken and the one that it was taken over."""

    what: str
    """`the tool`, `to call` or `argument NAME`."""
    position: int
    """The step: it reads the token here and makes the next."""
    chosen: int
    other: int
    rival: str
    """The tool that the other token leads to; empty where no tool's name was chosen."""
    margin: float
    """Log-odds of the chosen token over the other, as the turn was; below 0 where sampling took the less likely."""


class Written(NamedTuple):
    """A reply with what each of its tokens was chosen from."""

    tokenizer: Tokenizer
    ids: tuple[int, ...]
    """Prompt and reply."""
    start: int
    """Length of the prompt."""
    logits: Tensor
    """`(len(reply), vocabulary)` float32."""

    def before(self, position: int) -> Tensor:
        """`(vocabulary,)` logits that the token at `position` was chosen from."""
        return self.logits[position - self.start]


def tool_contrast(written: Written, call: Call, tools: Sequence[str], against: str | None = None) -> Contrast | None:
    """The choice of the tool over another one: at the token of its name at which a declared tool came closest.

    Of each other tool counts the likeliest token that continues its name and not with the chosen one's. None where
    there is no other tool.

    Args:
        written: the reply.
        call: one of its calls.
        tools: names of the declared tools.
        against: the one to hold it against (default: the one that came closest).

    Raises:
        AuditError: `against` is not declared, or is the tool itself.
    """
    others = [name for name in tools if name != call.name]
    if against is not None:
        if against not in others:
            raise AuditError(f"--against: got '{against}', expected another declared tool: {_listed(others)}")
        others = [against]
    found = list(_rivals(written, call, others))
    return min(found, key=lambda one: one.margin, default=None)


def _rivals(written: Written, call: Call, others: Sequence[str]) -> Iterator[Contrast]:
    """At each token of the name, the likeliest one that continues another tool's name."""
    table = token_bytes(written.tokenizer)
    own = f"call:{call.name}{{".encode()
    names = {f"call:{name}{{".encode(): name for name in others}
    before = b""
    for position in range(call.span.start + 1, call.span.end):
        if not own.startswith(before) or len(before) >= len(own):
            return
        rests = {name[len(before) :]: names[name] for name in names if name.startswith(before)}
        here = written.before(position)
        for token in here.argsort(descending=True).tolist() if rests else ():
            text = table(token)
            meant = next((name for rest, name in rests.items() if _goes_on(text, rest)), None)
            if meant is not None and not _goes_on(text, own[len(before) :]):
                chosen = written.ids[position]
                margin = float(here[chosen] - here[token])
                yield Contrast("the tool", position - 1, chosen, token, meant, margin)
                break
        before += table(written.ids[position])


def _goes_on(text: bytes, rest: bytes) -> bool:
    """True if a token's text is the next piece of the rest of a name."""
    return bool(text) and (rest.startswith(text) or text.startswith(rest))


def value_contrast(written: Written, call: Call, argument: str) -> Contrast:
    """The choice of an argument's value: at its token at which another one came closest.

    Raises:
        AuditError: the call has no such argument.
    """
    part = _part(call, argument)
    control = dialect_of(written.tokenizer).control
    inside = [position for position in range(*part.value_span) if written.ids[position] not in control]
    empty = [part.value_span.end - 1]  # an empty string is the delimiter that ends it
    found = [_closest(written, position, f"argument {part.name}") for position in inside or empty]
    return min(found, key=lambda one: one.margin)


def call_contrast(written: Written, span: Span) -> Contrast:
    """The choice to call a tool at all: the token that opens the call, over the likeliest other one."""
    return _closest(written, span.start, "to call")


def _closest(written: Written, position: int, what: str) -> Contrast:
    here, chosen = written.before(position), written.ids[position]
    first, second = here.topk(2).indices.tolist()
    other = second if first == chosen else first
    return Contrast(what, position - 1, chosen, other, "", float(here[chosen] - here[other]))


def _part(call: Call, path: str) -> Argument:
    name = path.removeprefix("call.").removeprefix("arguments.")
    parts = {part.name: part for part in call.parts}
    if name in parts:
        return parts[name]
    top = name.split(".")[0].split("[")[0]
    if top in parts:
        raise AuditError(f"--argument: got '{path}', which is inside '{top}'; expected a whole argument: give '{top}'")
    raise AuditError(f"--argument: {call.name} was called without '{path}'; expected one of: {_listed(sorted(parts))}")


def well_formed(call: CallLike, number: int) -> Call:
    """The call, where its name and arguments can be explained. Raises AuditError."""
    if isinstance(call, Call):
        return call
    raise AuditError(
        f"call {number} is malformed ({call.error}), so no name and no value of it was chosen; --no-call explains why "
        f"one was opened"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
