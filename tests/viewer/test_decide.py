"""Decisions about held calls: on record before they are said, once, by who has the token."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from steerkit.audit import ENDPOINT, ApprovalRecord, Approvals, Store, append_turn, read_content
from steerkit.viewer import Deciding, Person, make_viewer
from tests.audit.example import context, started, turn
from tests.viewer.conftest import Tab
from tests.viewer.showing import showing

ORIGIN = {"origin": "http://127.0.0.1"}
DECIDING = Deciding(person=lambda scope: Person(True, "ann"))


def held(path: Path, *, waits: bool = True) -> str:
    """A store with a held call; the id that it is decided on under."""
    store = started(path)
    one = replace(turn("hold", value="cellar"), call_ids=("call_1",))
    said = replace(context("open the cellar"), metadata={ENDPOINT: "test"} if waits else None)
    append_turn(store, one, said)
    store.end_run()
    found = Approvals(store).pending()
    store.close()
    return found[-1].id if found else ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def client(path: Path) -> Iterator[TestClient]:
    held(path)
    with TestClient(make_viewer(path, deciding=DECIDING), base_url="http://127.0.0.1", follow_redirects=True) as client:
        yield client


def form_of(client: TestClient) -> tuple[str, dict[str, str]]:
    """The address and the fields of the first form in the queue."""
    text = client.get("/decide").text
    action = re.search(r'action="(/decide/[^"]+)"', text)
    token = re.search(r'name="token" value="([^"]+)"', text)
    assert action is not None
    assert token is not None
    return action[1], {"token": token[1], "by": "ann", "note": "it is hers", "decision": "approve"}


def decisions(path: Path) -> list[tuple[str, str, str]]:
    """Decisions, names and notes on record."""
    read = [read_content(one) for one in Store(path, create=False).records()]
    return [(one.decision, one.by, one.note) for one in read if isinstance(one, ApprovalRecord)]


@pytest.mark.parametrize("word", ["approve", "refuse"])
def test_a_decision_is_on_record_and_then_said(client: TestClient, path: Path, word: str) -> None:
    """With name and note; the call has left the queue."""
    action, form = form_of(client)
    answer = client.post(action, data={**form, "decision": word}, headers=ORIGIN)
    assert answer.status_code == 200
    assert decisions(path) == [(word, "ann", "it is hers")]
    assert f"{'Approved' if word == 'approve' else 'Refused'}</b> by ann" in answer.text
    assert "No call waits" in answer.text


def test_of_two_people_one_wins_and_the_other_is_told_who(client: TestClient, path: Path) -> None:
    """Both decide at once, on the same form."""
    action, form = form_of(client)

    def decided(name: str) -> tuple[int, str]:
        answer = client.post(action, data={**form, "by": name}, headers=ORIGIN)
        return answer.status_code, answer.text

    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(decided, ["ann", "ben"]))
    assert sorted(status for status, _ in answers) == [200, 409]
    winner = decisions(path)
    assert len(winner) == 1
    assert f"it was approved by {winner[0][1]}" in max(answers)[1]


@pytest.mark.parametrize(
    ("changes", "headers", "status"),
    [
        ({"token": "x"}, ORIGIN, 403),
        ({"token": ""}, ORIGIN, 403),
        ({"by": " "}, ORIGIN, 400),
        ({"by": "a" * 121}, ORIGIN, 400),
        ({"decision": "perhaps"}, ORIGIN, 400),
        ({"note": "a" * 20_000}, ORIGIN, 413),
        ({}, {"origin": "http://evil.example"}, 403),
        ({}, {}, 403),
    ],
)
def test_nothing_else_decides(
    client: TestClient, path: Path, changes: dict[str, str], headers: dict[str, str], status: int
) -> None:
    """Without the token, a name, or its own origin nothing is written."""
    action, form = form_of(client)
    assert client.post(action, data={**form, **changes}, headers=headers).status_code == status
    assert decisions(path) == []


def test_it_only_reads_where_it_is_not_told_to_decide(path: Path) -> None:
    """The queue is shown without a form, and a form that is sent anyway is refused."""
    id = held(path)
    with TestClient(make_viewer(path), base_url="http://127.0.0.1") as client:
        text = client.get("/decide").text
        assert "open the cellar" in text
        assert "<button" not in text
        assert client.post(f"/decide/{id}", data={"token": ""}, headers=ORIGIN).status_code == 403
    assert decisions(path) == []


def test_what_has_expired_or_does_not_wait_here_is_not_in_the_queue(path: Path, tmp_path: Path) -> None:
    """A call past its time, and one that a loop holds, which `resume` decides on."""
    held(path)
    with TestClient(make_viewer(path, deciding=replace(DECIDING, seconds=1e-6)), base_url="http://127.0.0.1") as client:
        assert "No call waits" in client.get("/decide").text
    held(tmp_path / "loop.db", waits=False)
    with TestClient(make_viewer(tmp_path / "loop.db", deciding=DECIDING), base_url="http://127.0.0.1") as client:
        assert "No call waits" in client.get("/decide").text


def test_a_damaged_turn_is_named_and_the_others_are_decided_on(path: Path, client: TestClient) -> None:
    """Its call is not in the queue, and the page says what is wrong with it; before that nothing is."""
    assert "Not shown" not in client.get("/decide").text
    broken = held(path)
    with closing(sqlite3.connect(path)) as other, other:
        newest = '(SELECT max(sequence) FROM records WHERE instr(body, \'"kind":"turn"\'))'
        other.execute(f"UPDATE records SET body = substr(body, 1, length(body) - 9) WHERE sequence = {newest}")
    text = client.get("/decide").text
    assert "Not shown" in text
    assert broken.removeprefix("apr_").partition(".")[0] in text
    assert text.count("data-form=") == 1
    action, form = form_of(client)
    assert "Approved</b> by ann" in client.post(action, data=form, headers=ORIGIN).text


def test_a_person_decides_in_a_browser(path: Path, tab: Tab) -> None:
    """A call appears while the page is open, what was typed stays, the time counts down, and Refuse is on record."""
    held(path)
    with showing(path, deciding=DECIDING) as url:
        tab.page.goto(f"{url}/decide")
        first = tab.page.locator("[data-expires]").first.inner_text()
        tab.page.locator("input[name=note]").fill("not now")
        held(path)
        tab.page.locator(".held").nth(1).wait_for()
        assert tab.page.locator("input[name=note]").first.input_value() == "not now"
        tab.page.locator("[data-expires]", has_text=first).first.wait_for(state="detached")
        tab.page.get_by_role("button", name="Refuse").first.click()
        tab.page.locator(".notice", has_text="Refused by ann").wait_for()
    assert decisions(path) == [("refuse", "ann", "not now")]
    assert tab.troubles == []
