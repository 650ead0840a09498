"""Call dialects: the tokens and the grammar of one model family each, found by the tokenizer."""

from steerkit.chat.dialects.dialect import Dialect
from steerkit.chat.dialects.functiongemma import FUNCTIONGEMMA
from steerkit.chat.dialects.members import DIALECTS, dialect_of, name_in
from steerkit.chat.dialects.reply import Reply
from steerkit.chat.dialects.symbols import NAME, CallSyntaxError
from steerkit.chat.dialects.syntax import Frame, Pair, Role, Syntax, Written
from steerkit.chat.dialects.values import MAX_DEPTH, MAX_DIGITS

__all__ = [
    "DIALECTS",
    "FUNCTIONGEMMA",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "NAME",
    "CallSyntaxError",
    "Dialect",
    "Frame",
    "Pair",
    "Reply",
    "Role",
    "Syntax",
    "Written",
    "dialect_of",
    "name_in",
]
