"""SAEs whose encoder is laid out anew read what the others read, and are used where that is faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.sae import GateWeights, Sae, SaeSet
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.cpu import onednn
from steerkit.sae.cpu.packed_sae import LaidOutSae, wins
from steerkit.sites import Site

D_IN, D_SAE = 96, 700
DRAW = torch.Generator().manual_seed(0)
W_ENC, B_ENC, W_DEC, B_DEC = (
    torch.randn(*shape, generator=DRAW) for shape in ((D_IN, D_SAE), (D_SAE,), (D_SAE, D_IN), (D_IN,))
)
X = torch.randn(7, 3, D_IN, generator=DRAW)
KINDS: dict[str, dict[str, Any]] = {
    "relu": {},
    "jumprelu": {"threshold": torch.rand(D_SAE, generator=DRAW) * 9, "subtract_b_dec": True},
    "topk": {"k": 40},
    "gated": {"gate": GateWeights(*(torch.randn(D_SAE, generator=DRAW) for _ in range(3))), "subtract_b_dec": True},
}
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not onednn.supports(torch.float32), reason="no oneDNN here")


def sae_of(kind: str, dtype: torch.dtype = torch.float32) -> Sae:
    return Sae(W_ENC, B_ENC, W_DEC, B_DEC, **KINDS[kind]).to("cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_the_same(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features to rounding, by another product; where gradients are wanted by the same, to the bit."""
    sae = sae_of(kind, dtype)
    other = LaidOutSae(sae)
    assert (other.kind, other.subtract_b_dec, other.k) == (sae.kind, sae.subtract_b_dec, sae.k)
    with torch.no_grad():
        assert torch.allclose(other.encode(X), sae.encode(X), atol=1e-4)
        assert torch.allclose(other.encode(X.bfloat16()), sae.encode(X.bfloat16()), atol=1e-4)
    x = X.clone().requires_grad_()
    assert torch.equal(other.encode(x), sae.encode(x))
    (slope,) = torch.autograd.grad(other.encode(x).sum(), x)
    assert bool(slope.any())
    assert other.encode(X).requires_grad is False
    monkeypatch.setattr(onednn, "product", lambda x, packed, bias: x.new_zeros(*x.shape[:-1], D_SAE))
    assert not torch.allclose(other.encode(X), sae.encode(X), atol=1e-2)  # also where gradients are not switched off


def test_small_and_slow_sets_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a set of some size is timed, and only what is faster by a fifth is copied."""
    timed: list[int] = []

    def seconds(*runs: object) -> list[float]:
        timed.append(len(runs))
        return [1.0, took]

    saes, took = [sae_of("relu")], 0.79
    monkeypatch.setattr(onednn, "times", seconds)
    assert not wins(saes)
    assert timed == []
    monkeypatch.setattr(onednn, "SMALLEST", 1)
    assert wins(saes)
    took = 0.81
    assert not wins(saes)
    assert timed == [2, 2]
    monkeypatch.setattr(onednn, "LARGEST", 1000)
    assert not wins(saes)
    monkeypatch.setattr(onednn, "LARGEST", 1 << 40)
    took = 0.79
    assert wins(saes)
    monkeypatch.setattr(onednn, "supports", lambda dtype: False)
    assert not wins(saes)
    assert timed == [2, 2, 2]


@pytest.mark.parametrize("won", [True, False])
def test_a_set_hands_them_out_where_they_win(won: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for an SAE to read with, it gives one of these, made once; what it holds itself is as it was."""
    monkeypatch.setattr("steerkit.sae.sae_set.wins", lambda saes: won)
    sae = sae_of("relu")
    held = SaeSet("one", [Checkpoint(Path(), "random", Site(0), sae)])
    given = held.on(0, CPU)
    assert isinstance(given, LaidOutSae) is won
    assert given is held.on(0, CPU)
    assert type(held[0]) is Sae
    assert given.W_enc.data_ptr() == sae.W_enc.data_ptr()
    with torch.inference_mode():
        assert torch.allclose(held.on(0, CPU, torch.float32).encode(X), sae.encode(X), atol=1e-4)
