"""The key under which a prompt's blocks are kept: a hash of all that shapes them besides their tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import torch

from steerkit.chat import block_ends
from steerkit.engine.api import Row
from steerkit.engine.hf.model import LoadedModel
from steerkit.engine.hf.prefix_cache import PrefixCache, Reuse, can_be_cut
from steerkit.policy import fingerprint
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.steer import Attached


class Blocks(NamedTuple):
    """Blocks of a generation's prefill."""

    ends: tuple[int, ...] = ()
    """Columns at which the blocks end; none where it is prefilled in one pass."""
    reuse: Reuse | None = None


def blocks_of(
    rows: Sequence[Row], loaded: LoadedModel, saes: SaeSet | None, attached: Attached, cache: PrefixCache | None
) -> Blocks:
    """The blocks of a generation's prompt, and what it may reuse of them.

    Only a prompt that is alone in its batch is cut. It is cut whether or not there is a cache, so that a turn's numbers
    do not depend on one.
    """
    if len(rows) > 1 or not can_be_cut(loaded.model):
        if cache is not None:
            cache.bypass()
        return Blocks()
    (row,) = rows
    ends = block_ends(loaded.tokenizer, row.ids)
    if cache is None:
        return Blocks(ends)
    return Blocks(ends, Reuse(cache, salt(loaded, saes, row, attached.recorder.kept), attached.snapshots))


def salt(loaded: LoadedModel, saes: SaeSet | None, row: Row, traced: frozenset[Site]) -> bytes:
    """A hash of all that shapes keys, values and what steering keeps, besides the tokens.

    That is the weights, even as changed in place since they were loaded, the SAEs, the complete policies in order, the
    layers on the recorder, and what the last bits of the arithmetic depend on.
    """
    model = loaded.model
    shaped_by = {
        "model": loaded.fingerprint,
        "weights": [(weight.data_ptr(), _version(weight)) for weight in model.parameters()],
        "dtype": str(model.dtype),
        "devices": [str(device) for device in loaded.site_devices.values()],
        "attention": str(model.config._attn_implementation),
        "saes": None if saes is None else saes.fingerprint,
        "policies": [fingerprint(policy) for policy in row.wanted.policies],
        "traced": sorted(traced),
        "prepacked": loaded.runs_prepacked,
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
    }
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).digest()


def _version(weight: torch.Tensor) -> int:
    """Number of changes in place; a tensor made for inference does not count them."""
    return 0 if weight.is_inference() else weight._version
