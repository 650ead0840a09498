"""SAE files: what is read from a good one, and what is said of a bad one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.errors import SaeError
from steerkit.sae import SaeSet, load_checkpoint, load_set, summarize
from steerkit.sites import Feature, Site


def content(layer: int = 0, **changes: Any) -> dict[str, Any]:
    """A checkpoint's dict, as the published files hold it."""
    d_in, d_sae = 8, 12
    generator = torch.Generator().manual_seed(layer)
    return {
        "model_name": "someone/model",
        "layer_idx": layer,
        "d_in": d_in,
        "d_sae": d_sae,
        "W_enc": torch.nn.Parameter(torch.randn(d_in, d_sae, generator=generator)),
        "b_enc": torch.randn(d_sae, generator=generator),
        "W_dec": torch.randn(d_sae, d_in, generator=generator),
        "b_dec": torch.randn(d_in, generator=generator),
        "history": {"loss": [3.0, 2.0], "mse": [2.5, 1.5], "l0": [9.0, 6.0]},
        **changes,
    }


def write(path: Path, **changes: Any) -> Path:
    torch.save(content(**changes), path)
    return path


def test_features_and_reconstruction_are_those_of_the_published_code(tmp_path: Path) -> None:
    """`relu(x @ W_enc + b_enc)` and `f @ W_dec + b_dec`, as the seed's own usage code computes them, for any shape."""
    raw = content()
    sae = load_checkpoint(write(tmp_path / "sae_layer_00.pt")).sae
    x = torch.randn(2, 5, 8)
    flat = x.view(-1, 8)
    features = torch.relu(flat @ raw["W_enc"] + raw["b_enc"])
    reconstruction = (features @ raw["W_dec"] + raw["b_dec"]).view(2, 5, 8)
    assert torch.allclose(sae(x).features, features.view(2, 5, 12), atol=1e-5)
    assert torch.allclose(sae(x).output, reconstruction, atol=1e-5)
    assert sae.encode(x[0, 0]).shape == (12,)
    assert sae.encode(x.bfloat16()).dtype == torch.float32


