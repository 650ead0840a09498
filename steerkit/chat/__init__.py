"""Messages and tools to tokens, and tokens back to calls. Goes through the tokenizer's own template; loads no torch."""

from steerkit.chat.parse import CallClosed, CallOpened, Event, Parsed, Parser, TextDelta, parse
from steerkit.chat.places import positions
from steerkit.chat.render import Prompt, render
from steerkit.chat.tokenizer import Tokenizer
from steerkit.chat.tools import as_tools, lint, openai, schema_errors, validate_arguments
from steerkit.chat.wire import Wire, encode_call

__all__ = [
    "CallClosed",
    "CallOpened",
    "Event",
    "Parsed",
    "Parser",
    "Prompt",
    "TextDelta",
    "Tokenizer",
    "Wire",
    "as_tools",
    "encode_call",
    "lint",
    "openai",
    "parse",
    "positions",
    "render",
    "schema_errors",
    "validate_arguments",
]
