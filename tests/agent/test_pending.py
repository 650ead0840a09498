"""A run that waits for a person, as a value and as a file."""

from __future__ import annotations

import json
import resource
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerkit.agent.pending import Asked, Origin, Pending
from steerkit.errors import LoopError
from steerkit.runtime import next_ids
from steerkit.types import Call, Reading, Span, Verdict

MESSAGES = ({"role": "user", "content": "open the döör \U0001f6aa"},)
ORIGIN = Origin("sha256:m", (("p", "sha256:p"), ("q", "sha256:q")))


def pending(arguments: dict[str, Any] | None = None, messages: Any = MESSAGES, text: str = "Soon.") -> Pending:
    held, allowed = next_ids(messages, 2)
    calls = (
        Asked(held, Call("open", arguments or {"door": "south"}), Verdict("hold", "r", "ask", "p")),
        Asked(allowed, Call("look", {}), Verdict("allow", "default", "no rule matched", "p")),
    )
    return Pending(tuple(messages), text, calls, "01abc", ORIGIN)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text(min_size=1), json_values, max_size=3), content=json_values, text=st.text())
def test_any_state_comes_back_as_it_was(arguments: dict[str, Any], content: Any, text: str) -> None:
    """Through JSON text: arguments of every type, odd messages and any text are the same afterwards, types included."""
    state = pending(arguments, [{"role": "user", "content": content}], text)
    again = Pending.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    assert json.dumps(again.to_json()) == json.dumps(state.to_json())


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    """Saved, read by nobody else, loaded; saving over it leaves one file and nothing beside it."""
    path = tmp_path / "run.json"
    pending({"n": 10**30, "x": 0.1}).save(path)
    assert Pending.load(path) == pending({"n": 10**30, "x": 0.1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pending().save(path)
    assert Pending.load(str(path)) == pending()
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_a_state_keeps_what_a_decision_needs_and_no_more() -> None:
    """Positions and readings stay in the record; calls, verdicts and their reasons are kept."""
    verdict = Verdict("hold", "r", "ask", "p", (Reading("f", 1.0, 0.5, 3),), shadowed="deny")
    state = Pending(MESSAGES, "", (Asked("call_1", Call("open", {"a": 1}, Span(3, 9)), verdict),), None, ORIGIN)
    (one,) = state.held
    assert one == Asked("call_1", Call("open", {"a": 1}), Verdict("hold", "r", "ask", "p"))
    assert Pending.from_json(state.to_json()) == state


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A folder in its place, or no folder around it: one line, no temporary file, the old file untouched."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    for path in (tmp_path / "folder", tmp_path / "none" / "run.json"):
        with pytest.raises(LoopError, match="the pending run cannot be written: "):
            pending().save(path)
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
    pending().save(tmp_path / "run.json")


def edited(**changes: Any) -> dict[str, Any]:
    """The JSON of a state with other values; `None` takes a key away."""
    data = {**json.loads(json.dumps(pending().to_json())), **changes}
    return {key: value for key, value in data.items() if value is not None}


def call(**changes: Any) -> list[dict[str, Any]]:
    """Its calls with another first one."""
    first, second = pending().to_json()["calls"]
    return [{**first, **changes}, second]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], "pending: got no pending run; expected what Pending.to_json or Pending.save wrote"),
        (edited(steerkit="policy"), "pending: got no pending run"),
        (edited(version=2), "pending version: got 2, expected 1; resume it with the steerkit that wrote it"),
        (edited(version=True), "pending version: got True, expected 1"),
        (edited(text=None), r"pending text: got nothing, expected otherwise \(Field required\)"),
        (edited(extra=1), "pending extra: got 1, expected otherwise"),
        (edited(messages=[]), "pending messages: got .*, expected otherwise"),
        (edited(messages=["hi"]), r"pending messages\[0\]: got 'hi'"),
        (edited(model=3), "pending model: got 3"),
        (edited(calls=call(decision="maybe")), r"pending calls\[0\].decision: got 'maybe'"),
        (edited(calls=call(arguments=[1])), r"pending calls\[0\].arguments: got \[1\]"),
        (edited(calls=call(id="call_7")), r"calls\[0\].id: got 'call_7', expected 'call_1'; was the file edited\?"),
        (edited(calls=call(decision="allow")), "pending calls: got none that is held, expected at least one"),
    ],
)
def test_what_no_loop_has_written_is_refused(data: Any, error: str) -> None:
    """Each mistake is named with its place; the unedited state loads."""
    with pytest.raises(LoopError, match=error):
        Pending.from_json(data)
    assert Pending.from_json(edited()) == pending()


def test_all_mistakes_are_told_at_once() -> None:
    """One line each."""
    with pytest.raises(LoopError) as caught:
        Pending.from_json(edited(model=3, text=None, calls=call(name=1)))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "pending model",
        "pending text",
        "pending calls[0].name",
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "got no JSON"),
        (b"\xff\xfe{", "got no JSON"),
        (b'{"steerkit": "pending", "steerkit": "pending"}', "a key stands twice in one object"),
        (b'{"steerkit": NaN}', "NaN is no finite number"),
        (b'{"steerkit": 1e999}', "1e999 is no finite number"),
        (b"[" * 100_000, "got no JSON"),
    ],
)
def test_a_file_that_is_no_json_is_refused(content: bytes, error: str, tmp_path: Path) -> None:
    """Two readers could disagree about doubled keys and NaN; what was saved loads."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(LoopError, match=error) as caught:
        Pending.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(LoopError, match="cannot be read: No such file"):
        Pending.load(tmp_path / "none.json")
    pending().save(path)
    assert Pending.load(path) == pending()


def test_a_half_written_file_never_stands_in_its_place(tmp_path: Path) -> None:
    """When the disk takes no more before the end, the old file is still whole and no other is left."""
    path = tmp_path / "run.json"
    pending(text="old").save(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(LoopError, match=r"run\.json: the pending run cannot be written: File too large"):
            pending(text="new" * 1000).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Pending.load(path).text == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]
    pending(text="new").save(path)
    assert Pending.load(path).text == "new"
