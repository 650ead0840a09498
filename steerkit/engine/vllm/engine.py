"""The engine that runs vLLM: requests go to its scheduler, each under its own policies, and come back as steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from torch import Tensor

from steerkit.audit import SaeSetIdentity
from steerkit.chat import Tokenizer
from steerkit.engine.api import Provenance, Row, Sampling, Steps
from steerkit.engine.hf.engine import identity_of, libraries
from steerkit.engine.hf.model import LoadedModel, load_model
from steerkit.engine.lease import Lease
from steerkit.engine.vllm.arguments import Vllm, engine_arguments, vllm_version
from steerkit.engine.vllm.continuous import VllmContinuous
from steerkit.engine.vllm.llm import Llm
from steerkit.engine.vllm.requests import Requests
from steerkit.errors import ModelError
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import Wanted, context_of


class VllmEngine:
    """A model in vLLM's worker, with its SAEs.

    Args:
        loaded: the model; only its identity is kept, since vLLM loads it from the same files.
        saes: SAEs that lie in a folder.
        settings: vLLM's engine arguments.
        revision: of the model on the hub.

    Raises:
        MissingExtraError, ModelError, SaeError: vLLM is not there or of another version, or the model cannot be run so.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        saes: SaeSet | None = None,
        settings: Vllm | None = None,
        revision: str | None = None,
    ) -> None:
        self._version = vllm_version()
        self.name: Final = loaded.name
        self.tokenizer: Final[Tokenizer] = loaded.tokenizer
        self.saes = saes
        self._model, self._revision = identity_of(loaded), revision
        self._llm = Llm(loaded.name, engine_arguments(loaded, saes, revision, settings or Vllm()))
        own, most = context_of(loaded.model), self._llm.context
        self.context: Final = most if own is None else min(own, most)
        sites, width, facts = self._llm.call("steerkit_describe")
        self._machine: dict[str, Any] = {"engine": "vllm", **facts}
        self._lease = Lease()
        self._requests = Requests(
            self._llm,
            self.tokenizer,
            saes,
            weights=self._model.fingerprint,
            context=self.context,
            sites=frozenset(map(Site.of, sites)),
            width=width,
        )

    @property
    def provenance(self) -> Provenance:
        """Provenance for records."""
        through = None if self.saes is None else SaeSetIdentity(self.saes.name, self.saes.fingerprint)
        return Provenance(self._model, through, {**libraries(), "vllm": self._version}, self._machine)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model in transformers, loaded into this process once it is asked for: what edits activations by hand.

        Raises:
            ModelError: it cannot be loaded again, or its files have changed.
        """
        found = load_model(self.name, dtype=self._model.dtype, revision=self._revision, prepack=False)
        found = replace(found, serving=self)
        if found.fingerprint != self._model.fingerprint:
            raise ModelError(f"{self.name}: its weights have changed since vLLM loaded them; load it anew")
        return found

    def with_decoder_rows(self, rows: Mapping[Feature, Tensor]) -> VllmEngine:
        """An engine on the same worker that writes edits of some features along other rows; one generates at a time."""
        if self.saes is None or not rows:
            return self
        found = copy(self)
        found.saes, found._requests = self.saes.with_decoder_rows(rows), self._requests.with_decoder_rows(rows)
        return found

    def reserve(self, wanted: Sequence[Wanted]) -> None:
        """Give the worker the policies of rows such as these."""
        with self._lease.held():
            self._requests.hold(wanted)

    def generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None = None) -> Steps:
        """Decode rows, each when vLLM's scheduler has room for it: a step holds the tokens that came together."""
        with self.continuous(stopped) as batch:
            running = batch.join(rows)
            while not running.ended:
                batch.step()
                if not all(token is None for token in running.step.tokens):
                    running.cut((yield running.step) or ())
            return running.recording

    def replies(self, prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
        """The greedy replies to prompts, `most` tokens at most, the stop token included."""
        found: list[list[int]] = [[] for _ in prompts]
        for step in self.generate([Row(ids, Wanted(), Sampling(most)) for ids in prompts]):
            for reply, token in zip(found, step.tokens, strict=True):
                reply += [] if token is None else [token]
        return found

    def activations(
        self, texts: Sequence[Sequence[int]], steps: Sequence[Sequence[int]], sites: Sequence[Site]
    ) -> Tensor | None:
        """Activations `(sites, steps of all texts, width)` in float32; None where the worker does not steer a site.

        Nothing else generates on the engine meanwhile. Raises ModelError, SteeringError: a text cannot be read.
        """
        if not self._requests.sites.issuperset(sites):
            return None
        with self._lease.held():
            return self._requests.read(texts, steps, sites)

    def continuous(self, stopped: Callable[[], bool] | None = None, *, whole_prompts: bool = False) -> VllmContinuous:
        """Continuous batching by vLLM's scheduler, which several of these share; it alone decides about prompts."""
        return VllmContinuous(self._llm, self._lease, self._requests, stopped)

    def logits_along(self, rows: Sequence[Row], reply: Sequence[int]) -> Iterator[Tensor]:
        """Refuse: vLLM gives no logits along a reply. Raises ModelError."""
        raise ModelError(
            f"{self.name}: engine 'vllm' gives no logits along a reply; load it with engine 'transformers'"
        )