def test_bfloat16_weights_are_computed_in_float32(tmp_path: Path) -> None:
    """Half-precision files give what their numbers give in float32, not a bfloat16 product."""
    half = {key: content()[key].detach().bfloat16() for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
    sae = load_checkpoint(write(tmp_path / "sae_layer_00.pt", **half)).sae
    x = torch.randn(64, 8)
    assert torch.equal(sae.encode(x), torch.relu(x @ half["W_enc"].float() + half["b_enc"].float()))
    assert not torch.allclose(
        sae.encode(x), torch.relu(x.bfloat16() @ half["W_enc"] + half["b_enc"]).float(), atol=1e-4
    )


BAD = {
    "keys": ({"W_enc": None}, r"W_enc: got a NoneType, expected a floating-point tensor"),
    "shape": ({"W_dec": torch.zeros(8, 12)}, r"W_dec: got shape \(8, 12\), expected \(12, 8\)"),
    "nan": ({"b_dec": torch.full((8,), torch.nan)}, r"b_dec: got NaN or infinity"),
    "integers": ({"b_enc": torch.zeros(12, dtype=torch.int64)}, r"b_enc: got a tensor of torch.int64"),
    "layer": ({"layer_idx": -1}, r"layer_idx: got -1, expected an integer of at least 0"),
    "width": ({"d_in": "8"}, r"d_in: got '8', expected a positive integer"),
    "name": ({"model_name": ""}, r"model_name: got '', expected the name"),
    "history": ({"history": {"loss": "low"}}, r"history.loss: got str, expected a list of numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_checkpoint_is_named_exactly(tmp_path: Path, case: str) -> None:
    """Path, key, what was got and what was expected; the good file loads."""
    changes, message = BAD[case]
    assert load_checkpoint(write(tmp_path / "good.pt")).layer == 0
    path = write(tmp_path / "sae_layer_00.pt", **changes)
    with pytest.raises(SaeError, match=f"sae_layer_00.pt: {message}"):
        load_checkpoint(path)


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    """A file with other keys says which it has and which are missing."""
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(SaeError, match=r"got keys encoder.weight; missing model_name, layer_idx"):
        load_checkpoint(tmp_path / "x.pt")


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """Half a file, an empty file and a text file give one clear error."""
    whole = write(tmp_path / "whole.pt").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"hello"):
        (tmp_path / "bad.pt").write_bytes(data)
        with pytest.raises(SaeError, match=r"bad\.pt: "):
            load_checkpoint(tmp_path / "bad.pt")
    with pytest.raises(SaeError, match="no such file"):
        load_checkpoint(tmp_path / "none.pt")


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def test_a_pickle_that_wants_to_run_code_is_refused_and_named(tmp_path: Path) -> None:
    """The payload does not run under steerkit; the control shows that it runs when unpickled carelessly."""
    path, marker = tmp_path / "sae_layer_00.pt", tmp_path / "ran"
    torch.save({**content(), "history": _Payload(marker)}, path)
    with pytest.raises(SaeError, match=r"refused, the pickle wants to run code: .*mkdir"):
        load_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_set_is_read_from_a_folder(tmp_path: Path) -> None:
    """All layers, in order, with the table of their history; a file under a wrong number is refused."""
    for layer in (1, 0):
        write(tmp_path / f"sae_layer_{layer:02d}.pt", layer=layer)
    saes = load_set(tmp_path)
    assert list(saes) == [Site(0), Site(1)]
    row = summarize(saes)[1]
    assert (row.layer, row.loss, row.mse, row.l0, row.density, row.dense) == (1, 2.0, 1.5, 6.0, 0.5, True)
    write(tmp_path / "sae_layer_07.pt", layer=3)
    with pytest.raises(SaeError, match=r"sae_layer_07.pt: layer_idx: got 3"):
        load_set(tmp_path)


def test_features_outside_the_set_are_refused(tmp_path: Path) -> None:
    """A layer without an SAE and an index outside the dictionary say what there is."""
    write(tmp_path / "sae_layer_00.pt")
    saes = load_set(tmp_path)
    with pytest.raises(SaeError, match="no SAE for layer 5; it has layers 0"):
        saes.check(Feature(5, 0))
    with pytest.raises(SaeError, match="layer 0 has no feature 12; expected 0 to 11"):
        saes.check(Feature(0, 12))
    with pytest.raises(SaeError, match=r"no statistic 'max' for layer 0; give a raw value"):
        saes.statistic(Feature(0, 3), "max")


def test_the_fingerprint_covers_every_weight(tmp_path: Path) -> None:
    """Equal sets have equal fingerprints; one changed number changes it."""
    write(tmp_path / "sae_layer_00.pt")
    first, second = load_set(tmp_path), load_set(tmp_path)
    assert first.fingerprint == second.fingerprint
    changed = content()["b_dec"]
    changed[3] += 1e-6
    write(tmp_path / "sae_layer_00.pt", b_dec=changed)
    assert load_set(tmp_path).fingerprint != first.fingerprint


def test_two_models_in_one_set_are_refused(tmp_path: Path) -> None:
    """SAEs trained on different models do not belong together."""
    write(tmp_path / "sae_layer_00.pt")
    write(tmp_path / "sae_layer_01.pt", layer=1, model_name="other/model")
    with pytest.raises(SaeError, match="several models in one set: other/model, someone/model"):
        load_set(tmp_path)


def test_an_empty_folder_and_a_bad_name_are_refused(tmp_path: Path) -> None:
    """What was given is named, and what would have been right."""
    with pytest.raises(SaeError, match=r"no SAE there; expected sae_layer_NN\.pt \(functiongemma\), .*saelens"):
        load_set(tmp_path)
    with pytest.raises(SaeError, match="no such folder"):
        load_set(tmp_path / "missing")
    with pytest.raises(SaeError, match="neither a folder nor a hub repository id"):
        load_set("what is this")
    with pytest.raises(SaeError, match="no SAE in the set"):
        SaeSet("nothing", {})
