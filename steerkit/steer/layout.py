"""Knows where each token of a running forward pass stands: its column, if it is padding, where the reply begins."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.errors import SteeringError
from steerkit.steer.standings import Standings, Stands
from steerkit.types import PROMPT_PLACES, Place

CACHE_NAMES = ("cache", "past_key_values")
"""What transformers calls the cache of keys and values: from 5.24 on, and before."""
COLUMN_PLACES = frozenset({"any", "prompt", "reply", "reply.start"})
"""Places that are known from columns alone; the others are read from the tokens."""


def cache_name(model: nn.Module) -> str:
    """What the model's forward calls its cache of keys and values."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), CACHE_NAMES[-1])


def needs_tokens(places: Iterable[Place]) -> bool:
    """Whether the tokens must be read to know these places."""
    return not set(places) <= COLUMN_PLACES


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens of one forward pass: B sequences, columns `start` to `start + width` of each."""

    start: int
    width: int
    rows: Tensor
    """`(B,)` table row of each sequence."""
    valid: Tensor | None
    """`(B, width)` False at padding; None where nothing is padded."""
    before: Tensor | int
    """Tokens before this pass, padding not counted; `(B,)` where it differs by sequence."""
    reply_start: Tensor | int
    """Column of the step that produces the reply's first token; `(B,)` where it differs by sequence."""
    fresh: bool
    """Whether this pass starts new sequences."""
    stands: Stands | None = None
    """Where the tokens stand by the conversation's grammar; None where no place asks."""

    @property
    def steady(self) -> object:
        """Of a token of the reply: what its places follow from, the same for the next as long as they are; else None.

        For padding, and where prompts end in different columns, this is not known.
        """
        if self.width != 1 or self.valid is not None or isinstance(self.reply_start, Tensor):
            return None
        if self.start <= self.reply_start:
            return None
        return len(self.rows), None if self.stands is None else self.stands.key

    @property
    def columns(self) -> Tensor:
        """`(1, width)` column numbers."""
        return torch.arange(self.start, self.start + self.width, device=self.rows.device).unsqueeze(0)

    @property
    def numbers(self) -> Tensor:
        """`(B, width)` number of each token in its sequence, padding not counted."""
        if self.valid is None:
            counted = torch.arange(self.width, device=self.rows.device).expand(len(self.rows), -1)
        else:
            counted = self.valid.cumsum(dim=-1) - 1
        return counted + (self.before.unsqueeze(-1) if isinstance(self.before, Tensor) else self.before)

    def ends(self, first: int) -> Tensor:
        """`(B,)` offset, counted from `first`, of each sequence's last token here; -1 where all are padding."""
        last = self.width - 1 - first
        if self.valid is None:
            return torch.full((len(self.rows),), last, device=self.rows.device)
        offsets = torch.arange(last + 1, device=self.rows.device)
        return torch.where(self.valid[:, first:], offsets, -1).amax(dim=-1)

    def reaches(self, place: Place) -> bool:
        """Whether a token of this pass can stand at `place`; may say yes too often, never no too often."""
        last = self.start + self.width - 1
        if isinstance(self.reply_start, Tensor):
            return place not in PROMPT_PLACES or self.fresh
        if place in PROMPT_PLACES:
            return self.start <= self.reply_start
        if place == "reply.start":
            return self.start <= self.reply_start <= last
        if place.startswith("call"):
            return last > self.reply_start
        return place == "any" or last >= self.reply_start

    def first(self, places: Iterable[Place]) -> int:
        """Offset of the first token of this pass that can stand at one of `places`."""
        if isinstance(self.reply_start, Tensor) or not PROMPT_PLACES.isdisjoint(places) or "any" in places:
            return 0
        return max(0, self.reply_start - self.start)

    def at(self, place: Place) -> Tensor:
        """`(B, width)` which tokens stand at `place`; padding stands nowhere."""
        start = self.reply_start.unsqueeze(-1) if isinstance(self.reply_start, Tensor) else self.reply_start
        columns = self.columns.expand(len(self.rows), -1)
        if place not in COLUMN_PLACES:
            assert self.stands is not None  # the layout was told of the places
            mask = self.stands.at(place)
        elif place == "prompt":
            mask = columns <= start
        elif place == "reply":
            mask = columns >= start
        elif place == "reply.start":
            mask = columns == start
        else:
            mask = torch.ones_like(columns, dtype=torch.bool)
        return mask if self.valid is None else mask & self.valid


