"""ECMA-262's sets of characters in RE2's syntax."""

from __future__ import annotations

from typing import Final

LAST: Final = 0x10FFFF

DIGIT: Final = [(0x30, 0x39)]
WORD: Final = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
SPACE: Final = [
    *((9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F)),
    *((0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
]
LINE_ENDS: Final = [(10, 10), (13, 13), (0x2028, 0x2029)]
CLASSES: Final = {"d": DIGIT, "w": WORD, "s": SPACE}
CONTROLS: Final = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
CATEGORIES: Final = {
    "Letter": "L",
    "Uppercase_Letter": "Lu",
    "Lowercase_Letter": "Ll",
    "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm",
    "Other_Letter": "Lo",
    "Mark": "M",
    "Number": "N",
    "Decimal_Number": "Nd",
    "Punctuation": "P",
    "Symbol": "S",
    "Separator": "Z",
    "Space_Separator": "Zs",
    "Other": "C",
    "Control": "Cc",
}
FOREIGN: Final = {"A": "^", "Z": "$", "z": "$", "G": "^", "Q": "escapes", "E": "escapes", "h": r"[ \t]", "R": r"\r?\n"}
"""Escapes of other dialects, and what to write for them; in ECMA-262 they would stand for the letter itself."""


def literal(code: int) -> str:
    """One character by its code."""
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:X}}}"


def ranges_text(ranges: list[tuple[int, int]]) -> str:
    """Ranges of codes, for the inside of a class."""
    return "".join(f"\\x{{{low:X}}}" if low == high else f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in ranges)


def class_text(ranges: list[tuple[int, int]], *, negated: bool) -> str:
    """A class in brackets; a complement is written as ranges, so that another class can hold it."""
    if not negated:
        return f"[{ranges_text(ranges)}]"
    begins = [0, *(high + 1 for _, high in ranges)]
    ends = [*(low - 1 for low, _ in ranges), LAST]
    rest = [(low, high) for low, high in zip(begins, ends, strict=True) if low <= high]
    return f"[{ranges_text(rest)}]" if rest else f"[^{ranges_text([(0, LAST)])}]"


def inside(text: str) -> str:
    """A set without its brackets, for the inside of a class."""
    return text[1:-1] if text.startswith("[") else text
