"""Matrix products with features that are mostly zero: only what is not zero is multiplied.

Of the five products of a training step four have the features, or their gradient, on one side. Where one feature in a
hundred is active these four take a tenth of the dense time, and where more than one in ten is, more than it: so a
product is sparse where `few` says so. PyTorch has these products on CPUs through MKL and in float32; dense ones in
bfloat16 are four times as fast, so there fewer features must be active, over more tokens.
"""

from __future__ import annotations

import warnings
from typing import Final

import torch
from torch import Tensor

_FEW: Final = {torch.float32: (0.1, 1), torch.bfloat16: (0.02, 512)}
"""By the dtype of dense products, share of entries and number of tokens; measured by benchmarks/sae_training.py."""


def few(features: Tensor, active: Tensor) -> bool:
    """True if sparse products are faster for `features` `(T, d_sae)`, of which `active` are not 0."""
    if features.device.type != "cpu" or not torch.backends.mkl.is_available():
        return False
    share, tokens = _FEW.get(features.dtype, (0.0, 1))
    return len(features) >= tokens and int(active) <= share * features.numel()


def compressed(features: Tensor) -> Tensor:
    """Compressed rows (CSR) of the entries that are not zero, float32."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return features.to_sparse_csr().to(torch.float32)


def like(pattern: Tensor, values: Tensor) -> Tensor:
    """Compressed rows with the places of `pattern` and other values."""
    rows, columns = pattern.crow_indices(), pattern.col_indices()
    return torch.sparse_csr_tensor(rows, columns, values, pattern.shape, check_invariants=False)


def product_at(pattern: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The values of `one @ other` at the places of `pattern`, in their order, `(entries,)`."""
    product: Tensor = torch.sparse.sampled_addmm(pattern, one, other, beta=0.0)
    return product.values()


def column_sums(features: Tensor) -> Tensor:
    """`(d_sae,)` sums over tokens, float32, dense or compressed."""
    if features.layout != torch.sparse_csr:
        return features.sum(0, dtype=torch.float32)
    sums = torch.zeros(features.shape[1])
    return sums.index_add_(0, features.col_indices(), features.values())
