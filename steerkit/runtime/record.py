"""Turns to records: each is on disk before any of its batch is returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from steerkit.audit import Context, PolicyIdentity, RunOpenedRecord, SamplingSettings, Store, append_turn
from steerkit.chat import settings_of
from steerkit.engine import Engine, Provenance, Sampling
from steerkit.policy import Policy, fingerprint
from steerkit.runtime.generate import Generation
from steerkit.runtime.request import FORM, Prepared
from steerkit.types import Turn


def record(store: Store | None, engine: Engine, made: Generation, turns: Sequence[Turn]) -> list[Turn]:
    """The turns with their record ids; without a store, as they are, and so are those that were given up.

    Raises:
        AuditError: a record could not be written; no turn is returned then.
    """
    if store is None:
        return list(turns)
    found = engine.provenance
    if made.recording.decoding is not None:
        found = found._replace(machine={**found.machine, "decoding": made.recording.decoding})
    return [
        turn
        if row in made.dropped
        else append_turn(
            store, turn, context_of(found, reply.request, made.seconds, {"size": made.size, "row": made.place + row})
        )
        for row, (reply, turn) in enumerate(zip(made.replies, turns, strict=False))  # not of the counterfactuals
    ]


def opening_of(engine: Engine, policies: Sequence[Policy]) -> RunOpenedRecord:
    """The opening of a run: model, SAEs, the policies of requests that bring none, their settings, libraries."""
    found = engine.provenance
    return RunOpenedRecord(
        model=found.model,
        saes=found.saes,
        policies=tuple(_policy(policy) for policy in policies),
        sampling=_settings(Sampling()),
        libraries=found.libraries,
        machine=found.machine,
    )


def context_of(found: Provenance, one: Prepared, seconds: float, batch: Mapping[str, int]) -> Context:
    """Everything that a record says beside the turn: engine, policies, settings, seconds, and the row in its batch."""
    return Context(
        messages=one.request.messages,
        tools=one.tools,
        model=found.model,
        saes=found.saes,
        policies=[_policy(policy) for policy in one.policies],
        guarded=any(policy.guard is not None for policy in one.policies),
        sampling=_settings(one.request.sampling),
        libraries=found.libraries,
        seconds=seconds,
        machine=found.machine,
        batch=batch,
        conversation=one.request.conversation,
        metadata=one.metadata,
        form=_form(one),
    )


def _form(one: Prepared) -> dict[str, Any]:
    """What a request asked of its reply; nothing where that was free."""
    given = {key: getattr(one.request, key) for key in FORM}
    required = one.form.choice is not None and one.form.choice.mode == "required"
    return settings_of(**given, required_over_steering=(one.form.over_steering and required) or None)


def _settings(sampling: Sampling) -> SamplingSettings:
    return SamplingSettings(**asdict(sampling))


def _policy(policy: Policy) -> PolicyIdentity:
    content = policy.model_dump(mode="json", exclude_none=True)
    return PolicyIdentity(policy.name, fingerprint(policy), policy.mode, content)
