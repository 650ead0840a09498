"""Finding records and taking them out as tables, from a store that runs left behind."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from steerkit.audit import TABLES, Query, Store, append_turn, export, find, redact
from steerkit.errors import AuditError, MissingExtraError
from steerkit.sites import Site
from steerkit.types import Call, Edit, MalformedCall, Reading, Span, Trace, Verdict
from tests.audit.example import TRACE, context, started, turn, write_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """1 opened, 2 a held door, 3 approval, 4 execution, 5 a denied payment, 6 two calls, 7 text, 8 closed."""
    store = started(tmp_path_factory.mktemp("query") / "a.db")
    write_run(store, close=False)
    calls = (Call("get_weather", {"city": "a\nb"}), Call("transfer_money", {"amount": 2**70}))
    verdicts = (Verdict("allow", "r", "fine", "p"), Verdict("flag", "large", "", "q", (Reading("risk", 1.5, 1.0, 3),)))
    edited = replace(TRACE, edits=(Edit("damp", "p", Site(1), (3,), 0.5),))
    append_turn(store, replace(turn(), calls=calls, verdicts=verdicts, trace=edited), context())
    other = replace(turn(), counterfactual=None)
    said = replace(
        turn(), calls=(), verdicts=(), text="half \ud800", trace=Trace(), finish="stop", counterfactual=other
    )
    append_turn(store, said, context())
    store.end_run()
    return store


def numbers(store: Store, **asked: Any) -> list[int]:
    return [record.sequence for record in find(store, Query(**asked))]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"tool": "unlock_door"}, [2, 3, 4]),
        ({"tool": "transfer_money"}, [5, 6]),
        ({"tool": "transfer"}, []),
        ({"verdict": "deny"}, [5]),
        ({"verdict": "allow", "tool": "get_weather"}, [6]),
        ({"verdict": "allow", "tool": "transfer_money"}, []),  # another call of the same turn is allowed
        ({"rule": "large"}, [5, 6]),
        ({"rule": "q/large"}, [6]),
        ({"rule": "p/damp"}, [6]),
        ({"rule": "damp", "verdict": "allow"}, []),
        ({"feature": "risk"}, [6]),
        ({"feature": "f"}, [2, 5, 6]),
        ({"feature": "p.f"}, [2, 5, 6]),
        ({"feature": "1:7"}, [2, 5, 6]),
        ({"feature": "0:1"}, [2, 5, 6]),
        ({"feature": "0:2"}, []),
        ({"status": "ok"}, [4]),
        ({"status": "approve"}, [3]),
        ({"status": "stop"}, [7]),
        ({"kind": "turn"}, [2, 5, 6, 7]),
        ({"kind": "turn", "tool": "unlock_door"}, [2]),
    ],
)
def test_records_are_found_by_what_they_say(store: Store, asked: dict[str, Any], expected: list[int]) -> None:
    """All criteria must hold, those about a call for the same call; a part of a name is no name."""
    assert numbers(store, **asked) == expected


def test_times_bound_from_below_and_above(store: Store) -> None:
    """`since` counts the moment itself, `until` does not, in any zone; a time without a zone is refused."""
    third = datetime.fromisoformat(store.get("3").time)
    east = third.astimezone(UTC) + timedelta(0)
    assert numbers(store, since=third) == [3, 4, 5, 6, 7, 8]
    assert numbers(store, until=east) == [1, 2]
    assert numbers(store, since=third, until=third) == []
    with pytest.raises(AuditError, match="since: got 2026-01-01 00:00:00, expected a time with its zone"):
        Query(since=datetime(2026, 1, 1))


def test_the_newest_come_first_and_no_more_than_asked(store: Store) -> None:
    """A limit ends the search."""
    assert [one.sequence for one in find(store, Query(kind="turn"), 2, newest_first=True)] == [7, 6]
    assert [one.sequence for one in find(store, Query(), 1)] == [1]


def rows(path: Path) -> list[dict[str, Any]]:
    """A file's rows, of either format."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("table", sorted(TABLES))
