"""Steering of one worker: policies by request, over the passes that vLLM's scheduler makes.

Nothing that a request brings makes a method raise here, as that would end the server: what goes wrong is kept as the
error of the requests that it concerns, which run on unsteered, and the engine raises it before anything is released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steerkit.chat import PlaceMachine
from steerkit.sae import SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import (
    Extent,
    Piece,
    RaggedRecorders,
    RaggedSteering,
    Recorder,
    Wanted,
    compile_plan,
    described,
    read_traces,
    read_watched,
    traced_sites,
)
from steerkit.types import Trace

_MOST_DONE: Final = 4096
"""Most requests that are done and wait for their traces to be read."""

_MOST_TOGETHER: Final = 32
"""Most requests whose traces are read at a time, which takes a copy of what was recorded of them."""


class Scheduled(NamedTuple):
    """The tokens of one request that a pass computes."""

    start: int
    """Tokens of the request before them."""
    length: int


@dataclass(slots=True)
class _Request:
    """One request from its arrival until its trace is read."""

    wanted: Wanted
    """Its policies, and what is to be read of it."""
    prompt_length: int
    run: RaggedSteering
    """The plan that it began under, which it keeps where others replace it."""
    error: str = ""
    """What went wrong first; it is not steered from there on."""
    seen: int = 0
    """Tokens that were computed under steering."""


class WorkerSteering:
    """The requests of a worker, each under the row of policies that it names.

    Args:
        sites: hook points whose activations come to `steer` in every pass.
        saes: the dictionaries.
        device: of the model.
        machine: the tokenizer's place machine.
        copies: True where the memory of activations is reused within a pass, as in compiled models.
    """

    def __init__(
        self,
        sites: Collection[Site],
        saes: SaeSet | None,
        device: torch.device,
        machine: PlaceMachine,
        *,
        copies: bool = False,
    ) -> None:
        self.sites: Final = frozenset(sites)
        self._saes, self._device, self._machine, self._copies = saes, device, machine, copies
        self._requests: dict[str, _Request] = {}
        self._fired = Counter[Site]()
        self._pass: Mapping[str, Scheduled] = {}
        """The pass that runs; empty in warm-up and profiling."""
        self._tokens = 0
        """Its tokens without padding, once it has begun."""
        self._steers = False
        self._broken = ""
        """What keeps every request from being steered."""
        self._done: dict[str, None] = {}
        """Requests that are done and whose traces were not read yet, in order."""
        self._runs: list[RaggedSteering] = []
        """The plans that requests run under, the newest last; each leaves those of the others as they are."""
        self.set_rows({})

    def set_rows(
        self,
        rows: Mapping[str, Wanted],
        decoder: Mapping[Feature, Tensor] | None = None,
        kept: Mapping[str, Collection[Site]] | None = None,
    ) -> None:
        """Compile the rows that requests may name from now on; who runs goes on under the plan that it has.

        Args:
            decoder: decoder rows that they write along, in place of the set's own.
            kept: by name, more sites whose activations are kept for `activations`.

        Raises:
            SteerkitError: the policies cannot be compiled; the rows stay as they were.
        """
        wanted = list(rows.values())
        with torch.inference_mode(False):  # it outlives the passes
            devices = dict.fromkeys(self.sites, self._device)
            through = self._saes.with_decoder_rows(decoder) if self._saes is not None and decoder else self._saes
            plan = compile_plan([one.policies for one in wanted], through, devices)
            traced: dict[int, set[Site]] = {}
            for name, one in rows.items():
                own = traced.setdefault(plan.row(one.policies), set())
                own.update(traced_sites([one], self._saes), (kept or {}).get(name, ()))
            for rule in plan.rules:
                traced[rule.row] |= {latent.site for latent in rule.edits}
            recorded = {row: sites for row, sites in traced.items() if sites}
            recorders = RaggedRecorders(plan, rows=recorded, copies=self._copies)
            run = RaggedSteering(plan, self._device, lambda request: self._row(request, run), self._machine, recorders)
        self._runs.append(run)
        self._run, self._rows = run, dict(rows)

    def _row(self, request: str, run: RaggedSteering) -> int:
        """Table row of a request in a plan; the identity for one that is not steered, or runs under another."""
        found = self._requests.get(request)
        if found is None or found.error or found.run is not run:
            return 0
        return run.steering.plan.row(found.wanted.policies)

    def arrive(self, request: str, row: object, prompt_length: int) -> None:
        """Take in a request under the row of a name, None for none; again after a preemption."""
        if request in self._requests:
            return
        wanted = Wanted() if row is None else self._rows.get(row) if isinstance(row, str) else None
        error = f"names {str(row)[:80]!r}, which is none of the worker's policies" if wanted is None else ""
        self._requests[request] = _Request(wanted or Wanted(), prompt_length, self._run, error)

    def leave(self, requests: Iterable[str]) -> None:
        """Let go of requests that are done, or were given up; what was recorded of the last ones can still be read."""
        for request in requests:
            self._forget_sequence(request)
            if request in self._requests:
                self._done[request] = None
        self.forget([*self._done][:-_MOST_DONE])
        if len(self._runs) > 1:
            used = {id(one.run) for request, one in self._requests.items() if request not in self._done}
            self._runs = [run for run in self._runs if id(run) in used or run is self._run]

    def schedule(self, tokens: Mapping[str, Scheduled]) -> None:
        """Announce a pass over the tokens of some requests."""
        self._pass, self._tokens, self._steers = tokens, 0, False
        self._fired.clear()

    def begin(self, order: Sequence[str], ids: Tensor | None) -> None:
        """Begin the announced pass: the order of its requests, and its tokens `(N,)`, padding at the end."""
        if not self._pass:
            return
        try:
            assert ids is not None, "got embeddings, expected tokens"
            pieces = [self._piece(request) for request in order]
            self._tokens = sum(piece.length for piece in pieces)
            for run in self._runs:
                run.begin(pieces, ids[: self._tokens])
            self._steers = True
        except Exception as error:  # whatever it is, the server lives on
            self._fail(order, f"could not be steered: {type(error).__name__}: {error}")

    def _piece(self, request: str) -> Piece:
        start, length = self._pass[request]
        found = self._requests.get(request)
        if found is None:  # was let go of while it ran
            return Piece(request, start, length, start + length)
        piece = Piece(request, start, length, found.prompt_length)
        if (why := found.run.gap(piece)) is not None:
            self._fail([request], why)
            self._forget_sequence(request)  # and comes back without a rule
        return piece

    def _forget_sequence(self, request: str) -> None:
        for run in self._runs:
            run.forget(request)

    def steer(self, site: Site, y: Tensor) -> Tensor | None:
        """The activations `(N, d)` of a site with their edits; None where they stay as they are."""
        if not self._pass:
            return None
        self._fired[site] += 1
        if not self._steers:
            return None
        try:
            found = self._steered(site, y if len(y) == self._tokens else y[: self._tokens])
            return found if found is None or len(found) == len(y) else torch.cat([found, y[self._tokens :]])
        except Exception as error:  # as above
            self._steers = False
            self._fail(self._pass, f"could not be steered at {described(site)}: {type(error).__name__}: {error}")
            return None

    def _steered(self, site: Site, y: Tensor) -> Tensor | None:
        """The activations after the edits of every plan, of which each has tokens of its own."""
        found: Tensor | None = None
        for run in self._runs:
            edited = run.steer(site, y if found is None else found)
            found = found if edited is None else edited
        return found

    def end(self) -> None:
        """End the announced pass; its requests fail unless every hook ran once."""
        tokens, self._pass = self._pass, {}
        wrong = sorted(site for site in self.sites if self._fired[site] != 1)
        if tokens and not self._tokens:
            self._fail(tokens, "a pass ran that steering was not told of")
        elif tokens and wrong:
            times = self._fired[wrong[0]]
            self._fail(tokens, f"{described(wrong[0])} ran {times} times in a pass, expected once")
        for request, (start, length) in tokens.items():
            if (found := self._requests.get(request)) is not None and not found.error:
                found.seen = start + length

    def fail_all(self, why: str) -> None:
        """Fail every request from now on."""
        self._broken = self._broken or why

    def _fail(self, requests: Iterable[str], why: str) -> None:
        for request in requests:
            found = self._requests.get(request)
            if found is not None and not found.error:
                found.error = why

    def error(self, request: str, length: int) -> str:
        """Reason why the first tokens of a request were not steered as its policies say; nothing where they were."""
        if self._broken:
            return self._broken
        found = self._requests.get(request)
        if found is None:
            return "is not known to the worker"
        if not found.error and found.seen < length:
            return f"was steered for {found.seen} of {length} tokens"
        return found.error

    def watched(self, request: str, start: int) -> dict[str, tuple[float, ...]]:
        """Watched values of a request that runs, from a token on."""
        found = self._requests[request]
        with torch.inference_mode():
            return read_watched(found.run.recorders.of(request), self._saes, found.wanted, 0, start)

    def traces(self, asked: Sequence[tuple[str, Extent]]) -> list[Trace]:
        """The traces of requests, which are forgotten here; those of one plan are read together.

        Raises:
            SteerkitError: one cannot be read.
        """
        found = [Trace() for _ in asked]  # of one that nothing asks for
        together: dict[tuple[int, frozenset[Site]], list[tuple[int, Recorder]]] = {}
        wanted, runs = [], {}
        for number, (request, _) in enumerate(asked):
            one = self._requests[request]
            wanted.append(one.wanted)
            if (recorder := one.run.recorders.pop(request)) is not None:
                runs[id(one.run)] = one.run
                together.setdefault((id(one.run), recorder.kept), []).append((number, recorder))
        self.forget([request for request, _ in asked])
        for (run, _), group in together.items():
            for start in range(0, len(group), _MOST_TOGETHER):
                numbers, recorders = zip(*group[start : start + _MOST_TOGETHER], strict=True)
                extents = [asked[number][1] for number in numbers]
                with torch.inference_mode():
                    recorder, plan = Recorder.joined(recorders), runs[run].steering.plan
                    traces = read_traces(recorder, plan, self._saes, [wanted[number] for number in numbers], extents)
                for number, trace in zip(numbers, traces, strict=True):
                    found[number] = trace
        return found

    def activations(self, asked: Sequence[tuple[str, Sequence[int]]], sites: Sequence[Site]) -> Tensor:
        """Activations `(sites, steps of all, width)` of requests at their steps, before edits; they are forgotten."""
        parts = []
        for request, steps in asked:
            recorder = self._requests[request].run.recorders.take(request)
            places = recorder.columns(0).to(self._device)[torch.tensor(steps, device=self._device)]
            parts.append(torch.stack([recorder.raw(site)[0].index_select(0, places) for site in sites]))
        self.forget([request for request, _ in asked])
        return torch.cat(parts, dim=1).float().cpu()

    def forget(self, requests: Iterable[str]) -> None:
        """Forget requests and what was recorded of them."""
        for request in requests:
            self._done.pop(request, None)
            self._forget_sequence(request)
            if (found := self._requests.pop(request, None)) is not None:
                found.run.recorders.pop(request)
