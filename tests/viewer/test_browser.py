"""The viewer in a real browser: hostile records, keys, live lists, and what axe says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit.audit import ENDPOINT, Store, append_turn
from steerkit.runtime import Request
from steerkit.tiny import CASES, policy_files
from steerkit.viewer import Deciding, Person
from tests.audit.example import context, started, turn, write_run
from tests.viewer.conftest import Tab
from tests.viewer.filed import write_reports
from tests.viewer.showing import EVIL, showing, write_hostile

WIDTHS = (1400, 400)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A viewer of hostile records."""
    path = tmp_path_factory.mktemp("hostile") / "audit.db"
    store = write_hostile(path)
    write_reports(path.parent / "reports", EVIL, store.get("2").id)
    with showing(path) as url:
        yield url
    store.close()


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[tuple[Store, str]]:
    """A store of a run that goes on, and its viewer."""
    store = started(tmp_path / "audit.db")
    write_run(store, close=False)
    with showing(tmp_path / "audit.db") as url:
        yield store, url
    store.close()


HOSTILE = (
    *("/", "/r/2", "/r/3", "/r/4", "/r/5", "/r/2/t/1", "/r/2/beside?with=2", "/policies", "/f/f", "/?session=x"),
    *("/reports", "/reports/eval.json", "/reports/find.json", "/reports/feature.json", "/f/resid_post.2:7"),
    *("/r/2/beside?replay=replay.json", "/r/2/t/2"),
)


@pytest.mark.parametrize("place", HOSTILE)
def test_hostile_records_stay_text(hostile: str, tab: Tab, place: str) -> None:
    """No dialog, no request elsewhere, no script or element of theirs, and nothing wider than the window."""
    for width in WIDTHS:
        tab.page.set_viewport_size({"width": width, "height": 800})
        tab.page.goto(f"{hostile}{place}")
        tab.page.wait_for_load_state("load")
        assert tab.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width
    assert tab.troubles == []
    assert [url for url in tab.requests if not url.startswith(f"{hostile}/")] == []
    assert tab.page.evaluate("document.querySelectorAll('script:not([src]), style, img, base, iframe').length") == 0
    if place == "/r/2":
        assert tab.page.locator("text=<script>alert(1)</script>").count() > 10  # the control: it is there to read
        assert tab.page.locator("text={{ 7 * 7 }}").count() > 10


def test_the_policy_stops_what_escapes_would_let_through(hostile: str, tab: Tab) -> None:
    """The second wall, by itself: a page that had such markup would run none of it."""
    tab.page.goto(hostile)
    made = """
        () => { const one = new Image(); one.src = "http://127.0.0.1:9/x"; document.body.append(one);
                const two = document.createElement("p"); two.setAttribute("style", "color:red");
                document.body.append(two); return getComputedStyle(two).color; }
    """
    assert tab.page.evaluate(made) != "rgb(255, 0, 0)"
    tab.page.wait_for_timeout(200)
    assert not [one for one in tab.troubles if one.startswith("dialog")]
    said = [one for one in tab.troubles if "Content Security Policy" in one]
    assert any("127.0.0.1:9/x" in one for one in said)
    assert any("style" in one for one in said)
    with pytest.raises(Exception, match="Trusted"):
        tab.page.evaluate("document.body.innerHTML = '<b>x</b>'")


def test_other_sites_cannot_frame_it(hostile: str, chromium: Any, tmp_path: Path) -> None:
    """A page elsewhere that frames it shows nothing of it."""
    outside = tmp_path / "frame.html"
    outside.write_text(f'<iframe src="{hostile}/r/2"></iframe>')
    page = chromium.new_page()
    page.goto(outside.as_uri())
    page.wait_for_timeout(300)
    frame = page.frames[1]
    assert frame.evaluate("document.querySelector('.brand')") is None
    page.close()


def test_keys_walk_the_list_and_open_a_record(growing: tuple[Store, str], tab: Tab) -> None:
    """j and k choose, Enter opens, / goes to the filters, and letters typed there are letters."""
    tab.page.goto(growing[1])
    chosen = "document.activeElement.closest('[data-row]')?.dataset.row"
    for key, row in (("j", "5"), ("j", "4"), ("j", "3"), ("k", "4")):
        tab.page.keyboard.press(key)
        assert tab.page.evaluate(chosen) == row
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("jk")
    assert tab.page.input_value("input[name=tool]") == "jk"
    tab.page.fill("input[name=tool]", "unlock_door")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/?tool=unlock_door")
    assert tab.page.locator("[data-row]").count() == 3
    tab.page.keyboard.press("j")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url(re.compile("/r/"))
    assert tab.troubles == []


