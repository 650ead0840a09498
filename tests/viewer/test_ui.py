"""The viewer beside the API, at /ui of a server: live, and under its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from steerkit.cli.serve import _pages
from steerkit.server import Key, hashed
from tests.server.serving import DOOR, TOOLS, Served, serving
from tests.viewer.conftest import Tab

UI = partial(_pages, 3600.0, ending=lambda: False)
KEYS = (
    Key(name="ann", digest=hashed("ann-key")),
    Key(name="ben", digest=hashed("ben-key"), approves=False),
    Key(name="cid", digest=hashed("cid-key"), reads_all=False, approves=False),
)
ASK = {"model": "tiny", "messages": DOOR, "tools": TOOLS}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with keys, and a call that waits."""
    with serving(tmp_path_factory.mktemp("keyed"), ["people"], ui=UI, keys=KEYS) as served:
        served.post("/v1/chat/completions", ASK, headers={"authorization": "Bearer ann-key"})
        yield served


def test_pages_are_live_beside_the_api(tmp_path: Path, tab: Tab) -> None:
    """A request that is served while the page is open appears on it; links and files stay under /ui."""
    with serving(tmp_path, ["people"], ui=UI) as served:
        tab.page.goto(f"{served.url}/ui/")
        assert tab.page.locator("[data-row]").count() == 0
        served.post("/v1/chat/completions", ASK)
        tab.page.locator("[data-row]", has_text="unlock_door").first.wait_for()
        tab.page.locator("a.open", has_text="unlock_door").first.click()
        tab.page.locator(".call-name", has_text="unlock_door").wait_for()
        assert all(url.startswith(f"{served.url}/ui/") for url in tab.requests)
    assert tab.troubles == []


@pytest.mark.parametrize(
    ("auth", "status"),
    [(None, 401), (("", "wrong"), 401), (("", "ann-key"), 200), (("any", "ben-key"), 200), (("", "cid-key"), 403)],
)
def test_pages_ask_for_a_key_that_reads_all(keyed: Served, auth: tuple[str, str] | None, status: int) -> None:
    """As the password that a browser asks for; the API takes no password."""
    answer = httpx.get(f"{keyed.url}/ui/", auth=auth)
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert httpx.get(f"{keyed.url}/v1/models", auth=auth).status_code == 401


def test_a_key_says_who_decides(keyed: Served) -> None:
    """Under its own name whatever the form says; a key that may not approve has no form, and is refused."""
    ann, ben = (httpx.Client(base_url=keyed.url, auth=("", f"{name}-key")) for name in ("ann", "ben"))
    text = ann.get("/ui/decide").text
    action, token = re.search(r'action="([^"]+)" method="post"', text), re.search(r'name="token" value="([^"]+)"', text)
    assert action is not None
    assert token is not None
    form = {"token": token[1], "by": "somebody", "note": "", "decision": "refuse"}
    assert "<button" not in ben.get("/ui/decide").text
    assert ben.post(action[1], data=form, headers={"origin": keyed.url}).status_code == 403
    assert ann.post(action[1], data=form).status_code == 403
    done = ann.post(action[1], data=form, headers={"origin": keyed.url}, follow_redirects=True)
    assert "Refused</b> by ann" in done.text
    for client in (ann, ben):
        client.close()
