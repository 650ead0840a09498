"""A turn's page: calls, tokens, features, and what steering changed; on the model in the box, without a browser."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import steerkit
from steerkit.audit import ModelIdentity, Store, TurnRecord, append_turn, read_content, strongest_at, unpack, values_of
from steerkit.policy import load
from steerkit.runtime import Request
from steerkit.sites import Feature, Site
from steerkit.tiny import CASES, policy_files
from steerkit.types import Call, Span, TopK, Trace
from steerkit.viewer import export, make_viewer
from steerkit.viewer.beside_page import calls_beside, replies_beside
from steerkit.viewer.vocabulary import read_vocabulary
from tests.audit import example
from tests.cli.test_commands import steerkit as steerkit_command


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's turns, each with the one without steering."""
    path = tmp_path_factory.mktemp("turns") / "audit.db"
    with steerkit.load("tiny", policy=policy_files(), audit=path, counterfactual=True) as runtime:
        runtime.run_batch([Request(case.messages, case.tools) for case in CASES])
        runtime.run_batch([Request(case.messages, case.tools, policy=()) for case in CASES])
    return path


@pytest.fixture(scope="module")
def client(path: Path) -> Iterator[TestClient]:
    with TestClient(make_viewer(path), base_url="http://127.0.0.1") as client:
        yield client


def turns_of(path: Path) -> list[tuple[int, TurnRecord, Trace]]:
    """Sequence, record and trace of every turn."""
    store = Store(path, create=False)
    read = [(one, read_content(one)) for one in store.records()]
    return [(one.sequence, turn, unpack(store.trace_of(one))) for one, turn in read if isinstance(turn, TurnRecord)]


def words_of(page: str) -> list[str]:
    """The texts of the strip's tokens."""
    return [html.unescape(text) for text in re.findall(r'<span data-t="\d+"[^>]*>([^<]*)</span>', page)]


def test_texts_of_tokens_come_from_the_vocabulary_alone(path: Path, box: steerkit.Runtime) -> None:
    """They are the tokenizer's, and its fingerprint is the recorded one; a model that is not here has none."""
    _, turn, _ = turns_of(path)[0]
    vocabulary = read_vocabulary(turn.model)
    assert vocabulary is not None
    assert vocabulary.fingerprint == turn.model.tokenizer
    assert "".join(vocabulary.texts(turn.prompt_ids)) == box.loaded.tokenizer.decode(turn.prompt_ids)
    assert read_vocabulary(ModelIdentity("nobody/none-such")) is None
    assert read_vocabulary(ModelIdentity("../../etc")) is None
    assert read_vocabulary(ModelIdentity("a" * 5000)) is None


def test_a_character_of_several_tokens_stands_at_the_first(box: steerkit.Runtime) -> None:
    """The others are empty, and nothing is lost."""
    vocabulary = read_vocabulary(ModelIdentity("tiny"))
    assert vocabulary is not None
    ids = tuple(box.loaded.tokenizer.encode("a€b", add_special_tokens=False))
    texts = vocabulary.texts(ids)
    assert "".join(texts).strip() == "a€b"
    assert len(ids) > 3
    assert "" in texts


def test_every_token_is_in_the_strip_with_its_source(client: TestClient, path: Path) -> None:
    """In order, under who wrote it; control tokens are marked."""
    for sequence, turn, _ in turns_of(path)[:6]:
        page = client.get(f"/r/{sequence}").text
        assert len(words_of(page)) == len(turn.prompt_ids) + len(turn.reply_ids)
        said = re.search(r'class="stretch user">(.*?)</div></div>', page, re.DOTALL)
        assert said is not None
        assert turn.messages[0]["content"] in "".join(words_of(said[1]))
        assert 'class="control"' in page or "control" in page


def test_tokens_are_shaded_by_the_feature_in_the_address(client: TestClient, path: Path) -> None:
    """Full where it is highest; a name that is not recorded says so; the gate's bound is drawn."""
    sequence, _, trace = next(one for one in turns_of(path) if "payments.asked" in one[2].watched)
    values = values_of(trace, "payments.asked")
    highest = max(values, key=lambda at: abs(values[at]))
    page = client.get(f"/r/{sequence}?show=payments.asked").text
    assert re.search(rf'data-t="{highest}" class="[^"]*s100', page)
    assert "gate above 1.9" in page
    assert 'class="bound"' in page
    assert "is not recorded at any token" in client.get(f"/r/{sequence}?show=99:1").text


def test_a_tokens_page_has_its_strongest_features(client: TestClient, path: Path) -> None:
    """Those of the trace, by layer, strongest first, with links that shade by them."""
    sequence, turn, trace = next(one for one in turns_of(path) if one[2].top and one[1].calls)
    position = len(turn.prompt_ids) + 3
    page = client.get(f"/r/{sequence}/t/{position}").text
    for site, strong in strongest_at(trace, position).items():
        wanted = [f"{site.compact}:{one.feature.index}" for one in strong]
        table = page.split(f"<caption>{site}</caption>")[1].split("</table>")[0]
        assert re.findall(r'#tokens">([^<]+)</a>', table) == wanted
    assert client.get(f"/r/{sequence}/t/{len(turn.prompt_ids) + len(turn.reply_ids)}").status_code == 404


