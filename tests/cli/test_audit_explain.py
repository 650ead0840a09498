"""`steerkit audit explain` as people use it, and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from steerkit.agent import Runtime
from steerkit.audit import Store, read_turn
from steerkit.cli.main import app
from steerkit.errors import AuditError
from steerkit.lab.explain.explain import explain
from steerkit.lab.explain.feature_roles import Extent
from steerkit.report.explanation import ExplainView, show_explanation
from steerkit.report.explanation_page import explain_page
from steerkit.report.tokens import visible
from steerkit.tiny import TOOLS
from steerkit.types import Call
from tests.cli.test_page import ATTRIBUTES, FRAME, HOSTILE, Reader
from tests.cli.two_turns import two_turns


@pytest.fixture(scope="module")
def path(box: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run: a denied call, and a turn that steering turned away."""
    return two_turns(box, tmp_path_factory.mktemp("explain") / "a.db")


@pytest.fixture(scope="module")
def view(box: Runtime, path: Path) -> ExplainView:
    """Why the denied call was made."""
    store = Store(path, create=False)
    turn = read_turn(store, store.get("2"))
    store.close()
    found = explain(box, turn, extent=Extent(3, 2, (1, 2)))
    return ExplainView(found, turn.record.calls[0], turn.record.verdicts[0])


def test_a_call_is_explained_as_json_and_as_a_page(path: Path, tmp_path: Path) -> None:
    """One object with the choice, the features and what became of the call without them; and a file beside it."""
    page = tmp_path / "why.html"
    arguments = ["audit", "explain", "2", "--store", str(path), "--argument", "amount", "--top", "2", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--html", str(page)])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["choice"]["what"], told["content"]["name"]) == ("argument amount", "transfer_money")
    assert told["verdict"]["decision"] == "deny"
    assert len(told["reasons"]) == len(told["opposing"]) == 2
    assert told["reasons"][0]["ablated"]["lost"] > 0
    assert told["reasons"][0]["role"]["acts"][0]["source"] in told["sources"]
    assert len(told["controls"]) == 3
    assert "transfer_money(amount=740" in Reader(page.read_text(encoding="utf-8")).words


def test_the_text_says_what_was_chosen_and_what_hangs_on_it(view: ExplainView) -> None:
    """The verdict, the choice, each feature with its numbers, the sets, and the random ones beside them."""
    out = StringIO()
    show_explanation(Console(file=out, width=200, highlight=False, markup=False), view)
    said = out.getvalue()
    assert "guard    DENY  payments/about-to-move-money" in said
    assert "chosen   the tool: 'transfer_money' over 'get_balance' by 12." in said
    assert "no steering rule wrote in this turn" in said
    for one in (*view.found.reasons, *view.found.opposing):
        (line,) = [line for line in said.splitlines() if line.startswith(f"l{one.feature.layer}_{one.feature.index} ")]
        assert f"{one.role.effect:+.2f}" in line
        assert f"{one.ablated.lost:+.2f}" in line
    assert "the first 3 set to 0 at every token" in said
    assert "of 2 draws" in said
    assert "not even without the first 2 features does the call change" in said


def test_the_page_has_a_button_for_each_feature_and_no_script(view: ExplainView) -> None:
    """Each button's rule shades the tokens by its own values; a token's share is that of the feature's highest."""
    markup = explain_page(view)
    found = Reader(markup)
    count = len(view.found.reasons) + len(view.found.opposing)
    assert found.tags.count("input") == count + 1
    assert "script" not in found.tags
    assert "http:" not in markup
    assert "https:" not in markup
    values = view.found.reasons[0].role.values
    highest, silent = values.index(max(values)), values.index(0.0)
    assert "body:has(#f1:checked) .talk span { --share: var(--s1, 0); }" in markup
    spans = [part for part in markup.split("<span") if 'title="token ' in part]
    assert len(spans) == len(view.found.tokens)
    assert "--s1:1.00" in spans[highest]
    assert "--s1:" not in spans[silent]
    assert 'class="chosen"' in spans[view.found.choice.position + 1]


def test_tokens_that_a_grammar_chose_are_marked(box: Runtime, view: ExplainView, tmp_path: Path) -> None:
    """On the page, in its titles and in a remark; a free reply has none."""
    pytest.importorskip("llguidance")
    store = Store(tmp_path / "a.db")
    runtime = Runtime(box.loaded, box.saes, store=store)
    asked = [{"role": "user", "content": "I owe Lumes a payment of 740 dollars"}]
    turn = runtime.run(asked, TOOLS, tool_choice="transfer_money")
    recorded = read_turn(store, store.get(str(turn.record_id)))
    found = explain(runtime, recorded, extent=Extent(1, 1, (1,)))
    store.close()
    held = ExplainView(found, turn.calls[0], turn.verdicts[0])
    forced = {at for span in turn.trace.forced for at in range(*span)}
    assert {at for at in range(len(found.tokens)) if found.grammar_chose(at)} == forced
    assert explain_page(held).count("chosen by a grammar") == len(forced) > 0
    assert any("a grammar chose" in said for said in held.remarks)
    assert not any("a grammar chose" in said for said in view.remarks)
    assert "chosen by a grammar" not in explain_page(view)


@pytest.mark.parametrize("foreign", HOSTILE)
def test_nothing_foreign_becomes_markup(view: ExplainView, foreign: str) -> None:
    """Not in tokens, sources, labels, values, the rule or its reason: they are read as the words that they are."""
    found = view.found
    reason = replace(found.reasons[0], label=foreign)
    hostile = replace(
        found,
        chosen=foreign,
        other=foreign,
        tokens=(foreign, *found.tokens[1:]),
        sources=(foreign, *found.sources[1:]),
        reasons=(reason, *found.reasons[1:]),
        steered=(foreign,),
    )
    verdict = replace(view.verdict, decision=foreign, rule=foreign, reason=foreign)
    page = Reader(explain_page(ExplainView(hostile, Call("f", {"a": foreign}), verdict)))
    plain = Reader(explain_page(view))
    assert (
        set(page.tags)
        == set(plain.tags)
        == {
            *FRAME,
            *[
                "h1",
                "h2",
                "p",
                "div",
                "span",
                "br",
                "dl",
                "dt",
                "dd",
                "b",
                "label",
                "input",
                "table",
                "tr",
                "td",
                "wbr",
            ],
        }
    )
    assert {name for name, _ in page.attributes} <= {*ATTRIBUTES, "type", "id", "checked"}
    assert page.words.count(visible(foreign)) >= 7


def test_what_cannot_be_explained_is_refused(path: Path) -> None:
    """A turn without a call, a run of several turns, a record that is none, and two questions at once: a line each."""
    for arguments, said in (
        (["3"], "made no call in this turn"),
        (["1"], "has 2 turns; expected the id of one"),
        (["4"], "is a run_closed; expected a turn"),
        (["2", "--no-call", "--argument", "to"], "got several of --argument, --against and --no-call"),
    ):
        done = CliRunner().invoke(app, ["audit", "explain", *arguments, "--store", str(path)])
        assert isinstance(done.exception, AuditError)
        assert said in str(done.exception)
