"""Rules of a grammar for values of given shapes, in a dialect's writing, as text for llguidance.

An object's rule carries the set of its keys so far in 64 bits, so that keys come in any order and none twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from steerkit.chat.constrain.own_words import is_own, numbers_of, words_of
from steerkit.chat.constrain.shape import ANYTHING, Anything, Either, Exactly, Items, Member, Members, Scalar, Shape
from steerkit.chat.dialects import MAX_DEPTH, Written
from steerkit.chat.dialects import NAME as NAMES

_MOST_KEYS: Final = 60
"""Keys of an object that may come in any order; those of a larger one come as they are declared."""
_INTEGER: Final = r"/-?(0|[1-9][0-9]{0,900})(\.0{1,20})?/"
_NUMBER: Final = (
    r"/-?((0|[1-9][0-9]{0,900})|(0|[1-9][0-9]{0,200})(\.[0-9]{1,500})?([eE]-[0-9]{1,4}|[eE]\+?[0-9]{1,2})?"
    r"|[0-9](\.[0-9]{1,500})?[eE]\+?([12][0-9][0-9]|30[0-7]))/"
)
"""Numbers that a parser takes: at most 1,000 characters, and floats that are finite."""
_TEXT: Final = "/(?s:.+)/"
_JSON_TEXT: Final = (
    r'/"([^"\\\x00-\x1F]|\\(["\\\/bfnrt]|u([0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r'|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})))*"/'
)
_NAME: Final = r"/[A-Za-z0-9_.\-]{1,128}/"


def literal(text: str) -> str:
    """A text as a grammar writes it."""
    return json.dumps(text, ensure_ascii=False)


def writable(text: str) -> bool:
    """False for a text that a grammar cannot write: with control characters, or half ones."""
    return not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text)


class Rules:
    """The rules of some values, each written once."""

    def __init__(self, written: Written, quote: int | None, texts: Sequence[str] = (), prefix: str = "r") -> None:
        """Begin with none.

        Args:
            written: the dialect's writing.
            quote: id of its token around strings; None where they are JSON's.
            texts: the user's, for arguments that are their words.
            prefix: of the names of these rules.
        """
        self.written, self._quote, self._texts, self._prefix = written, quote, texts, prefix
        self.lines: list[str] = []
        self._names: dict[Any, str] = {}

    def expression(self, shape: Shape, depth: int) -> str:
        """The expression of values of a shape; at depth 1 they are arguments."""
        match shape:
            case Anything():
                return f"{self._anything()}::{depth}"
            case Scalar():
                return self._scalar(shape)
            case Exactly():
                return self._rule((shape,), " | ".join(map(self._exact, map(json.loads, shape.values))))
            case Items():
                return self._items(shape, depth)
            case Members():
                return self.members(shape, depth)
            case Either():
                return self._rule((shape, depth), " | ".join(self.expression(one, depth) for one in shape.of))

    def members(self, shape: Members, depth: int, own: frozenset[str] = frozenset()) -> str:
        """The expression of an object, of whose members some are words of the user's."""
        if depth > MAX_DEPTH:
            return literal("{}")
        found = self._names.get((shape, depth, own))
        if found is not None:
            return found
        name = self._named((shape, depth, own))
        if shape.free:
            body = self._free(name, shape.others or ANYTHING, depth, own)
        else:
            body = self._listed(name, shape, depth, own)
        self.lines.append(f"{name}: {literal('{')} {body} {literal('}')}")
        return name

    def _listed(self, name: str, shape: Members, depth: int, own: frozenset[str]) -> str:
        """The inside of an object with known keys, or none."""
        if not shape.members:
            return '""'
        members = sorted(shape.members, key=lambda member: not member.required)
        pairs = [self._pair(member, depth, own) for member in members]
        if len(members) > _MOST_KEYS:
            return self._in_order(name, shape, [self._pair(member, depth, own) for member in shape.members])
        required = sum(member.required for member in members)
        comma = literal(self.written.comma)
        first = [f"{pair} {name}r::set_bit({bit})" for bit, pair in enumerate(pairs)]
        more = [f"{comma} {pair} {name}r::set_bit({bit}) %if bit_clear({bit})" for bit, pair in enumerate(pairs)]
        if shape.others is not None:
            other = self._other_key(members, depth) + " " + self.expression(shape.others, depth + 1)
            first, more = [*first, f"{other} {name}r::_"], [*more, f"{comma} {other} {name}r::_"]
        done = f'"" %if is_ones([0:{required}])' if required else '""'
        self.lines.append(f"{name}r::_: {' | '.join([done, *more])}")
        self.lines.append(f"{name}f::_: {' | '.join([*([] if required else [chr(34) * 2]), *first])}")
        return f"{name}f::0"

    def _in_order(self, name: str, shape: Members, pairs: Sequence[str]) -> str:
        """The inside of an object of very many keys: each may be left out that is not required."""
        comma, last = literal(self.written.comma), len(pairs)
        for number, (pair, member) in enumerate(zip(pairs, shape.members, strict=True)):
            skip = ("", "") if member.required else (f" | {name}f{number + 1}", f" | {name}r{number + 1}")
            self.lines.append(f"{name}f{number}: {pair} {name}r{number + 1}{skip[0]}")
            self.lines.append(f"{name}r{number}: {comma} {pair} {name}r{number + 1}{skip[1]}")
        self.lines += [f'{name}f{last}: ""', f'{name}r{last}: ""']
        return f"{name}f0"

    def _pair(self, member: Member, depth: int, own: frozenset[str]) -> str:
        value = self._own(member.shape, depth + 1) if member.name in own else self.expression(member.shape, depth + 1)
        return f"{literal(self._key(member.name) + self.written.colon)} {value}"

    def _key(self, name: str) -> str:
        return name if self.written.bare_keys else self.written.string(name)

    def _free(self, name: str, others: Shape, depth: int, own: frozenset[str]) -> str:
        """The inside of an object with anyone's keys."""
        known = [Member(one, ANYTHING, False) for one in sorted(own)]
        pairs = [self._pair(member, depth, own) for member in known]
        pairs.append(f"{self._other_key(known, depth)} {self.expression(others, depth + 1)}")
        self.lines.append(f"{name}p: {' | '.join(pairs)}")
        return f"({name}p ({literal(self.written.comma)} {name}p)*)?"

    def _other_key(self, members: Sequence[Member], depth: int) -> str:
        """Any key but these, with what follows it."""
        bare = self.written.bare_keys
        text = _NAME if bare or depth == 0 else r'/[^"\\\x00-\x1F]{1,128}/'
        taken = [member.name for member in members if NAMES.fullmatch(member.name)]
        terminal = self._terminal(text if not taken else f"{text} & ~({' | '.join(map(literal, taken))})")
        colon = literal(self.written.colon if bare else '"' + self.written.colon)
        return f"{terminal} {colon}" if bare else f"{literal(chr(34))} {terminal} {colon}"

    def _items(self, shape: Items, depth: int) -> str:
        if depth > MAX_DEPTH:
            return literal("[]")
        one, comma = self.expression(shape.of, depth + 1), literal(self.written.comma)
        return self._rule((shape, depth), f"{literal('[')} ({one} ({comma} {one})*)? {literal(']')}")

    def _scalar(self, shape: Scalar) -> str:
        match shape.kind:
            case "string":
                return self._string(f"{self._terminal(_TEXT)}?")
            case "integer":
                return self._terminal(_INTEGER)
            case "number":
                return self._terminal(_NUMBER)
            case "boolean":
                return self._rule((shape,), '"true" | "false"')
            case "null":
                return self._rule((shape,), " | ".join(map(literal, self.written.nulls)))

    def _string(self, inside: str) -> str:
        """The expression of a string of some inside, any string for JSON."""
        return self._terminal(_JSON_TEXT) if self._quote is None else f"<[{self._quote}]> {inside} <[{self._quote}]>"

    def _exact(self, value: Any) -> str:
        """The expression of one value."""
        if value is None:
            return self._scalar(Scalar("null"))
        if isinstance(value, str) and not writable(value):
            return self._scalar(Scalar("string"))
        if isinstance(value, str) and self._quote is not None:
            return f"<[{self._quote}]> {literal(value)} <[{self._quote}]>"
        if isinstance(value, str):
            ways = dict.fromkeys((self.written.string(value), json.dumps(value)))
            return f"({' | '.join(map(literal, ways))})" if len(ways) > 1 else literal(*ways)
        if isinstance(value, list):
            return self._rule(("exact", json.dumps(value)), self._joined("[", map(self._exact, value), "]"))
        if isinstance(value, dict):
            pairs = (f"{literal(self._key(key) + self.written.colon)} {self._exact(one)}" for key, one in value.items())
            return self._rule(("exact", json.dumps(value)), self._joined("{", pairs, "}"))
        return literal(json.dumps(value))

    def _joined(self, opened: str, parts: Any, closed: str) -> str:
        return f"{literal(opened)} {f' {literal(self.written.comma)} '.join(parts)} {literal(closed)}"

    def _own(self, shape: Shape, depth: int) -> str:
        """The expression of values of a shape that are the user's own; of those that have none, as the guard judges."""
        match shape:
            case Anything():
                plain = Either((Scalar("string"), Scalar("number")))
                return self._own(Either((plain, Items(plain), Scalar("null"))), depth)
            case Scalar("string"):
                return self._words()
            case Scalar("number" | "integer"):
                some = [one for one in numbers_of(self._texts) if shape.kind == "number" or "." not in one]
                return f"({' | '.join(map(literal, some))})" if some else self._scalar(shape)
            case Exactly():
                some = [one for one in shape.values if is_own(json.loads(one), self._texts)]
                return self.expression(Exactly(tuple(some)) if some else shape, depth)
            case Items() if depth <= MAX_DEPTH:
                one, comma = self._own(shape.of, depth + 1), literal(self.written.comma)
                return f"{literal('[')} ({one} ({comma} {one})*)? {literal(']')}"
            case Either():
                return f"({' | '.join(self._own(one, depth) for one in shape.of)})"
        return self.expression(shape, depth)

    def _words(self) -> str:
        """Words of the user's text, one after the other."""
        words = [word for word in words_of(self._texts) if writable(word)]
        if not any(word.strip() for word in words):
            return self._scalar(Scalar("string"))
        escaped = words if self._quote is not None else [json.dumps(word, ensure_ascii=False)[1:-1] for word in words]
        inside = self._terminal(f"%regex {json.dumps({'substring_chunks': escaped}, ensure_ascii=False)}")
        some = self._terminal(f"{inside} & {_TEXT}")
        return self._string_of(some)

    def _string_of(self, terminal: str) -> str:
        quote = literal('"') if self._quote is None else f"<[{self._quote}]>"
        return f"{quote} {terminal} {quote}"

    def _anything(self) -> str:
        """The rule of any value, whose parameter is its depth."""
        found = self._names.get("anything")
        if found is None:
            found = self._named("anything")
            comma, deeper = literal(self.written.comma), f"{found}::incr(_)"
            key = f"{self._other_key((), 1)} {deeper}"
            kinds: tuple[Any, ...] = ("string", "number", "boolean", "null")
            plain = [self._scalar(Scalar(kind)) for kind in kinds]
            several = [
                f'"[" ({deeper} ({comma} {deeper})*)? "]" %if le(_, {MAX_DEPTH})',
                f'"{{" ({key} ({comma} {key})*)? "}}" %if le(_, {MAX_DEPTH})',
            ]
            self.lines.append(f"{found}::_: {' | '.join((*plain, *several))}")
        return found

    def _rule(self, key: Any, body: str) -> str:
        found = self._names.get(key)
        if found is None:
            found = self._named(key)
            self.lines.append(f"{found}: {body}")
        return found

    def _terminal(self, body: str) -> str:
        found = self._names.get(body)
        if found is None:
            found = self._names[body] = f"{self._prefix.upper()}{len(self._names)}"
            self.lines.append(f"{found}: {body}")
        return found

    def _named(self, key: Any) -> str:
        self._names[key] = f"{self._prefix}{len(self._names)}"
        return self._names[key]
