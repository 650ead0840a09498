"""Runs the conversations of many arms, batch after batch, wherever the batches are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.lab.prove import baselines as controls
from steerkit.lab.prove.baselines import Setup
from steerkit.lab.prove.dataset import Trial
from steerkit.lab.prove.scoring import Outcome, outcome_of
from steerkit.lab.prove.variants import Arm
from steerkit.lab.workers.local import Mapper, batches
from steerkit.runtime import Request


class ArmSetup(NamedTuple):
    """An arm, or the half of it, that is ready to be run."""

    arm: str
    """Its key."""
    guarded: bool
    setup: Setup
    rows: Sequence[int]
    """The conversations that are run under it."""


class _Batch(NamedTuple):
    """Conversations of one arm that are generated together."""

    number: int
    """Of the setup."""
    rows: Sequence[int]


def setups_of(
    arm: Arm, setups: Sequence[Setup], count: int, halves: Callable[[], Sequence[list[int]]]
) -> list[ArmSetup]:
    """One setup for all of `count` conversations, or one for each half of them."""
    rows = [range(count)] if len(setups) == 1 else halves()
    return [ArmSetup(arm.key, arm.guarded, *pair) for pair in zip(setups, rows, strict=True)]


def run_arms(
    mapper: Mapper,
    setups: Sequence[ArmSetup],
    trials: Sequence[Trial],
    sampling: Sampling,
    size: int,
    told: Callable[[int], None],
) -> Iterator[tuple[str, list[Outcome]]]:
    """The arms one after the other, each once all of its conversations are done.

    Args:
        mapper: does the batches.
        setups: those of one arm follow each other.
        trials: the conversations.
        sampling: how replies are made.
        size: conversations that are generated together.
        told: of how many conversations of the arm under way are done.
    """
    work = partial(_outcomes, [(one.guarded, one.setup) for one in setups], trials, sampling)
    pieces = [_Batch(number, rows) for number, one in enumerate(setups) for rows in batches(one.rows, size)]
    found: dict[int, Outcome] = {}
    for piece, outcomes in zip(pieces, mapper(work, pieces), strict=True):
        found |= zip(piece.rows, outcomes, strict=True)
        told(len(found))
        if len(found) == len(trials):
            yield setups[piece.number].arm, [found[row] for row in range(len(trials))]
            found = {}


def _outcomes(
    setups: Sequence[tuple[bool, Setup]], trials: Sequence[Trial], sampling: Sampling, runtime: Runtime, piece: _Batch
) -> list[Outcome]:
    """What the conversations of one batch come to."""
    guarded, setup = setups[piece.number]
    under = Runtime(runtime.loaded, setup.saes(runtime.saes), untrusted=runtime.untrusted)
    some = [trials[row] for row in piece.rows]
    turns = under.run_batch([_request(trial, setup, sampling) for trial in some])
    return [outcome_of(trial.key, turn, guarded=guarded) for trial, turn in zip(some, turns, strict=True)]


def _request(trial: Trial, setup: Setup, sampling: Sampling) -> Request:
    messages = trial.messages if setup.ask is None else controls.asked_for(trial.messages, setup.ask)
    return Request(messages, trial.tools, setup.policy or (), sampling)
