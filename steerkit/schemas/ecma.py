"""Translates a pattern of ECMA-262 into RE2's syntax."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, TypeAlias

from steerkit.schemas.characters import (
    CATEGORIES,
    CLASSES,
    CONTROLS,
    FOREIGN,
    LAST,
    LINE_ENDS,
    class_text,
    inside,
    literal,
    ranges_text,
)
from steerkit.schemas.expressions import PatternError, expression

_REPEATS: Final = 1000
"""Largest repetition in RE2, nested ones multiplied; a larger one is expanded."""
MAX_TEXT: Final = 50_000
"""Most characters of a pattern, and of one expanded repetition."""


class _Piece(NamedTuple):
    """A part of a pattern in RE2's syntax."""

    text: str
    repeats: int = 1
    """Product of the nested repetitions in it; RE2 bounds it."""
    quantifiable: bool = True


Alternative: TypeAlias = tuple[list[tuple[bool, str]], str]
"""Lookaheads at its beginning (True for positive ones, and the pattern), and the rest."""


class Reader:
    """Recursive-descent parser of ECMA-262 that writes RE2."""

    def __init__(self, source: str) -> None:
        self.source, self.at, self.depth, self.written = source, 0, 0, 0
        self.dot_all = False

    def read(self) -> list[Alternative]:
        """The alternatives of the pattern. Raises PatternError."""
        found = [self._top()]
        while self._take("|"):
            found.append(self._top())
        if self.at < len(self.source):
            raise self._wrong("an unmatched ')'", "'\\)' for the character itself")
        return found

    def _top(self) -> Alternative:
        begin, conditions = self.at, []
        if self._take("^"):
            while kind := self._taken("(?=", "(?!"):
                conditions.append((kind == "(?=", self._group(self.dot_all).text))
            if conditions:
                return conditions, rf"\A(?:{self._sequence().text})"
            self.at = begin
        return [], self._sequence().text

    def _sequence(self) -> _Piece:
        pieces: list[_Piece] = []
        while self.at < len(self.source) and self.source[self.at] not in "|)":
            pieces.append(self._repeated(self._atom()))
            self.written += len(pieces[-1].text)
            if self.written > 10 * MAX_TEXT:
                raise self._wrong("a pattern of such size", "a smaller one")
        return _Piece("".join(piece.text for piece in pieces), max((piece.repeats for piece in pieces), default=1))

    def _group(self, dot_all: bool) -> _Piece:
        """The pattern up to the closing bracket, which is consumed."""
        begin, outer = self.at, self.dot_all
        self.dot_all = dot_all
        self.depth += 1
        if self.depth > 100:
            raise self._wrong("groups nested more than 100 deep", "fewer")
        found = self._choice()
        if not self._take(")"):
            self.at = begin
            raise self._wrong("a group that is not closed", "')'")
        self.dot_all, self.depth = outer, self.depth - 1
        return found._replace(text=f"(?:{found.text})")

    def _choice(self) -> _Piece:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return _Piece("|".join(part.text for part in parts), max(part.repeats for part in parts))

    def _atom(self) -> _Piece:
        char = self.source[self.at]
        self.at += 1
        match char:
            case "^":
                return _Piece(r"\A", quantifiable=False)
            case "$":
                return _Piece(r"\z", quantifiable=False)
            case ".":
                return _Piece(class_text([] if self.dot_all else LINE_ENDS, negated=True))
            case "[":
                return _Piece(self._class())
            case "(":
                return self._bracket()
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                self.at -= 1
                raise self._wrong(f"{char!r} with nothing to repeat", f"'\\{char}' for the character itself")
        return _Piece(literal(ord(char)))

    def _bracket(self) -> _Piece:
        if not self._take("?"):
            return self._group(self.dot_all)
        named = re.compile(r"P?<([A-Za-z_$][\w$]*)>").match(self.source, self.at)
        if named:
            self.at = named.end()
            return self._group(self.dot_all)
        flags = re.compile(r"([is]*)(?:-([is]+))?([:)])").match(self.source, self.at)
        if flags:
            return self._flagged(flags)
        self.at -= 2
        rest = self.source[self.at :]
        if rest.startswith(("(?=", "(?!")):
            raise self._wrong("a lookahead", "lookaheads only right after a '^' that begins the pattern")
        if rest.startswith(("(?<=", "(?<!")):
            raise self._wrong("a lookbehind, which cannot be matched without backtracking", "a pattern without one")
        raise self._wrong(f"{rest[:4]!r}, which ECMA-262 does not have", "(?:…)")

    def _flagged(self, flags: re.Match[str]) -> _Piece:
        on, off, end = flags[1], flags[2] or "", flags[3]
        begin = self.at - 2
        self.at = flags.end()
        fold = "(?i:" if "i" in on else "(?-i:" if "i" in off else "(?:"
        dot_all = "s" in on or (self.dot_all and "s" not in off)
        if end == ":":
            inner = self._group(dot_all)
        elif begin == 0 and on:  # not of ECMA-262, and plain: what follows is all of it
            self.dot_all = dot_all
            inner = self._choice()
        else:
            self.at = begin
            raise self._wrong("flags in the middle", "(?i:…)")
        return _Piece(f"{fold}{inner.text})", inner.repeats)

    def _escape(self) -> _Piece:
        if self.at >= len(self.source):
            raise self._wrong("a backslash at the end", "'\\\\' for the character itself")
        char = self.source[self.at]
        if char in "bB":
            self.at += 1
            return _Piece(f"\\{char}", quantifiable=False)
        if char in "123456789" or (char == "k" and self.source.startswith("k<", self.at)):
            raise self._wrong("a backreference, which cannot be matched without backtracking", "a pattern without one")
        value = self._class_escape()
        return _Piece(literal(value) if isinstance(value, int) else value)

    def _class_escape(self) -> int | str:
        """A character, or a set in brackets; a class takes it without them."""
        char = self.source[self.at]
        self.at += 1
        if char.lower() in CLASSES:
            return class_text(CLASSES[char.lower()], negated=char.isupper())
        if char in "pP" and self.source.startswith("{", self.at):
            return self._property(char)
        if char in CONTROLS:
            return CONTROLS[char]
        if char == "c" and re.compile("[A-Za-z]").match(self.source, self.at):
            self.at += 1
            return ord(self.source[self.at - 1]) % 32
        if char == "0" and not self.source[self.at : self.at + 1].isdigit():
            return 0
        if char in "xu":
            return self._code(char)
        if char.isascii() and char.isalnum():
            self.at -= 2
            hint = FOREIGN.get(char)
            raise self._wrong(f"'\\{char}', which ECMA-262 does not have", hint or f"'{char}' for the character itself")
        return ord(char)

    def _code(self, kind: str) -> int:
        forms = r"([0-9A-Fa-f]{2})" if kind == "x" else r"([0-9A-Fa-f]{4})|\{([0-9A-Fa-f]+)\}"
        match = re.compile(forms).match(self.source, self.at)
        if match is None:
            self.at -= 2
            raise self._wrong(f"'\\{kind}' without its digits", r"\xHH, \uHHHH or \u{H…}")
        self.at = match.end()
        value = int(next(group for group in match.groups() if group), 16)
        low = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})").match(self.source, self.at)
        if 0xD800 <= value < 0xDC00 and low:
            self.at = low.end()
            return 0x10000 + ((value - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        if value > LAST or 0xD800 <= value < 0xE000:
            raise self._wrong(f"the code {value:X}, which is no character", "a Unicode character")
        return value

    def _property(self, kind: str) -> str:
        end = self.source.find("}", self.at)
        name = self.source[self.at + 1 : end] if end > 0 else ""
        key, _, value = name.partition("=")
        value = (value if key in ("General_Category", "gc", "Script", "sc") else "") if value else key
        text = f"\\{kind}{{{CATEGORIES.get(value, value)}}}"
        if value == "Any":
            text = class_text([(0, LAST)], negated=kind == "P")
        elif value == "ASCII":
            text = class_text([(0, 0x7F)], negated=kind == "P")
        else:
            try:
                expression(text)
            except PatternError:
                self.at -= 2
                raise self._wrong(f"the property {name!r}, which is not known here", "a category or a script") from None
        self.at = end + 1
        return text

    def _class(self) -> str:
        negated, begin = self._take("^"), self.at
        pieces: list[str] = []
        while not self._take("]"):
            low = self._member(begin)
            if isinstance(low, int) and re.compile(r"-[^\]]", re.DOTALL).match(self.source, self.at):
                self.at += 1
                high = self._member(begin)
                if isinstance(high, int):
                    if high < low:
                        raise self._wrong("a range whose end is before its beginning", "the lower character first")
                    pieces.append(ranges_text([(low, high)]))
                    continue
                pieces += [ranges_text([(low, low), (0x2D, 0x2D)]), inside(high)]
                continue
            pieces.append(ranges_text([(low, low)]) if isinstance(low, int) else inside(low))
        if not pieces:
            return class_text([(0, LAST)], negated=not negated)
        return f"[{'^' if negated else ''}{''.join(pieces)}]"

    def _member(self, begin: int) -> int | str:
        if self.at >= len(self.source):
            self.at = begin - 1
            raise self._wrong("a class that is not closed", "']'")
        char = self.source[self.at]
        self.at += 1
        if char != "\\":
            return ord(char)
        if self.at >= len(self.source):
            raise self._wrong("a backslash at the end", "'\\\\' for the character itself")
        if self._take("b"):
            return 8
        return self._class_escape()

    def _repeated(self, piece: _Piece) -> _Piece:
        match = re.compile(r"(?:([*+?])|\{([0-9]+)(?:(,)([0-9]*))?\})\??").match(self.source, self.at)
        if match is None:
            return piece
        if not piece.quantifiable:
            raise self._wrong("a repetition of something that has no width", "a character or a group before it")
        self.at = match.end()
        if re.compile(r"[*+?]|\{[0-9]+(,[0-9]*)?\}").match(self.source, self.at):
            raise self._wrong("a repetition of a repetition", "(?:…) around the inner one")
        if match[1]:
            return _Piece(f"(?:{piece.text}){match[1]}", piece.repeats)
        if max(len(match[2]), len(match[4] or "")) > 6:
            raise self._wrong(f"{match[0]}", "a smaller number")
        low = int(match[2])
        high = None if match[3] and not match[4] else int(match[4] or low)
        if high is not None and high < low:
            raise self._wrong(f"{match[0]}", "the lower number first")
        return _times(piece, low, high, self)

    def _taken(self, *texts: str) -> str:
        return next((text for text in texts if self._take(text)), "")

    def _take(self, text: str) -> bool:
        if self.source.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def _wrong(self, got: str, expected: str) -> PatternError:
        return PatternError(f"{got} (character {self.at + 1}); expected {expected}")


def _times(piece: _Piece, low: int, high: int | None, reader: Reader) -> _Piece:
    """A piece repeated, expanded into as many steps as RE2 needs."""
    most = max(1, _REPEATS // piece.repeats)
    unit = f"(?:{piece.text})"

    def steps(count: int, form: str) -> str:
        if (count // most + 1) * len(unit) > MAX_TEXT:
            raise reader._wrong(f"a repetition of {count} times", "fewer")
        whole, rest = divmod(count, most)
        return (unit + form.format(most)) * whole + (unit + form.format(rest) if rest else "")

    text = steps(low, "{{{}}}")
    text += f"{unit}*" if high is None else steps(high - low, "{{0,{}}}")
    return _Piece(text, min(max(low, high or 0, 1), most) * piece.repeats)
