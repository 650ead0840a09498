"""Regular expressions of JSON Schema: read as ECMA-262 has them, matched by RE2 in time linear in the text.

`$` is the very end, `\\d`, `\\w` and `\\b` are ASCII. RE2 never backtracks and has no backreferences and no
lookaround. Lookaheads right after a leading `^`, as zod writes them for addresses and host names, are patterns of their
own that must, or must not, match at the same place; all others are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from steerkit.schemas.ecma import MAX_TEXT, Reader
from steerkit.schemas.expressions import PatternError, expression


class Pattern(NamedTuple):
    """A compiled pattern."""

    choices: tuple[tuple[tuple[bool, Any], ...], ...]
    """Alternatives of which one must hold: each expression with True if it must be found, False if it must not."""

    def search(self, text: str, spend: Callable[[int], None] = lambda steps: None) -> bool:
        """True if the pattern is found in a text; `spend` takes the steps of each search before it runs."""
        data = text.encode()

        def found(expression: Any) -> bool:
            spend(len(data) * expression.programsize >> 7)
            return expression.search(data) is not None

        return any(all(found(expression) is wanted for wanted, expression in choice) for choice in self.choices)


@lru_cache(maxsize=256)
def compiled(source: str) -> Pattern:
    """The pattern, compiled. Raises PatternError."""
    if len(source) > MAX_TEXT:
        raise PatternError(f"{len(source)} characters; expected at most {MAX_TEXT}")
    try:
        alternatives = Reader(source).read()
    except RecursionError:
        raise PatternError("groups are nested too deeply; expected fewer") from None
    plain = [text for conditions, text in alternatives if not conditions]
    choices: list[tuple[tuple[bool, Any], ...]] = [((True, expression("|".join(plain))),)] if plain else []
    for conditions, text in alternatives:
        if conditions:
            ahead = [(wanted, expression(rf"\A(?:{body})")) for wanted, body in conditions]
            choices.append(((True, expression(text)), *ahead))
    return Pattern(tuple(choices))
