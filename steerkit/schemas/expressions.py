"""Expressions compiled by RE2, which matches in time linear in the text."""

from __future__ import annotations

from typing import Any

import re2  # type: ignore[import-untyped,unused-ignore]  # it ships no types


class PatternError(ValueError):
    """A pattern that cannot be matched by the rules of ECMA-262, with place and reason."""


def expression(text: str) -> Any:
    """An expression in RE2's syntax, compiled. Raises PatternError."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = 4 << 20
    try:
        return re2.compile(text, options)
    except re2.error as error:
        raise PatternError(
            f"it is too large or cannot be matched ({str(error)[:80]}); expected a smaller one"
        ) from None
