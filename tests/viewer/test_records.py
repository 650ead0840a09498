"""The list and its filters, without a browser."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from steerkit.audit import Query, Store, append_turn, find, page
from steerkit.viewer import make_viewer
from tests.audit.example import context, started, turn, write_run

TURNS = 130


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the example's run, and one of 130 turns of which every tenth is denied."""
    path = tmp_path_factory.mktemp("viewer") / "audit.db"
    write_run(started(path))
    store = started(path)
    for number in range(TURNS):
        one = turn("allow" if number % 10 else "deny", tool=f"tool_{number % 3}", value=f"v{number}")
        append_turn(store, one, context(f"request {number}"))
    store.end_run()
    return path


@pytest.fixture(scope="module")
def client(path: Path) -> Iterator[TestClient]:
    with TestClient(make_viewer(path), base_url="http://127.0.0.1") as client:
        yield client


def listed(text: str) -> list[int]:
    """Sequences of the rows on a page."""
    return [int(number) for number in re.findall(r'data-row="(\d+)"', text)]


def all_pages(client: TestClient, address: str) -> list[int]:
    """Sequences on a page and all older ones, by their links."""
    found = []
    while address:
        text = client.get(address).text
        found += listed(text)
        link = re.search(r'rel="next" href="([^"]+)"', text)
        address = link[1].replace("&amp;", "&") if link else ""
    return found


def test_pages_together_are_the_store(client: TestClient, path: Path) -> None:
    """Newest first, each record once, 50 a page."""
    assert len(listed(client.get("/").text)) == 50
    assert all_pages(client, "/") == list(range(Store(path, create=False).newest, 0, -1))


@pytest.mark.parametrize(
    ("address", "query"),
    [
        ("/?tool=tool_1", Query(tool="tool_1")),
        ("/?verdict=deny", Query(verdict="deny")),
        ("/?verdict=deny&tool=tool_0", Query(verdict="deny", tool="tool_0")),
        ("/?rule=p/large", Query(rule="p/large")),
        ("/?status=approve", Query(status="approve")),
        ("/?kind=execution", Query(kind="execution")),
        ("/?feature=f&above=0.4&kind=turn", Query(feature="f", kind="turn")),
        ("/?feature=f&above=0.5", None),
        ("/?feature=0:1&above=0.9&kind=turn", Query(feature="0:1", kind="turn")),
        ("/?feature=1:7&above=0.49&kind=turn", Query(feature="f", kind="turn")),
        ("/?since=2000-01-01", Query()),
        ("/?until=2000-01-01", None),
    ],
)
def test_filters_stand_in_the_address(client: TestClient, path: Path, address: str, query: Query | None) -> None:
    """What a filter shows is what its query finds; None finds nothing."""
    store = Store(path, create=False)
    wanted = [] if query is None else [one.sequence for one in find(store, query, newest_first=True)]
    assert all_pages(client, address) == wanted
    assert query is None or wanted


def test_filters_of_run_and_session(client: TestClient, path: Path) -> None:
    """A run's link shows its records alone."""
    links = re.findall(r'href="(/\?run=\w+)"', client.get("/?kind=run_opened").text)
    assert [len(all_pages(client, link)) for link in links] == [TURNS + 2, 6]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/?since=blah", "from: got"),
        ("/?verdict=perhaps", "verdict: got"),
        ("/?above=2", "above: got 2.0"),
        ("/?feature=f&above=high", "expected a number"),
    ],
)
def test_wrong_filters_are_named(client: TestClient, address: str, said: str) -> None:
    """In one line on the page, beside the form to mend them in."""
    answer = client.get(address)
    assert answer.status_code == 400
    assert said in answer.text
    assert "<form" in answer.text


def test_a_rare_record_is_searched_for_in_bounded_steps(tmp_path: Path) -> None:
    """A page without seconds to spend stops early and says where; its next ones find what is there."""
    store = started(tmp_path / "audit.db")
    append_turn(store, turn("deny", tool="rare"), context())
    for number in range(1200):
        store.append({"kind": "note", "format": 2, "text": str(number)})
    found, before, steps = [], None, 0
    while True:
        one = page(store, Query(tool="rare"), before=before, seconds=0)
        found += one.records
        steps += 1
        if one.is_last:
            break
        before = one.reached
    assert [record.sequence for record in found] == [2]
    assert steps > 1
    assert page(store, Query(tool="rare")).records == tuple(found)  # the control: with time, at once


