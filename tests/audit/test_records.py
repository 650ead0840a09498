"""Typed records: the bytes that were written before, nothing lost of what a newer version wrote, errors by their place.

`version2.jsonl` has one canonical record a line, as steerkit wrote them before records were typed.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from steerkit.audit import (
    KINDS,
    RECORDS,
    ApprovalRecord,
    Context,
    ExecutionRecord,
    Gone,
    ModelIdentity,
    OtherRecord,
    PolicyIdentity,
    RunLog,
    RunOpenedRecord,
    SaeSetIdentity,
    SamplingSettings,
    Store,
    TurnRecord,
    append_turn,
    canonical,
    digest,
    parse_canonical,
    read_content,
    read_public,
    read_record,
    record_json,
    redact,
    verify,
)
from steerkit.engine import Sampling
from steerkit.errors import AuditError
from steerkit.sites import Feature, Site
from steerkit.types import Call, Edit, MalformedCall, Reading, Span, Tool, Trace, Turn, Verdict

LINES = (Path(__file__).parent / "version2.jsonl").read_bytes().splitlines()
MODEL = ModelIdentity("tiny", "sha256:m", "sha256:t", "sha256:u", "cpu", "float32")
POLICIES = (
    PolicyIdentity("p", "sha256:aa", "enforce", {"name": "p", "guard": {}}),
    PolicyIdentity("q", "sha256:bb", "shadow", {"name": "q"}),
)
SAES = SaeSetIdentity("s", "sha256:s")
SAMPLING = SamplingSettings(5, 0.5, 0, 1.0, 10**20)
LIBRARIES = {"steerkit": "0.1.0"}
MACHINE = {"processor": "x86_64", "instructions": "AVX2", "threads": 2, "accelerator": None, "prepacked": False}
CALL = Call("unlock_door", {"door": "cellar", "half": "\ud800", "n": 10**30}, Span(3, 9))
BAD = MalformedCall("got x", 12, "call:", Span(10, 12))
MESSAGES = [{"role": "user", "content": "open"}]


def write(store: Store) -> None:
    """The records of the old file, as they are written today."""
    verdicts = (
        Verdict("hold", "r", "why", "p", (Reading("f", 1.0, 0.5, 2),)),
        Verdict("deny", "malformed_call", "bad", shadowed="stop"),
    )
    trace = Trace(0, {"p.f": (0.25, 0.5)}, {"p.f": Feature(1, 7)}, (), (Edit("r", "p", Site(1), (2, 3), 0.5),))
    other = Turn("x", (BAD,), verdicts[1:], Trace(), (1,), (4, 5), "length")
    turn = Turn(
        "a word",
        (CALL, BAD),
        verdicts,
        trace,
        (1, 2),
        (3, 4),
        "tool_call",
        attempts=(Turn("", (), (), Trace(), (1,), (2,), "stop", record_id="0" * 26),),
        counterfactual=other,
        call_ids=("call_1", "call_2"),
    )
    tools = [Tool("unlock_door", "opens", {"properties": {}, "type": "object"})]
    graphs, batch, metadata = {**MACHINE, "decoding": "graphs"}, {"size": 2, "row": 1}, {"user": "ann"}
    where = (SAMPLING, LIBRARIES, 0.25, graphs, batch, "c-1", metadata)
    made = append_turn(store, turn, Context(MESSAGES, tools, MODEL, SAES, POLICIES, True, *where))
    plain = (SAMPLING, LIBRARIES, 0.0, MACHINE, {"size": 1, "row": 0})
    append_turn(store, other, Context(MESSAGES, [], MODEL, None, [], False, *plain))
    about: dict[str, Any] = {"turn": made.record_id, "call_id": "call_1", "call": CALL}
    said: dict[str, Any] = {"conversation": "c-1", "metadata": metadata}
    store.append(ApprovalRecord(**about, decision="approve", by="ann", note="seen", error=None, **said))
    store.append(ApprovalRecord(**about, decision="refuse", by="", note="", error="x"))
    store.append(ExecutionRecord(**about, status="ok", result=digest({"a": 1}), seconds=0.5))
    store.append(ExecutionRecord(**{**about, "turn": None}, status="interrupted", result=None, seconds=0.0))
    store.end_run()


def test_the_same_bytes_are_written(tmp_path: Path) -> None:
    """All records of a run, byte for byte but for the ids; the hash of a content would show one that differs."""
    opening = RunOpenedRecord(
        model=MODEL, saes=SAES, policies=POLICIES[:1], sampling=SAMPLING, libraries=LIBRARIES, machine=MACHINE
    )
    store = Store(tmp_path / "a.db").within(RunLog(lambda: opening))
    write(store)
    old = [parse_canonical(line) for line in LINES]
    ids = {str(store.get("1").public["run"]): old[0]["run"], store.get("2").id: old[3]["turn"]}
    found = [canonical(record.content).decode() for record in store.records()]
    for id, before in ids.items():
        found = [line.replace(id, before) for line in found]
    assert found == [line.decode() for line in LINES[:8]]
    redact(store, store.get("2"), b"k" * 32, ["messages"])
    written = canonical(store.get("9").content).decode().replace(store.get("2").id, old[9]["id"])
    assert written == LINES[9].decode()


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_record_is_written_as_it_was_read(line: bytes) -> None:
    """Every kind, also with keys of a newer version in it and in its parts: nothing is lost, nothing added."""
    body = parse_canonical(line)
    assert canonical(record_json(read_record(body))) == line
    newer = {**body, "future": {"x": [1, None]}, "model": {**body["model"], "size": 7}} if "model" in body else body
    for one in newer.get("verdicts", ()):
        one["confidence"] = 0.5
    record = read_record(newer)
    assert record_json(record) == newer
    assert bool(record.more) == ("model" in body)


def test_every_kind_is_in_the_file_and_has_a_row() -> None:
    """The kinds are those of the table of records; each is read as its own class."""
    read = [read_record(parse_canonical(line)) for line in LINES]
    assert {type(record) for record in read} == set(RECORDS.values())
    assert {record.kind for record in read} == set(KINDS)
    settings = {one.name for one in fields(SamplingSettings)}
    assert settings == {one.name for one in fields(Sampling)}  # a replay needs all of them


def test_a_record_of_a_newer_kind_is_kept(tmp_path: Path) -> None:
    """It verifies and is read, with all its keys."""
    store = Store(tmp_path / "a.db")
    body = {"format": 3, "kind": "probe", "values": [1.5]}
    record = read_content(store.append(body))
    assert isinstance(record, OtherRecord)
    assert (record.kind, record_json(record)) == ("probe", body)
    assert verify(store).records == 1


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (("finish",), 7, "finish: got 7, expected a text"),
        (("calls", 0, "name"), None, r"calls\[0\]\.name: got null, expected a text"),
        (("verdicts", 0, "decision"), "permit", r'verdicts\[0\]\.decision: got "permit", expected one of none, allow'),
        (("verdicts", 0, "readings", 0, "value"), True, r"readings\[0\]\.value: got true, expected a number"),
        (("edits", 0, "positions"), [], r"edits\[0\]\.positions: got \[\], expected a list of 1 or more"),
        (("calls", 1, "span"), [1], r"calls\[1\]\.span: got \[1\], expected \[start, end\]"),
        (("verdicts",), [], "verdicts: got 0, expected one for each of 2 calls"),
        (("finish",), {"redacted": "00"}, "finish: got .* expected a text"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(path: tuple[Any, ...], value: Any, error: str) -> None:
    """What was got, what was expected and where; the record as it was is read."""
    body = parse_canonical(LINES[1])
    assert isinstance(read_record(body), TurnRecord)
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(AuditError, match=error):
        read_record(body)


def test_what_is_gone_has_a_stand_in(tmp_path: Path) -> None:
    """Redacted content is empty or says so, and is written as its hash; the public part alone says it is missing."""
    store = Store(tmp_path / "a.db").within(RunLog(lambda: RunOpenedRecord(model=MODEL)))
    write(store)
    stored = store.get("2")
    before = read_content(stored)
    assert isinstance(before, TurnRecord)
    assert not isinstance(before.text, Gone)
    redact(store, stored, b"k" * 32)
    stored = store.get("2")
    found, public = read_content(stored), read_public(stored)
    assert isinstance(found, TurnRecord)
    assert isinstance(public, TurnRecord)
    assert (found.text, found.messages, found.calls[0].arguments) == ("(redacted)", (), {})  # type: ignore[union-attr]
    assert (found.verdicts[0].reason, public.verdicts[0].reason) == ("(redacted)", "(missing)")
    assert all(isinstance(one, Gone) for one in (found.text, found.messages, found.tools, public.prompt_ids))
    assert record_json(found) == stored.content
    assert found.verdicts[0].decision == before.verdicts[0].decision
