"""Decode steps of fixed shape, steering included: on a GPU captured once in a CUDA graph and replayed per token.

After the prefill, keys, values and the state of steering are moved into buffers, and each token is one replay, under
any policies: their tables are buffers too. On a CPU the same step runs without a graph. A step may be compiled as well,
once, whatever the policies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from steerkit.engine.hf.growing_cache import why_not
from steerkit.engine.hf.static_cache import StepCache
from steerkit.errors import SteeringError
from steerkit.steer import (
    Capacity,
    Fill,
    PackedPlan,
    PrefillState,
    StaticSteering,
    attach_static,
    cache_name,
    disagreement,
    fused_kernels,
    pack_plan,
)

Prepare: TypeAlias = bool | Literal["auto", "compiled"]
"""Decode with prepared steps; `auto`: on a GPU; `compiled`: with steps that are compiled as well."""

_COLUMNS_AT_ONCE: Final = 256
"""Sequences are given capacity in these steps, so that a graph serves many lengths."""
_MOST_STEPS: Final = 4
"""Most captured steps that are kept; each holds its buffers."""
_WARM_UP: Final = 3


class GraphStatistics(NamedTuple):
    """Counts of a `Graphs` since it was made."""

    captures: int
    """Steps that were prepared, on a GPU each with a graph."""
    generations: int
    """Generations that ran on them."""
    fallbacks: int
    """Generations that did not fit and were decoded step by step."""


class Step:
    """One prepared step of B sequences: its buffers, and on a GPU its graph."""

    def __init__(
        self,
        model: PreTrainedModel,
        like: DynamicCache,
        capacity: Capacity,
        rows: int,
        columns: int,
        *,
        kernels: ModuleType | None = None,
        compiled: bool = False,
    ) -> None:
        self._model, self.capacity = model, capacity
        self._forward: Any = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model
        self.cache = StepCache(model, like, rows, columns)
        self.steering = StaticSteering(model, capacity, rows, columns, fused=kernels)
        self._name = cache_name(model)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)
        self._run()
        if model.device.type == "cuda":
            self._capture(model.device)

    def __call__(self) -> Tensor:
        """Logits `(B, vocabulary)` after the tokens that the cache was fed; overwritten by the next call."""
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self._logits

    def _run(self) -> Tensor:
        self.cache.begin()
        with attach_static(self._model, self.steering):
            output = self._forward(**self.cache.inputs, **{self._name: self.cache.cache}, logits_to_keep=1)
        return output.logits[:, -1]  # type: ignore[no-any-return]  # transformers' outputs are not typed

    def _capture(self, device: torch.device) -> None:
        """Record the step; what warming up leaves in the buffers is overwritten before they are used."""
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._run()
        torch.cuda.current_stream(device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads may use the GPU
            self._logits = self._run()


class GraphDecoder:
    """Decodes after a prefill, a token of each sequence at a time."""

    def __init__(self, step: Step, fill: Fill) -> None:
        self._step, self._fill = step, fill

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits `(B, vocabulary)` after one more token of each sequence."""
        self._fill.see(tokens)
        self._step.cache.feed(torch.tensor(tokens).unsqueeze(-1))
        return self._step()

    def close(self) -> None:
        """Leave everything on the recorder; the buffers are free then."""
        self._fill.settle()


class Resumed(NamedTuple):
    """Decoding of a generation after its prefill."""

    decoder: GraphDecoder | None
    """None where it does not fit prepared steps; `Graphs.refused` says why."""
    decoding: str
    """Wording for the record."""


