"""Canonical JSON: the bytes of RFC 8785, whichever way they are written."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from steerkit.audit import canonical
from steerkit.errors import AuditError

SAFE = 2**53 - 1
numbers = st.one_of(
    st.integers(-SAFE, SAFE),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e-3, 1e-3),
    st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("d", bits.to_bytes(8, "little"))[0]).filter(math.isfinite),
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = texts.filter(lambda key: key not in ("$integer", "$text", "$object"))  # which hypothesis finds in the source
values = st.recursive(
    st.one_of(numbers, texts, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(keys, inner), st.tuples(inner, inner)),
)


@given(values)
def test_bytes_are_those_of_the_standard(value: Any) -> None:
    """A second implementation writes the same."""
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ([1.0, -0.0, 100.0, 0.1, 1e-4, 9.9e-5, 1e-7], "[1,0,100,0.1,0.0001,0.000099,1e-7]"),
        ([1e15, 1e16, 1e21, 2.0**53], "[1000000000000000,10000000000000000,1e+21,9007199254740992]"),
        ([4503599627370495.5, 5e-324, -123456.789], "[4503599627370495.5,5e-324,-123456.789]"),
        ({"b": 1, "a": (None, True)}, '{"a":[null,true],"b":1}'),
        ({"\ue000": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ue000":1}'),
        ('"\\\n\x00\x1f\x7f\u2028/', '"\\"\\\\\\n\\u0000\\u001f\x7f\u2028/"'),
        ([2**53, "\ud800"], '[{"$integer":"0x20000000000000"},{"$text":[55296]}]'),
    ],
)
def test_a_table_of_bytes(value: Any, written: str) -> None:
    """Numbers as JavaScript writes them, keys by their UTF-16 units, and what the standard has no form for."""
    assert canonical(value).decode() == written


def test_what_json_cannot_carry_is_refused() -> None:
    """NaN, infinity, endless and other values; one error for all."""
    endless: list[Any] = []
    endless.append(endless)
    for value in (math.nan, -math.inf, endless, object(), {"x": {1, 2}}):
        with pytest.raises(AuditError, match="what JSON cannot carry"):
            canonical([value])
