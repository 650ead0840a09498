"""Messages and tools to tokens, and tokens back to calls. Goes through the tokenizer's own template; loads no torch."""

from steerkit.chat.arguments import schema_errors, undeclared_arguments, validate_arguments
from steerkit.chat.blocks import block_ends
from steerkit.chat.constrain import (
    Matcher,
    ReplyForm,
    ToolChoice,
    Without,
    grammar_of,
    is_own,
    matcher,
    once_called,
    own_texts,
    read_constraint,
    reply_form,
    settings_of,
)
from steerkit.chat.cursor import Cursor, steps_by_place
from steerkit.chat.declare import declared, lint
from steerkit.chat.dialects import DIALECTS, FUNCTIONGEMMA, Dialect, Syntax, dialect_of, name_in
from steerkit.chat.messages import Made, calls_made
from steerkit.chat.parse import CallClosed, CallOpened, Event, Parsed, Parser, TextDelta, ThoughtDelta, parse
from steerkit.chat.places import GrammarState, PlaceMachine, place_machine, places_of
from steerkit.chat.plain import plain_messages
from steerkit.chat.render import Prompt, render
from steerkit.chat.tokenizer import TokenBytes, Tokenizer, token_bytes
from steerkit.chat.tools import as_tools, one_by_one, openai, tool_object

encode_call = FUNCTIONGEMMA.encode_call
"""A call as FunctionGemma writes it; `dialect_of(tokenizer).syntax.encode_call` is any dialect's."""

__all__ = [
    "DIALECTS",
    "FUNCTIONGEMMA",
    "CallClosed",
    "CallOpened",
    "Cursor",
    "Dialect",
    "Event",
    "GrammarState",
    "Made",
    "Matcher",
    "Parsed",
    "Parser",
    "PlaceMachine",
    "Prompt",
    "ReplyForm",
    "Syntax",
    "TextDelta",
    "ThoughtDelta",
    "TokenBytes",
    "Tokenizer",
    "ToolChoice",
    "Without",
    "as_tools",
    "block_ends",
    "calls_made",
    "declared",
    "dialect_of",
    "encode_call",
    "grammar_of",
    "is_own",
    "lint",
    "matcher",
    "name_in",
    "once_called",
    "one_by_one",
    "openai",
    "own_texts",
    "parse",
    "place_machine",
    "places_of",
    "plain_messages",
    "read_constraint",
    "render",
    "reply_form",
    "schema_errors",
    "settings_of",
    "steps_by_place",
    "token_bytes",
    "tool_object",
    "undeclared_arguments",
    "validate_arguments",
]
