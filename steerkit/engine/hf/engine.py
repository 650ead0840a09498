"""The engine that runs transformers: one process, padded batches, steering by hooks or by prepared steps."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import cache, partial
from importlib.metadata import version
from typing import Any, Final

import torch
from torch import Tensor

from steerkit.audit import ModelIdentity, SaeSetIdentity
from steerkit.chat import Tokenizer, dialect_of, place_machine
from steerkit.engine.api import Provenance, Row, Step, Steps
from steerkit.engine.hf.batch import Batch
from steerkit.engine.hf.cache_layers import can_be_cut
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.continuous import HfContinuous
from steerkit.engine.hf.cuda_graphs import Graphs, Prepare, graphs_for
from steerkit.engine.hf.decoded_row import Prompted, Prompting
from steerkit.engine.hf.generate import Ended, decode, read_along
from steerkit.engine.hf.growing_cache import why_not
from steerkit.engine.hf.model import LoadedModel
from steerkit.engine.hf.passes import Passes, Prefilled, logits_after, prefill
from steerkit.engine.hf.prefix_cache import Blocks, PrefixCache, blocks_of
from steerkit.engine.hf.recording import HfRecording, each_without_autocast
from steerkit.engine.hf.shared_prompts import SharedBatch, SharedPrompts
from steerkit.errors import ModelError
from steerkit.kept import Kept
from steerkit.policy import Policy, fingerprint
from steerkit.sae import SaeSet, onednn_version
from steerkit.sites import Feature, Site
from steerkit.steer import (
    Attached,
    Plan,
    Wanted,
    attach,
    compile_plan,
    context_of,
    pack_plan,
    traced_sites,
)
from steerkit.version import __version__

_MOST_PLANS: Final = 32
"""Plans that are kept; each holds columns of the decoders that its policies touch."""
DEFAULT: Final = "256 MiB"
"""Size of a prefix cache."""
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_LIBRARIES: Final = ("torch", "transformers", "tokenizers")


class HfEngine:
    """A loaded model with its SAEs, a prefix cache, and prepared decode steps."""

    def __init__(
        self,
        loaded: LoadedModel,
        saes: SaeSet | None = None,
        *,
        prefix_cache: str | int | bool = DEFAULT,
        graphs: Prepare = "auto",
        shared: SharedPrompts | None = None,
    ) -> None:
        limit = bytes_of(prefix_cache)
        self.loaded, self.saes = loaded, saes
        self.shared = shared
        """Prompts that were read before, for policies that do nothing, and of which nobody reads anything, before a
        prompt's last token."""
        self.prefix_cache: PrefixCache | None = PrefixCache(limit) if limit else None
        """Steered prompt prefixes, kept for the next turn; `prefix_cache.statistics` counts them."""
        self.graphs: Graphs | None = graphs_for(loaded.model, graphs)
        """Prepared decode steps; None where tokens are decoded step by step. `graphs.statistics` counts them."""
        self.plans: Kept[object, Plan] = Kept(_MOST_PLANS)
        """Compiled plans, by the fingerprints of their policies."""

    @property
    def name(self) -> str:
        """Name of the model, as the user wrote it."""
        return self.loaded.name

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.loaded.tokenizer

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its reply together."""
        return context_of(self.loaded.model)

    @property
    def provenance(self) -> Provenance:
        """Provenance for records."""
        through = None if self.saes is None else SaeSetIdentity(self.saes.name, self.saes.fingerprint)
        return Provenance(identity_of(self.loaded), through, libraries(), _machine(self.loaded))

    def prepack(self, wanted: bool) -> None:
        """Generate through copies of the linear weights from now on, or through the model's own."""
        self.loaded = self.loaded.prepacking(wanted)

    def with_decoder_rows(self, rows: Mapping[Feature, Tensor], shared: SharedPrompts | None = None) -> HfEngine:
        """An engine on the same model that writes edits of some features along other rows, and may know prompts."""
        saes = None if self.saes is None else self.saes.with_decoder_rows(rows)
        return HfEngine(self.loaded, saes, shared=shared)

    def reserve(self, wanted: Sequence[Wanted]) -> None:
        """Give prepared steps the capacity for rows such as these; without prepared steps this does nothing."""
        if self.graphs is not None:
            plan = compile_plan([one.policies for one in wanted], self.saes, self.loaded.site_devices)
            self.graphs.reserve(pack_plan(plan, traced_sites(wanted, self.saes)).needs)

    def generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None = None) -> Steps:
        """Decode rows in one padded batch, in the model's own precision, as records say."""
        return each_without_autocast(self._generate(rows, stopped))

    def _generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None) -> Steps:
        loaded, wanted = self.loaded, tuple(row.wanted for row in rows)
        plan = self._plan(wanted)
        batch = self._batch(rows)
        limits = batch.within_context(loaded.model, [row.sampling for row in rows])
        capacity = batch.ids.shape[1] + max(one.max_new_tokens for one in limits)
        traced = traced_sites(wanted, self.saes)
        with loaded.alone(stopped), self._attached(plan, rows, batch, capacity, traced) as attached:
            decoding, cached = yield from self._steps(plan, rows, batch, attached)
        known = (cached,) if cached and len(rows) == 1 else ()  # only a prompt that is alone in its batch is looked up
        return HfRecording(attached.recorder, plan, self.saes, wanted, decoding, known)

    def _steps(
        self, plan: Plan, rows: Sequence[Row], batch: Batch, attached: Attached
    ) -> Generator[Step, Collection[int] | None, Ended]:
        """Decode under the hooks."""
        model, dialect = self.loaded.model, dialect_of(self.loaded.tokenizer)
        how: dict[str, Any] = {"split_prompt": plan.has_late_rules, "graphs": self.graphs}
        how |= self._known(rows, attached)._asdict()
        how["prefill_state"] = attached.prefill_state
        how["constraints"] = Constraints(rows, dialect.stops, partial(self._unsteered, attached))
        recording = HfRecording(attached.recorder, plan, self.saes, tuple(row.wanted for row in rows))
        with closing(
            decode(model, batch, [row.sampling for row in rows], dialect.stops, dialect.pad, **how)
        ) as decoded:
            cut: Collection[int] | None = None
            while True:
                try:
                    tokens, decided, ahead = decoded.send(cut)
                except StopIteration as done:
                    ended: Ended = done.value
                    return ended
                cut = yield Step(tokens, partial(recording.watched, ahead), decided)

    def _known(self, rows: Sequence[Row], attached: Attached) -> Blocks:
        """What need not be read of the prompts."""
        prompts = [row.ids for row in rows]
        if self.shared is not None and all(ids in self.shared for ids in prompts):
            return Blocks((), partial(SharedBatch, self.shared, prompts, attached.snapshots))
        return blocks_of(rows, self.loaded, self.saes, attached, self.prefix_cache)

    def share(self, prompts: Sequence[Sequence[int]]) -> SharedPrompts | None:
        """Read prompts for generations of any of them; None of a model whose cache cannot be cut.

        Without steering, so for engines whose policies do nothing before a prompt's last token.
        """
        batch = Batch.of(prompts, dialect_of(self.loaded.tokenizer).pad, self.loaded.device)
        if not can_be_cut(self.loaded.model) or batch.ids.shape[1] < 2:
            return None
        passes = Passes(self.loaded.model, Batch(batch.ids[:, :-1], batch.mask[:, :-1]))
        with self.loaded.alone(), torch.inference_mode():
            passes.prompt(split=False)
        return SharedPrompts.of(prompts, passes.cache)

    def _unsteered(self, attached: Attached, ids: Sequence[int]) -> Tensor:
        """Logits after some tokens as they would be without steering."""
        with attached.prefill_state.pause():
            return logits_after(self.loaded.model, ids)

    def continuous(
        self, stopped: Callable[[], bool] | None = None, *, whole_prompts: bool = False
    ) -> HfContinuous | None:
        """Continuous batching; None where tokens are decoded by prepared steps, whose rows are fixed, where the cache
        cannot be cut into rows, and on several devices."""
        loaded = self.loaded
        spread = len({weight.device for weight in loaded.model.parameters()}) > 1
        if self.graphs is not None or spread or why_not(loaded.model) is not None:
            return None
        return HfContinuous(loaded, self._prefill, self._joined_plan, stopped, whole_prompts=whole_prompts)

    def _joined_plan(self, rows: Sequence[Sequence[Policy]]) -> Plan:
        """The plan of rows under these policies."""
        return self._plan([Wanted(tuple(policies)) for policies in rows])

    def _prefill(self, row: Row) -> Prompting:
        """Read a prompt by itself, under its policies."""
        loaded, wanted, batch = self.loaded, (row.wanted,), self._batch([row])
        plan, (sampling,) = self._plan(wanted), batch.within_context(loaded.model, [row.sampling])
        capacity = batch.ids.shape[1] + sampling.max_new_tokens
        with self._attached(plan, [row], batch, capacity, traced_sites(wanted, self.saes)) as attached:
            how = blocks_of([row], loaded, self.saes, attached, self.prefix_cache)._asdict()
            blocks = prefill(loaded.model, batch, split_prompt=plan.has_late_rules, **how)
            while True:
                try:
                    count = next(blocks)
                except StopIteration as done:
                    found: Prefilled = done.value
                    break
                with attached.off():
                    yield count
        known = (found.cached,) if found.cached else ()
        recording = HfRecording(attached.recorder, plan, self.saes, wanted, cached=known)
        return Prompted(found, attached.prefill_state, sampling, recording)

    def logits_along(self, rows: Sequence[Row], reply: Sequence[int]) -> Iterator[Tensor]:
        """Logits `(rows, vocabulary)` before each token of one reply and after its last."""
        loaded, batch = self.loaded, self._batch(rows)
        plan = self._plan([row.wanted for row in rows])
        capacity = batch.ids.shape[1] + len(reply) + 1
        with loaded.alone(), self._attached(plan, rows, batch, capacity):
            yield from read_along(loaded.model, batch, reply, split_prompt=plan.has_late_rules)

    def _plan(self, wanted: Sequence[Wanted]) -> Plan:
        """The plan of requests with these policies, as `compile_plan` makes it, which says its errors."""
        rows = dict.fromkeys(tuple(map(fingerprint, one.policies)) for one in wanted if one.policies)

        def make() -> Plan:
            with torch.inference_mode(False):  # it outlives whatever mode the caller is in
                return compile_plan([one.policies for one in wanted], self.saes, self.loaded.site_devices)

        return self.plans.get((tuple(rows), tuple(self.loaded.site_devices.items())), make)

    def _batch(self, rows: Sequence[Row]) -> Batch:
        return Batch.of([row.ids for row in rows], dialect_of(self.loaded.tokenizer).pad, self.loaded.device)

    def _attached(
        self, plan: Plan, rows: Sequence[Row], batch: Batch, capacity: int, trace: Collection[Site] = ()
    ) -> AbstractContextManager[Attached]:
        return attach(
            self.loaded.model,
            plan,
            rows=[plan.row(row.wanted.policies) for row in rows],
            trace=trace,
            prompt_length=batch.ids.shape[1],
            capacity=capacity,
            places=place_machine(self.loaded.tokenizer),
        )


