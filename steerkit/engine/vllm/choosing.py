"""The next tokens of requests that are sampled or held to a grammar, chosen in the worker from the model's logits.

They are chosen as the engine for transformers chooses them, by the same sampler and the same constraints, so that a
request draws what it draws there and its record says what its grammar decided. vLLM, which takes the most likely token
of every request, is left no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from steerkit.chat import Tokenizer, dialect_of
from steerkit.engine.api import Decided
from steerkit.engine.hf.constraints import Constraints
from steerkit.engine.hf.sampler import Sampler
from steerkit.engine.vllm.wire import Asks, unpacked_choice
from steerkit.errors import SteerkitError


class _UnknownError(Exception):
    """What the model would say without steering is not known."""


class _Choice:
    """One request: its generator, its grammar, and what they decided."""

    def __init__(self, data: Mapping[str, Any], tokenizer: Tokenizer, prompt_length: int, device: torch.device) -> None:
        row = unpacked_choice(data, tokenizer)
        self._stops = dialect_of(tokenizer).stops
        self._sampler = Sampler([row.sampling], device)
        self._constraints = Constraints([row], self._stops, self._without_steering)
        self._left = row.sampling.max_new_tokens
        self._forced: list[int] = []
        """Tokens that come next without a choice."""
        self._unsteered: int | None = None
        """The token that the model would say next without steering, where that was asked."""
        self._size = 0
        """Tokens of the vocabulary."""
        self.end = prompt_length
        """Tokens of the request before the next one that is chosen; passes that end earlier choose nothing."""
        self.decided: deque[Decided | Asks] = deque()
        """Who decided the tokens of which the engine was not told yet."""

    def resume(self, unsteered: int) -> None:
        """Go on with the answer to what was asked."""
        self._unsteered = unsteered

    def next(self, logits: Tensor) -> int:
        """The next token, from logits `(1, vocabulary)`. Raises ModelError: its grammar lets none through."""
        self._size = logits.shape[1]
        by: Decided = "forced"
        if self._forced:
            token = self._forced.pop(0)
        else:
            before = self._sampler.generators[0].get_state()
            try:
                (token,), decided = self._constraints.choose(self._sampler, logits, [self._left])
            except _UnknownError:
                self._sampler.generators[0].set_state(before)
                self.decided.append("asks")
                return min(self._stops)
            by = decided[0] if decided else "model"
        self._unsteered = None
        self.end += 1
        self._left = 0 if token in self._stops else self._left - 1
        if self._left and not self._forced:
            self._forced = [one for (one,) in self._constraints.forced([self._left])]
        self.decided.append(by)
        return token

    def _without_steering(self, tokens: Sequence[int]) -> Tensor:
        """Logits `(vocabulary)` after some tokens without steering, as far as they are known: the most likely token."""
        if self._unsteered is None:
            raise _UnknownError
        found = torch.zeros(self._size)
        found[self._unsteered] = 1.0
        return found


class Choosing:
    """The requests of a worker whose tokens are chosen here. Nothing that a request brings makes a method raise.

    Args:
        tokenizer: of the model.
        device: of the logits.
    """

    def __init__(self, tokenizer: Tokenizer, device: torch.device) -> None:
        self._tokenizer, self._device = tokenizer, device
        self._stop = min(dialect_of(tokenizer).stops)
        self._choices: dict[str, _Choice | None] = {}
        """By request; None for one that has failed, and ends with its next token."""
        self._errors: dict[str, str] = {}
        self._ends: Mapping[str, int] = {}
        """Tokens of each request of the pass, with those of the pass."""
        self._order: Sequence[str] = ()

    def arrive(self, request: str, asked: Mapping[str, Any], prompt_length: int) -> None:
        """Take in a request with what `packed_choice` says of it, empty where vLLM chooses; preempted ones again."""
        if not asked or request in self._choices:
            return
        try:
            if (was := asked.get("resumes")) is None:
                self._choices[request] = _Choice(asked, self._tokenizer, prompt_length, self._device)
            else:
                self._choices[request] = one = self._choices.pop(was)
                if one is not None:
                    one.resume(asked["unsteered"])
        except Exception as error:  # whatever it is, the server lives on
            self._fail([request], error)

    def schedule(self, ends: Mapping[str, int]) -> None:
        """Announce a pass: for each of its requests, the tokens that are computed when it is over."""
        self._ends, self._order = ends, ()

    def begin(self, order: Sequence[str]) -> None:
        """Begin the announced pass: the order of its requests."""
        self._order = list(order) if self._ends else ()

    def choose(self, logits: Tensor | None) -> None:
        """Choose from the logits `(requests, vocabulary)` of the pass, of which each chosen token keeps the only one
        that is not minus infinity; None where this worker has none."""
        order, self._order = self._order, ()
        chosen = [(number, request) for number, request in enumerate(order) if request in self._choices]
        if logits is None or not chosen:
            return
        if len(logits) != len(order):
            wrong = f"got logits of {len(logits)} tokens, expected one of each of {len(order)} requests"
            self._fail([request for _, request in chosen], RuntimeError(wrong))
            return
        for number, request in chosen:
            one = self._choices[request]
            if one is not None and self._ends.get(request) != one.end:
                continue  # its prompt goes on, or it is computed again
            try:
                token = self._stop if one is None else one.next(logits[number : number + 1])
            except Exception as error:  # as above
                token = self._stop
                self._fail([request], error)
            logits[number].fill_(-torch.inf)
            logits[number, token] = 0.0

    def decided(self, requests: Collection[str]) -> dict[str, list[Decided | Asks]]:
        """Who decided the tokens of some requests, since they were asked for last."""
        found: dict[str, list[Decided | Asks]] = {}
        for request in requests:
            if (one := self._choices.get(request)) is not None:
                found[request] = list(one.decided)
                one.decided.clear()
        return found

    def error(self, request: str) -> str:
        """Reason why a request's tokens could not be chosen; nothing where they were."""
        return self._errors.get(request, "")

    def forget(self, requests: Iterable[str]) -> None:
        """Forget requests."""
        for request in requests:
            self._choices.pop(request, None)
            self._errors.pop(request, None)

    def _fail(self, requests: Iterable[str], error: Exception) -> None:
        why = str(error) if isinstance(error, SteerkitError) else f"{type(error).__name__}: {error}"
        for request in requests:
            self._choices[request] = None
            self._errors[request] = why
