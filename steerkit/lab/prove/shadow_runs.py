"""Shadow runs in an audit store: what a policy would have done, and the values that its conditions read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from steerkit.audit import (
    Gone,
    RunOpenedRecord,
    Store,
    StoredRecord,
    TurnRecord,
    read_content,
    read_public,
    unpack,
)
from steerkit.decisions import RELEASED
from steerkit.errors import SaeError
from steerkit.lab.copies import copies_of
from steerkit.lab.measured import Share
from steerkit.lab.prove.calibration import Answered
from steerkit.policy import NamedFeature, Policy, Probe
from steerkit.types import Trace


@dataclass
class Shadow:
    """The turns of a store in which a policy ran in shadow mode."""

    policy: Policy
    turns: int = 0
    calls: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    """Calls by what would have been decided."""
    edited: Counter[str] = field(default_factory=Counter)
    """By steering rule, turns in which it would have changed activations."""
    traces: list[Trace] = field(default_factory=list)
    conversations: list[tuple[str, ...]] = field(default_factory=list)
    """Messages of each trace as texts; one text of its own where they are redacted."""
    other: int = 0
    """Turns that are not read: a policy of this name was there, but with other features or probes, or enforcing."""

    @property
    def withheld(self) -> Share:
        """Calls that would have been held, retried or denied."""
        return Share(sum(n for name, n in self.decisions.items() if name not in RELEASED), self.calls)

    @cached_property
    def values(self) -> Answered:
        """Values of readings; the turns of one conversation, and copies of a conversation, count once."""
        seen = set(self.conversations)
        keys = [[one[:end] for end in range(1, len(one) + 1) if one[:end] in seen] for one in self.conversations]
        groups = copies_of(keys, [""] * len(keys)).groups
        many = len(set(groups)) < len(groups)
        note = f"{len(groups)} turns belong to {len(set(groups))} conversations that differ; each of these counts once"
        return Answered(self.policy, self.traces, groups, notes=(note,) if many else ())


def read_shadow(store: Store, policy: Policy) -> Shadow:
    """All turns of a store under a policy of this name in shadow mode, with these features and probes.

    What a call would have come to is of all policies of its turn together, as the record says it.

    Raises:
        SaeError: there are none.
        AuditError: the store cannot be read.
    """
    found, contents = Shadow(policy), dict[str, Mapping[str, Any]]()
    for stored in store.records():
        record = read_public(stored)
        policies = record.policies if isinstance(record, (TurnRecord, RunOpenedRecord)) else ()
        for one in policies:
            if one.content is not None:  # turns do not say again what their run's opening says
                contents[one.fingerprint] = one.content
        named = [one for one in policies if one.name == policy.name]
        if not isinstance(record, TurnRecord) or not named:
            continue
        if named[0].mode != "shadow" or not _reads_the_same(policy, contents.get(named[0].fingerprint, {})):
            found.other += 1
            continue
        found.turns += 1
        found.calls += len(record.verdicts)
        found.decisions.update(one.shadowed or one.decision for one in record.verdicts)
        found.edited.update({one.rule for one in record.edits if one.policy == policy.name})
        trace = store.trace_of(stored)
        if trace:
            found.traces.append(unpack(trace))
            found.conversations.append(_messages(stored))
    if not found.turns:
        why = f"; {found.other} turns had it enforcing, or with other features" if found.other else ""
        raise SaeError(
            f"{store.path}: got no turn under policy {policy.name} in shadow mode{why}; run with mode: shadow first"
        )
    return found


def _messages(record: StoredRecord) -> tuple[str, ...]:
    """Each message of a turn as a text; the record's id where they are gone, as then nothing says what it copies."""
    turn = read_content(record)
    if not isinstance(turn, TurnRecord) or isinstance(turn.messages, Gone):
        return (record.id,)
    return tuple(json.dumps(one, sort_keys=True) for one in turn.messages)


def _reads_the_same(policy: Policy, content: Mapping[str, Any]) -> bool:
    """True if a recorded policy has the features and probes of this one; its bounds may be others."""
    features = {name: NamedFeature.model_validate(one) for name, one in content.get("features", {}).items()}
    probes = {name: Probe.model_validate(one) for name, one in content.get("probes", {}).items()}
    same = {name: one.feature for name, one in features.items()} == {n: f.feature for n, f in policy.features.items()}
    return same and probes == policy.probes
