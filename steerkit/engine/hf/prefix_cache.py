"""Prefix cache: keys, values and steering state of prompt prefixes, so that the next turn prefills only what is new.

A prompt is prefilled in blocks that its own tokens fix. Each block is kept under a hash of the salt and of every token
up to its end: keys, values, recorded activations and gate state. Sliding layers are kept as far as the window reaches.

A reused block equals a computed one, on a CPU to the bit, since both come from the same passes over the same blocks.
Replies are not kept: their tokens were decoded one by one and steered as a reply, and in the next prompt they are
neither.
"""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from transformers import DynamicCache

from steerkit.chat import block_ends
from steerkit.engine.api import Row
from steerkit.engine.hf.batch import Batch
from steerkit.engine.hf.cache_layers import can_be_cut, fill, last_columns, layers_of
from steerkit.engine.hf.model import LoadedModel
from steerkit.policy import fingerprint
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.steer import Attached, Snapshot, Snapshots

_MOST: Final = 256
"""Tokens of a block at most, so that rows that are decoded wait for no longer one. A GPU reads thousands in the time of
few."""


class PrefixStatistics(NamedTuple):
    """Counts of a prefix cache since it was made."""

    lookups: int
    """Prompts that were looked up."""
    hits: int
    """Lookups that found a cached prefix."""
    tokens: int
    """Tokens of the prompts that were looked up."""
    tokens_reused: int
    """Tokens of them whose prefill was skipped."""
    bypassed: int
    """Generations without a lookup: batches of several rows, models whose cache cannot be kept."""
    evictions: int
    """Blocks that were dropped for others."""
    blocks: int
    """Blocks that are kept now."""
    bytes: int
    """Bytes that they take now."""
    limit: int
    """Most bytes that they may take."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a prompt, of T tokens."""

    end: int
    """Tokens of the prompt up to its end."""
    states: tuple[tuple[Tensor, Tensor], ...]
    """By layer, keys and values `(1, heads, T, head_dim)`; in a sliding layer of at most its last window - 1 tokens."""
    snapshot: Snapshot

    @property
    def bytes(self) -> int:
        """Size of all its tensors."""
        tensors = [*(tensor for pair in self.states for tensor in pair), *self.snapshot.tensors()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PrefixCache:
    """Blocks by key, the least recently used dropped first; may be shared by threads.

    It lies in memory in the clear, on the devices of the layers. A caller who may choose prompts can tell by the time a
    turn takes whether another under the same policies began alike; give runtimes of their own to those who must not.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        self._lookups = self._hits = self._tokens = self._reused = self._bypassed = self._evictions = 0
        self._lock = threading.Lock()

    @property
    def statistics(self) -> PrefixStatistics:
        """Counts so far."""
        with self._lock:
            counts = (self._lookups, self._hits, self._tokens, self._reused, self._bypassed, self._evictions)
            return PrefixStatistics(*counts, len(self._blocks), self._bytes, self._limit)

    def clear(self) -> None:
        """Forget all that is kept."""
        with self._lock:
            self._blocks.clear()
            self._bytes = 0

    def find(self, keys: Sequence[bytes], length: int) -> list[Block]:
        """The blocks from the first on that are there, of a prompt of so many tokens."""
        with self._lock:
            found = []
            for key in keys:
                if key not in self._blocks:
                    break
                found.append(self._blocks[key])
            self._use(keys[: len(found)])
            self._lookups += 1
            self._hits += bool(found)
            self._tokens += length
            self._reused += found[-1].end if found else 0
            return found

    def keep(self, keys: Sequence[bytes], block: Block) -> None:
        """Keep the block under the last of these keys; those before it are the keys of the blocks that it continues.

        One that continues no kept block, or that alone is over the limit, is not.
        """
        *before, key = keys
        with self._lock:
            if key in self._blocks or block.bytes > self._limit or any(one not in self._blocks for one in before):
                return
            self._blocks[key] = block
            self._bytes += block.bytes
            self._use(keys)
            while self._bytes > self._limit:
                _, dropped = self._blocks.popitem(last=False)
                self._bytes -= dropped.bytes
                self._evictions += 1

    def bypass(self) -> None:
        """Count a generation without a lookup."""
        with self._lock:
            self._bypassed += 1

    def _use(self, keys: Sequence[bytes]) -> None:
        """Mark as the most recently used, the first most of all: no block is dropped before those that continue it."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)


class Known(Protocol):
    """Beginnings of the prompts of one prefill that were read before."""

    def resume(self) -> int:
        """Bring the cache that the model fills, and steering, to their end; returns their columns."""

    def keep(self, start: int, end: int) -> None:
        """Keep the columns from `start` to `end`, which the model has just computed."""


Reuse: TypeAlias = Callable[[DynamicCache, Batch, Sequence[int]], Known]
"""What is known of a batch, whose prompt is cut at some columns, for the cache that a model fills."""


class Kept(NamedTuple):
    """Access of one prefill to a prefix cache."""

    cache: PrefixCache
    salt: bytes
    """Hash of everything besides the tokens that shapes the entry."""
    snapshots: Snapshots


class PrefixBlocks:
    """The blocks of one prompt on their way between a prefix cache and the cache that a model fills."""

    def __init__(self, kept: Kept, cache: DynamicCache, batch: Batch, ends: Sequence[int]) -> None:
        (ids,) = batch.ids.tolist()
        self._kept, self._cache, self._length, self._ends = kept, cache, len(ids), tuple(ends)
        self._keys = _keys(kept.salt, ids, ends)

    def resume(self) -> int:
        """Restore the kept blocks of the prompt; returns their tokens."""
        found = self._kept.cache.find(self._keys, self._length)
        if not found:
            return 0
        end = found[-1].end
        for number, layer in enumerate(layers_of(self._cache)):
            fill(layer, [block.states[number] for block in found], end)
        self._kept.snapshots.resume([block.snapshot for block in found], [block.end for block in found])
        return end

    def keep(self, start: int, end: int) -> None:
        """Keep the block from `start` to `end`, which the model has just computed."""
        states = tuple(last_columns(layer, end - start) for layer in layers_of(self._cache))
        keys = self._keys[: self._ends.index(end) + 1]
        self._kept.cache.keep(keys, Block(end, states, self._kept.snapshots.take(start, end)))


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
    ends = block_ends(loaded.tokenizer, row.ids, _MOST if loaded.device.type == "cpu" else None)
    if cache is None:
        return Blocks(ends)
    kept = Kept(cache, salt(loaded, saes, row, attached.recorder.kept), attached.snapshots)
    return Blocks(ends, partial(PrefixBlocks, kept))


def salt(loaded: LoadedModel, saes: SaeSet | None, row: Row, traced: frozenset[Site]) -> bytes:
    """A hash of all that shapes keys, values and what steering keeps, besides the tokens.

    Weights even as changed in place, SAEs, complete policies in order, recorded layers, and what rounding depends on.
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


def _keys(salt: bytes, ids: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """By block, the hash of the salt and of all tokens up to its end, with the ends before it."""
    keys, key = [], salt
    for start, end in zip((0, *ends), ends, strict=False):
        key = hashlib.sha256(key + array("q", ids[start:end]).tobytes()).digest()
        keys.append(key)
    return keys
