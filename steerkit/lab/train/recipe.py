"""Training recipes: the published one of the FunctionGemma SAEs, and better ones beside it.

With activations `x` clipped to `[-clip, clip]`, `T` tokens a step, `pre = x @ W_enc + b_enc` and `W_dec` with a row per
feature, every recipe lowers `mean((decode(f) - x)²)`, the mean over tokens and coordinates, plus a penalty:

- `seed`: `f = relu(pre)`, penalty `sparsity * sum(f)`, summed over features and averaged over tokens. It is the recipe
  of the published card, whose table fits this reading of "L1". Nothing keeps the decoder's rows short, so part of the
  penalty can be dodged by small features with long rows.
- `normalised`: `f = relu(pre)`, penalty `sparsity * sum(f_i * |W_dec[i]|)`, the L1 norm weighted by the length of each
  feature's decoder row, which no rescaling dodges (Conerly et al., "Update on how we train SAEs", Transformer Circuits,
  April 2024). Features that died are started again on tokens that are explained badly (Bricken et al., "Towards
  Monosemanticity", 2023, "neuron resampling").
- `topk`: `f` keeps the `k` largest of `relu(pre)` at each token, and there is no penalty (Gao et al., "Scaling and
  evaluating sparse autoencoders", 2024). Dead features learn from what the live ones leave over: the auxiliary loss
  `auxiliary * mean((f_dead @ W_dec - error)²)` of its appendix A.2.
- `jumprelu`: `f = pre * (pre > threshold)`, penalty `sparsity * sum(pre > threshold)`, an L0. The thresholds learn by
  straight-through estimates with a rectangle kernel of width `bandwidth` (Rajamanoharan et al., "Jumping Ahead", 2024,
  equations 11 and 12); dead features learn by the same auxiliary loss as in `topk`.

All but `seed` divide the activations by their root mean square (over the first tokens that are read), so that one
setting fits every layer, and write decoder rows of length 1. Both are folded into the weights that are saved.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import torch

from steerkit.errors import SaeError

Kind = Literal["seed", "normalised", "topk", "jumprelu"]
Precision = Literal["auto", "float32", "bfloat16"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""The recipes."""


@dataclass(frozen=True)
class Recipe:
    """The choices of one training run. The defaults are the published recipe; what it leaves open is said here."""

    kind: Kind = "seed"
    """Kind of SAE, which sets how features are kept few: seed, normalised, topk or jumprelu."""
    d_sae: int = 4096
    """Features per layer."""
    epochs: int = 5
    """Passes over the data."""
    texts: int = 1
    """Conversations or texts in a step; not used where `tokens` is given."""
    tokens: int = 0
    """Tokens in a step, drawn in random order from `buffer` tokens at a time; 0 for whole texts."""
    rate: float = 1e-4
    """AdamW's learning rate; its weight decay is 0."""
    sparsity: float = 0.01
    """Weight of the penalty."""
    clip: float = 10.0
    """Activations are clipped to [-clip, clip]."""
    max_norm: float = 1.0
    """Largest norm of a step's gradient, over all weights of one SAE."""
    k: int = 32
    """Features kept at a token (topk)."""
    bandwidth: float = 0.1
    """Width of the kernel around a threshold, in units of the activations' root mean square (jumprelu)."""
    auxiliary: float = 1 / 32
    """Weight of the dead features' loss (topk and jumprelu)."""
    dead_after: int = 50_000
    """Tokens without activity after which a feature counts as dead (all but seed)."""
    buffer: int = 8_192
    """Tokens whose activations are in memory at a time; one longer text may exceed it."""
    precision: Precision = "auto"
    """Precision of the matrix products: float32 is exact; bfloat16 keeps weights, optimizer and error in float32; auto
    takes bfloat16 where the device computes in it (a GPU, a CPU with AVX-512 BF16 or AMX), else float32."""

    def __post_init__(self) -> None:
        checks = {
            "kind": (self.kind in KINDS, f"one of {', '.join(KINDS)}"),
            "precision": (self.precision in get_args(Precision), "auto, float32 or bfloat16"),
            "tokens": (self.tokens >= 0, "at least 0"),
            "k": (self.kind != "topk" or 1 <= self.k <= self.d_sae, f"1 to d_sae ({self.d_sae})"),
            "sparsity": (self.sparsity >= 0, "at least 0"),
            **{
                name: (getattr(self, name) >= 1, "at least 1")
                for name in ("d_sae", "epochs", "texts", "dead_after", "buffer")
            },
            **{name: (getattr(self, name) > 0, "more than 0") for name in ("rate", "clip", "max_norm", "bandwidth")},
        }
        for field, (fine, expected) in checks.items():
            if not fine:
                raise SaeError(f"recipe.{field}: got {getattr(self, field)!r}, expected {expected}")

    @property
    def scales(self) -> bool:
        """Activations are divided by their root mean square."""
        return self.kind != "seed"

    def plain(self) -> dict[str, Any]:
        """The fields that have a meaning for this kind, as plain data."""
        unused = {
            "seed": {"k", "bandwidth", "auxiliary", "dead_after"},
            "normalised": {"k", "bandwidth", "auxiliary"},
            "topk": {"sparsity", "bandwidth"},
            "jumprelu": {"k"},
        }[self.kind]
        return {name: value for name, value in asdict(self).items() if name not in unused}


PRESETS: Final[dict[Kind, dict[str, Any]]] = {
    "seed": {},
    "normalised": {"rate": 5e-4, "tokens": 256, "sparsity": 0.01},
    "topk": {"rate": 5e-4, "tokens": 256},
    "jumprelu": {"rate": 5e-4, "tokens": 256, "sparsity": 0.001},
}
"""Settings of a recipe that differ from the field defaults; measured by `benchmarks/sae_recipes.py`."""


def recipe(kind: Kind, **changes: Any) -> Recipe:
    """A recipe with its usual settings, and with `changes` that are not None; `texts` makes steps of whole texts."""
    if kind not in KINDS:
        raise SaeError(f"recipe: got {kind!r}, expected one of {', '.join(KINDS)}")
    given = {name: value for name, value in changes.items() if value is not None}
    whole_texts = {"tokens": 0} if "texts" in given else {}
    return Recipe(kind=kind, **{**PRESETS[kind], **whole_texts, **given})


def product_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products on a device."""
    if precision == "auto":
        native = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def saved_dtype(name: str) -> torch.dtype:
    """The dtype that weights are saved in, by its name. Raises SaeError."""
    if name not in ("float32", "bfloat16"):
        raise SaeError(f"save dtype: got {name!r}, expected float32 or bfloat16")
    return torch.float32 if name == "float32" else torch.bfloat16
