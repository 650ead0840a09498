"""The grammar of a reply, as text for llguidance: a dialect's calls to some tools, each in its tool's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from steerkit.chat.constrain.choice import ReplyForm, ToolChoice
from steerkit.chat.constrain.rules import Rules, literal
from steerkit.chat.constrain.shape import Members, Shape, shape_of
from steerkit.chat.dialects import Dialect, Written
from steerkit.chat.parse import MAX_CALLS
from steerkit.types import Tool

_JSON: Final = Written()
_MOST_CALLS: Final = MAX_CALLS - 1


def grammar_of(
    dialect: Dialect,
    tools: Sequence[Tool],
    form: ReplyForm,
    *,
    in_thought: bool = False,
    own: Mapping[str, frozenset[str]] | None = None,
    texts: Sequence[str] = (),
) -> str:
    """The grammar of the replies that a form lets through.

    Args:
        dialect: of the model.
        tools: as they are declared.
        form: what the caller wants.
        in_thought: the prompt ends inside a thought.
        own: by tool, the arguments whose values are words of the user's.
        texts: the user's.
    """
    choice = form.choice or ToolChoice("auto")
    may_call = [tool for tool in tools if choice.names is None or tool.name in choice.names]
    if choice.mode == "none":
        may_call = []
    rules = Rules(dialect.syntax.written, dialect.quote, texts)
    calls = [_call(rules, tool, (own or {}).get(tool.name, frozenset())) for tool in may_call]
    most = 1 if choice.named or not form.parallel else _MOST_CALLS
    body = _body(dialect, form, choice.mode, bool(calls), most)
    lines = [f"start: {_rest_of_thought(dialect, in_thought)}reply", *body]
    if calls:
        lines.append(f"call: <[{dialect.call}]> ({' | '.join(calls)}) <[{dialect.end_call}]>")
    lines += _between(dialect)
    text = Rules(_JSON, None, prefix="j") if form.schema is not None else None
    if text is not None:
        shape: Shape = Members() if form.schema is True else shape_of(form.schema)  # type: ignore[arg-type]  # a mapping
        lines.append(f"json: {text.expression(shape, 1)}")
    return "\n".join([*lines, *rules.lines, *(text.lines if text else ())]) + "\n"


def _body(dialect: Dialect, form: ReplyForm, mode: str, calls: bool, most: int) -> list[str]:
    """The rules of a reply: what may come, and the tokens that end it."""
    answered, asked = sorted(dialect.stops - {dialect.waits}), sorted(dialect.stops)
    more = f"(call blank){{1,{most}}}" if most > 1 else "call blank"
    ways = []
    if mode != "required" or not calls:
        what = "blank json blank" if form.schema is not None else "plain"
        ways.append(f"{what} <[{_listed(answered)}]>")
    if calls and mode == "auto" and form.schema is None:
        more = f"plain (call plain){{1,{most}}}" if most > 1 else "plain call blank"
    if calls:
        more = more if more.startswith("plain") else f"blank {more}"
        ways.append(f"{more} <[{_listed(asked)}]>")
    return [f"reply: {' | '.join(ways)}"]


def _between(dialect: Dialect) -> list[str]:
    """What may stand beside calls: thoughts, and where the dialect lays calls out, blanks."""
    opened, closed = dialect.thought
    thought = None if None in (opened, closed) else f"<[{opened}]> TEXT? <[{closed}]>"
    gap = "GAP?" if dialect.syntax.layout else '""'
    lines = ["TEXT: /(?s:.+)/", r"GAP: /[ \t\r\n]{1,16}/"]
    if thought is None:
        return [f"blank: {gap}", "plain: TEXT?", *lines]
    return [f"thought: {thought}", f"blank: {gap} (thought {gap}){{0,8}}", "plain: TEXT? (thought TEXT?){0,8}", *lines]


def _rest_of_thought(dialect: Dialect, in_thought: bool) -> str:
    closed = dialect.thought[1]
    return f"TEXT? <[{closed}]> " if in_thought and closed is not None else ""


def _call(rules: Rules, tool: Tool, own: frozenset[str]) -> str:
    """The inside of a tool's call."""
    written = rules.written
    shape = Members() if tool.strict is False else shape_of(tool.parameters)
    shape = shape if isinstance(shape, Members) else Members()
    arguments = rules.members(shape, 0, own)
    parts = [written.begin + tool.name + written.between, arguments, written.end]
    return " ".join(part if part is arguments else literal(part) for part in parts if part)


def _listed(ids: Sequence[int]) -> str:
    return ",".join(map(str, ids))