def test_a_record_that_was_changed_is_shown_broken(tmp_path: Path) -> None:
    """In the list, on its page and in the badge; its neighbours are not."""
    path = tmp_path / "audit.db"
    store = started(path)
    write_run(store)
    store.close()
    with TestClient(make_viewer(path), base_url="http://127.0.0.1") as client:
        assert "verified to record 6" in settled(client)
        assert "is-broken" not in client.get("/").text
    with sqlite3.connect(path) as file:
        file.execute("UPDATE records SET body = CAST('{\"kind\": 1' AS BLOB) WHERE sequence = 4")
        file.execute("UPDATE contents SET data = CAST('\"forged\"' AS BLOB) WHERE sequence = 5 AND name = '/text'")
        file.execute("UPDATE records SET time = '2020-01-01T00:00:00.000000+00:00' WHERE sequence = 3")
    file.close()
    with TestClient(make_viewer(path), base_url="http://127.0.0.1") as client:
        assert "broken at record 3" in settled(client)
        text = client.get("/").text
        assert re.findall(r'is-broken" data-row="(\d)"', text) == ["5", "4", "3"]
        assert "{&#34;kind&#34;: 1" in client.get("/r/4").text  # as much as there is of it
        for number, reason in (("5", "is not what it commits to"), ("3", "does not match its hash")):
            text = client.get(f"/r/{number}").text
            assert "This record is broken" in text
            assert reason in text
        assert "This record is broken" not in client.get("/r/2").text


def settled(client: TestClient) -> str:
    """The list once the store was verified."""
    ends = time.monotonic() + 10
    while "verifying…" in (text := client.get("/").text) and time.monotonic() < ends:
        time.sleep(0.02)
    return text


def test_what_was_redacted_says_so(tmp_path: Path) -> None:
    """On the turn's page and in the list; what was not redacted stays."""
    from steerkit.audit import redact

    path = tmp_path / "audit.db"
    store = started(path)
    write_run(store)
    redact(store, store.get("2"), bytes(32), ["messages", "calls"])
    store.close()
    with TestClient(make_viewer(path), base_url="http://127.0.0.1") as client:
        text = client.get("/r/2").text
        assert "(redacted)" in text
        assert "cellar" not in text.replace("because of cellar", "")
        assert "open the door" not in text
        assert "because of cellar" in text
        assert "open the door" not in client.get("/").text


def test_strange_addresses_are_answered(client: TestClient) -> None:
    """No record, no page and no such method are pages or short lines, not failures."""
    assert client.get("/r/zzzz").status_code == 404
    assert client.get("/r/999999").status_code == 404
    assert client.get("/nothing").status_code == 404
    assert client.get("/decide?done=apr_x").status_code == 404
    assert client.get("/r/2/beside?with=99999").status_code == 404
    assert client.get("/?before=abc&nonsense=1").status_code == 200
    assert client.post("/", headers={"origin": "http://127.0.0.1"}).status_code == 405


HEADERS: dict[str, Any] = {"host": "127.0.0.1:8020"}


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"host": "localhost:8020"}, 200),
        ("GET", {"host": "[::1]:8020"}, 200),
        ("GET", {"origin": "http://127.0.0.1:8020"}, 200),
        ("GET", {"host": "evil.example"}, 403),
        ("GET", {"host": "127.0.0.1.evil.example:8020"}, 403),
        ("GET", {"host": ""}, 403),
        ("GET", {"origin": "http://evil.example"}, 403),
        ("GET", {"origin": "http://127.0.0.1:9999"}, 403),
        ("GET", {"origin": "null"}, 403),
        ("POST", {}, 403),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("DELETE", {"origin": "http://127.0.0.1:8020"}, 405),
    ],
)
def test_other_names_and_origins_stay_outside(
    client: TestClient, method: str, headers: dict[str, str], status: int
) -> None:
    """A page of another site reaches this machine under its own name or with its own origin."""
    answer = client.request(method, "/", headers={**HEADERS, **headers})
    assert answer.status_code == status
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("address", ["/", "/r/2", "/r/1", "/trust", "/r/none", "/?since=x"])
def test_pages_have_no_script_or_style_of_their_own(client: TestClient, address: str) -> None:
    """What the policy forbids is not there: it would be dropped without a word."""
    text = client.get(address).text
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", text) == []
    assert re.findall(r'(?:src|href|action)="(?![/?#])[^"]*"', text) == []