def bytes_of(size: str | int | bool) -> int:
    """Bytes of a size such as `256 MiB`, a number of bytes, True for the default or False for 0.

    Raises:
        ModelError: it is none of these.
    """
    if isinstance(size, bool):
        return bytes_of(DEFAULT) if size else 0
    if isinstance(size, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", size.strip())
        if match and match[2] in _UNITS:
            return int(float(match[1]) * _UNITS[match[2]])
    elif isinstance(size, int) and size >= 0:
        return size
    raise ModelError(f"prefix_cache: got {size!r}, expected a size such as '{DEFAULT}', a number of bytes, or False")


def identity_of(loaded: LoadedModel) -> ModelIdentity:
    """A model's identity in records."""
    return ModelIdentity(
        name=loaded.name,
        fingerprint=loaded.fingerprint,
        tokenizer=loaded.tokenizer_fingerprint,
        template=loaded.template_fingerprint,
        device=str(loaded.device),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
    )


def _machine(loaded: LoadedModel) -> dict[str, Any]:
    """All that the last bits of float arithmetic depend on, besides the libraries."""
    accelerator = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else None
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
        "prepacked": loaded.runs_prepacked,
    }


@cache
def libraries() -> dict[str, str]:
    """Versions of the libraries whose arithmetic an engine uses."""
    own = {"python": platform.python_version(), "steerkit": __version__}
    found = {**own, **{name: version(name) for name in _LIBRARIES}}
    onednn = onednn_version()
    return found if onednn is None else {**found, "onednn": onednn}
