"""The engine that runs vLLM: requests go to its scheduler, each under its own policies, and come back as steps."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from steerkit.audit import SaeSetIdentity
from steerkit.chat import Tokenizer, dialect_of, place_machine
from steerkit.engine.api import Provenance, Row, Step, Steps
from steerkit.engine.hf.engine import identity_of, libraries
from steerkit.engine.hf.model import LoadedModel
from steerkit.engine.lease import Lease
from steerkit.engine.vllm.arguments import Vllm, engine_arguments, vllm_version
from steerkit.engine.vllm.llm import Llm
from steerkit.engine.vllm.wire import packed_wanted, row_name, unpacked_trace, unpacked_values
from steerkit.errors import ModelError, SteeringError
from steerkit.fingerprints import sha256_of
from steerkit.policy import fingerprint
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.steer import Extent, Plan, RaggedSteering, Wanted, check_engine, compile_plan, context_of
from steerkit.types import Trace

_MOST_ROWS: Final = 32
"""Most rows of policies that the worker holds for requests to come."""


@dataclass(slots=True)
class _Request:
    """One row while it is generated."""

    row: Row
    id: str
    """The worker's name for it."""
    tokens: int = 0
    """Of its reply so far."""
    cached: int = 0
    """Of its prompt, that vLLM's prefix cache knew."""
    done: bool = False

    @property
    def length(self) -> int:
        """Tokens that the model has run on: not the last one of the reply."""
        return len(self.row.ids) + max(0, self.tokens - 1)


@dataclass(frozen=True)
class VllmRecording:
    """A finished generation, whose traces lie with the worker until they are read, once."""

    requests: tuple[str, ...]
    llm: Llm = field(repr=False)
    cached: tuple[int, ...]
    decoding: str | None = None

    def traces(self, extents: Sequence[Extent]) -> list[Trace]:
        """The trace of each row.

        Raises:
            ModelError: the worker no longer has one, or is gone.
        """
        asked = [(name, one.length, *one.top) for name, one in zip(self.requests, extents, strict=True)]
        return [unpacked_trace(found) for found in self.llm.call("steerkit_traces", asked)]


