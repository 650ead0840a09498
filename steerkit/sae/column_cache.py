"""Cache of the columns that plans and traces asked for last, so that each turn does not gather them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch

from steerkit.sae.sae import Columns
from steerkit.sites import Site


class ColumnCache:
    """Columns by site, features and device; the least recently used go first. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[tuple[Site, tuple[int, ...], torch.device], Columns] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes held now, without the whole of a TopK SAE, which its columns share."""
        return self._bytes

    def get(self, key: tuple[Site, tuple[int, ...], torch.device], make: Callable[[], Columns]) -> Columns:
        """Columns under a key, made at the first call; those that alone exceed the limit are not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            made = make()
            if made.bytes <= self._limit:
                self._kept[key] = made
                self._bytes += made.bytes
            while self._bytes > self._limit:
                self._bytes -= self._kept.popitem(last=False)[1].bytes
            return made
