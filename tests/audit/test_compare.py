"""The pure half of a replay: turns held against each other, calls as trees, and reading turns back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerkit.audit import (
    RecordedTurn,
    TurnRecord,
    append_turn,
    compare,
    diff_calls,
    read_turn,
    record_of,
    redact,
    turns_of,
)
from steerkit.errors import AuditError
from steerkit.sites import Site
from steerkit.types import Call, Edit, MalformedCall, Span, Trace, Verdict
from tests.audit.example import LIBRARIES, MODEL, OTHER, POLICY, TRACE, context, started, turn, write_run


def recorded(**changes: Any) -> RecordedTurn:
    """The example's turn as read from its record."""
    said = replace(context(), machine={"threads": 1}, batch={"size": 1, "row": 0})
    return RecordedTurn("id", replace(record_of(turn(), said), **changes), TRACE, ())


def now(**changes: Any) -> TurnRecord:
    """The same turn replayed."""
    return replace(recorded().record, **changes)


def verdict(**changes: Any) -> tuple[Verdict, ...]:
    """The turn's verdict, changed."""
    return (replace(turn().verdicts[0], **changes),)


def test_a_turn_equals_itself() -> None:
    """Nothing differs; the controls are the tests below."""
    result = compare(recorded(), now(), TRACE)
    assert (result.tokens, result.verdicts, result.same, result.changed) == (True, True, True, ())


@pytest.mark.parametrize(
    ("change", "path", "tokens", "verdicts"),
    [
        ({"prompt_ids": (1, 9)}, "prompt_ids[1]", False, True),
        ({"reply_ids": (3, 4, 5)}, "reply_ids[2]", False, True),
        (
            {"calls": (Call("unlock_door", {"door": 1}),)},
            "calls[0].arguments.door",
            True,
            True,
        ),
        ({"verdicts": verdict(decision="deny")}, "verdicts[0].decision", True, False),
        ({"verdicts": verdict(reason="x")}, "verdicts[0].reason", True, True),
        ({"edits": (Edit("r", "p", Site(1), (2,), 0.5),)}, "edits[0]", True, True),
    ],
)
def test_the_first_difference_is_named(change: Any, path: str, tokens: bool, verdicts: bool) -> None:
    """Each part of a turn that differs is found at its place, and told apart from tokens and verdicts that do not."""
    result = compare(recorded(), now(**change), TRACE)
    assert result.difference is not None
    assert (result.difference.path, result.tokens, result.verdicts) == (path, tokens, verdicts)


def test_a_trace_that_differs_is_found_last() -> None:
    """A watched value of another size, and strongest features with other bytes; tokens and verdicts stay the same."""
    for other, path in (
        (replace(TRACE, watched={"p.f": (0.25, 0.75)}), 'trace.watched["p.f"][1]'),
        (replace(TRACE, top=(replace(TRACE.top[0], value=b"\x00\x3d"),)), 'trace.top["layer 0"][0]'),
    ):
        result = compare(recorded(), now(), other)
        assert result.difference is not None
        assert (result.difference.path, result.tokens, result.verdicts) == (path, True, True)
    rounded = replace(TRACE, watched={"p.f": (0.25, 0.5 + 1e-6)})
    assert compare(recorded(), now(), rounded).same


def test_what_has_changed_stands_in_the_order_of_its_likelihood() -> None:
    """Weights before policies before libraries; a name that is a path is no cause."""
    result = compare(
        recorded(),
        now(
            model=replace(MODEL, name="/elsewhere", fingerprint="sha256:n", dtype="bfloat16"),
            policies=(replace(POLICY, fingerprint="sha256:cc"), OTHER),
            libraries={**LIBRARIES, "steerkit": "0.2.0"},
            machine={"threads": 2},
        ),
        TRACE,
    )
    assert [one.path for one in result.changed] == [
        "model.fingerprint",
        "model.dtype",
        "policies.p",
        "policies.q",
        "libraries.steerkit",
        "machine.threads",
    ]
    assert result.same


