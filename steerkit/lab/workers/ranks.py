"""The processes of one training run: each reads its share of the texts and trains its share of the layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.errors import SaeError


@dataclass(frozen=True)
class Processes:
    """This process among those of the run; alone unless `accelerate launch` or `torchrun` started several."""

    index: int = 0
    count: int = 1
    device: torch.device | None = None
    """Device of this process; None where a lone process was given none."""

    @property
    def first(self) -> bool:
        """True in the process that writes what there is one of."""
        return self.index == 0

    def share(self, layers: Sequence[int]) -> list[int]:
        """The layers that this process trains. Raises SaeError where some process would have none."""
        if self.count > len(layers):
            raise SaeError(
                f"got {self.count} processes for {len(layers)} layers; each trains whole layers: start at most "
                f"{len(layers)}"
            )
        return list(layers[self.index :: self.count])

    def join(self, parts: Tensor) -> Tensor:
        """Tensors that are 0 where another process has the values, put together in place, to the bit."""
        if self.count > 1:
            # Bytes, because a sum with zeros in floating point turns -0 into 0.
            torch.distributed.all_reduce(parts.view(torch.uint8))
        return parts

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()


def processes() -> Processes:
    """The processes of this run, joined through accelerate."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState()
    return Processes(state.process_index, state.num_processes, state.device)
