"""Generates again under the steering that a rule names, a bounded number of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerkit.guard import strictest
from steerkit.policy import GuardRule, Policy
from steerkit.runtime.request import Prepared
from steerkit.types import Turn, Verdict


@dataclass(frozen=True, slots=True)
class Retried:
    """A stream starts over: what came since the last one is void, and recorded as an attempt."""

    turn: Turn


def wanted(turn: Turn) -> bool:
    """Whether a turn is to be generated again; `settle` has turned all others' retries into denials."""
    return any(verdict.decision == "retry" for verdict in turn.verdicts)


def settle(verdicts: Sequence[Verdict], one: Prepared) -> tuple[Verdict, ...]:
    """The verdicts, with denials for retries that cannot be: too many attempts, or something stricter beside them."""
    worst = strictest(verdicts)
    if worst is None or all(verdict.decision != "retry" for verdict in verdicts):
        return tuple(verdicts)
    made = len(one.attempts)
    if worst.decision != "retry":
        why = f"not generated again, as another call was judged {worst.decision}"
    elif made >= (_rule(one.policies, worst).attempts or 1):
        why = f"still so after {made} more attempt{'s' if made > 1 else ''}"
    else:
        return tuple(verdicts)
    return tuple(
        replace(verdict, decision="deny", reason=f"{verdict.reason}; {why}") if verdict.decision == "retry" else verdict
        for verdict in verdicts
    )


def again(one: Prepared, turn: Turn) -> Prepared:
    """The request of the next attempt: the named steering acts without its gate."""
    worst = strictest(turn.verdicts)
    assert worst is not None  # the caller asked `wanted`
    named = _rule(one.policies, worst).with_ or ""
    policies = tuple(policy.without_gate(named) if policy.name == worst.policy else policy for policy in one.policies)
    return replace(
        one, policies=policies, wanted=one.wanted._replace(policies=policies), attempts=(*one.attempts, turn)
    )


def _rule(policies: Sequence[Policy], verdict: Verdict) -> GuardRule:
    rules = (
        rule
        for policy in policies
        if policy.name == verdict.policy and policy.guard
        for rule in policy.guard.rules
        if rule.name == verdict.rule
    )
    return next(rules)
