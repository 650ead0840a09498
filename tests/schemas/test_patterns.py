"""Patterns: ECMA-262's meaning, in time linear in the text, and a clear word where one cannot be matched."""

from __future__ import annotations

import re
import time

import pytest

from steerkit.schemas import PatternError, compiled

ARABIC, CYRILLIC = "\u0661", "\u0430"
"""A digit and a letter that Python takes for `\\d` and `\\w`."""

EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
"""As zod 4 writes it into a schema."""
HOST = r"^(?=.{1,253}\.?$)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9-]{1,63})*\.?$"

FOUND = [
    (r"^/srv/[a-z]+$", "/srv/abc", "/srv/abc\n"),
    (r"^\d{4}$", "1234", 4 * ARABIC),
    (r"^\D$", ARABIC, "1"),
    (r"^\w+@corp\.com$", "alice@corp.com", CYRILLIC + "lice@corp.com"),
    (r"^\W$", "é", "e"),
    (r"\bfoo\b", "éfoo", "xfoo"),
    (r"^\s$", "\u00a0", "\u200b"),
    (r"^.$", "x", "\u2028"),
    (r"^[^]$", "\n", ""),
    (r"^(?s:.)$", "\n", ""),
    (r"[]|b", "b", "a"),
    (r"^\u0041\x42\cJ\/\0$", "AB\n/\0", "AB"),
    (r"^\uD83D\uDE00\u{1F600}$", "😀😀", "😀"),
    (r"^[\u{1F600}-\u{1F64F}]$", "😀", "a"),
    (r"^[\w-]+$", "a-b", "a b"),
    (r"^[^\W\d]$", "a", "1"),
    (r"^[\d-x]+$", "1-x", "2w"),
    (r"^[a-\d]$", "-", "b"),
    (r"^[\b]$", "\b", "b"),
    (r"^[\p{L}\d]+$", "é1", "é_"),
    (r"^\p{Lu}\p{Script=Greek}$", "A\u03b1", "Aa"),
    (r"^\P{ASCII}$", "é", "e"),
    (r"^(?<year>\d{4})$", "2024", "20"),
    (r"^(?:ab|cd)$", "cd", "abcd"),
    (r"^(?i:ab)$", "AB", "AC"),
    (r"(?i)^ab|^cd$", "CD", "c"),
    (r"^a$|b", "cb", "ac"),
    (r"^{\"a\"}$", '{"a"}', "{a}"),
    (r"^a{,3}$", "a{,3}", "aaa"),
    (r"^\$1\.5$", "$1.5", "$1x5"),
    (r"^.{1,4096}$", "a" * 4096, "a" * 4097),
    (r"^([a-z]{1,63}\.){1,127}[a-z]{2,63}$", "www.example.org", "www." + "a" * 64),
    (EMAIL, "a.b@c.de", "a..b@c.de"),
    (HOST, "example.org", "a." * 130 + "b"),
    (r"^(?=.*\d)(?=.*[a-z]).{4,8}$", "abc1", "abcd"),
    (r"^(?!root$).*$", "rooted", "root"),
    (r"^(?!a)b|^c$", "c", "a"),
]


@pytest.mark.parametrize(("pattern", "fits", "not_"), FOUND)
def test_patterns_mean_what_ecma_262_says(pattern: str, fits: str, not_: str) -> None:
    """One text in which it is found, and one in which it is not."""
    assert compiled(pattern).search(fits)
    assert not compiled(pattern).search(not_)


REFUSED = {
    r"(a)\1": "a backreference",
    r"(?<x>a)\k<x>": "a backreference",
    r"(?<=a)b": "a lookbehind",
    r"a(?=b)": r"a lookahead \(character 2\)",
    r"^((?!x).)*$": "a lookahead",
    r"^a\Z": r"'\\Z', which ECMA-262 does not have",
    r"\Aa": r"expected \^",
    "(a": "not closed",
    "a)": "unmatched",
    "[a": "not closed",
    "*a": "nothing to repeat",
    "a**": "a repetition of a repetition",
    "a{3,1}": "the lower number first",
    "[z-a]": "the lower character first",
    "^*": "no width",
    r"\p{Foo}": "the property 'Foo'",
    r"\u12": "without its digits",
    r"\uD800": "no character",
    "a\\": "a backslash at the end",
    "(?>a)": "which ECMA-262 does not have",
    "a(?i)b": "flags in the middle",
    "((a{1000}){1000}){1000}": "a repetition of",
    "x{1000000}": "a smaller number",
    "(" * 20_000 + ")" * 20_000: "nested",
    "a" * 60_000: "at most",
    "(?:.{1,1000}z){1,40}": "too large",
}


@pytest.mark.parametrize("pattern", REFUSED, ids=lambda pattern: pattern[:20])
def test_what_cannot_be_matched_is_said(pattern: str) -> None:
    """In one line, at once, with what was got."""
    with pytest.raises(PatternError, match=REFUSED[pattern]) as refusal:
        compiled(pattern)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "pattern", [r"^(a+)+$", r"^(a|a)*$", r"^(a|aa)+$", r"^(.*a){20}$", r"(x+x+)+y", r"^(\w+\s?)*$"]
)
def test_no_pattern_backtracks(pattern: str) -> None:
    """100,000 letters take less than what Python's own engine takes for 26."""
    began = time.perf_counter()
    assert not compiled(pattern).search("a" * 100_000 + "!")
    assert time.perf_counter() - began < 2


def test_python_would_have_said_otherwise() -> None:
    """The control: these differ from Python's engine, which knows neither the end nor ASCII."""
    for pattern, _, text in (*FOUND[:2], FOUND[3]):
        assert re.search(pattern, text)
        assert not compiled(pattern).search(text)
