"""Models whose weights are not simply there: offloaded by accelerate, or without parameters at all."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import AutoModelForCausalLM

import steerkit
from steerkit.engine import box_folder, load_model
from steerkit.sae import load_set
from steerkit.testing import planted_policy

FOLDER = box_folder("tiny")
SAES = load_set(str(FOLDER) + "/saes")
IDS = torch.tensor([[2, 3, 379, 210, 726, 232, 353, 232]])
GATED: dict[str, Any] = {
    "when": {"feature": "g", "above": 0.0, "at": "any"},
    "edit": {"a": {"clamp": 60}, "b": {"clamp": 40}},
}
POLICY = planted_policy(
    "p",
    {"a": (3, 72), "b": (1, 10), "g": (0, 118)},
    steer=[{"name": "s", "where": "reply", "for": "2 tokens", **GATED}],
)
PARTS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", *(f"model.layers.{n}" for n in range(4)))
MAPS: dict[str, dict[str, str]] = {
    "one layer on disk": {"model.layers.3": "disk"},
    "two layers on disk": {"model.layers.0": "disk", "model.layers.1": "disk"},
    "embeddings on disk": {"model.embed_tokens": "disk", "lm_head": "disk"},
    "all on disk but the norm": {part: "disk" for part in PARTS if "norm" not in part},
}


def load(**how: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, **how).eval()


def offloaded(on_disk: dict[str, str], folder: Path) -> Any:
    return load(device_map={**dict.fromkeys(PARTS, "cpu"), **on_disk}, offload_folder=str(folder))


def tokens(model: Any) -> tuple[list[int], torch.Tensor]:
    """A steered reply, and which columns were steered."""
    with steerkit.attach(model, SAES, POLICY) as recorder:
        out = model.generate(IDS, max_new_tokens=8, do_sample=False)
    return out[0].tolist(), next(iter(recorder.opened().values()))


EXPECTED = tokens(load())


@pytest.mark.parametrize("name", MAPS)
def test_offloaded_layers_are_steered(name: str, tmp_path: Path) -> None:
    """The same tokens as with all weights in memory, and others than without steering."""
    model = offloaded(MAPS[name], tmp_path)
    assert any(weight.device.type == "meta" for weight in model.parameters())
    found = tokens(model)
    assert found[0] == EXPECTED[0] != model.generate(IDS, max_new_tokens=8, do_sample=False)[0].tolist()
    assert torch.equal(found[1], EXPECTED[1])


def test_weights_that_are_brought_for_each_pass() -> None:
    """accelerate's own `cpu_offload`, where every parameter is on `meta` between passes."""
    model = load()
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(weight.device.type == "meta" for weight in model.model.parameters())
    assert tokens(model)[0] == EXPECTED[0]


@pytest.mark.parametrize("name", MAPS)
def test_the_runtime_takes_a_device_map(name: str) -> None:
    """The same turn and the same fingerprint of the weights, which are read from where they are kept."""
    where: Any = {**dict.fromkeys(PARTS, "cpu"), **MAPS[name]}
    messages = [{"role": "user", "content": "I owe Lumes a payment of 740 dollars"}]
    there, spread = (
        steerkit.load("tiny", policy="policies/payments.yaml", audit=False, device_map=one) for one in (None, where)
    )
    assert spread.run(messages) == there.run(messages)
    assert spread.loaded.fingerprint == there.loaded.fingerprint
    assert spread.loaded.device == torch.device("cpu")


class Packed(nn.Module):
    """A projection whose weights are buffers of small whole numbers, as GPTQ and AWQ keep them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        scales = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("scales", scales)
        self.register_buffer("qweight", (linear.weight.detach() / scales).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product with the weights as they are meant."""
        return x @ (self.qweight * self.scales).mT.to(x.dtype)


class Bare(nn.Module):
    """A projection that torch knows no tensor of."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = [linear.weight.detach()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the projection that it stands for."""
        return x @ self._weight[0].mT


def quantized() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this way is to go
        return torch.ao.quantization.quantize_dynamic(load(), {nn.Linear}, dtype=torch.qint8)


def replaced(kind: Any) -> Any:
    model = load()
    for layer in model.model.layers:
        layer.self_attn.o_proj = kind(layer.self_attn.o_proj)
    return model


@pytest.mark.parametrize("make", [quantized, lambda: replaced(Packed), lambda: replaced(Bare)])
def test_projections_without_parameters_are_steered(make: Any) -> None:
    """Dynamically quantized, with buffers, with neither: the same columns, and edits that reach the text."""
    model = make()
    assert not list(model.model.layers[0].self_attn.o_proj.parameters())
    found, columns = tokens(model)
    assert torch.equal(columns[:, : IDS.shape[1]], EXPECTED[1][:, : IDS.shape[1]])
    assert found != model.generate(IDS, max_new_tokens=8, do_sample=False)[0].tolist()


DEVICES: dict[str, tuple[Any, str]] = {
    "no such kind": ("gpu", "device: got 'gpu', expected cpu, or cuda"),
    "empty": ("", "device: got '', expected cpu"),
    "a number of a CPU": ("cpu:x", "device: got 'cpu:x', expected cpu"),
    "not a name": (3.5, "device: got 3.5, expected cpu"),
    "meta": ("meta", "device: got 'meta', which cannot be used here"),
    "mps": ("mps", "device: got 'mps', which cannot be used here"),
    "xpu": ("xpu", "device: got 'xpu', which cannot be used here"),
    "a GPU too many": ("cuda:77", "device: got 'cuda:77', which cannot be used here"),
}


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    """A name of none, or one that this machine does not have; the CPU by its name is fine."""
    device, expected = DEVICES[name]
    with pytest.raises(steerkit.SteerkitError) as caught:
        load_model("tiny", device=device)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert load_model("tiny", device="cpu").device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_cuda_is_one_line() -> None:
    """Torch's own assertion is told as what was got and what is expected."""
    with pytest.raises(steerkit.SteerkitError, match=r"device: got 'cuda', which cannot be used here .* expected cpu$"):
        load_model("tiny", device="cuda")


DTYPES: dict[str, tuple[Any, str]] = {
    "misspelt": ("bfloat61", r"got 'bfloat61', .*; did you mean bfloat16\?$"),
    "short": ("fp8", "got 'fp8', expected float32, bfloat16, float16 or auto$"),
    "no number that weights can be": ("int8", "got 'int8', expected"),
    "too few bits": ("float8_e4m3fn", "got 'float8_e4m3fn', expected"),
    "a function of torch": ("load", "got 'load', expected"),
    "not a name": (16, "got 16, expected"),
    "torch's own whole numbers": (torch.int64, r"got torch.int64, expected"),
}


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_that_is_none_is_one_line(name: str) -> None:
    """With the one that was probably meant; those that are there are taken."""
    dtype, expected = DTYPES[name]
    with pytest.raises(steerkit.SteerkitError, match=expected):
        load_model("tiny", dtype=dtype)
    assert load_model("tiny", dtype="bfloat16").model.dtype == torch.bfloat16
