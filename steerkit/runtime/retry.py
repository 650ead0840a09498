"""Another attempt under the steering that a rule names, a bounded number of times."""

from __future__ import annotations

from dataclasses import dataclass, replace

from steerkit.guard import rule_of, strictest
from steerkit.runtime.request import Prepared
from steerkit.types import Turn


@dataclass(frozen=True, slots=True)
class Retried:
    """A stream starts over: what came since the last one is void, and recorded as an attempt."""

    turn: Turn


def wanted(turn: Turn) -> bool:
    """True if a turn is to be generated again; `settle` has turned all others' retries into denials."""
    return any(verdict.decision == "retry" for verdict in turn.verdicts)


def again(one: Prepared, turn: Turn) -> Prepared:
    """The request of the next attempt: the named steering acts without its gate."""
    worst = strictest(turn.verdicts)
    assert worst is not None  # the caller asked `wanted`
    named = rule_of(one.policies, worst).with_ or ""
    policies = tuple(policy.without_gate(named) if policy.name == worst.policy else policy for policy in one.policies)
    return replace(
        one,
        policies=policies,
        wanted=one.wanted._replace(policies=policies),
        attempts=(*one.attempts, turn),
        made=one.made + 1,
    )
