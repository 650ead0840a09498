"""`steerkit features`: one feature on a terminal, as JSON and as a page, and the labels of a set."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.cli.main import app
from steerkit.engine import box_folder
from steerkit.errors import SaeError
from steerkit.lab.find.contexts import Context, FeatureContexts
from steerkit.lab.find.top_logits import DecoderTokens, TokenScore
from steerkit.report.feature import FeatureView, feature_json
from steerkit.report.report_page import report_page
from steerkit.sae import read_labels
from steerkit.sites import Feature
from tests.cli.test_page import HOSTILE, Reader

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "conversations.jsonl"
EXPLAINED = {"modelId": "tiny", "layer": "3-att", "index": "5", "description": "a\n new one"}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A set of one's own: the box's, in a folder that may be written."""
    box = box_folder("tiny")
    assert box is not None
    return Path(shutil.copytree(box / "saes", tmp_path / "own"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path | int) -> str:
    """What a command prints, run in this process."""
    capsys.readouterr()
    app(["features", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def batch(path: Path, *rows: dict[str, Any]) -> Path:
    """A file as Neuronpedia exports it."""
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def test_a_page_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With the page that `--html` names, which needs no script and no network."""
    page = tmp_path / "feature.html"
    run(capsys, "show", 3, 72, "--data", DATA, "--top", 4, "--around", 6, "--html", page)
    found = Reader(page.read_text(encoding="utf-8"))
    assert "Layer 3 feature 72" in found.words
    assert found.words.count("transfer_money") == 4
    assert set(found.tags).isdisjoint({"script", "img", "link", "iframe"})


def test_show_prints_one_json_object(capsys: pytest.CaptureFixture[str], box: Runtime) -> None:
    """Label and statistics are the set's, the values those at the tokens shown, and the corpus is counted."""
    (line,) = run(capsys, "show", 3, 72, "--data", DATA, "--top", 3, "--around", 2, "--json").splitlines()
    found = json.loads(line)
    feature = Feature(3, 72)
    assert box.saes is not None
    assert (found["layer"], found["index"], found["label"]) == (3, 72, box.saes.labels[feature])
    assert (found["kind"], found["site"], found["statistics_from"]) == ("relu", "attn_out", "stats.safetensors")
    for unit, value in found["statistics"].items():
        assert value == box.saes.statistic(feature, unit)
    assert len(found["contexts"]) == len(found["promoted"]) == len(found["suppressed"]) == 3
    for one in found["contexts"]:
        assert len(one["values"]) == len(one["tokens"]) == 5
        assert one["value"] == one["values"][2] == max(one["values"])
    assert found["contexts"][0]["tokens"][1:4] == ["call", ":", "transfer_money"]
    assert len({tuple(one["tokens"]) for one in found["contexts"]}) == 3
    assert 0 < found["active"] < found["tokens"]


def test_without_statistics_the_datas_are_shown(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """A set without a statistics file is measured on the data; text rows and a limit are read as asked."""
    (own / "stats.safetensors").unlink()
    data = own / "texts.jsonl"
    data.write_text('{"words": "call:transfer_money{amount:"}\n{"words": "second"}\n')
    options = ("--data", data, "--saes", own, "--text-column", "words", "--json")
    found = json.loads(run(capsys, "show", 3, 72, *options))
    assert found["statistics_from"] == str(data)
    assert found["statistics"]["density"] == pytest.approx(found["active"] / found["tokens"])
    assert found["statistics"]["max"] == pytest.approx(found["contexts"][0]["value"])
    assert json.loads(run(capsys, "show", 3, 72, *options, "--limit", 1))["tokens"] < found["tokens"]


def test_a_page_cannot_be_broken_by_what_it_shows() -> None:
    """Labels, tokens and names that look like markup are words on the page; it has no element but its own."""
    contexts = [
        Context(number, 1, 2.0, 0, ("a", foreign, ""), (0.5, 2.0, 0.0)) for number, foreign in enumerate(HOSTILE)
    ]
    scores = tuple(TokenScore(foreign, number, 1.0) for number, foreign in enumerate(HOSTILE))
    found = FeatureContexts(Feature(0, 1), 30, 3, {}, tuple(contexts))
    hostile = "".join(HOSTILE)
    statistics = {"density": 0.1, "max": 2.0}
    tokens = DecoderTokens(scores, scores)
    view = FeatureView(hostile, hostile, hostile, "relu", hostile, found, tokens, statistics, hostile)
    shown = Reader(report_page(feature_json(view)))
    plain = ("m", "m", "s", "relu", "d", found, DecoderTokens(scores, scores), statistics, "d")
    assert shown.tags == Reader(report_page(feature_json(FeatureView(*plain)))).tags  # type: ignore[arg-type]
    assert set(shown.tags).isdisjoint({"script", "img", "b"})
    assert {name for name, _ in shown.attributes}.isdisjoint({"src", "href", "onerror", "onmouseover"})
    for foreign in HOSTILE[:6]:
        assert shown.words.count(foreign) >= 3


def test_a_page_of_a_silent_feature_says_so() -> None:
    """A feature that is 0 everywhere and writes nothing has a page without contexts and tokens."""
    found = FeatureContexts(Feature(0, 1), 30, 0, {}, ())
    view = FeatureView(None, "m", "s", "relu", "d", found, DecoderTokens((), ()), {"max": 0.0}, "d")
    words = Reader(report_page(feature_json(view))).words
    assert "Nowhere: it is 0 at every token of d." in words
    assert "no label yet" in words
    assert words.count("None.") == 2


def test_a_label_goes_round(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """A label that is given is listed and shown, and gone once it is removed; the others stay as they were."""
    before = read_labels(own / "labels.json")
    run(capsys, "label", 2, 90, "an order  in\na result", "--saes", own)
    assert read_labels(own / "labels.json") == {**before, Feature(2, 90): "an order in a result"}
    assert re.search(r"^  2     90  an order in a result$", run(capsys, "labels", "--saes", own), re.MULTILINE)
    lines = run(capsys, "labels", "--saes", own, "--layers", "0,2", "--json").splitlines()
    assert {"layer": 2, "index": 90, "label": "an order in a result"} in map(json.loads, lines)
    assert {json.loads(line)["layer"] for line in lines} == {0, 2}
    run(capsys, "label", 2, 90, "--remove", "--saes", own)
    assert read_labels(own / "labels.json") == before
    assert sorted(path.name for path in own.iterdir() if "label" in path.name) == ["labels.json"]


def test_explanations_are_imported(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """New labels join; one that is there stays, unless --force says otherwise; another model's need its name."""
    before = read_labels(own / "labels.json")
    files = [
        batch(own / "batch-0.jsonl.gz", EXPLAINED, {**EXPLAINED, "index": "72"}),
        batch(own / "batch-1.jsonl.gz", {**EXPLAINED, "index": "6"}),
    ]
    said = run(capsys, "import", *files, "--saes", own)
    assert said.startswith("ok: 2 labels from 3-att in ")
    assert "; 1 stayed what they were" in said
    new = {Feature(3, 5): "a new one", Feature(3, 6): "a new one"}
    assert read_labels(own / "labels.json") == {**before, **new}
    run(capsys, "import", *files, "--saes", own, "--force")
    assert read_labels(own / "labels.json")[Feature(3, 72)] == "a new one"
    other = batch(own / "other.jsonl.gz", {**EXPLAINED, "modelId": "gpt2-small", "index": "7"})
    with pytest.raises(SaeError, match=r"of gpt2-small, expected those of tiny; .*--model-id gpt2-small"):
        run(capsys, "import", other, "--saes", own)
    run(capsys, "import", other, "--saes", own, "--model-id", "gpt2-small")
    assert Feature(3, 7) in read_labels(own / "labels.json")


@pytest.mark.parametrize("wrong", [{"index": "99999"}, {"layer": "9-att"}, {"modelId": "other"}, {"index": "x"}])
def test_a_failed_import_changes_nothing(capsys: pytest.CaptureFixture[str], own: Path, wrong: dict[str, str]) -> None:
    """Where one line is of another dictionary, layer or model, or no line at all, the labels stay as they were."""
    before = (own / "labels.json").read_bytes()
    files = [batch(own / "0.gz", EXPLAINED), batch(own / "1.gz", {**EXPLAINED, **wrong})]
    with pytest.raises(SaeError):
        run(capsys, "import", *files, "--saes", own)
    assert (own / "labels.json").read_bytes() == before
    run(capsys, "import", files[0], "--saes", own)
    assert (own / "labels.json").read_bytes() != before


BAD: dict[str, tuple[list[Any], str]] = {
    "no such layer": (["show", 4, 0, "--data", DATA], "no SAE for layer 4; it has layers 0 to 3"),
    "no such index": (["show", 3, 99999, "--data", DATA], "layer 3 has no feature 99999; expected 0 to"),
    "no data": (["show", 3, 1, "--data", "none.jsonl"], "none.jsonl: cannot be read"),
    "empty data": (["show", 3, 1, "--data", "empty.jsonl"], "empty.jsonl: got no rows"),
    "no place for the page": (
        ["show", 3, 1, "--data", DATA, "--limit", 1, "--html", "none/a.html"],
        "none/a.html: cannot be written (No such file or directory)",
    ),
    "the box's own labels": (["label", 3, 1, "x", "--saes", "tiny"], "tiny: no folder of yours"),
    "a label of no feature": (["label", 3, 99999, "x", "--saes", "OWN"], "layer 3 has no feature 99999"),
    "no label": (["label", 3, 1, " ", "--saes", "OWN"], "expected either a text"),
    "a label and none": (["label", 3, 1, "x", "--remove", "--saes", "OWN"], "expected either a text"),
    "nothing to remove": (["label", 3, 1, "--remove", "--saes", "OWN"], "has no label to remove"),
    "no gzip": (["import", "empty.jsonl", "--saes", "OWN"], "empty.jsonl: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(
    capsys: pytest.CaptureFixture[str], own: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what was got and what was expected, and no labels changed."""
    monkeypatch.chdir(own.parent)
    Path("empty.jsonl").touch()
    before = (own / "labels.json").read_bytes()
    arguments, said = BAD[case]
    with pytest.raises(SaeError, match=re.escape(said)) as found:
        run(capsys, *[own if one == "OWN" else one for one in arguments])
    assert "\n" not in str(found.value)
    assert (own / "labels.json").read_bytes() == before


def test_a_set_without_labels_says_so(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """Nothing on standard output, and what to do next beside it."""
    (own / "labels.json").unlink()
    app(["features", "labels", "--saes", str(own)], standalone_mode=False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no labels yet; steerkit features label gives one" in shown.err
