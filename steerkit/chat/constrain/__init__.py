"""Constrained decoding: the grammar of a dialect's calls to some tools, and the tokens that it leaves."""

from steerkit.chat.constrain.choice import ReplyForm, ToolChoice, once_called, reply_form, settings_of
from steerkit.chat.constrain.grammar import grammar_of
from steerkit.chat.constrain.matcher import Matcher, Without, matcher, read_constraint
from steerkit.chat.constrain.own_words import is_own, own_texts

__all__ = [
    "Matcher",
    "ReplyForm",
    "ToolChoice",
    "Without",
    "grammar_of",
    "is_own",
    "matcher",
    "once_called",
    "own_texts",
    "read_constraint",
    "reply_form",
    "settings_of",
]