def test_a_batch_is_a_cause_only_where_arithmetic_depends_on_it() -> None:
    """Float32 on the CPU gives a row what it gets alone; bfloat16 may not."""
    for dtype, expected in (("float32", []), ("bfloat16", ["batch.size"])):
        model = replace(MODEL, dtype=dtype)
        alone = now(model=model)
        result = compare(recorded(model=model, batch={"size": 8, "row": 0}), alone, TRACE)
        assert [one.path for one in result.changed] == expected


def test_what_an_older_record_does_not_say_has_not_changed(tmp_path: Path) -> None:
    """It is missing, in one line, and nothing else comes of it."""
    store = started(tmp_path / "a.db")
    append_turn(store, turn(), context())
    (record,) = turns_of(store, str(store.run.id if store.run else ""))
    read = read_turn(store, record)
    assert read.missing == ("model.template", "machine", "batch")
    assert read.record.libraries == LIBRARIES
    assert read.record.policies == (POLICY,)
    result = compare(read, now(machine={"threads": 8}, model=replace(MODEL, template="sha256:x")), TRACE)
    assert (result.same, result.changed) == (True, ())


def test_a_run_or_a_turn_is_found_by_its_id(tmp_path: Path) -> None:
    """A run gives its turns in order, by its id, its beginning or the record that opens it; a turn gives itself."""
    store = started(tmp_path / "a.db")
    ids = write_run(store)
    run = store.get("1").public["run"]
    for reference in (run, run[:14], "1"):
        assert [record.id for record in turns_of(store, reference)] == ids
    assert [record.id for record in turns_of(store, ids[1])] == ids[1:]
    with pytest.raises(AuditError, match="no record 'nothing'"):
        turns_of(store, "nothing")
    with pytest.raises(AuditError, match="is a approval; expected a turn"):
        read_turn(store, store.get("3"))


def test_redacted_content_is_missing_or_refused(tmp_path: Path) -> None:
    """A reason or a trace that is gone is not compared; without the messages nothing can be done again."""
    store = started(tmp_path / "a.db")
    ids = write_run(store)
    for field in ("verdicts", "trace"):
        redact(store, store.get(ids[0]), b"k" * 32, [field])
    read = read_turn(store, store.get(ids[0]))
    assert read.missing[-2:] == ("verdicts[0].reason", "trace")
    other = replace(record_of(turn("hold"), context()), verdicts=verdict(decision="hold", reason="another"))
    assert compare(read, other, Trace()).same
    assert not compare(replace(read, missing=()), other, Trace()).same
    redact(store, store.get(ids[0]), b"k" * 32, ["messages"])
    with pytest.raises(AuditError, match="its messages were redacted, so it cannot be replayed"):
        read_turn(store, store.get(ids[0]))


def test_calls_are_compared_as_trees() -> None:
    """Names and arguments leaf by leaf, down into objects and lists; true is not 1; a call more is all added."""
    first = [
        Call("pay", {"to": {"name": "Ann", "iban": "x"}, "tags": [1, 2], "now": True}, Span(1, 9)),
    ]
    second = [
        Call("pay", {"to": {"name": "Bob"}, "tags": [1, 2, 3], "now": 1, "a b": None}, Span(2, 9)),
        MalformedCall("got x", 3, "call:", Span(9, 10)),
    ]
    assert [(node.path, node.kind) for node in diff_calls(first, second)] == [
        ("calls[0].name", "same"),
        ("calls[0].arguments.to.name", "changed"),
        ("calls[0].arguments.to.iban", "removed"),
        ("calls[0].arguments.tags[0]", "same"),
        ("calls[0].arguments.tags[1]", "same"),
        ("calls[0].arguments.tags[2]", "added"),
        ("calls[0].arguments.now", "changed"),
        ('calls[0].arguments["a b"]', "added"),
        ("calls[1].malformed", "added"),
        ("calls[1].raw", "added"),
    ]
    assert {node.kind for node in diff_calls(first, first)} == {"same"}
    assert diff_calls([], []) == []