def test_a_list_follows_a_run(growing: tuple[Store, str], tab: Tab) -> None:
    """A new record appears by itself, the chosen row stays chosen, and filters hold."""
    store, url = growing
    tab.page.goto(f"{url}/?verdict=deny")
    assert tab.page.locator("[data-row]").count() == 1
    tab.page.keyboard.press("j")
    append_turn(store, turn("allow", tool="other"), context())
    append_turn(store, turn("deny", tool="fresh"), context("and now this"))
    tab.page.wait_for_selector("text=fresh")
    assert tab.page.locator("[data-row]").count() == 2
    assert tab.page.evaluate("document.activeElement.closest('[data-row]').dataset.row") == "5"
    tab.page.wait_for_selector(".trust.verified")
    assert tab.troubles == []


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A viewer of the demo's turns, with a held call that may be decided on."""
    path = tmp_path_factory.mktemp("rich") / "audit.db"
    with steerkit.load("tiny", policy=policy_files(), audit=path, counterfactual=True) as runtime:
        runtime.run_batch([Request(case.messages, case.tools, metadata={ENDPOINT: "test"}) for case in CASES])
    write_reports(path.parent / "reports", "words")
    with showing(path, deciding=Deciding(person=lambda scope: Person(True, "ann"))) as url:
        yield url


RICH = (
    *("/reports", "/reports/eval.json", "/reports/find.json", "/f/3:72", "/f/resid_post.2:7"),
    *("/", "/r/3", "/r/3/t/150", "/r/3/beside?with=5", "/decide", "/policies", "/f/payments.asked", "/trust"),
)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 400)])
@pytest.mark.parametrize("place", RICH)
def test_axe_finds_nothing(rich: str, chromium: Any, scheme: str, width: int, place: str) -> None:
    """Roles, names, order and contrast, by the rules of WCAG 2 AA."""
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(f"{rich}{place}")
    page.locator("main").wait_for()
    if place == "/trust":
        page.locator(".trust.verified").wait_for()
    found = Axe().run(page)
    told = [(one["id"], node["html"][:120]) for one in found.response["violations"] for node in one["nodes"]]
    assert told == []
    context.close()


def test_a_token_opens_what_was_read_at_it(rich: str, tab: Tab) -> None:
    """By a click, by arrows, and by the address, which a reload keeps; Escape closes it."""
    tab.page.goto(f"{rich}/r/3?show=payments.asked")
    tab.page.locator("[data-t='150']").click()
    tab.page.locator("#drawer", has_text="token 150 of the prompt").wait_for()
    tab.page.keyboard.press("ArrowRight")
    tab.page.locator("#drawer", has_text="token 151").wait_for()
    assert tab.page.url.endswith("?show=payments.asked#t151")
    tab.page.reload()
    tab.page.locator("#drawer", has_text="token 151").wait_for()
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#drawer").inner_text() == ""
    assert tab.troubles == []


def test_bars_are_as_long_as_their_values(hostile: str, tab: Tab) -> None:
    """Three quarters, a quarter, and nothing of the whole."""
    tab.page.goto(f"{hostile}/r/2/t/2")
    widths = "all => all.slice(-3).map(one => one.offsetWidth / one.parentElement.clientWidth)"
    whole, part, none = tab.page.locator(".bar span").evaluate_all(widths)
    assert part / whole == pytest.approx(1 / 3, abs=0.05)
    assert whole > 0.5
    assert none == 0


def test_a_steered_turn_begins_with_both_replies(rich: str, tab: Tab) -> None:
    """The first thing in sight, without scrolling: the call that would have been, and what happened."""
    tab.page.goto(f"{rich}/r/3")
    box = tab.page.locator(".steering").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 900
    assert "transfer_money" in tab.page.locator(".steering .side").first.inner_text()
    assert tab.page.locator(".tokens .differs").count() == 2


def test_axe_can_find_something(tab: Tab) -> None:
    """The control: a picture without words, and grey on grey."""
    from axe_playwright_python.sync_playwright import Axe

    tab.page.set_content(
        '<html lang="en"><title>t</title><main><img src=""><p style="color:#999;background:#aaa">some words</p>'
    )
    ids = {one["id"] for one in Axe().run(tab.page).response["violations"]}
    assert {"image-alt", "color-contrast"} <= ids


def test_it_prints_and_reads_without_script(growing: tuple[Store, str], chromium: Any) -> None:
    """Without script every page is whole; on paper there is no navigation."""
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{growing[1]}/")
    assert page.locator("[data-row]").count() == 5
    page.click("text=transfer_money")
    assert page.locator("h1").inner_text() == "Record 5"
    page.emulate_media(media="print")
    assert not page.locator(".top nav").is_visible()
    assert page.locator(".card").first.is_visible()
    context.close()


def test_the_hostile_text_is_what_it_says() -> None:
    """The control of the first test: its text would do harm as markup."""
    assert "<script>alert(1)</script>" in EVIL
    assert "\u202e" in EVIL