class VllmEngine:
    """A model in vLLM's worker, with its SAEs.

    A request under a rule reads nothing from vLLM's prefix cache, since cached tokens pass no hook, and what it leaves
    there is found under a salt of its weights, SAEs and policies, by nobody else.

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
        self.saes: Final = saes
        self._model = identity_of(loaded)
        self._llm = Llm(loaded.name, engine_arguments(loaded, saes, revision, settings or Vllm()))
        own, most = context_of(loaded.model), self._llm.context
        self.context: Final = most if own is None else min(own, most)
        sites, self._width, facts = self._llm.call("steerkit_describe")
        self._sites = frozenset(map(Site.of, sites))
        self._machine: dict[str, Any] = {"engine": "vllm", **facts}
        self._lease = Lease()
        self._rows: dict[str, Wanted] = {}
        """The rows that the worker holds, by name."""
        self._numbers = itertools.count()
        self._unread: list[str] = []
        """Requests whose recordings are gone, and whose traces nobody will read."""

    @property
    def provenance(self) -> Provenance:
        """Provenance for records."""
        through = None if self.saes is None else SaeSetIdentity(self.saes.name, self.saes.fingerprint)
        return Provenance(self._model, through, {**libraries(), "vllm": self._version}, self._machine)

    def reserve(self, wanted: Sequence[Wanted]) -> None:
        """Give the worker the policies of rows such as these."""
        with self._lease.held():
            self._hold(wanted)

    def generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None = None) -> Steps:
        """Decode rows, each when vLLM's scheduler has room for it: a step holds the tokens that came together."""
        _check(rows)
        with self._lease.held(stopped):
            return (yield from self._generate(rows))

    def continuous(self, stopped: Callable[[], bool] | None = None) -> None:
        """None: rows of another call join no generation that runs so far, although vLLM's scheduler could have them."""

    def logits_along(self, rows: Sequence[Row], reply: Sequence[int]) -> Iterator[Tensor]:
        """Refuse: vLLM gives no logits along a reply. Raises ModelError."""
        raise ModelError(
            f"{self.name}: engine 'vllm' gives no logits along a reply; load it with engine 'transformers'"
        )

    def _generate(self, rows: Sequence[Row]) -> Steps:
        requests: list[_Request] = []
        self._hold([row.wanted for row in rows])
        try:
            for row, most in zip(rows, self._within_context(rows), strict=True):
                requests.append(_Request(row, self._add(row, most)))
            yield from self._steps(requests)
            errors = self._llm.call("steerkit_errors", {one.id: one.length for one in requests})
            for number, one in enumerate(requests, start=1):
                if one.id in errors:
                    raise SteeringError(f"request {number} of {len(requests)}: {errors[one.id]}")
        except BaseException:  # a generator that is closed, too
            with suppress(Exception):  # of an engine that is gone; what it raised first is said
                self._llm.abort([one.id for one in requests if not one.done])
                self._llm.call("steerkit_forget", [one.id for one in requests])
            raise
        cached = [one.cached for one in requests]
        recording = VllmRecording(tuple(one.id for one in requests), self._llm, tuple(cached) if any(cached) else ())
        weakref.finalize(recording, self._unread.extend, recording.requests)
        return recording

    def _steps(self, requests: Sequence[_Request]) -> Generator[Step, Any, None]:
        """Yield the tokens of each step of vLLM that has any, until all requests are done."""
        by_id = {one.id: number for number, one in enumerate(requests)}
        while not all(one.done for one in requests):
            ended, columns = set(), list[list[int | None]]()
            for name, tokens, over, cached in self._llm.step():
                at = by_id.get(name)
                if at is None or requests[at].done:
                    continue
                requests[at].cached = cached
                for place, token in enumerate(tokens):
                    if place == len(columns):
                        columns.append([None] * len(requests))
                    columns[place][at] = token
                if over:
                    ended.add(at)
            for column in columns:
                for one, came in zip(requests, column, strict=True):
                    one.tokens += came is not None
                cut = set((yield Step(column, self._watched_of(requests))) or ()) - ended
                self._llm.abort([requests[number].id for number in cut if not requests[number].done])
                ended |= cut
            for number in ended:
                requests[number].done = True

    def _watched_of(self, requests: Sequence[_Request]) -> Callable[[int, int], Mapping[str, Sequence[float]]]:
        """Watched values of a row from a position on."""

        def watched(number: int, start: int) -> Mapping[str, Sequence[float]]:
            one = requests[number]
            if not any(one.row.wanted.watch.values()):
                return {}
            found = self._llm.call("steerkit_watched", one.id, start)
            return {key: unpacked_values(values)[: max(0, one.length - start)] for key, values in found.items()}

        return watched

    def _add(self, row: Row, most: int) -> str:
        """Hand a row to vLLM, for at most so many new tokens; the worker's name for it."""
        ruled = any(policy.steer for policy in row.wanted.policies)
        salt = None
        if ruled:
            parts = [self._model.fingerprint, *([self.saes.fingerprint] if self.saes else [])]
            salt = sha256_of("\n".join([*parts, *map(fingerprint, row.wanted.policies)]))
        return self._llm.add(
            f"steerkit-{next(self._numbers)}",
            list(row.ids),
            most=most,
            stops=sorted(dialect_of(self.tokenizer).stops),
            row=row_name(row.wanted) if row.wanted.policies else None,
            salt=salt,
            skips_cache=ruled or bool(row.wanted.top_k) or any(row.wanted.watch.values()),
        )

    def _hold(self, wanted: Sequence[Wanted]) -> None:
        """Give the worker the rows that it does not hold yet; no request runs."""
        unread = [self._unread.pop() for _ in range(len(self._unread))]
        if unread:
            self._llm.call("steerkit_forget", unread)
        asked = {row_name(one): one for one in wanted if one.policies}
        if asked.keys() <= self._rows.keys():
            return
        rows = {**self._rows, **asked}
        if len(rows) > _MOST_ROWS:
            rows = asked
        for name in asked.keys() - self._rows.keys():
            self._check_plan(compile_plan([asked[name].policies], self.saes))
        self._llm.call("steerkit_rows", {name: packed_wanted(one) for name, one in rows.items()})
        self._rows = rows

    def _check_plan(self, plan: Plan) -> None:
        """Raise SteeringError for policies that the worker cannot follow; there it would end more than one request."""
        check_engine("vllm", plan.sites)
        RaggedSteering(plan, torch.device("cpu"), lambda _: 0, place_machine(self.tokenizer))
        for site, table in plan.sites.items():
            if site not in self._sites:
                has = ", ".join(map(str, sorted(one for one in self._sites if one.point == site.point)))
                raise SteeringError(f"{site}: the model has no such hook point; expected one of {has or 'none'}")
            if table.columns.width != self._width:
                raise SteeringError(
                    f"{site}: got a width of {table.columns.width}, but the model's is {self._width}; expected SAEs "
                    f"and directions of this model"
                )

    def _within_context(self, rows: Sequence[Row]) -> list[int]:
        """The most new tokens of each row. Raises ModelError: a prompt leaves no room for any."""
        room = [self.context - len(row.ids) for row in rows]
        for number, (row, left) in enumerate(zip(rows, room, strict=True), start=1):
            if left < 1:
                which = f"request {number} of {len(rows)}: " if len(rows) > 1 else ""
                raise ModelError(
                    f"{which}the prompt has {len(row.ids):,} tokens, but the model's context is {self.context:,}, "
                    f"which leaves no room for a reply; shorten the conversation"
                )
        return [min(row.sampling.max_new_tokens, left) for row, left in zip(rows, room, strict=True)]


def _check(rows: Sequence[Row]) -> None:
    """Refuse rows that ask for what this engine does not do. Raises ModelError."""
    for row in rows:
        if row.constraint is not None:
            raise ModelError(
                "engine 'vllm' holds no reply to a grammar so far; leave tool_choice and response_format out, or use "
                "engine 'transformers'"
            )
        if row.sampling.temperature > 0:
            raise ModelError(
                f"engine 'vllm' draws no tokens by a request's seed so far: got temperature "
                f"{row.sampling.temperature}, expected 0, or engine 'transformers'"
            )