class Layout:
    """Follows the passes of a generation: whole prompts, chunks, single steps, with and without a cache.

    Without `prompt_length` the first pass over an empty cache is taken to be the whole prompt.
    """

    def __init__(
        self,
        rows: Sequence[int],
        device: torch.device,
        prompt_length: int | None = None,
        *,
        remembers: str | None = None,
        standings: Standings | None = None,
    ) -> None:
        self._rows = torch.tensor(rows, device=device)
        self._uniform = rows[0] if len(set(rows)) == 1 else None
        self._prompt_length = prompt_length
        self._remembers = remembers
        self._standings = standings
        self._seen = 0
        self._before: Tensor | int = 0
        self._reply_start: Tensor | int = 0

    @property
    def standings(self) -> Standings | None:
        """Where the sequences stand by the conversation's grammar; None where no place asks."""
        return self._standings

    @property
    def seen(self) -> int:
        """Columns read so far."""
        return self._seen

    @property
    def before(self) -> Tensor | int:
        """Tokens read so far, padding not counted, `(B,)` where it differs; 0 where no rule needs to know."""
        return self._before

    def go_on(self, column: int) -> None:
        """Take it that the one sequence was read up to a column, without padding; its prompt's length is known."""
        assert self._prompt_length is not None  # only the runtime goes on, and it says so
        assert len(self._rows) == 1
        self._seen, self._reply_start = column, self._prompt_length - 1
        if self._remembers is not None:
            self._before = torch.tensor([column], device=self.device)

    @property
    def device(self) -> torch.device:
        """Where row numbers and masks live."""
        return self._rows.device

    @property
    def uniform(self) -> int | None:
        """The table row that all requests share, or None."""
        return self._uniform

    def next(self, tokens: Tensor, kwargs: Mapping[str, Any]) -> Window:
        """The window of the pass that is about to run over `tokens`: ids `(B, T)`, or embeddings `(B, T, d)`.

        Raises:
            SteeringError: the batch does not fit the requests, or tokens do not come once and in order where a policy
                has to remember them.
        """
        batch, width = tokens.shape[:2]
        cache = next((found for name in CACHE_NAMES if (found := kwargs.get(name)) is not None), None)
        start = 0 if cache is None else int(cache.get_seq_length())
        # Without a cache every pass reads the whole sequence again, one token longer.
        again = cache is None and kwargs.get("use_cache") is False and width > self._seen > 0
        fresh = start == 0 and not again
        only_tokens = width == 1 and getattr(cache, "only_tokens", False)
        valid = None if only_tokens else _valid(kwargs.get("attention_mask"), start, width)
        if valid is not None and (width > 1 or valid.device.type == "cpu") and bool(valid.all()):
            valid = None  # elsewhere than on a CPU a step would wait to be told
        if fresh:
            self._reply_start = self._locate_reply(valid, width)
        self._check_memory(batch, start)
        before: Tensor | int = 0 if start == 0 else self._before
        if self._remembers is not None:
            self._before = before + (width if valid is None else valid.sum(dim=-1))
        self._seen = start + width
        window = Window(start, width, self._expand(batch), valid, before, self._reply_start, fresh)
        return window if self._standings is None else replace(window, stands=self._standings.read(tokens, window))

    def _check_memory(self, batch: int, start: int) -> None:
        if self._remembers is None:
            return
        if start not in (0, self._seen):
            raise SteeringError(
                f"{self._remembers} remembers earlier tokens, but the tokens from {start} on came after {self._seen}; "
                f"expected every token once and in order"
            )
        if batch != len(self._rows):
            raise SteeringError(
                f"{self._remembers} remembers earlier tokens, but {batch} sequences came for {len(self._rows)} "
                f"requests; beams change places unseen, expected one sequence per request"
            )

    def _expand(self, batch: int) -> Tensor:
        """Rows of this batch: beams and several samples repeat each request in a run."""
        if batch == len(self._rows):
            return self._rows
        if batch % len(self._rows):
            raise SteeringError(
                f"steering was attached for {len(self._rows)} requests, but a batch of {batch} came; "
                f"give `rows` one entry per request"
            )
        return self._rows.repeat_interleave(batch // len(self._rows))

    def _locate_reply(self, valid: Tensor | None, width: int) -> Tensor | int:
        if self._prompt_length is not None:
            return self._prompt_length - 1
        if valid is None or bool(valid[:, -1].all()):  # left-padded: all prompts end in the last column
            return width - 1
        numbers = torch.arange(width, device=valid.device)
        return torch.where(valid, numbers, -1).amax(dim=-1)


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
