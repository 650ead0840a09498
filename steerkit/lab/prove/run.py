"""Runs the conversations of many variants, batch after batch, wherever the batches are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.lab.prove import baselines
from steerkit.lab.prove.baselines import Setup
from steerkit.lab.prove.dataset import Labelled
from steerkit.lab.prove.scoring import Outcome, outcome_of
from steerkit.lab.prove.variants import Variant
from steerkit.lab.workers.local import Mapper, batches
from steerkit.runtime import Request


class VariantSetup(NamedTuple):
    """A variant, or the half of it, that is ready to be run."""

    variant: str
    """Its key."""
    guarded: bool
    setup: Setup
    rows: Sequence[int]
    """The conversations that are run under it."""
    known: Mapping[int, Outcome]
    """Outcomes of the others of them, which it does not change."""


class _Batch(NamedTuple):
    """Conversations of one variant that are generated together."""

    number: int
    """Number of the setup."""
    rows: Sequence[int]


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
        run = [row for row in rows if row not in known]
        found.append(VariantSetup(variant.key, variant.guarded, setup, run, known))
    return found


def run_variants(
    mapper: Mapper,
    setups: Sequence[VariantSetup],
    dataset: Sequence[Labelled],
    sampling: Sampling,
    size: int,
    report: Callable[[int], None],
) -> Iterator[tuple[str, list[Outcome]]]:
    """The variants one after the other, each once all of its conversations are done.

    Args:
        mapper: does the batches.
        setups: those of one variant follow each other.
        dataset: the conversations.
        sampling: how replies are made.
        size: conversations that are generated together.
        report: callback for progress: conversations of the current variant that are done.
    """
    work = partial(_outcomes, [(one.guarded, one.setup) for one in setups], dataset, sampling)
    lengths = [len(one.content) for one in dataset]  # of one batch alike, as the longest makes the others wait
    pieces = [
        _Batch(number, rows)
        for number, one in enumerate(setups)
        for rows in batches(sorted(one.rows, key=lengths.__getitem__), size) or [()]
    ]
    found: dict[int, Outcome] = {}
    for piece, outcomes in zip(pieces, mapper(work, pieces), strict=True):
        found |= setups[piece.number].known
        found |= zip(piece.rows, outcomes, strict=True)
        report(len(found))
        if len(found) == len(dataset):
            yield setups[piece.number].variant, [found[row] for row in range(len(dataset))]
            found = {}


def _outcomes(
    setups: Sequence[tuple[bool, Setup]],
    dataset: Sequence[Labelled],
    sampling: Sampling,
    runtime: Runtime,
    piece: _Batch,
) -> list[Outcome]:
    """Outcomes of the conversations of one batch."""
    guarded, setup = setups[piece.number]
    if not piece.rows:
        return []
    under = Runtime(runtime.loaded, setup.saes(runtime.saes), untrusted=runtime.untrusted)
    some = [dataset[row] for row in piece.rows]
    turns = under.run_batch([_request(conversation, setup, sampling) for conversation in some])
    return [outcome_of(conversation.key, turn, guarded=guarded) for conversation, turn in zip(some, turns, strict=True)]


def _request(conversation: Labelled, setup: Setup, sampling: Sampling) -> Request:
    messages = conversation.messages if setup.ask is None else baselines.asked_for(conversation.messages, setup.ask)
    return Request(messages, conversation.tools, setup.policy or (), sampling)
