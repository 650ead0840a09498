"""Messages and tools to tokens, and tokens back to calls. Goes through the tokenizer's own template; loads no torch."""

from steerkit.chat.history import Made, calls_made
from steerkit.chat.parse import CallClosed, CallOpened, Event, Parsed, Parser, TextDelta, parse
from steerkit.chat.pieces import piece_ends
from steerkit.chat.places import PlaceMachine, StepPlaces, place_machine, steps_by_place
from steerkit.chat.render import Prompt, render
from steerkit.chat.tokenizer import Tokenizer, token_bytes
from steerkit.chat.tools import as_tools, lint, openai, schema_errors, validate_arguments
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
    "encode_call",
    "lint",
    "openai",
    "parse",
    "piece_ends",
    "place_machine",
    "render",
    "schema_errors",
    "steps_by_place",
    "token_bytes",
    "validate_arguments",
]
