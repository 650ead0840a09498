"""Which pieces a generation's prompt is read in, and under which salt they are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import torch

from steerkit.chat import piece_ends
from steerkit.engine import LoadedModel, PrefixCache, Reuse, can_be_cut
from steerkit.policy import fingerprint
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet
from steerkit.steer import Attached


class Pieces(NamedTuple):
    """How a generation reads its prompt."""

    ends: tuple[int, ...] = ()
    """Where the pieces end; none where it is read as a whole."""
    reuse: Reuse | None = None


def pieces_of(
    rows: Sequence[Prepared], loaded: LoadedModel, saes: SaeSet | None, attached: Attached, cache: PrefixCache | None
) -> Pieces:
    """The pieces of a generation's prompt, and what it may reuse of them.

    Only a prompt that is alone in its batch is cut. It is cut whether or not there is a cache, so that a turn's numbers
    do not depend on one.
    """
    if len(rows) > 1 or not can_be_cut(loaded.model):
        if cache is not None:
            cache.bypass()
        return Pieces()
    (one,) = rows
    ends = piece_ends(loaded.tokenizer, one.prompt.ids)
    if cache is None:
        return Pieces(ends)
    return Pieces(ends, Reuse(cache, salt(loaded, saes, one, attached.recorder.kept), attached.snapshots))


def salt(loaded: LoadedModel, saes: SaeSet | None, one: Prepared, traced: frozenset[int]) -> bytes:
    """A hash of all that shapes keys, values and what steering keeps, besides the tokens.

    That is the weights, even as changed in place since they were loaded, the SAEs, the policies whole and in order, the
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
        "policies": [fingerprint(policy) for policy in one.policies],
        "traced": sorted(traced),
        "prepacked": loaded.runs_prepacked,
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
    }
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).digest()


def _version(weight: torch.Tensor) -> int:
    """How often it was changed in place; a tensor made for inference does not count it."""
    return 0 if weight.is_inference() else weight._version
