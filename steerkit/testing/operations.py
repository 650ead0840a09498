"""Counts PyTorch's operations: on a GPU each is a kernel launch, which bounds the speed of small models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALLOCATES: Final = ("aten.empty", "aten.new_empty")


def operations(run: Callable[[], Any]) -> int:
    """Number of operations of a run that compute something: no views, no casts to the same type, no allocations."""
    counter = _Counter()
    with counter:
        run()
    return counter.found


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {part.untyped_storage()._cdata for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        out = func(*args, **(kwargs or {}))
        new = [part for part in tree_leaves(out) if isinstance(part, Tensor)]
        made = any(part.untyped_storage()._cdata not in given for part in new) or not new
        self.found += (made or func._schema.is_mutable) and not str(func).startswith(_ALLOCATES)
        return out
