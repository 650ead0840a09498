"""Reports in the viewer: of the templates that make them files, from what commands write as JSON."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from steerkit.errors import SettingError
from steerkit.report import as_file, json_text, read_reports, report_page
from steerkit.viewer import make_viewer
from tests.audit.example import started, write_run
from tests.cli.test_commands import steerkit as steerkit_command
from tests.viewer.filed import feature_report, found_report, write_reports


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with reports beside it."""
    folder = tmp_path_factory.mktemp("reports")
    store = started(folder / "audit.db")
    write_run(store)
    write_reports(folder / "reports", "plain words", store.get("2").id)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(make_viewer(folder / "audit.db"), base_url="http://127.0.0.1") as client:
        yield client


def body_of(page: str) -> str:
    """The words of a page's main part, without links and frame."""
    main = re.search(r"<main[^>]*>(.*)</main>", page, re.DOTALL) or re.search(r"<body>(.*)</body>", page, re.DOTALL)
    assert main is not None
    found = re.sub(r'<nav class="trail".*?</nav>|<p><a href[^>]*>[^<]*</a></p>', "", main[1], flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found)).split())


def test_the_list_has_what_lies_beside_the_store(client: TestClient) -> None:
    """Each report with its title and result; a file that is none says why; other files are not there."""
    text = html.unescape(client.get("/reports").text)
    assert "Policy plain words: evaluation" in text
    assert (
        "20 of 100 features tell them apart; resid_post2_7 lower alone has AUROC 0.900. Edits stop 3 of 4 calls."
        in text
    )
    assert "Resid_post.2 feature 7" in text
    assert "broken.json: not JSON" in text
    assert "other.json: report: got 'plain words', expected" in text
    assert "notes.txt" not in text


@pytest.mark.parametrize("name", ["eval.json", "find.json", "feature.json"])
def test_a_page_and_a_file_say_the_same(client: TestClient, folder: Path, tmp_path: Path, name: str) -> None:
    """They are of one template: in the viewer's frame with links, and as a file that leads nowhere."""
    page, out = client.get(f"/reports/{name}"), tmp_path / "out.html"
    assert page.status_code == 200
    done = steerkit_command("view", folder / "reports" / name, "--export", out, home=tmp_path)
    assert "ok: " in done.stdout
    text = out.read_text(encoding="utf-8")
    assert body_of(page.text) == body_of(text)
    assert len(body_of(text)) > 300
    assert re.findall(r"<script|<link|href=|src=|url\(|<form", text) == []
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page.text) == []


def test_what_a_search_found_is_on_its_page(client: TestClient) -> None:
    """The features with their values, what causes the call, the ways to steer beside their controls, and the words."""
    text = body_of(client.get("/reports/find.json").text)
    for said in (
        "resid_post2_7 lower 0.900 (0.700 to 1.000) 75 % (30 to 95)",
        "causes +0.400 +0.500 +0.600 0.100 0.001",
        "clamps of one layer resid_post.2 2 +2.50 to -1.00",
        "1 of 12",
        "Probe of 2: +2 resid_post2_7, -1 l3_72, bias -0.5.",
        "More than by difference of means: +1 of 4 calls stopped",
    ):
        assert said in text
    assert 'href="/f/resid_post.2%3A7"' in client.get("/reports/find.json").text


def test_a_features_page_has_its_report(client: TestClient) -> None:
    """Its top contexts and what it writes; the control has none and says how to get one."""
    text = client.get("/f/resid_post.2:7").text
    assert "plain words at most" in text
    assert "Promoted" in text
    other = client.get("/f/resid_post.2:8").text
    assert "Promoted" not in other
    assert "steerkit features show resid_post.2 8 --data FILE --json" in other


def test_a_replay_stands_beside_its_turn(client: TestClient, folder: Path) -> None:
    """The turn leads to it, calls and replies are held side by side; of another record there is none."""
    assert 'beside?replay=replay.json">beside its replay (replay.json)' in client.get("/r/2").text
    assert "beside its replay" not in client.get("/r/5").text
    text = client.get("/reports/replay.json").text  # sent on to the turn
    assert "The same prompt; the replies differ from token 2 on." in text
    assert "<h2>The replay</h2>" in text
    assert "&#34;plain words&#34;" in text
    assert client.get("/r/5/beside?replay=replay.json").status_code == 404
    assert client.get("/r/2/beside?replay=eval.json").status_code == 404
    out = folder / "out.html"
    done = steerkit_command("view", folder / "reports" / "replay.json", "--export", out, home=folder, status=1)
    assert "shows it beside its turn" in done.stderr
    assert not out.exists()


def test_a_token_has_the_alternatives_that_a_replay_found(client: TestClient) -> None:
    """At tokens of the reply alone, with their chances; without a replay the page says how to get them."""
    text = client.get("/r/2/t/2").text
    assert "What the model might have written here" in text
    assert re.findall(r'"number">([\d.]+) %', text) == ["75", "25", "0"]
    assert text.count(">it did<") == 1
    assert ">␣b<" in text
    assert "might have written" not in client.get("/r/2/t/1").text
    assert "steerkit audit replay 5 --alternatives 5 --json" in client.get("/r/5/t/2").text


def test_only_files_of_the_folder_are_read(client: TestClient, folder: Path) -> None:
    """No name leads out of it; a report that changed is read again."""
    (folder / "outside.json").write_text(json_text(feature_report("outside")))
    for name in ("../outside.json", "..%2Foutside.json", "%2Fetc%2Fpasswd", "none.json", "broken.json"):
        assert client.get(f"/reports/{name}").status_code == 404
    new = folder / "reports" / "new.json"
    for text in ("first", "a second one"):
        new.write_text(json_text(feature_report(text)))
        assert text in client.get("/reports/new.json").text
    new.unlink()
    assert client.get("/reports/new.json").status_code == 404


def test_several_reports_in_a_file_stand_one_by_one(client: TestClient, folder: Path) -> None:
    """One a line, each with an address; together they are no file to export."""
    lines = folder / "reports" / "lines.jsonl"
    lines.write_text("".join(json_text(feature_report(text)) + "\n" for text in ("one", "two")))
    assert "one at most" in client.get("/reports/lines.jsonl").text
    assert "two at most" in client.get("/reports/lines.jsonl:2").text
    done = steerkit_command("view", lines, "--export", folder / "x.html", home=folder, status=1)
    assert "got 2 reports, expected one" in done.stderr
    lines.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"report": "nothing"}, "report: got 'nothing', expected what `eval`"),
        ({"tests": "many"}, "tests: Input should be a valid integer"),
        ({"features": [{}]}, "features.0.feature: Field required"),
        ({"features": None}, "features: Input should be a valid tuple"),
        ({"sets": ["a"]}, "sets.1: Field required"),
    ],
)
def test_what_is_no_report_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    """In one line with its place; the same report without the change is read."""
    path = tmp_path / "r.json"
    path.write_text(json_text(found_report("x") | change))
    with pytest.raises(SettingError, match=re.escape(said)) as error:
        read_reports(path)
    assert "\n" not in str(error.value)
    path.write_text(json_text(found_report("x")))
    (found,) = read_reports(path)
    assert as_file(found) == report_page(found_report("x"))
