"""The arithmetic of each kind of SAE, against its formula written out, and what tells two of them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.errors import SaeError
from steerkit.sae import GateWeights, Sae, SaeSet
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sites import POINTS, Point, Site

D_IN, D_SAE = 8, 24
GENERATOR = torch.Generator().manual_seed(0)
W_ENC, B_ENC, W_DEC, B_DEC = (
    torch.randn(*shape, generator=GENERATOR) for shape in ((D_IN, D_SAE), (D_SAE,), (D_SAE, D_IN), (D_IN,))
)
THRESHOLD = torch.rand(D_SAE, generator=GENERATOR) * 3
GATE = GateWeights(*(torch.randn(D_SAE, generator=GENERATOR) for _ in range(3)))
X = torch.randn(2, 5, D_IN, generator=GENERATOR)
KINDS: dict[str, dict[str, Any]] = {
    "relu": {},
    "jumprelu": {"threshold": THRESHOLD},
    "topk": {"k": 5},
    "gated": {"gate": GATE},
}


def expected(kind: str, x: torch.Tensor) -> torch.Tensor:
    """The kind's formula in float64, one feature and one token at a time."""
    pre = x.double() @ W_ENC.double() + B_ENC.double()
    out = torch.zeros_like(pre)
    for at in torch.cartesian_prod(*(torch.arange(n) for n in pre.shape)).tolist():
        where, j = tuple(at), at[-1]
        value = float(pre[where])
        if kind == "jumprelu":
            out[where] = max(value, 0.0) if value > float(THRESHOLD[j]) else 0.0
        elif kind == "topk":
            stronger = int((pre[where[:-1]] > value).sum())
            out[where] = max(value, 0.0) if stronger < 5 else 0.0
        elif kind == "gated":
            magnitude = float(GATE.r_mag[j].double().exp()) * value + float(GATE.b_mag[j])
            out[where] = max(magnitude, 0.0) if value + float(GATE.b_gate[j]) > 0 else 0.0
        else:
            out[where] = max(value, 0.0)
    return out.float()


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_formula(kind: str, subtract: bool) -> None:
    """Each kind computes its formula; with `subtract_b_dec` it does so on the input minus the decoder's bias."""
    sae = Sae(W_ENC, B_ENC, W_DEC, B_DEC, subtract_b_dec=subtract, **KINDS[kind])
    assert sae.kind == kind
    assert torch.allclose(sae.encode(X), expected(kind, X - B_DEC if subtract else X), atol=1e-5)
    assert not torch.allclose(sae.encode(X), expected(kind, X if subtract else X - B_DEC), atol=1e-2)
    assert 0 < int((sae.encode(X) > 0).sum()) < X[..., 0].numel() * D_SAE


def test_a_threshold_is_strict() -> None:
    """A pre-activation that equals its threshold is off, the next number above it is on."""
    one = torch.ones(1, 1)
    sae = Sae(one, torch.zeros(1), one, torch.zeros(1), threshold=torch.tensor([2.0]))
    above = torch.nextafter(torch.tensor(2.0), torch.tensor(3.0))
    assert sae.encode(torch.tensor([[2.0], [float(above)]])).flatten().tolist() == [0.0, float(above)]


def test_no_tie_keeps_more_than_k() -> None:
    """Of four equal features two are on, those `torch.topk` takes; negative ones never are."""
    sae = Sae(torch.ones(1, 4), torch.zeros(4), torch.ones(4, 1), torch.zeros(1), k=2)
    found = sae.encode(torch.tensor([[3.0], [-1.0]]))
    assert found[0].sort().values.tolist() == [0.0, 0.0, 3.0, 3.0]
    assert found[0].nonzero().flatten().tolist() == torch.full((4,), 3.0).topk(2).indices.sort().values.tolist()
    assert found[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_in_another_dtype_is_of_the_same_kind(kind: str) -> None:
    """`to` carries every part and every setting along."""
    sae = Sae(W_ENC, B_ENC, W_DEC, B_DEC, subtract_b_dec=True, **KINDS[kind])
    copy = sae.to("cpu", torch.bfloat16)
    assert (copy.kind, copy.k, copy.subtract_b_dec) == (kind, sae.k, True)
    assert {tensor.dtype for tensor in copy.tensors.values()} == {torch.bfloat16}
    assert copy.tensors.keys() == sae.tensors.keys()
    assert torch.equal(sae.to("cpu").encode(X), sae.encode(X))


def fingerprint(sae: Sae, point: Point = "attn_out") -> str:
    return SaeSet("set", [Checkpoint(Path("a"), "model", Site(0, point), sae)]).fingerprint


def test_the_fingerprint_tells_apart_whatever_computes_differently() -> None:
    """Kind, threshold, k, gate, site and what is subtracted each change it; a plain set keeps the one it had."""
    varied = [
        {},
        {"threshold": THRESHOLD},
        {"threshold": THRESHOLD + 1},
        {"k": 5},
        {"k": 6},
        {"gate": GATE},
        {"gate": GATE._replace(b_mag=GATE.b_mag + 1)},
        {"subtract_b_dec": True},
    ]
    found = [fingerprint(Sae(W_ENC, B_ENC, W_DEC, B_DEC, **parts)) for parts in varied]  # type: ignore[arg-type]
    found += [fingerprint(Sae(W_ENC, B_ENC, W_DEC, B_DEC), point) for point in POINTS if point != "attn_out"]
    assert len(set(found)) == len(varied) + 3
    assert found[0] == fingerprint(Sae(W_ENC.clone(), B_ENC, W_DEC, B_DEC))
    zeros = Sae(torch.zeros(2, 3), torch.zeros(3), torch.zeros(3, 2), torch.zeros(2))
    assert fingerprint(zeros) == "sha256:688db30a47aefba41898a0e1a138915e9dfa5bfcc4832923342fbe9e810ae1e7"


def test_what_is_no_kind_is_refused() -> None:
    """Two kinds at once, and a k that the dictionary does not have."""
    with pytest.raises(SaeError, match="more than one of threshold, k and gate"):
        Sae(W_ENC, B_ENC, W_DEC, B_DEC, threshold=THRESHOLD, k=3)
    for k in (0, D_SAE + 1):
        with pytest.raises(SaeError, match=f"k: got {k}, expected 1 to 24"):
            Sae(W_ENC, B_ENC, W_DEC, B_DEC, k=k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_active_features_decode_as_all_do(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of inactive features are not read on a CPU, and gradients still reach them."""
    wide = torch.randn(600, D_IN, generator=torch.Generator().manual_seed(3)).to(dtype)
    sae = Sae(wide.T.contiguous(), torch.zeros(600), wide.clone(), B_DEC)
    features = torch.zeros(2, 3, 600)
    features[..., 7], features[0, 0, 400], features[1, 2, 31] = 2.0, -1.0, 0.5
    dense = features.reshape(-1, 600).double() @ wide.double() + B_DEC.double()
    with torch.no_grad():
        assert torch.allclose(sae.decode(features).double().view(-1, D_IN), dense, atol=1e-5)
        sae.W_dec[1:7] = torch.nan  # rows that nobody needs
        assert bool(sae.decode(features).isfinite().all())
        assert bool(sae.decode(torch.ones(600)).isnan().any())
        assert bool(sae.decode(features.expand(3, 2, 3, 600)).isnan().any())  # of many tokens all are read
        sae.W_dec[1:7] = 1.0
    wanted = features.clone().requires_grad_()
    sae.decode(wanted).sum().backward()
    assert wanted.grad is not None
    assert bool((wanted.grad != 0).all())
