"""Canonical bytes, packed traces and record bodies."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.audit import (
    Context,
    ModelIdentity,
    PolicyIdentity,
    SamplingSettings,
    canonical,
    pack,
    parse_canonical,
    record_json,
    record_of,
    unpack,
)
from steerkit.errors import AuditError
from steerkit.sites import Feature, Site
from steerkit.types import Call, Edit, MalformedCall, Reading, TopK, Trace, Turn, Verdict

keys = st.text(max_size=4) | st.sampled_from(["$integer", "$text", "$object"])
leaves = st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.text(max_size=6)
leaves |= st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
leaves |= st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


@given(value=values)
@settings(deadline=None, max_examples=200)
def test_canonical_bytes_give_back_their_value(value: Any) -> None:
    """Big integers, lone surrogates and keys that look like tags keep their value, so different values differ."""
    data = canonical(value)
    assert parse_canonical(data) == value
    assert canonical(parse_canonical(data)) == data


def test_what_json_cannot_carry_is_refused() -> None:
    """NaN, infinity and foreign objects give an error of ours; their finite neighbours pass."""
    assert canonical({"a": 1.5}) == b'{"a":1.5}'
    for value in (math.nan, math.inf, {"a": object()}):
        with pytest.raises(AuditError, match="what JSON cannot carry"):
            canonical(value)
    with pytest.raises(AuditError, match="no canonical JSON"):
        parse_canonical(b"{")


TRACE = Trace(
    start=2,
    watched={"p.f": (0.5, -1.25), "p.risk": (0.0, 3.0)},
    features={"p.f": Feature(1, 7)},
    top=(TopK(Site(0), 2, 1, 2, b"\x01\x00\x02\x00", b"\x00\x3c\x00\x38"), TopK(Site(1), 2, 0, 2, b"", b"")),
    edits=(Edit("r", "p", Site(1), (2,), 0.5),),
)


def test_traces_unpack_to_what_was_packed() -> None:
    """Watched values and top features come back exactly; edits stand in the record, not here."""
    assert unpack(pack(TRACE)) == Trace(TRACE.start, TRACE.watched, TRACE.features, TRACE.top)


def test_garbled_traces_are_refused() -> None:
    """Cut, extended, or with any byte changed after its head, a packed trace is refused or reads differently."""
    data = pack(TRACE)
    for bad in (b"", b"SKT0" + data[4:], data[:-1], data + b"x", data[:9] + bytes([data[9] ^ 1]) + data[10:]):
        with pytest.raises(AuditError):
            unpack(bad)


def test_a_record_says_the_decision_and_all_that_shaped_it() -> None:
    """Verdicts, calls, edits, policies and settings stand in the body; without a guard it says so."""
    turn = Turn(
        "hi",
        (Call("f", {"a": 10**30}), MalformedCall("bad", 3, "raw")),
        (Verdict("hold", "r", "why", "p", (Reading("f", 1.0, 0.5, 2),)), Verdict("deny", "malformed_call", "bad")),
        TRACE,
        (1, 2),
        (3,),
        "tool_call",
    )
    context = Context(
        [{"role": "user", "content": "x"}],
        [],
        ModelIdentity("m"),
        None,
        [PolicyIdentity("p", "sha256:a")],
        True,
        SamplingSettings(seed=7),
        {},
    )
    body = parse_canonical(canonical(record_json(record_of(turn, context))))
    assert body["verdicts"][0]["decision"] == "hold"
    assert body["verdicts"][0]["readings"] == [{"name": "f", "value": 1.0, "threshold": 0.5, "position": 2}]
    assert body["calls"][0]["arguments"] == {"a": 10**30}
    assert body["calls"][1]["malformed"] == "bad"
    assert body["edits"][0]["positions"] == [2]
    assert (body["guard"], body["sampling"], body["policies"]) == (
        "policy",
        {"seed": 7},
        [{"name": "p", "fingerprint": "sha256:a"}],
    )
    assert record_of(turn, replace(context, guarded=False)).guard == "none"
