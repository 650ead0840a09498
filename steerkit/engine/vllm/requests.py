"""Rows as requests of vLLM: with their policies, which the worker holds, and apart from others in its prefix cache."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Final

import torch
from torch import Tensor

from steerkit.chat import Tokenizer, dialect_of, place_machine
from steerkit.engine.api import Row, Sampling
from steerkit.engine.vllm.llm import Asked, Llm
from steerkit.engine.vllm.wire import packed_choice, packed_decoder, packed_wanted, resumed_choice, row_name
from steerkit.errors import ModelError, SteeringError, SteerkitError
from steerkit.fingerprints import sha256_of
from steerkit.policy import Policy, fingerprint
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import Plan, RaggedSteering, Wanted, check_engine, compile_plan

_MOST_ROWS: Final = 32
"""Most rows of policies that the worker holds beside those of requests that run."""


_READ: Final = "read"
"""Name of the row of texts that are only read."""
_READING: Final = Policy(steerkit=1, name="reading")
"""Their policy, which does nothing."""


class Requests:
    """Gives rows to vLLM. One thread calls it at a time.

    A request under a rule reads nothing from vLLM's prefix cache, since cached tokens pass no hook, and what it leaves
    there is found under a salt of its weights, SAEs and policies, by nobody else.

    Args:
        llm: vLLM's engine.
        tokenizer: of the model.
        saes: the dictionaries.
        weights: fingerprint of the model.
        context: most tokens of a prompt and its reply together.
        sites: hook points that the worker steers.
        width: of their activations.
    """

    def __init__(
        self,
        llm: Llm,
        tokenizer: Tokenizer,
        saes: SaeSet | None,
        *,
        weights: str,
        context: int,
        sites: frozenset[Site],
        width: int,
    ) -> None:
        self._llm, self._tokenizer, self._saes = llm, tokenizer, saes
        self._weights, self._context, self.sites, self._width = weights, context, sites, width
        self._stops = sorted(dialect_of(tokenizer).stops)
        self._rows: dict[str, Wanted] = {}
        """The rows that the worker holds, by name, while it holds ours."""
        self._decoder: list[tuple[str, int, bytes]] = []
        """Decoder rows in place of the set's own."""
        self._numbers = itertools.count()
        self.unread: list[str] = []
        """The worker's names of requests whose rows nobody holds any more, so that nobody will read their traces."""

    def with_decoder_rows(self, rows: Mapping[Feature, Tensor]) -> Requests:
        """The same beside these, for requests that write edits of some features along other rows."""
        found = copy(self)
        found._rows, found._decoder = {}, packed_decoder(rows)
        return found

    def hold(self, wanted: Sequence[Wanted]) -> None:
        """Give the worker the policies that it does not hold yet. Raises SteeringError: it cannot follow them."""
        unread = [self.unread.pop() for _ in range(len(self.unread))]
        if unread:
            self._llm.call("steerkit_forget", unread)
        if self._llm.held_for is not self:  # those of requests with other decoder rows
            self._rows = {}
        asked = {row_name(one): one for one in wanted if one.policies}
        if asked.keys() <= self._rows.keys():
            return
        rows = {**self._rows, **asked}
        if len(rows) > _MOST_ROWS:
            used = self._llm.rows
            rows = {**{name: one for name, one in self._rows.items() if name in used}, **asked}
        for name in asked.keys() - self._rows.keys():
            self._check_plan(compile_plan([asked[name].policies], self._saes))
        self._llm.call("steerkit_rows", {name: packed_wanted(one) for name, one in rows.items()}, self._decoder)
        self._llm.held_for, self._rows = self, rows

    def add(self, rows: Sequence[Row]) -> list[Asked]:
        """Give rows to vLLM, all or none.

        Raises:
            ModelError: a prompt leaves no room for a reply.
            SteeringError: the worker cannot follow its policies.
        """
        room = self._within_context(rows)
        self.hold([row.wanted for row in rows])
        asked: list[Asked] = []
        try:
            for row, most in zip(rows, room, strict=True):
                asked.append(self._add(row, row.ids, most, packed_choice(row, most)))
        except SteerkitError:
            self._llm.abort(asked)
            raise
        return asked

    def ask(self, row: Row, reply: Sequence[int]) -> Asked:
        """Ask for the most likely token after a row's reply without steering, which vLLM gives as the only one."""
        plain = Row((), Wanted(), row.sampling)
        return self._add(plain, [*row.ids, *reply], 1, None)

    def resume(self, row: Row, reply: Sequence[int], was: Asked, unsteered: int) -> Asked:
        """Let a row go on after its reply, steered from its beginning, with the answer that its choice waited for."""
        self.hold([row.wanted])
        [most] = self._within_context([row])
        choice = resumed_choice(was.id, len(row.ids), unsteered)
        return self._add(row, [*row.ids, *reply], most - len(reply), choice)

    def read(self, texts: Sequence[Sequence[int]], steps: Sequence[Sequence[int]], sites: Sequence[Site]) -> Tensor:
        """Activations `(sites, steps of all texts, width)` in float32, of texts that nothing steers.

        Raises:
            ModelError: a text fills the model's context.
            SteeringError: a text was not read.
        """
        self._within_context([Row(ids, Wanted(), Sampling(1)) for ids in texts])
        names = tuple(map(str, sites))
        if self._llm.held_for != names:
            self._llm.call("steerkit_rows", {_READ: packed_wanted(Wanted((_READING,)))}, [], {_READ: names})
            self._llm.held_for = names
        how: dict[str, Any] = {"most": 1, "stops": [], "row": _READ, "salt": None, "skips_cache": True}
        asked: list[Asked] = []
        try:
            for ids in texts:
                asked.append(self._llm.add(f"steerkit-{next(self._numbers)}", list(ids), **how))
            while not all(one.over for one in asked):
                self._llm.step()
            lengths = {one.id: len(ids) for one, ids in zip(asked, texts, strict=True)}
            for errors in self._llm.call_each("steerkit_errors", lengths):
                for unchosen, unread in errors.values():
                    raise SteeringError(f"a text {unread or unchosen}")
            at = [(one.id, list(some)) for one, some in zip(asked, steps, strict=True)]
            found = self._llm.call("steerkit_activations", at, names)
        except BaseException:
            self._llm.abort(asked)
            self.unread += [one.id for one in asked]
            raise
        return torch.frombuffer(bytearray(found), dtype=torch.float32).view(len(sites), -1, self._width)

    def _add(self, row: Row, ids: Sequence[int], most: int, choice: Mapping[str, Any] | None) -> Asked:
        ruled = any(policy.steer for policy in row.wanted.policies)
        salt = None
        if ruled:
            parts = [self._weights, *([self._saes.fingerprint] if self._saes else []), repr(self._decoder)]
            salt = sha256_of("\n".join([*parts, *map(fingerprint, row.wanted.policies)]))
        return self._llm.add(
            f"steerkit-{next(self._numbers)}",
            list(ids),
            most=most,
            stops=self._stops,
            row=row_name(row.wanted) if row.wanted.policies else None,
            salt=salt,
            skips_cache=ruled or bool(row.wanted.top_k) or any(row.wanted.watch.values()),
            choice=choice,
        )

    def _check_plan(self, plan: Plan) -> None:
        """Raise SteeringError for policies that the worker cannot follow; there it would end more than one request."""
        check_engine("vllm", plan.sites)
        RaggedSteering(plan, torch.device("cpu"), lambda _: 0, place_machine(self._tokenizer))
        for site, table in plan.sites.items():
            if site not in self.sites:
                has = ", ".join(map(str, sorted(one for one in self.sites if one.point == site.point)))
                raise SteeringError(f"{site}: the model has no such hook point; expected one of {has or 'none'}")
            if table.columns.width != self._width:
                raise SteeringError(
                    f"{site}: got a width of {table.columns.width}, but the model's is {self._width}; expected SAEs "
                    f"and directions of this model"
                )

    def _within_context(self, rows: Sequence[Row]) -> list[int]:
        """The most new tokens of each row. Raises ModelError: a prompt leaves no room for any."""
        room = [self._context - len(row.ids) for row in rows]
        for number, (row, left) in enumerate(zip(rows, room, strict=True), start=1):
            if left < 1:
                which = f"request {number} of {len(rows)}: " if len(rows) > 1 else ""
                raise ModelError(
                    f"{which}the prompt has {len(row.ids):,} tokens, but the model's context is {self._context:,}, "
                    f"which leaves no room for a reply; shorten the conversation"
                )
        return [min(row.sampling.max_new_tokens, left) for row, left in zip(rows, room, strict=True)]
