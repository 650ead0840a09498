"""Messages and tools to tokens, and tokens back to calls. Goes through the tokenizer's own template; loads no torch."""

from steerkit.chat.arguments import schema_errors, undeclared_arguments, validate_arguments
from steerkit.chat.declare import declared, lint
from steerkit.chat.forms import one_by_one, tool_object
from steerkit.chat.history import Made, calls_made
from steerkit.chat.parse import CallClosed, CallOpened, Event, Parsed, Parser, TextDelta, parse
from steerkit.chat.pieces import piece_ends
from steerkit.chat.places import PlaceMachine, StepPlaces, place_machine, steps_by_place
from steerkit.chat.plain import plain_messages
from steerkit.chat.render import Prompt, render
from steerkit.chat.tokenizer import Tokenizer, token_bytes
from steerkit.chat.tools import as_tools, openai
from steerkit.chat.wire import Wire, encode_call

__all__ = [
    "CallClosed",
    "CallOpened",
    "Event",
    "Made",
    "Parsed",
    "Parser",
    "PlaceMachine",
    "Prompt",
    "StepPlaces",
    "TextDelta",
    "Tokenizer",
    "Wire",
    "as_tools",
    "calls_made",
    "declared",
    "encode_call",
    "lint",
    "one_by_one",
    "openai",
    "parse",
    "piece_ends",
    "place_machine",
    "plain_messages",
    "render",
    "schema_errors",
    "steps_by_place",
    "token_bytes",
    "tool_object",
    "undeclared_arguments",
    "validate_arguments",
]