def test_both_formats_say_the_same(store: Store, tmp_path: Path, table: str) -> None:
    """Read back, every row of a table is the same from Parquet and from JSON lines, and has its documented columns."""
    found = []
    for format in ("jsonl", "parquet"):
        path = tmp_path / f"a.{format}"
        count = export(store, path, Query(), table=table, format=format)
        found.append(rows(path))
        assert count == len(found[-1])
    lines, columns = found
    for line, row in zip(lines, columns, strict=True):
        assert list(row) == list(line) == list(TABLES[table][1])
        for key, value in row.items():
            same = value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value
            assert (json.loads(same) if key == "body" else same) == _escaped(line[key]), key


def _escaped(value: Any) -> Any:
    """A half character is written as its escape where a column is UTF-8; inside JSON it is one anyway."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def test_calls_are_flat_rows(store: Store, tmp_path: Path) -> None:
    """One per call, one of its own for a turn without any; arguments are JSON, with integers of any size."""
    path = tmp_path / "calls.parquet"
    assert export(store, path, Query(), table="calls", format="parquet") == 5
    schema = parquet.read_schema(path)
    assert schema.field("time").type == pyarrow.timestamp("us", tz="UTC")
    assert schema.field("released").type == pyarrow.bool_()
    held, denied, first, second, said = rows(path)
    assert (held["tool"], held["decision"], held["released"]) == ("unlock_door", "hold", False)
    assert json.loads(held["arguments"]) == {"door": "cellar"}
    assert (denied["rule"], denied["policy"], denied["reason"]) == ("large", "p", "because of cellar")
    assert [(one["call"], one["tool"], one["released"], one["edits"]) for one in (first, second)] == [
        (0, "get_weather", True, 1),
        (1, "transfer_money", True, 1),
    ]
    assert json.loads(second["arguments"]) == {"amount": 2**70}
    assert (said["call"], said["tool"], said["text"], said["finish"]) == (None, None, "half \\ud800", "stop")
    assert json.loads(said["unsteered_calls"])[0]["name"] == "unlock_door"
    assert (said["prompt_tokens"], said["reply_tokens"], said["seed"], said["policies"]) == (2, 2, "7", ["p"])
    assert held["time"].isoformat(timespec="microseconds") == store.get("2").time


def test_features_are_a_row_per_value(store: Store, tmp_path: Path) -> None:
    """Watched values with their names, and the strongest features with their places in the layer."""
    path = tmp_path / "features.parquet"
    assert export(store, path, Query(tool="unlock_door"), table="features", format="parquet") == 3
    found = [(one["name"], one["layer"], one["index"], one["position"], one["value"]) for one in rows(path)]
    assert found == [("p.f", 1, 7, 0, 0.25), ("p.f", 1, 7, 1, 0.5), (None, 0, 1, 0, 1.0)]
    assert parquet.read_schema(path).field("value").type == pyarrow.float64()


def test_what_was_redacted_stays_redacted(tmp_path: Path) -> None:
    """Neither format says it, the row names what is gone; before the redaction both said it."""
    store = started(tmp_path / "a.db")
    other = replace(turn(value="deep hidden"), counterfactual=None)
    malformed = MalformedCall("got hidden", 3, "call:hidden", Span(1, 2))
    calls = (Call("unlock_door", {"door": "hidden"}), malformed)
    verdicts = (Verdict("allow", "r", "hidden", "p"), Verdict("deny", "malformed_call", "hidden"))
    secret = replace(turn(), calls=calls, verdicts=verdicts, text="hidden", counterfactual=other)
    id = append_turn(store, secret, context("hidden")).record_id

    def everything() -> tuple[bytes, list[dict[str, Any]]]:
        said = b""
        for table in TABLES:
            for format in ("jsonl", "parquet"):
                path = tmp_path / f"{table}.{format}"
                export(store, path, Query(), table=table, format=format)
                said += path.read_bytes() if format == "jsonl" else repr(rows(path)).encode()
        return said, rows(tmp_path / "calls.parquet")

    before, _ = everything()
    assert before.count(b"hidden") > 10
    redact(store, store.get(str(id)), b"k" * 32)
    after, calls_after = everything()
    assert b"hidden" not in after
    first, second = calls_after
    assert (first["tool"], first["arguments"], first["reason"], first["text"]) == ("unlock_door", None, None, None)
    assert (second["malformed"], second["decision"], first["unsteered_calls"]) == (None, "deny", None)
    assert (first["prompt_tokens"], first["released"]) == (None, True)
    assert {"calls[0].arguments", "calls[1].malformed", "text", "messages"} <= set(first["redacted"])


def test_a_file_is_there_whole_or_not_at_all(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails on the way leaves the old file as it was, and nothing beside it; a good export replaces it."""
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    broken = started(tmp_path / "broken.db")
    write_run(broken)
    broken.database.execute("DELETE FROM contents WHERE sequence = 5 AND name = '/trace'")
    for format in ("jsonl", "parquet"):
        with pytest.raises(AuditError, match="the trace of record 5 is missing"):
            export(broken, path, Query(), table="features", format=format)
        assert path.read_text() == "old"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match=r"the extra 'data': .*; or export JSONL"):
            export(store, path, Query(), format="parquet")
    with pytest.raises(AuditError, match="cannot be written: No such file or directory"):
        export(store, tmp_path / "none" / "a.jsonl", Query())
    assert (path.read_text(), sorted(one.name for one in tmp_path.glob("*jsonl*"))) == ("old", ["a.jsonl"])
    assert [*tmp_path.glob(".*")] == []
    assert export(store, path, Query()) == len(rows(path)) == 8
    for wrong, said in (({"table": "x"}, "table: got 'x'"), ({"format": "xml"}, "format: got 'xml'")):
        with pytest.raises(AuditError, match=said):
            export(store, path, Query(), **wrong)


