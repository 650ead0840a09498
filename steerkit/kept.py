"""Values that are made once and kept by key, the least recently used dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key; may be shared by threads.

    Args:
        limit: most that the values kept may weigh together.
        weight: of a value; 1 by default, so that the limit is a number of values.
    """

    def __init__(self, limit: int, weight: Callable[[V], int] = lambda _: 1) -> None:
        self.limit, self._weight = limit, weight
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()
        self.weight = 0
        """Weight of the values that are kept now."""
        self.made = 0
        """Values made so far."""

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value under a key, made where it is not there; one that alone is over the limit is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            value = make()
            self.made += 1
            if self._weight(value) <= self.limit:
                self._values[key] = value
                self.weight += self._weight(value)
            while self.weight > self.limit:
                self.weight -= self._weight(self._values.popitem(last=False)[1])
            return value
