"""`steerkit sae health --against`: the box against itself, and against a copy with one layer changed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerkit.agent import Runtime
from steerkit.chat import as_tools, render
from steerkit.cli.main import app
from steerkit.engine import box_folder, tool_from_function
from steerkit.errors import SaeError
from steerkit.lab import collect, read_corpus
from steerkit.policy import load, shipped_file
from steerkit.sites import Site
from steerkit.testing import SMALL, random_model
from steerkit.tiny.world.conversations import sample

DATA = Path(__file__).parents[2] / "examples" / "conversations.jsonl"
FACTOR, LAYER = 3.0, 3
COUNT = 12


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, box: Runtime) -> Path:
    """The box's folder with the attention output of its last layer three times as large."""
    source = box_folder("tiny")
    assert source is not None
    folder = tmp_path_factory.mktemp("changed") / "model"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("saes"))
    model: Any = copy.deepcopy(box.loaded.model)
    with torch.no_grad():
        model.model.layers[LAYER].self_attn.o_proj.weight.mul_(FACTOR)
    model.save_pretrained(folder)
    return folder


def health(capsys: pytest.CaptureFixture[str], *arguments: str | Path | int, data: Path = DATA) -> str:
    """What the command prints."""
    capsys.readouterr()
    app(["sae", "health", "--data", str(data), *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def rows(printed: str) -> list[dict[str, Any]]:
    """Its JSON lines."""
    return [json.loads(line) for line in printed.splitlines()]


def written(path: Path, kind: str) -> Path:
    found = [{"messages": list(one.messages), "tools": list(one.tools)} for one in sample(kind, "select", 10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def test_a_model_holds_against_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The control: every pair is equal, no feature changed, and each condition of the policy is where it was."""
    sets = [written(tmp_path / f"{kind[:6]}.jsonl", kind) for kind in ("dangerous:transfer_money", "benign")]
    named = ("--policy", shipped_file("payments"), "--positive", sets[0], "--negative", sets[1])
    found = rows(health(capsys, "--limit", COUNT, "--against", "tiny", *named, "--json"))
    sites, readings, policies = found[:4], found[4:-1], found[-1]
    assert [one["layer"] for one in sites] == [0, 1, 2, 3]
    for one in sites:
        assert (one["moved"], one["changed"]) == (0, 0)
        assert one["fvu"][0] == one["fvu"][1] > 0
        assert one["l0"][0] == one["l0"][1]
    assert {one["reading"] for one in readings} == {"asked", "opened"}
    for one in readings:
        assert one["beyond"][0] == one["beyond"][1]
        assert one["separation"]["auroc"][0] == one["separation"]["auroc"][1] > 0.9
        assert (one["p"], one["separation"]["p"], one["moved"]) == (1, 1, False)
    assert policies == {"policy": "payments", "changed": {}}


def features(box: Runtime, texts: list[list[int]], site: Site, factor: float = 1.0) -> Tensor:
    """Features of a layer's output times a factor, without the code that is tested."""
    assert box.saes is not None
    return box.saes[site].encode(factor * collect(box.loaded.model, texts, [site.layer])[0])


def test_a_changed_layer_is_told(capsys: pytest.CaptureFixture[str], box: Runtime, changed: Path) -> None:
    """The layers before it are untouched; its rates are those of features of activations three times as large."""
    corpus = read_corpus(DATA, box.loaded, limit=COUNT)
    found = rows(health(capsys, "--limit", COUNT, "--against", changed, "--json"))
    assert [(one["moved"], one["changed"]) for one in found[:LAYER]] == [(0, 0)] * LAYER
    last, one = found[LAYER], [features(box, corpus.texts, Site(LAYER), factor) for factor in (1.0, FACTOR)]
    counts = torch.stack([(part > 0).sum(dim=0) for part in one])
    assert last["l0"] == pytest.approx((counts.sum(dim=1) / corpus.tokens).tolist(), abs=0.01)
    assert last["dead"] == pytest.approx((counts == 0).sum(dim=1).tolist(), abs=1)
    alive = set(((counts[0] == 0) & (counts[1] >= 10)).nonzero().squeeze(-1).tolist())
    assert len(alive ^ set(last["alive"])) <= 1
    assert last["fvu"][1] > 2 * last["fvu"][0]
    means = torch.stack([part.mean(dim=0) for part in one])
    assert len(last["means"]) > 100
    for change in last["means"]:
        pair = [change["before"], change["after"]]
        assert pair == pytest.approx(means[:, change["index"]].tolist(), rel=1e-3)
        assert max(pair) >= 2 * min(pair)
    back = rows(health(capsys, "--limit", COUNT, "--model", changed, "--saes", _saes(), "--against", "tiny", "--json"))
    assert back[LAYER]["l0"] == pytest.approx(last["l0"][::-1])
    assert back[LAYER]["died"] == last["alive"]


def _saes() -> Path:
    folder = box_folder("tiny")
    assert folder is not None
    return folder / "saes"


def test_a_probe_that_moved_is_told(
    capsys: pytest.CaptureFixture[str], box: Runtime, changed: Path, tmp_path: Path
) -> None:
    """Its rate on either model is that of its sum by hand, and the policy's features that changed are named."""
    data, policy = written(tmp_path / "benign.jsonl", "benign"), load(shipped_file("payments"))
    printed = health(capsys, "--against", changed, "--policy", shipped_file("payments"), "--json", data=data)
    reading = next(one for one in rows(printed) if one.get("reading") == "asked")
    prompts = [
        list(render(box.loaded.tokenizer, one.asked, as_tools(one.tools, from_function=tool_from_function)).ids)
        for one in read_corpus(data, box.loaded).conversations
    ]
    ends = torch.tensor([len(ids) for ids in prompts]).cumsum(0) - 1
    probe, expected = policy.probes["asked"], []
    for factor in (1.0, FACTOR):
        factors = {site: factor if site.layer == LAYER else 1.0 for site in map(Site, range(LAYER + 1))}
        by_site = {site: features(box, prompts, site, times)[ends] for site, times in factors.items()}
        named = {name: policy.features[name].feature for name in probe.weights}
        parts = [weight * by_site[named[name].site][:, named[name].index] for name, weight in probe.weights.items()]
        expected.append(int((torch.stack(parts).sum(dim=0) + probe.bias > reading["bound"]).sum()))
    assert [one["hits"] for one in reading["beyond"]] == expected
    assert {one["count"] for one in reading["beyond"]} == {len(prompts)}
    assert expected[0] == 0
    assert reading["separation"] is None
    named_changes = rows(printed)[-1]["changed"]
    assert set(named_changes) <= {name for name, one in policy.features.items() if one.feature.layer == LAYER}
    assert named_changes


def test_people_get_tables(capsys: pytest.CaptureFixture[str], changed: Path) -> None:
    """A row a layer, the count of all that changed, and the conditions of the policy."""
    printed = health(capsys, "--limit", COUNT, "--against", changed, "--policy", shipped_file("payments"))
    assert "Died" in printed
    assert "of 3,276 features changed, on 2,902 tokens" in printed
    assert "features of policy payments that changed: l" in printed


WRONG = {
    "a policy alone": (("--policy", "payments"), "--policy: got it without --against"),
    "a figure": (("--against", "tiny", "--figure", "a.png"), "--figure: it draws the health on one model"),
    "one set": (("--against", "tiny", "--policy", "x", "--positive", "a"), "--negative: got only the other set"),
    "sets alone": (("--against", "tiny", "--positive", "a", "--negative", "b"), "--positive: got no --policy"),
    "few texts": (("--against", "tiny", "--limit", 4), "got 4 texts, expected at least 10"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], case: str) -> None:
    """What was got, and what is expected."""
    options, said = WRONG[case]
    with pytest.raises(SaeError, match=said) as caught:
        health(capsys, *options)
    assert len(str(caught.value).splitlines()) == 1


def test_a_model_of_another_shape_is_refused(capsys: pytest.CaptureFixture[str], box: Runtime, tmp_path: Path) -> None:
    """The site and both widths are named."""
    random_model(SMALL).save_pretrained(tmp_path)
    box.loaded.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SaeError, match=r"the other model: layer 0 has width 32, the SAE reads 128"):
        health(capsys, "--limit", COUNT, "--against", tmp_path)
