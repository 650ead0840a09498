"""The grammars of requests: their text, a matcher for each row, and what they decided of a reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steerkit.chat import (
    Cursor,
    Matcher,
    ReplyForm,
    Tokenizer,
    Without,
    dialect_of,
    grammar_of,
    matcher,
    own_texts,
)
from steerkit.engine import Decided
from steerkit.policy import Policy, own_arguments
from steerkit.types import Constrained, Messages, Span, Tool


class RowConstraints(NamedTuple):
    """The grammar of one row, fresh for its generation."""

    grammar: Matcher | Without | None = None
    turned_away: Without | None = None
    """What takes its place where steering turned the model away from a call that is required."""


def grammar_for(
    tokenizer: Tokenizer,
    form: ReplyForm,
    tools: Sequence[Tool],
    prompt: Sequence[int],
    policies: Sequence[Policy],
    messages: Messages,
) -> str | None:
    """The grammar of the replies that a form lets through, or None where none is needed; it has been compiled.

    Raises:
        MissingExtraError: the extra is not installed.
        SteerkitError: the grammar cannot be used.
    """
    if not form.needs_grammar:
        return None
    dialect, in_thought = dialect_of(tokenizer), False
    if dialect.thought[1] is not None:
        cursor = Cursor(tokenizer, len(prompt))
        cursor.read(prompt)
        in_thought = cursor.state.reply is not None and cursor.state.reply.mode == "thought"
    enforced = [policy for policy in policies if policy.mode == "enforce"]
    own = {tool.name: own_arguments(enforced, tool.name) for tool in tools}
    texts = own_texts(messages) if any(own.values()) else ()
    grammar = grammar_of(dialect, tools, form, in_thought=in_thought, own=own, texts=texts)
    matcher(tokenizer, grammar)
    return grammar


def row_constraints(
    tokenizer: Tokenizer, form: ReplyForm, grammar: str | None, policies: Sequence[Policy]
) -> RowConstraints:
    """A request's grammar for one generation."""
    without_call = Without(tokenizer, dialect_of(tokenizer).call)
    if grammar is None:
        return RowConstraints(without_call if form.forbids_calls else None)
    found = matcher(tokenizer, grammar)
    required = form.choice is not None and form.choice.mode == "required"
    steers = any(policy.steer and policy.mode == "enforce" for policy in policies)
    yields = required and steers and not form.over_steering
    return RowConstraints(found, without_call if yields else None)


def chosen_by_grammar(one: Constrained | None) -> tuple[Span, ...]:
    """The tokens of a reply that the model did not choose, in runs."""
    found: list[Span] = []
    for span in sorted((*one.forced, *(Span(at, at + 1) for at in one.masked))) if one else ():
        _append(found, span)
    return tuple(found)


def _append(runs: list[Span], span: Span) -> None:
    """Put a later span behind the others, or on to the last where it begins at its end."""
    runs.append(Span(runs.pop().start, span.end) if runs and runs[-1].end == span.start else span)


class Deciders:
    """Collects who decided the tokens of one reply."""

    def __init__(self, constraints: RowConstraints, prompt_length: int) -> None:
        self._grammar, self._position = constraints.grammar, prompt_length
        self._forced: list[Span] = []
        self._masked: list[int] = []
        self._turned_away: int | None = None

    def note(self, decided: Decided) -> None:
        """Note who decided the next token."""
        at = self._position
        self._position += 1
        if decided == "forced":
            _append(self._forced, Span(at, at + 1))
        elif decided == "mask":
            self._masked.append(at)
        elif decided == "turned away":
            self._turned_away = at

    def all(self) -> Constrained | None:
        """Everything that was decided; None where no grammar held the reply."""
        if self._grammar is None:
            return None
        return Constrained(self._grammar.fingerprint, tuple(self._forced), tuple(self._masked), self._turned_away)