def test_features_have_the_labels_of_their_saes(client: TestClient, path: Path, box: steerkit.Runtime) -> None:
    """From the set's labels.json, after what a policy calls them; a feature's page has the statistics, too."""
    sequence, turn, trace = next(one for one in turns_of(path) if one[2].top and one[1].calls)
    assert box.saes is not None
    position = len(turn.prompt_ids) + 3
    strong = [one.feature for some in strongest_at(trace, position).values() for one in some]
    labels = [box.saes.labels[one] for one in strong if one in box.saes.labels]
    page = html.unescape(client.get(f"/r/{sequence}/t/{position}").text)
    assert labels
    assert all(label in page for label in labels)
    facts = client.get("/f/3:72").text
    assert html.unescape(facts).count(box.saes.labels[Feature(3, 72)]) == 1
    assert f"<dd>{box.saes.statistic(Feature(3, 72), 'max'):.4g}</dd>" in facts
    assert "<dt>decoder norm</dt>" in facts
    assert "are not on this machine" in client.get("/f/99:1").text


def test_a_turned_reply_begins_with_what_steering_changed(client: TestClient, path: Path) -> None:
    """It stands before the call cards, with the call that would have been; a turn without edits has no such part."""
    turned = [one for one in turns_of(path) if one[1].edits]
    assert len(turned) == 3
    for sequence, turn, _ in turned:
        page, other = client.get(f"/r/{sequence}").text, turn.counterfactual
        assert other is not None
        same = "reply stayed the same" if (other.calls, other.text) == (turn.calls, turn.text) else "changed the reply"
        assert page.index(same) < page.index("<h2>What it ")
        assert all(f"&#34;{call.name}&#34;" in page for call in other.calls if isinstance(call, Call))
    plain = next(one for one in turns_of(path) if not one[1].edits)
    assert "Steering" not in client.get(f"/r/{plain[0]}").text


def test_layers_without_and_with_steering_stand_beside_each_other(tmp_path: Path) -> None:
    """Those without are on record with the turn that would have been; where a trace keeps none, nothing is drawn."""
    policy, store = load(policy_files()[0]), tmp_path / "audit.db"
    for at in ("reply", "call"):
        whole = policy.model_copy(update={"trace": policy.trace.model_copy(update={"at": at})})
        with steerkit.load("tiny", policy=whole, audit=store, counterfactual=True) as runtime:
            runtime.run(CASES[1].messages, CASES[1].tools)
    (_, turn, _), (_, bare, _) = turns_of(store)
    assert turn.counterfactual is not None
    assert turn.counterfactual.layers.keys() == {f"attn_out.{layer}" for layer in range(4)}
    with TestClient(make_viewer(store), base_url="http://127.0.0.1") as client:
        page, other = (client.get(f"/r/{number}").text for number in (2, 5))
    assert "Steering changed the reply" in page
    assert "Steering changed the reply" in other
    drawn = page.split("Features by layer</summary>")[1].split("</details>")[0]
    assert f"{turn.counterfactual.layers['attn_out.3']:.4g}<br>" in drawn
    assert drawn.count('class="second') == 4
    assert "Features by layer" not in other
    assert bare.counterfactual is not None


def test_two_turns_are_aligned_at_the_first_token_that_differs(client: TestClient, path: Path) -> None:
    """The steered one and the same request without policies."""
    (first, one, _), (second, other, _) = ((turns_of(path)[at]) for at in (1, 7))
    assert one.prompt_ids == other.prompt_ids
    page = client.get(f"/r/{first}/beside?with={second}").text
    assert "The same prompt; the replies differ from token 1 on." in page
    assert "transfer_money" in page
    assert "replied with the same tokens" in client.get(f"/r/{first}/beside?with={first}").text
    assert client.get(f"/r/{first}/beside?with=1").status_code == 404  # a run's opening


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1, 2, 3), (1, 2, 3), (["⟨1⟩", "⟨2⟩", "⟨3⟩"], [], [])),
        ((1, 2, 3), (1, 4), (["⟨1⟩"], ["⟨2⟩", "⟨3⟩"], ["⟨4⟩"])),
        ((1, 2), (1, 2, 3), (["⟨1⟩", "⟨2⟩"], [], ["⟨3⟩"])),
        ((), (1,), ([], [], ["⟨1⟩"])),
    ],
)
def test_replies_are_cut_where_they_part(first: tuple[int, ...], second: tuple[int, ...], expected: object) -> None:
    """Common beginning, then each by itself; numbers where there is no vocabulary."""
    assert tuple(replies_beside((first, second), (None, None))) == expected


