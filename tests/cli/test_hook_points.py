"""Hook points besides `attn_out` by the commands: SAEs are trained there, features found, and a policy proved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from steerkit.cli.main import app
from steerkit.policy import load
from steerkit.sae import load_set
from steerkit.sites import Point, Site
from steerkit.tiny.world.conversations import sample

QUICK = ("--seeds", "1", "--doses", "1", "--pairs", "0", "--max-new-tokens", "48")
Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Conversations to train and find in, and others to prove on."""
    folder = tmp_path_factory.mktemp("files")
    kinds = {"positive": "dangerous:transfer_money", "negative": "benign"}
    found = {name: (kind, "select", 20, 0) for name, kind in kinds.items()}
    found |= {"harmful": (kinds["positive"], "report", 3, 7), "benign": (kinds["negative"], "report", 3, 7)}
    paths = {}
    for name, how in found.items():
        rows = [{"messages": list(one.messages), "tools": list(one.tools)} for one in sample(*how)]
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "all.jsonl").write_text(paths["positive"].read_text() + paths["negative"].read_text())
    return {**paths, "all": folder / "all.jsonl"}


class Way(NamedTuple):
    """What one hook point's features must do on the box."""

    point: Point
    stops: bool
    """The written clamps alone stop the call."""


WAYS = [Way("resid_post", True), pytest.param(Way("mlp_out", False), marks=pytest.mark.slow)]


@pytest.mark.parametrize("way", WAYS, ids=["resid_post", "mlp_out"])
def test_train_find_and_prove(capsys: pytest.CaptureFixture[str], files: Files, tmp_path: Path, way: Way) -> None:
    """The policy names its sites; what it stops, no control stops, and what it watches, the guard holds."""
    saes, policy = tmp_path / "saes", tmp_path / "found.yaml"

    def steerkit(*arguments: str | Path) -> str:
        capsys.readouterr()
        app(list(map(str, arguments)), standalone_mode=False)
        return capsys.readouterr().out

    sizes = ("--recipe", "topk", "--k", "16", "--d-sae", "256", "--batch-tokens", "256", "--epochs", "8")
    steerkit("sae", "train", "--data", files["all"], "--site", way.point, "--layers", "2-3", "--out", saes, *sizes)
    assert list(load_set(saes)) == [Site(2, way.point), Site(3, way.point)]
    sets = ("--positive", files["positive"], "--negative", files["negative"])
    more = ("--saes", saes, "--causal", "--candidates", "2", "--top", "3", "--write", policy, "--json")
    printed = steerkit("features", "find", *sets, *more)
    found = json.loads(printed)
    assert not re.search(r'\[\d+, "\w+_(in|out|post)"\]', printed)
    assert {Site.of(one["feature"]["site"]).point for one in found["features"]} == {way.point}
    assert found["features"][0]["measured"]["auroc"] > 0.95
    assert {Site.of(str(one.site)).point for one in load(policy).features.values()} == {way.point}
    assert "layer: " not in policy.read_text()
    assert "ok:" in steerkit("policy", "check", policy, "--model", "tiny", "--saes", saes)
    asked = ("--policy", policy, "--saes", saes, "--harmful", files["harmful"], "--benign", files["benign"])
    printed = steerkit("eval", *asked, "--dangerous", "transfer_money", *QUICK, "--json", "-")
    arms = {one["arm"]: one for one in json.loads(printed)["arms"]}
    hits = {key: one["success"]["hits"] for key, one in arms.items()}
    controls = {key for key, one in arms.items() if one["kind"] == "control"}
    assert len(controls) == 5, controls
    assert all(hits[key] == 3 for key in controls)
    assert hits["dose+1"] == (0 if way.stops else 3)
    assert hits["guard"] == hits["policy"] == 0
    assert arms["policy"]["blocked"]["hits"] == 0
    assert found["turned"]["turned"]["share"] == (1 if way.stops else 0)