class Graphs:
    """Prepared steps of one model, the least recently used dropped first. One generation at a time."""

    def __init__(self, model: PreTrainedModel, *, fused: bool = True, compiled: bool = False) -> None:
        """For a model.

        Args:
            model: the model.
            fused: steer with one kernel per layer on a GPU where Triton works.
            compiled: compile the steps with `torch.compile`, whose own kernels steer as well then.
        """
        self._model, self._compiled = model, compiled
        self.kernels = fused_kernels(model.device) if fused and not compiled else None
        self._reserved = Capacity()
        self._steps: OrderedDict[tuple[object, ...], Step] = OrderedDict()
        self._captures = self._generations = self._fallbacks = 0
        self.refused: str | None = None
        """Why the last generation did not run on a prepared step; None where it did."""
        self.without_kernels: str | None = None
        """Why steps are made without kernels that were there; None where they are not."""

    @property
    def statistics(self) -> GraphStatistics:
        """Counts so far."""
        return GraphStatistics(self._captures, self._generations, self._fallbacks)

    def reserve(self, capacity: Capacity) -> None:
        """Give every step that steers at least this capacity, so that plans within it need no other."""
        self._reserved = self._reserved.joined(capacity)

    def resume(
        self, prefill_state: PrefillState, cache: DynamicCache, mask: Tensor, positions: Tensor, tokens: int
    ) -> Resumed:
        """Resume after a prefill under `attach`.

        Args:
            prefill_state: of its recorder.
            cache: what the model made of the prompt.
            mask: `(B, P)` of the prompt.
            positions: `(B, 1)` of its last column.
            tokens: how many more may be read.
        """
        self.refused = self._unfit()
        decoder = None
        if self.refused is None:
            try:
                decoder = self._resume(prefill_state, cache, mask, positions, tokens)
            except (SteeringError, RuntimeError) as error:  # the latter where a step cannot be captured, or no memory
                self.refused = str(error).splitlines()[0]
        if decoder is None:
            self._fallbacks += 1
            return Resumed(None, f"step by step: {self.refused}")
        self._generations += 1
        steps = "compiled steps" if self._compiled else "fixed steps"
        if self.without_kernels is not None:
            steps += f" without kernels, {self.without_kernels}"
        on_gpu = self._model.device.type == "cuda"
        return Resumed(decoder, f"CUDA graph of {steps}" if on_gpu else steps)

    def _resume(
        self, prefill_state: PrefillState, cache: DynamicCache, mask: Tensor, positions: Tensor, tokens: int
    ) -> GraphDecoder:
        packed = pack_plan(prefill_state.plan, prefill_state.recorder.kept)
        columns = -(-(mask.shape[1] + tokens) // _COLUMNS_AT_ONCE) * _COLUMNS_AT_ONCE
        with prefill_state.pause():
            step = self._step(packed, cache, len(mask), columns)
        fill = Fill(step.steering, packed, prefill_state.rows)
        step.cache.fill(cache, mask, positions)
        fill.resume(prefill_state)
        return GraphDecoder(step, fill)

    def _step(self, packed: PackedPlan, like: DynamicCache, rows: int, columns: int) -> Step:
        """A step with capacity for a plan; a smaller one is replaced by one with capacity for both."""
        weights = tuple(weight.data_ptr() for weight in self._model.parameters())
        key = (rows, columns, weights, None if packed.plan.rules else packed.needs.kept)
        found = self._steps.get(key)
        if found is None or packed.needs.exceeds(found.capacity) is not None:
            capacity = packed.needs if found is None else found.capacity.joined(packed.needs)
            if packed.plan.rules:
                capacity = capacity.joined(self._reserved)
            self._steps.pop(key, None)  # its memory is needed
            del found
            found = self._steps[key] = self._made(like, capacity.rounded(), rows, columns)
            self._captures += 1
        self._steps.move_to_end(key)
        while len(self._steps) > _MOST_STEPS:
            self._steps.popitem(last=False)
        return found

    def _made(self, like: DynamicCache, capacity: Capacity, rows: int, columns: int) -> Step:
        """A new step; without kernels from now on where they cannot be built, or do otherwise than torch."""
        make = partial(Step, self._model, like, capacity, rows, columns, compiled=self._compiled)
        if self.kernels is None:
            return make()
        try:
            self.without_kernels = disagreement(self._model, capacity, rows, self.kernels)
            if self.without_kernels is None:
                return make(kernels=self.kernels)
        except (SteeringError, RuntimeError):
            raise
        except Exception as error:
            self.without_kernels = f"they cannot be built: {type(error).__name__}"
        self.kernels = None
        return make()

    def _unfit(self) -> str | None:
        model: nn.Module = self._model
        devices = {weight.device for weight in model.parameters()}
        if len(devices) > 1 or torch.device("meta") in devices:
            return "the model is spread over several devices"
        return why_not(self._model)


def graphs_for(model: PreTrainedModel, wanted: Prepare) -> Graphs | None:
    """Prepared steps as they are wanted; None where steps run without a graph."""
    if wanted is False or (wanted == "auto" and model.device.type != "cuda"):
        return None
    return Graphs(model, compiled=wanted == "compiled")