def test_who_asked_and_which_conversation_are_found(tmp_path: Path) -> None:
    """Texts, numbers, truth values and items of lists by what one types; a conversation by its id; others are not."""
    said = [{"user": "ann", "tags": ["a", "b"], "tries": 3, "live": True}, {"user": "bob"}, None]
    with_store = started(tmp_path / "m.db")
    for number, metadata in enumerate(said):
        append_turn(with_store, turn(), replace(context(), metadata=metadata, conversation=f"c{number}"))
    for meta, expected in (
        ({"user": "ann"}, [2]),
        ({"user": "bob"}, [3]),
        ({"tags": "b"}, [2]),
        ({"tags": "c"}, []),
        ({"tries": "3", "live": "true"}, [2]),
        ({"tries": "3", "user": "bob"}, []),
        ({"none": "x"}, []),
    ):
        assert numbers(with_store, meta=tuple(meta.items())) == expected
    assert numbers(with_store, conversation="c1") == [3]
    assert numbers(with_store, conversation="c1", meta=(("user", "ann"),)) == []
    with_store.close()


def test_what_is_older_than_a_moment_is_found_by_halving(tmp_path: Path) -> None:
    """All records that are not older come after it, with gaps, and where a clock was set back by an hour."""
    store = Store(tmp_path / "audit.db")
    with store.exclusive():
        for _ in range(40):
            store.append({"kind": "note", "format": 2})
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(1, 41):
        at = began + timedelta(days=number, hours=-1 if number % 7 == 0 else 0)
        store.database.execute(
            "UPDATE records SET time = ? WHERE sequence = ?", (at.isoformat(timespec="microseconds"), number)
        )
    store.database.execute("DELETE FROM records WHERE sequence IN (11, 12, 13, 30)")
    for number in (0, 1, 2, 12, 14, 15, 40, 50):
        moment = began + timedelta(days=number)
        after = store.older_than(moment)
        newer = [one.sequence for one in store.records() if datetime.fromisoformat(one.time) >= moment]
        assert all(sequence > after for sequence in newer)
        assert after >= min(number, 40) - 6 or number < 3
    assert Store(tmp_path / "empty.db").older_than(began) == 0
    store.close()