def test_values_of_calls_stand_beside_each_other() -> None:
    """By name, with the call's number where there are several."""
    one, other = example.turn(value="a").calls, example.turn(value="b").calls
    assert [tuple(leaf) for leaf in calls_beside(one, other)] == [
        ("call", "same", '"unlock_door"', '"unlock_door"'),
        ("door", "changed", '"a"', '"b"'),
    ]
    assert [leaf.name for leaf in calls_beside(one, [*other, *other])][-1] == "door (call 2)"


def test_a_strange_trace_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    """Spans to the end of the world, features beyond the tokens, and none of them: a page within a second."""
    trace = Trace(
        0,
        {"p.f": tuple(float(at) for at in range(50))},
        {"p.f": Feature(1, 7)},
        (TopK(Site(0), 2**40, 0, 5, b"", b""), TopK(Site(1), 0, 2**40, 0, b"", b"")),
        places={"user": (Span(0, 2**62),), "tool_result": (Span(2**60, 2**62),)},
        forced=(Span(0, 2**62),),
    )
    store = example.started(tmp_path / "audit.db")
    append_turn(store, steerkit.Turn(**{**_fields(example.turn()), "trace": trace}), example.context())
    with TestClient(make_viewer(tmp_path / "audit.db"), base_url="http://127.0.0.1") as client:
        page = client.get("/r/2").text
        assert len(words_of(page)) == 4
        assert client.get("/r/2/t/3").status_code == 200
        assert client.get("/r/2/t/4").status_code == 404
    store.close()


def _fields(one: steerkit.Turn) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__slots__}


def test_a_turn_as_a_file_stands_alone(path: Path, tmp_path: Path) -> None:
    """Its page without script, links or anything fetched; it says how far the store was verified."""
    sequence, _, _ = next(one for one in turns_of(path) if one[1].edits)
    text = export(path, str(sequence))
    assert "Steering changed the reply" in text
    assert "verified to record 14" in text
    assert words_of(text)
    assert re.findall(r"<script|<link|href=|src=|url\(|<form", text) == []
    assert "default-src 'none'" in text
    out = tmp_path / "turn.html"
    command = ["--store", path, "--export", out]
    assert "ok: record" in steerkit_command("view", str(sequence), *command, home=tmp_path).stdout
    assert out.read_text(encoding="utf-8") == text
    assert "expected that of a turn" in steerkit_command("view", *command, home=tmp_path, status=1).stderr
    assert "is a run_opened" in steerkit_command("view", "1", *command, home=tmp_path, status=1).stderr


def test_a_record_says_which_rules_had_a_part(path: Path, tmp_path: Path) -> None:
    """Of steering the tokens at which it was open, of the guard the calls it matched; older records do not say it."""
    turns = [turn for _, turn, _ in turns_of(path)]
    opened = {name for turn in turns for name, part in turn.rules.items() if "opened" in part}
    assert opened >= {f"{edit.policy}/{edit.rule}" for turn in turns for edit in turn.edits}
    (held,) = [turn for turn in turns if [one.rule for one in turn.verdicts] == ["doors-need-a-person"]]
    assert held.rules["people/doors-need-a-person"] == {"matched": 1}
    old = read_content(example.started(tmp_path / "old.db").append(replace(held, rules={})))
    assert isinstance(old, TurnRecord)
    assert (old.rules, old.verdicts) == ({}, held.verdicts)


def test_policies_say_what_they_do_and_how_often(client: TestClient, path: Path) -> None:
    """In sentences, with counts over the turns that fit the filters."""
    page = client.get("/policies").text
    assert "Guard rule doors-need-a-person holds a call of unlock_door for a person." in html.unescape(page)
    row = re.search(r"doors-need-a-person</a></th>.*?</tr>", page, re.DOTALL)
    assert row is not None
    assert "matched 1 call, decided 1" in row[0]
    none = client.get("/policies?tool=get_balance").text
    assert "matched 1 call" not in re.search(r"doors-need-a-person</a></th>.*?</tr>", none, re.DOTALL)[0]  # type: ignore[index]
    assert client.get("/policies?since=x").status_code == 400


def test_a_features_page_says_where_it_fired(client: TestClient, path: Path) -> None:
    """The turns of the store in which it is above 0, strongest first; one that never fired says so."""
    fired = {}
    for sequence, _, trace in turns_of(path):
        if values := values_of(trace, "payments.asked"):
            fired[sequence] = max(values.values())
    wanted = sorted((one for one in fired if fired[one] > 0), key=lambda one: -fired[one])
    page = client.get("/f/payments.asked").text
    assert [int(number) for number in re.findall(r">record (\d+), token", page)] == wanted
    assert wanted
    assert "In none of the newest turns" in client.get("/f/99:1").text
