"""What becomes of verdicts that ask for another attempt, and the same verdicts judged anew from a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from steerkit.chat import name_in
from steerkit.guard.review import certain, review, strictest
from steerkit.policy import GuardRule, Policy, revive
from steerkit.types import Call, CallLike, MalformedCall, Trace, Verdict

if TYPE_CHECKING:  # a policy is judged without the audit room
    from steerkit.audit import TurnRecord

CUT_OFF: Final = "a tripwire cut the reply here, in the middle of the call"
"""What is wrong with a call whose end was not generated, as a rule was certain of it."""


def settle(verdicts: Sequence[Verdict], policies: Sequence[Policy], made: int) -> tuple[Verdict, ...]:
    """The verdicts, with denials for retries that cannot be: too many attempts, or something stricter beside them.

    Args:
        verdicts: of a turn's calls.
        policies: that it was under.
        made: how many attempts came before it.
    """
    worst = strictest(verdicts)
    if worst is None or all(verdict.decision != "retry" for verdict in verdicts):
        return tuple(verdicts)
    if worst.decision != "retry":
        why = f"not generated again, as another call was judged {worst.decision}"
    elif made >= (rule_of(policies, worst).attempts or 1):
        why = f"still so after {made} more attempt{'s' if made > 1 else ''}"
    else:
        return tuple(verdicts)
    return tuple(
        replace(verdict, decision="deny", reason=f"{verdict.reason}; {why}") if verdict.decision == "retry" else verdict
        for verdict in verdicts
    )


def tripped(verdict: Verdict, call: CallLike) -> Verdict:
    """The verdict of a tripwire on the call that it ended; it says so where the call was cut off."""
    was_cut = isinstance(call, MalformedCall) and call.error == CUT_OFF
    return replace(verdict, reason=f"{verdict.reason}; {CUT_OFF}") if was_cut else verdict


def rule_of(policies: Sequence[Policy], verdict: Verdict) -> GuardRule:
    """The rule that a policy's verdict names."""
    rules = (
        rule
        for policy in policies
        if policy.name == verdict.policy and policy.guard
        for rule in policy.guard.rules
        if rule.name == verdict.rule
    )
    return next(rules)


def policies_in(turn: TurnRecord) -> tuple[Policy, ...]:
    """The policies of a recorded turn, from their content. Raises PolicyError where one of them cannot be read."""
    return tuple(revive(one.content, f"policies[{number}] ({one.name})") for number, one in enumerate(turn.policies))


def judge_again(turn: TurnRecord, policies: Sequence[Policy], trace: Trace) -> tuple[Verdict, ...]:
    """The verdicts of a recorded turn, from what its record says and nothing else.

    A record without `judging` is of a time when calls that did not run satisfied `without` and arguments that a schema
    does not list passed; it is judged so. What its schemas say is read as today (patterns by ECMA-262, decimals, null).

    Args:
        turn: the record.
        policies: that it was under, with raw quantities.
        trace: that was kept of it.
    """
    calls, messages, judging = turn.calls, turn.messages, turn.judging
    verdicts = review(calls, tools=turn.tools, trace=trace, policies=policies, messages=messages, judging=judging)
    if turn.finish == "tripwire" and calls:
        begun = _begun(calls[-1])
        verdict = certain(begun, trace=trace, policies=policies, messages=messages, judging=judging)
        verdicts = (*verdicts[:-1], tripped(verdict, calls[-1])) if verdict else verdicts
    return settle(verdicts, policies, turn.attempt)


def _begun(call: CallLike) -> Call:
    """What was known of a call when a tripwire cut it off: its name, if that was complete."""
    if isinstance(call, Call):
        return call
    return Call(name_in(call.raw) or "", {}, call.span)
