"""FunctionGemma's dialect, and the call grammar that it shares with Gemma 4."""

from steerkit.chat.dialects.functiongemma.calls import WRITTEN, Marks, encode_call, read_call
from steerkit.chat.dialects.functiongemma.grammar import after_byte, after_quote
from steerkit.chat.dialects.functiongemma.tokens import CONTROL, FUNCTIONGEMMA

__all__ = ["CONTROL", "FUNCTIONGEMMA", "WRITTEN", "Marks", "after_byte", "after_quote", "encode_call", "read_call"]
