"""Templates of HTML pages: nothing foreign becomes markup, and tokens are shaded by their values."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from steerkit.report import page as pages
from steerkit.report.page import page, templates
from steerkit.report.tokens import drawn, shaded_text, visible

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "<!--",
    "&lt;b&gt;",
    "]]>",
    "\x1b[31m\x00\u202e",
)


class Reader(HTMLParser):
    """What a browser finds in a page: its tags with their attributes, and its words."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Words between tags."""
        self.words += data


ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "title", "style", "tabindex"}
FRAME = ["html", "head", "meta", "meta", "meta", "title", "style", "body"]


BODY = """{% extends "base.html" %}{% import "parts.html" as parts %}
{% block title %}{{ foreign }}{% endblock %}
{% block body %}<p title="{{ foreign }}">{{ foreign }}</p>{{ parts.tokens([foreign], [1.0], 1.0) }}
{{ parts.tiles([(foreign, foreign)]) }}{% endblock %}"""


@pytest.mark.parametrize("foreign", HOSTILE)
def test_foreign_text_never_becomes_markup(foreign: str) -> None:
    """In a title, an attribute, a token and a tile it is the words that it is, with what is hidden in it drawn."""
    found = Reader(templates().from_string(BODY).render(foreign=foreign))
    assert found.tags == [*FRAME, "p", "div", "span", "dl", "div", "dt", "dd"]
    assert found.words.count(visible(foreign)) == 5
    assert ("title", visible(foreign)) in found.attributes
    assert {name for name, _ in found.attributes} <= ATTRIBUTES


def test_the_reader_sees_markup_where_there_is_some() -> None:
    """The check above can fail: the same text marked as safe does become elements, and so no template marks one."""
    found = Reader(templates().from_string("<p>{{ foreign|safe }}</p>").render(foreign="".join(HOSTILE[:2])))
    assert {"script", "img"} <= set(found.tags)
    rooms = Path(pages.__file__).parent.parent
    files = sorted(one for room in ("report", "viewer") for one in (rooms / room / "templates").iterdir())
    assert len(files) >= 14
    assert [one.name for one in files if re.search(r"\|\s*safe|autoescape|Markup", one.read_text())] == []


def tokens(texts: list[str], values: list[float], high: float, strongest: int | None = None) -> str:
    """The markup of shaded tokens."""
    parts = templates().get_template("parts.html").make_module()
    return str(parts.tokens(texts, values, high, strongest))  # type: ignore[attr-defined]


@settings(deadline=None)  # the first example compiles the template
@given(st.lists(st.text(max_size=6), max_size=5))
def test_any_tokens_are_read_back(texts: list[str]) -> None:
    """Whatever the tokens hold, the page has one span for each, and their words in order."""
    found = Reader(tokens(texts, [0.5] * len(texts), 1.0))
    assert found.tags.count("span") == len(texts)
    assert found.words == "".join(map(drawn, texts))


def test_tokens_are_shaded_by_their_share() -> None:
    """The highest value is full, half of it half, none has no mark; the strongest is marked besides."""
    markup = tokens(["a", "b", "c"], [2.0, 1.0, 0.0], 2.0, 0)
    assert '<span class="s100 strongest" title="2">a</span>' in markup
    assert '<span class="s50" title="1">b</span>' in markup
    assert "<span>c</span>" in markup


def test_a_page_stands_alone() -> None:
    """It has no script and no address, forbids both, and says how it looks in the dark, on a phone and in print."""
    found = page("base.html")
    assert "<script" not in found
    assert "http:" not in found
    assert "https:" not in found
    assert "url(" not in found
    assert "default-src 'none'" in found
    assert "prefers-color-scheme: dark" in found
    assert "width=device-width" in found
    assert "@media print" in found
    assert found.startswith("<!doctype html>")


def test_a_template_lacks_no_value_silently() -> None:
    """A variable that is not given is an error, and not an empty place."""
    with pytest.raises(UndefinedError, match="view"):
        page("feature.html")


def test_the_unseen_is_drawn() -> None:
    """A line's end, a tab, an escape and half a character have a sign each; other text stays as it is."""
    assert visible("a\n\t\x1b[0m\ud800") == "a↵⇥␛[0m\ufffd"
    assert drawn("") == "·"
    assert visible("naïve 😀 日本") == "naïve 😀 日本"


def test_a_terminal_line_marks_the_strongest() -> None:
    """Without colours the strongest token stands in «»; with them each has a style by its share, and 0 has none."""
    line = shaded_text(["a", "b", "\n"], [1.0, 0.3, 0.0], 1.0, 0)
    assert line.plain == "«a»b↵"
    styles = [str(span.style) for span in line.spans]
    assert styles == ["black on dark_orange", "bold dark_orange"]
