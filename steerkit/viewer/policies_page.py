"""The policies of a store in plain sentences, with how often each of their rules acted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from steerkit.audit import (
    PolicyIdentity,
    Query,
    RunOpenedRecord,
    Store,
    StoredRecord,
    TurnRecord,
    page,
    policies_of,
    read_content,
    read_public,
)
from steerkit.decisions import DECISIONS
from steerkit.errors import AuditError, PolicyError
from steerkit.policy import Policy, explain, recorded_policy
from steerkit.viewer.asked import FIELDS, MOST, Asked
from steerkit.viewer.pages import Pages

_SECONDS: Final = 0.6
"""How long records are counted for one page."""
_MOST: Final = 20_000
"""Records that are counted at most."""
_PARTS: Final = ("Features of ", "Direction ", "Probe ")
"""How sentences begin that say what the rules read and write with."""
_RUNS: Final = 50
"""Runs whose policies are shown."""


@dataclass
class Counted:
    """How often rules acted in some records."""

    turns: int = 0
    """Records of turns that fit."""
    whole: bool = True
    """True if every record of the store was looked at."""
    opened: Counter[str] = field(default_factory=Counter)
    """Turns in which a steering rule's gate was open, by POLICY/RULE."""
    wrote: Counter[str] = field(default_factory=Counter)
    """Turns in which it wrote."""
    matched: Counter[str] = field(default_factory=Counter)
    """Calls that a guard rule matched, by POLICY/RULE."""
    decided: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Verdicts by policy, rule and decision."""
    under: Counter[str] = field(default_factory=Counter)
    """Turns by the fingerprint of a policy that they were under."""


@dataclass(frozen=True)
class ShownPolicy:
    """A policy with what it says and how often it acted."""

    name: str
    fingerprint: str
    mode: str
    sentences: list[str]
    """Empty where this version cannot read it."""
    parts: list[str]
    """Sentences on its features, directions and probes alone."""
    rules: list[tuple[str, str, str]]
    """Rule, what it does, and how often it opened or matched, and wrote or decided, in words."""
    turns: int


def policies_page(pages: Pages, request: Request) -> Response:
    """Every policy of the newest runs, counted over the records that fit the filters in the address."""
    asked, error = Asked.of(request.query_params.items()), ""
    counted = Counted()
    try:
        counted = count(pages.store, asked.query())
    except AuditError as wrong:
        error = str(wrong)
    shown = [_shown(one, counted) for one in _identities(pages.store)]
    return pages.show(
        request,
        "policies.html",
        400 if error else 200,
        error=error,
        asked=asked,
        fields=FIELDS,
        most=MOST,
        counted=counted,
        policies=shown,
    )


def count(store: Store, query: Query) -> Counted:
    """How often rules acted in the newest turns that fit, as far as a page has time for."""
    found, ends, before, seen = Counted(), time.monotonic() + _SECONDS, None, 0
    while True:
        part = page(store, query, 500, before=before, seconds=max(0.0, ends - time.monotonic()))
        for stored in part.records:
            _count(stored, found)
        seen += len(part.records)
        before = part.reached
        if part.is_last:
            return found
        if time.monotonic() > ends or seen >= _MOST:
            found.whole = False
            return found


def _count(stored: StoredRecord, found: Counted) -> None:
    try:
        turn = read_public(stored)
    except AuditError:
        return
    if not isinstance(turn, TurnRecord):
        return
    found.turns += 1
    wrote = {edit.full_name for edit in turn.edits}
    decided = Counter(one.full_name for one in turn.verdicts)
    found.wrote.update(wrote)
    found.opened.update(wrote | {name for name, part in turn.rules.items() if "opened" in part})
    for name in decided.keys() | turn.rules.keys():  # a record of before `rules` says who decided, and no more
        found.matched[name] += max(decided[name], turn.rules.get(name, {}).get("matched", 0))
    found.decided.update((one.policy, one.rule, one.decision) for one in turn.verdicts)
    found.under.update({policy.fingerprint for policy in turn.policies})


def _identities(store: Store) -> Iterator[PolicyIdentity]:
    """Policies of the newest runs, and of the newest turns, which may bring their own; each once."""
    seen: set[str] = set()
    runs = page(store, Query(kind=RunOpenedRecord.kind), _RUNS).records
    turns = page(store, Query(kind=TurnRecord.kind), _RUNS).records
    for stored in (*runs, *turns):
        try:
            record = read_content(stored)
            named = record.policies if isinstance(record, RunOpenedRecord) else policies_of(store, stored)
        except AuditError:
            continue
        for one in named:
            if one.fingerprint not in seen and one.content is not None:
                seen.add(one.fingerprint)
                yield one


def _shown(one: PolicyIdentity, counted: Counted) -> ShownPolicy:
    try:
        policy: Policy | None = recorded_policy(one.content, one.name)
    except PolicyError:
        policy = None
    said = [] if policy is None else explain(policy).split("\n")[1:]
    parts = [one for one in said if one.startswith(_PARTS)]
    rules = [] if policy is None else list(_rules(policy, counted))
    sentences = [line for line in said if line not in parts]
    turns = counted.under[one.fingerprint]
    return ShownPolicy(one.name, one.fingerprint, one.mode, sentences, parts, rules, turns)


def _rules(policy: Policy, counted: Counted) -> Iterator[tuple[str, str, str]]:
    for rule in policy.steer:
        name = f"{policy.name}/{rule.name}"
        said = f"opened in {_times(counted.opened[name], 'turn')}, wrote in {counted.wrote[name]:,}"
        yield rule.name, "steers", said
    for one in policy.guard.rules if policy.guard else ():
        matched = counted.matched[f"{policy.name}/{one.name}"]
        decided = sum(counted.decided[policy.name, one.name, decision] for decision in DECISIONS)
        yield one.name, one.then, f"matched {_times(matched, 'call')}, decided {decided:,}"
    if policy.guard:
        default = policy.guard.default
        yield ("default", default, f"decided {_times(counted.decided[policy.name, 'default', default], 'call')}")


def _times(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
