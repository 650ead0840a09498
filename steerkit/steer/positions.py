"""Positions of the tokens in each forward pass: their columns, padding, and where the reply begins."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.errors import ModelError, SteeringError
from steerkit.steer.batch import Window
from steerkit.steer.eager.generation import Generation, inside_generate
from steerkit.steer.grammar_state import GrammarStates

CACHE_NAMES = ("cache", "past_key_values")
"""Names of the KV cache among the arguments of a model: from transformers 5.24 on, and before."""


def cache_name(model: nn.Module) -> str:
    """The name of the KV cache among the arguments of the model's forward."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), CACHE_NAMES[-1])


class Positions:
    """Follows the passes of a generation: prompts dense or in chunks, single steps, drafts, with and without a cache.

    The end of the prompt is given by `prompt_length`, or by a `generate` that is seen; in a loop of one's own the first
    pass is taken to be the complete prompt, or the rest of one that was in the cache before.
    """

    def __init__(
        self,
        rows: Sequence[int],
        device: torch.device,
        prompt_length: int | None = None,
        *,
        remembers: str | None = None,
        asks: str | None = None,
        grammar_states: GrammarStates | None = None,
        context: int | None = None,
    ) -> None:
        self._rows = torch.tensor(rows, device=device)
        self._uniform = rows[0] if len(set(rows)) == 1 else None
        self._prompt_length = prompt_length
        self._remembers, self._asks = remembers, asks
        self._grammar_states = grammar_states
        self._context = context
        self._seen = 0
        self._before: Tensor | int = 0
        self._reply_start: Tensor | int = 0
        self._last: Window | None = None
        self._tokens: Tensor | None = None
        """Tokens of the last pass, where it had no cache."""
        self.generation: Generation | None = None
        """The `generate` that runs, if it is seen."""

    @property
    def grammar_states(self) -> GrammarStates | None:
        """The state of the conversation's grammar, by sequence; None where no rule asks."""
        return self._grammar_states

    @property
    def seen(self) -> int:
        """Columns of the passes so far."""
        return self._seen

    @property
    def before(self) -> Tensor | int:
        """Tokens so far, padding not counted, `(B,)` where it differs; 0 where no rule needs to know."""
        return self._before

    def resume(self, column: int) -> None:
        """Continue after a column of the one sequence, which has no padding; its prompt's length is known."""
        assert self._prompt_length is not None  # only the runtime resumes, and it says so
        assert len(self._rows) == 1
        self._seen, self._reply_start = column, self._prompt_length - 1
        if self._remembers is not None:
            self._before = torch.tensor([column], device=self.device)

    def skip(self, ids: Tensor, valid: Tensor) -> None:
        """Continue after columns `(B, T)`, some of them padding, that another generation read; all are of prompts."""
        assert self._prompt_length is not None  # as in `resume`
        self._seen, self._reply_start = ids.shape[1], self._prompt_length - 1
        if self._remembers is not None:
            self._before = valid.sum(dim=-1)
        if self._grammar_states is not None:
            self._grammar_states.read(ids, Window(0, self._seen, self._rows, valid, 0, self._reply_start, True, None))

    @property
    def device(self) -> torch.device:
        """The device of row numbers and masks."""
        return self._rows.device

    @property
    def uniform(self) -> int | None:
        """The table row that all requests share, or None."""
        return self._uniform

    def next(self, tokens: Tensor, kwargs: Mapping[str, Any]) -> Window:
        """The window of the coming pass over `tokens`: ids `(B, T)`, or embeddings `(B, T, d)`.

        Raises:
            SteeringError: the batch does not fit the requests, tokens do not come once and in order where a policy has
                to remember them, or it cannot be known where the prompt ends.
            ModelError: the prompt is longer than the model's context.
        """
        batch, width = tokens.shape[:2]
        cache = next((found for name in CACHE_NAMES if (found := kwargs.get(name)) is not None), None)
        start = 0 if cache is None else _columns_in(cache)
        fresh = self._is_fresh(tokens, start, cache, kwargs)
        only_tokens = getattr(cache, "only_tokens", False)
        valid = None if only_tokens else _valid(kwargs.get("attention_mask"), start, width)
        if valid is not None and (width > 1 or valid.device.type == "cpu") and bool(valid.all()):
            valid = None  # on a device a step would wait for the answer
        kept = self._roll_back(start) if 0 < start < self._seen else None
        if fresh and start > 0:
            self._check_cache(start)
        if fresh:
            self._reply_start = self._locate_reply(valid, start, width)
        if self._context is not None and start + width > self._context:
            self._check_context(self._context, fresh, start, width, kwargs.get("attention_mask"))
        self._check_memory(batch, start)
        before: Tensor | int = 0 if start == 0 else self._before
        if self._remembers is not None:
            self._before = before + (width if valid is None else valid.sum(dim=-1))
        self._seen = start + width
        window = Window(start, width, self._expand(batch), valid, before, self._reply_start, fresh, kept)
        if self._grammar_states is not None:
            window = replace(window, grammar=self._grammar_states.read(tokens, window))
        self._last = window
        return window

    def _is_fresh(self, tokens: Tensor, start: int, cache: Any, kwargs: Mapping[str, Any]) -> bool:
        """True if new sequences begin with this pass, or the next turn of those in the cache."""
        one, width = self.generation, tokens.shape[1]
        if one is not None:
            fresh, one.begun = not one.begun, True
            if fresh or one.cache is None:
                one.cache = cache
            if cache is not one.cache:
                raise SteeringError(
                    "another pass of the model ran inside generate, with a cache of its own; it is none of the reply, "
                    "so steering cannot follow: leave out what calls the model again, such as guidance_scale"
                )
            return fresh
        if cache is not None:
            if start > 0 and self._seen > 0:
                self._check_manual(start, width)
                return False
            return True
        # Without a cache every pass computes the complete sequence again, one token longer.
        last, self._tokens = self._tokens, tokens
        again = kwargs.get("use_cache") is False and width > self._seen > 0 and last is not None
        return not (again and torch.equal(last, tokens[:, : last.shape[1]]))  # type: ignore[arg-type, union-attr]

    def _check_manual(self, start: int, width: int) -> None:
        """Refuse several tokens after the prompt in a loop of one's own: more prompt, or drafts of the reply?"""
        ends = self._reply_start
        if width > 1 and self._asks is not None and self._prompt_length is None and not isinstance(ends, Tensor):
            raise SteeringError(
                f"{self._asks} asks where the prompt ends, but {width} tokens came in one pass after {start}, of which "
                f"{ends + 1} were taken to be the prompt; give prompt_length=…"
            )

    def _check_cache(self, start: int) -> None:
        """Refuse a cache that was filled before, where steering cannot continue from it."""
        if self.generation is not None and start >= self.generation.length:
            raise SteeringError(
                f"the cache holds all {self.generation.length} columns of the prompt before its first pass: leave the "
                f"last one out of the cache; or, where code that was compiled before `attach` read them unseen, "
                f"compile the model inside the `with`, after torch.compiler.reset()"
            )
        if self.generation is not None and self.generation.drafts:
            raise SteeringError(
                f"generate was given a cache of {start} columns and asked for drafts; transformers feeds the whole "
                f"prompt again then: give an empty cache, or ask for no drafts"
            )
        if self._last is not None and self._remembers is not None:
            raise SteeringError(
                f"{self._remembers} remembers earlier tokens, but {start} of them are in a cache since another "
                f"generation, some as its reply; start with an empty cache, so that all are read as prompt"
            )

    def _roll_back(self, start: int) -> int | None:
        """Return to an earlier column, as drafts were rejected. Tokens of the last pass that stay; None: not known."""
        last = self._last
        if last is None or start < last.start:
            return None
        kept = start - last.start
        self._seen = start
        if self._remembers is not None:
            more: Tensor | int = kept if last.valid is None else last.valid[:, :kept].sum(dim=-1)
            self._before = last.before + more
        if self._grammar_states is not None:
            self._grammar_states.roll_back(kept)
        return kept

    def _check_context(self, context: int, fresh: bool, start: int, width: int, mask: object) -> None:
        """Refuse a prompt longer than the model's context; the length of the reply is the caller's."""
        ends = int(self._reply_start.max()) if isinstance(self._reply_start, Tensor) else self._reply_start
        if not fresh and (start == 0 or start > ends):
            return
        length = start + width if self.generation is None else self.generation.length
        if isinstance(mask, Tensor) and mask.ndim == 2:
            length -= int((mask[:, :length] == 0).sum(dim=-1).min())
        if length > context:
            raise ModelError(f"the prompt has {length:,} tokens, but the model's context is {context:,}; shorten it")

    def _check_memory(self, batch: int, start: int) -> None:
        if self._remembers is None:
            return
        if start not in (0, self._seen):
            raise SteeringError(
                f"{self._remembers} remembers earlier tokens, but the tokens from {start} on came after {self._seen}; "
                f"expected every token once and in order"
            )
        prompts = batch if self.generation is None else self.generation.sequences
        if batch != len(self._rows) or batch != prompts:
            raise SteeringError(
                f"{self._remembers} remembers earlier tokens, but {batch} sequences came for "
                f"{min(prompts, len(self._rows))} requests; beams change places unseen, expected one sequence per "
                f"request"
            )

    def _expand(self, batch: int) -> Tensor:
        """Rows of this batch: beams and several samples repeat each request."""
        prompts = batch if self.generation is None else self.generation.sequences
        if batch == len(self._rows) == prompts:
            return self._rows
        if batch % len(self._rows) or prompts % len(self._rows):
            raise SteeringError(
                f"steering was attached for {len(self._rows)} requests, but a batch of {min(batch, prompts)} came; "
                f"give `rows` one entry per request"
            )
        return self._rows.repeat_interleave(batch // len(self._rows))

    def _locate_reply(self, valid: Tensor | None, start: int, width: int) -> Tensor | int:
        one, end = self.generation, start + width
        if one is not None and self._prompt_length is not None and self._prompt_length > one.length:
            raise SteeringError(
                f"prompt_length: got {self._prompt_length}, but generate was given a prompt of {one.length} columns; "
                f"leave it out"
            )
        if self._prompt_length is not None:
            return self._prompt_length - 1
        if one is None and self._asks is not None and inside_generate():
            raise SteeringError(
                f"{self._asks} asks where the prompt ends, but this generate is not seen: it was looked up before "
                f"`attach`, or is that of a model around the one that was attached; attach to that one, and call its "
                f"generate inside the `with`, or give prompt_length=…"
            )
        if one is not None and end != one.length:
            if end > one.length and not one.drafts:
                raise SteeringError(
                    f"generate was given a prompt of {one.length} columns, but {end} came before its first token; "
                    f"give prompt_length=… with what the model is fed"
                )
            if one.padded_right:
                raise SteeringError("prompts end in different columns and are fed in chunks; pad them on the left")
            return one.length - 1
        if valid is None or bool(valid[:, -1].all()):  # left-padded: all prompts end in the last column
            return end - 1
        numbers = torch.arange(start, end, device=valid.device)
        return torch.where(valid, numbers, -1).amax(dim=-1)


def _columns_in(cache: Any) -> int:
    """Columns that a cache holds."""
    if not hasattr(cache, "get_seq_length"):
        raise SteeringError(
            f"{type(cache).__name__}: does not say how many tokens it holds, so steering cannot follow; continuous "
            f"batching is not steered: call generate"
        )
    return int(cache.get_seq_length())


def _valid(mask: object, start: int, width: int) -> Tensor | None:
    """`(B, width)` True where a token is no padding, from any form of attention mask transformers hands down."""
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 2:
        return mask[:, start : start + width].bool()
    # A 4D mask (B, 1, query, key): padding is a key that the last query of the pass may not attend to.
    last = mask[:, 0, -1, start : start + width]
    return last if last.dtype == torch.bool else last == 0
