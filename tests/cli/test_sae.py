"""`steerkit sae health` and `calibrate` on the model in the box, in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from steerkit.agent import Runtime
from steerkit.cli.main import app
from steerkit.engine import box_folder
from steerkit.errors import SaeError, SteerkitError
from steerkit.lab.corpus import read_corpus
from steerkit.lab.feature_statistics import calibrate
from steerkit.sae import Sae, load_set
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.convert import convert
from steerkit.sae.formats import FORMATS
from steerkit.sae.sae_set import STATISTICS_FILE
from steerkit.testing import SMALL, random_model

DATA = Path(__file__).parents[2] / "examples" / "conversations.jsonl"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A set of one's own: the box's, in a folder that may be written."""
    box = box_folder("tiny")
    assert box is not None
    return Path(shutil.copytree(box / "saes", tmp_path / "own"))


def run(capsys: pytest.CaptureFixture[str], command: str, *arguments: str | Path | int) -> str:
    """What a command prints."""
    capsys.readouterr()
    app(["sae", command, "--data", str(DATA), *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def rows(printed: str) -> list[dict[str, Any]]:
    """Its JSON lines."""
    return [json.loads(line) for line in printed.splitlines()]


def test_health_measures_each_layer_and_the_calls(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty delta keeps every call, reconstruction need not; the measures of a layer hang together."""
    *layers, calls = rows(run(capsys, "health", "--limit", 6, "--calls", 4, "--json"))
    assert [one["layer"] for one in layers] == [0, 1, 2, 3]
    for one in layers:
        assert 0 < one["fvu"] < 0.4
        assert 5 < one["l0"] < 40
        assert one["recovered"] == pytest.approx(1, abs=0.2)
        assert one["outside"] == 0
    kept = calls["calls"]
    assert kept["delta"] == kept["calling"] > 0
    assert kept["every_layer"] <= kept["calling"]


def test_health_sees_a_broken_set(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    """With one layer's decoder rows shuffled its FVU and its loss say so; the other layers' measures stay."""
    before = rows(run(capsys, "health", "--limit", 3, "--calls", 0, "--json", "--saes", own))
    path = own / "sae_layer_02.pt"
    content = torch.load(path, weights_only=True)
    content["W_dec"] = content["W_dec"].flip(0)
    torch.save(content, path)
    after = rows(run(capsys, "health", "--limit", 3, "--calls", 0, "--json", "--saes", own))
    assert after[2]["fvu"] > 2 * before[2]["fvu"]
    assert after[2]["recovered"] < before[2]["recovered"] - 0.1
    assert [after[layer] for layer in (0, 1, 3)] == [before[layer] for layer in (0, 1, 3)]


def test_health_draws_its_figure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A picture with ink in it beside the table; a name without a format is one clear error, and nothing is left."""
    path = tmp_path / "health.png"
    printed = run(capsys, "health", "--limit", 2, "--calls", 0, "--figure", path)
    assert "Recovered" in printed
    assert "loss of the model" in printed
    picture = imread(path)
    assert picture.shape[:2] == (690, 1800)
    assert float(picture[..., :3].std()) > 0.05
    bad = tmp_path / "health.nothing"
    with pytest.raises(SaeError, match=r"health\.nothing: the figure cannot be written"):
        run(capsys, "health", "--limit", 2, "--calls", 0, "--figure", bad)
    assert not bad.exists()


def test_calibrate_writes_the_units(capsys: pytest.CaptureFixture[str], own: Path, box: Runtime) -> None:
    """The file beside the SAEs is replaced only when told to, and holds what `calibrate` measures."""
    with pytest.raises(SaeError, match=r"already there; give --force"):
        run(capsys, "calibrate", "--saes", own, "--limit", 4)
    shipped = load_file(own / STATISTICS_FILE)
    run(capsys, "calibrate", "--saes", own, "--limit", 4, "--force")
    found = load_file(own / STATISTICS_FILE)
    corpus = read_corpus(DATA, box.loaded, limit=4)
    expected = calibrate(box.loaded.model, load_set(own), corpus.texts)
    for site, one in expected.items():
        for name, values in one.items():
            assert torch.equal(found[f"layer_{site.layer:02d}.{name}"], values)
        assert not torch.equal(found[f"layer_{site.layer:02d}.max"], shipped[f"layer_{site.layer:02d}.max"])


def test_calibrate_leaves_the_boxs_own_set_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a folder of one's own it asks where to write."""
    with pytest.raises(SaeError, match="the SAEs are in no folder of yours; give --out FILE"):
        run(capsys, "calibrate", "--limit", 2)


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "gemma-scope"])
def test_saes_of_another_model_are_refused(
    capsys: pytest.CaptureFixture[str], own: Path, tmp_path: Path, form: str, box: Runtime
) -> None:
    """In every format that can be written, one line says what does not fit; with their own model they load."""
    theirs = tmp_path / "theirs"
    saes = load_set(own)
    if form == "sparsify":  # which holds TopK SAEs alone
        for layer, one in saes.checkpoints.items():
            sae = one.sae
            topk = Sae(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, k=16, subtract_b_dec=True)
            saes.checkpoints[layer] = Checkpoint(one.path, one.model_name, layer, topk, one.history)
    convert(saes, theirs, form)
    other = tmp_path / "other"
    random_model(SMALL).save_pretrained(other)
    box.loaded.tokenizer.save_pretrained(other)
    with pytest.raises(SteerkitError) as caught:
        run(capsys, "health", "--model", other, "--saes", theirs, "--limit", 1, "--calls", 0)
    assert "128" in str(caught.value) or "steerkit/tiny" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert rows(run(capsys, "health", "--saes", theirs, "--limit", 1, "--calls", 0, "--json"))
