"""Runs the conversations of many variants, batch after batch, wherever the batches are done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from steerkit.agent import Runtime
from steerkit.engine import Engine, HfEngine, Sampling, SharedPrompts
from steerkit.lab.policy_conditions import in_reply_alone
from steerkit.lab.prove import baselines
from steerkit.lab.prove.baselines import Setup
from steerkit.lab.prove.dataset import Labelled, case_of
from steerkit.lab.prove.scoring import Outcome, outcome_of
from steerkit.lab.prove.variants import Variant
from steerkit.lab.workers.local import Mapper, batches
from steerkit.runtime import Request

_MOST: Final = 2 << 30
"""Bytes of keys and values of prompts that are kept."""


class VariantSetup(NamedTuple):
    """A variant, or the half of it, that is ready to be run."""

    variant: str
    """Its key."""
    guarded: bool
    setup: Setup
    rows: Collection[int]
    """The conversations that are run under it."""
    known: Mapping[int, Outcome]
    """Outcomes of the others of them, which it does not change."""


class _Batch(NamedTuple):
    """Conversations of one variant that are generated together."""

    number: int
    """Number of the setup."""
    rows: Sequence[int]
    together: tuple[int, ...]
    """Conversations of about one length, these among them, whose prompts are read together, once for all setups."""


class Prompts:
    """Prompts that were read in this process; what is sent to another one is empty."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, ...], SharedPrompts] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Prompts, ()

    def of(
        self, runtime: Runtime, engine: HfEngine, dataset: Sequence[Labelled], rows: tuple[int, ...]
    ) -> SharedPrompts | None:
        """Those of some conversations; None of a model whose prompts cannot be shared."""
        if rows in self._found:
            return self._found[rows]
        tokenizer, untrusted = engine.tokenizer, runtime.untrusted
        found = engine.share([case_of(tokenizer, dataset[row], (), untrusted).prompt for row in rows])
        if found is not None and found.bytes + sum(one.bytes for one in self._found.values()) <= _MOST:
            self._found[rows] = found
        return found


def setups_of(
    variant: Variant,
    setups: Sequence[Setup],
    count: int,
    halves: Callable[[], Sequence[list[int]]],
    like: Sequence[Outcome] | None = None,
) -> list[VariantSetup]:
    """One setup for all of `count` conversations, or one for each half of them.

    Of a variant that is `like` another, whose outcomes are given, only those are run in which that one wrote.
    """
    found = []
    for setup, rows in zip(setups, [range(count)] if len(setups) == 1 else halves(), strict=True):
        known = {} if like is None else {row: like[row] for row in rows if not like[row].edits}
        run = frozenset(rows) - known.keys()
        found.append(VariantSetup(variant.key, variant.guarded, setup, run, known))
    return found


def run_variants(
    mapper: Mapper,
    setups: Sequence[VariantSetup],
    dataset: Sequence[Labelled],
    sampling: Sampling,
    size: int,
    prompts: Prompts,
    report: Callable[[int], None],
) -> Iterator[tuple[str, list[Outcome]]]:
    """The variants one after the other, each once all of its conversations are done.

    Args:
        mapper: does the batches.
        setups: those of one variant follow each other.
        dataset: the conversations.
        sampling: how replies are made.
        size: conversations that are generated together.
        prompts: those that were read before.
        report: callback for progress: conversations of the current variant that are done.
    """
    work = partial(_outcomes, [(one.guarded, one.setup) for one in setups], dataset, sampling, prompts)
    lengths = [len(one.content) for one in dataset]  # the longest of a batch makes the others wait
    groups = batches(sorted(range(len(dataset)), key=lengths.__getitem__), size)
    pieces = [piece for number, one in enumerate(setups) for piece in _batches(number, one.rows, groups)]
    found: dict[int, Outcome] = {}
    for piece, outcomes in zip(pieces, mapper(work, pieces), strict=True):
        found |= setups[piece.number].known
        found |= zip(piece.rows, outcomes, strict=True)
        report(len(found))
        if len(found) == len(dataset):
            yield setups[piece.number].variant, [found[row] for row in range(len(dataset))]
            found = {}


def _batches(number: int, rows: Collection[int], groups: Sequence[Sequence[int]]) -> list[_Batch]:
    """The rows of a setup, those of each group together; one empty batch of none."""
    some = [(tuple(row for row in group if row in rows), tuple(group)) for group in groups]
    return [_Batch(number, own, group) for own, group in some if own] or [_Batch(number, (), ())]


def _outcomes(
    setups: Sequence[tuple[bool, Setup]],
    dataset: Sequence[Labelled],
    sampling: Sampling,
    prompts: Prompts,
    runtime: Runtime,
    piece: _Batch,
) -> list[Outcome]:
    """Outcomes of the conversations of one batch."""
    guarded, setup = setups[piece.number]
    if not piece.rows:
        return []
    under = Runtime(_engine(runtime, setup, dataset, prompts, piece), untrusted=runtime.untrusted)
    some = [dataset[row] for row in piece.rows]
    requests = [_request(conversation, setup, sampling) for conversation in some]
    turns = under.run_batch(requests, batch_size=len(requests))
    return [outcome_of(conversation.key, turn, guarded=guarded) for conversation, turn in zip(some, turns, strict=True)]


def _engine(runtime: Runtime, setup: Setup, dataset: Sequence[Labelled], prompts: Prompts, piece: _Batch) -> Engine:
    """The engine of a setup; on transformers prompts are read once for all that do nothing before a prompt's end."""
    engine, rows = runtime.engine, setup.rows or {}
    shares = setup.ask is None and (setup.policy is None or in_reply_alone(setup.policy))
    if shares and isinstance(engine, HfEngine):
        return engine.with_decoder_rows(rows, prompts.of(runtime, engine, dataset, piece.together))
    return engine.with_decoder_rows(rows)


def _request(conversation: Labelled, setup: Setup, sampling: Sampling) -> Request:
    messages = conversation.messages if setup.ask is None else baselines.asked_for(conversation.messages, setup.ask)
    return Request(messages, conversation.tools, setup.policy or (), sampling)
