"""Calls in, verdicts out: built-in checks, then every rule of every policy; the strictest match decides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from steerkit.chat import (
    Made,
    calls_made,
    is_own,
    own_texts,
    schema_errors,
    undeclared_arguments,
    validate_arguments,
)
from steerkit.decisions import RELEASED, Decision, severity
from steerkit.errors import ToolError
from steerkit.guard.conditions import Outcome, describe, evaluate, scope_of
from steerkit.policy import (
    GuardCondition,
    GuardRule,
    Policy,
    PriorCall,
    leaves_of,
    own_arguments,
    why_not_tripwire,
)
from steerkit.types import JUDGING, Call, CallLike, MalformedCall, Messages, Tool, Trace, Verdict


class _Inputs(NamedTuple):
    """Everything that a call is judged by, besides the policies."""

    tools: Mapping[str, Tool]
    trace: Trace
    made: tuple[Made, ...]
    """Calls before it, whether or not they ran; `after` looks among them."""
    ran: tuple[Made, ...]
    """Calls before it that ran or may run; `without` looks among them."""
    texts: tuple[str, ...]
    """The user's own."""
    judging: int = JUDGING


CUT_OFF: Final = "a tripwire cut the reply here, in the middle of the call"
"""Error of a call whose end was not generated, as a rule was certain of it."""
NOT_RUN: Final = re.compile(r"\s*not run\b", re.IGNORECASE)
"""Start of the result of a refused call, as the agent loop writes it: `{"error": "not run: the reason"}`."""


def ran(made: Made) -> bool:
    """True if a call of the conversation ran: it has a result, and not one that says `not run`.

    A tool whose own result says so is taken not to have run, which can only make a verdict stricter.
    """
    result = made.result or {}
    said = [result[key] for key in ("error", "value") if key in result]
    return made.answered and not any(isinstance(text, str) and NOT_RUN.match(text) for text in said)


def needs(policy: Policy) -> tuple[str, ...]:
    """Names of the features and probes that the guard of a policy reads; a trace must watch them."""
    rules = policy.guard.rules if policy.guard else ()
    leaves = (leaf for rule in rules if isinstance(rule.when, GuardCondition) for leaf in leaves_of(rule.when))
    return tuple(dict.fromkeys(leaf.reads for leaf in leaves))


def review(
    calls: Sequence[CallLike],
    *,
    tools: Sequence[Tool],
    trace: Trace,
    policies: Sequence[Policy],
    messages: Messages = (),
    judging: int = JUDGING,
) -> tuple[Verdict, ...]:
    """One verdict per call.

    A malformed call, an unknown tool and arguments that fail the tool's own schema are denied whatever the policies
    say, in shadow mode too; so are arguments that the schema does not list, unless every policy with a guard says
    otherwise (`undeclared_arguments`). Then stop overrides deny overrides hold overrides retry overrides flag overrides
    allow, over the rules of all policies; a policy's default counts where none of its rules matches. A rule whose
    values are missing denies.

    Args:
        calls: as parsed, with token spans.
        tools: those that were declared to the model.
        trace: with the watched values of every name in `needs`, and the places of the turn's steps.
        policies: with raw quantities.
        messages: the conversation before the reply, for rules over sequences of calls.
        judging: version of the rules of judging, as a record has it. Before 2 a call that did not run satisfied
            `without`, and an argument that the schema does not list passed.
    """
    declared, made = {tool.name: tool for tool in tools}, calls_made(messages)
    done = tuple(one for one in made if judging < 2 or ran(one))
    texts = own_texts(messages)
    verdicts = []
    for call in calls:
        verdict = _judge(call, _Inputs(declared, trace, made, done, texts, judging), policies)
        verdicts.append(verdict)
        if isinstance(call, Call):
            made = (*made, Made(call.name, call.arguments))
            done = (*done, made[-1]) if judging < 2 or verdict.decision in RELEASED else done
    return tuple(verdicts)


def certain(
    call: Call, *, trace: Trace, policies: Sequence[Policy], messages: Messages = (), judging: int = JUDGING
) -> Verdict | None:
    """The verdict of a tripwire on a call that is still being generated: the rule will match, whatever follows.

    Args:
        call: as far as it is generated: its name if that is complete (else empty), no arguments, its tokens so far.
        trace: of the tokens so far.
        policies: with raw quantities; only those that enforce can trip.
        messages: the conversation before the reply.
        judging: as in `review`.
    """
    made = calls_made(messages)
    inputs = _Inputs({}, trace, made, tuple(one for one in made if judging < 2 or ran(one)), (), judging)
    for policy in policies:
        for rule in policy.guard.rules if policy.guard and policy.mode == "enforce" else ():
            if not is_tripwire(rule) or (rule.tool != "*" and rule.tool != call.name):
                continue
            if rule.without is not None and _has_calls_before(call, trace):
                continue  # one of them may be the call that must not be missing; the review knows them
            if (
                isinstance(rule.when, GuardCondition)
                and evaluate(rule.when, scope_of(policy, trace, call)).holds is None
            ):
                continue  # not known yet
            verdict = _by_rule(call, inputs, policy, rule, valid=True)
            if verdict is not None:
                return replace(verdict, matched=(f"{policy.name}/{rule.name}",))
    return None


def _has_calls_before(call: Call, trace: Trace) -> bool:
    """True if the reply has another call before this one."""
    return any(span.start < call.span.start for span in trace.places.get("call", ()))


def is_tripwire(rule: GuardRule) -> bool:
    """True if a rule can be certain before the call is complete; it then ends the reply."""
    return (rule.then == "stop" or rule.tripwire) and not why_not_tripwire(rule)


def strictest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first of the strictest verdicts."""
    return max(verdicts, key=lambda verdict: severity(verdict.decision), default=None)


def _judge(call: CallLike, inputs: _Inputs, policies: Sequence[Policy]) -> Verdict:
    if isinstance(call, MalformedCall):
        return Verdict("deny", "malformed_call", f"malformed call: {call.error}")
    guarded = [policy for policy in policies if policy.guard is not None]
    built_in = _built_in(call, inputs, [policy for policy in guarded if policy.mode == "enforce"])
    valid = all(verdict.decision != "deny" for verdict in built_in)
    enforced = [_by_policy(call, inputs, policy, valid) for policy in guarded if policy.mode == "enforce"]
    shadowed = [_by_policy(call, inputs, policy, valid) for policy in guarded if policy.mode == "shadow"]
    unjudged = Verdict("none", "none", f"{'not judged: ' if inputs.judging > 1 else ''}no guard was set")
    matched = tuple(name for verdict in (*enforced, *shadowed) for name in verdict.matched)
    verdict = replace(strictest([*built_in, *enforced]) or unjudged, matched=matched)
    would = strictest([*built_in, *enforced, *shadowed]) if shadowed else None
    return verdict if would is None else replace(verdict, shadowed=would.decision)


def _built_in(call: Call, inputs: _Inputs, enforced: Sequence[Policy]) -> list[Verdict]:
    tool = inputs.tools.get(call.name)
    if tool is None:
        known = ", ".join(inputs.tools) or "none"
        return [Verdict("deny", "unknown_tool", f"the tool '{call.name}' was not declared; declared: {known}")]
    invalid = validate_arguments(tool, call.arguments)
    if invalid is not None:
        return [Verdict("deny", "invalid_arguments", f"arguments do not fit the tool's schema: {invalid}")]
    said = [policy.guard.undeclared_arguments or "deny" for policy in enforced if policy.guard] or ["deny"]
    decision: Decision = max(said, key=severity) if inputs.judging > 1 else "allow"
    undeclared = None if decision == "allow" else undeclared_arguments(tool, call.arguments)
    if undeclared is not None:
        return [Verdict(decision, "undeclared_arguments", f"the tool does not declare it: {undeclared}")]
    return []


def _by_policy(call: Call, inputs: _Inputs, policy: Policy, valid: bool) -> Verdict:
    assert policy.guard is not None  # the caller chose those with one
    matches = [verdict for rule in policy.guard.rules if (verdict := _by_rule(call, inputs, policy, rule, valid=valid))]
    default = Verdict(policy.guard.default, "default", "no rule matched", policy.name)
    verdict = strictest([*_foreign(call, inputs, policy), *matches]) or default
    return replace(verdict, matched=tuple(f"{policy.name}/{one.rule}" for one in matches))


def _foreign(call: Call, inputs: _Inputs, policy: Policy) -> Iterator[Verdict]:
    """A denial for the first argument whose value must be the user's own and is not."""
    names = own_arguments([policy], call.name)
    for name in call.arguments:
        if name in names and not is_own(call.arguments[name], inputs.texts):
            reason = f"arguments.{name}: got {call.arguments[name]!r:.80}, expected words of the user's own text"
            yield Verdict("deny", "from_user", reason, policy.name)
            return


def _by_rule(call: Call, inputs: _Inputs, policy: Policy, rule: GuardRule, *, valid: bool) -> Verdict | None:
    """The verdict of a rule that matches, None of one that does not."""
    if rule.tool not in ("*", call.name) or (rule.when == "invalid_arguments" and valid):
        return None
    try:
        if rule.arguments is not None and schema_errors(rule.arguments, call.arguments):
            return None
        if rule.after is not None and not any(_fits(rule.after, made) for made in inputs.made):
            return None
        if rule.without is not None and any(_fits(rule.without, made) for made in inputs.ran):
            return None
    except ToolError as error:
        return _undecided(policy, rule, f"its schema {error}")
    if not isinstance(rule.when, GuardCondition):
        return Verdict(rule.then, rule.name, rule.reason or f"rule '{rule.name}' matched", policy.name)
    return _by_condition(policy, rule, evaluate(rule.when, scope_of(policy, inputs.trace, call)))


def _fits(prior: PriorCall, made: Made) -> bool:
    """True if a call of the conversation is one that the rule asks for."""
    if prior.tool not in ("*", made.name):
        return False
    if prior.arguments is not None and schema_errors(prior.arguments, made.arguments):
        return False
    if prior.result is None:
        return True
    return made.answered and not schema_errors(prior.result, made.result)


def _by_condition(policy: Policy, rule: GuardRule, outcome: Outcome) -> Verdict | None:
    if outcome.missing is not None:
        return _undecided(policy, rule, outcome.missing)
    if not outcome.holds:
        return None
    reason = rule.reason or describe(outcome.readings) or f"rule '{rule.name}' matched"
    return Verdict(rule.then, rule.name, reason, policy.name, outcome.readings)


def _undecided(policy: Policy, rule: GuardRule, why: str) -> Verdict | None:
    """The verdict of a rule that cannot be decided: one that restricts denies, one that allows is passed over."""
    reason = f"rule '{rule.name}' cannot be decided: {why}"
    decision: Decision = "stop" if rule.then == "stop" else "deny"
    return None if rule.then == "allow" else Verdict(decision, rule.name, reason, policy.name)


def limit_retries(verdicts: Sequence[Verdict], policies: Sequence[Policy], attempts: int) -> tuple[Verdict, ...]:
    """The verdicts, with `deny` for every `retry` that may not happen: attempts used up, or a stricter verdict beside.

    Args:
        verdicts: of a turn's calls.
        policies: that the turn was under.
        attempts: number of attempts before it.
    """
    worst = strictest(verdicts)
    if worst is None or all(verdict.decision != "retry" for verdict in verdicts):
        return tuple(verdicts)
    if worst.decision != "retry":
        why = f"not generated again, as another call was judged {worst.decision}"
    elif attempts >= (rule_of(policies, worst).attempts or 1):
        why = f"still so after {attempts} more attempt{'s' if attempts > 1 else ''}"
    else:
        return tuple(verdicts)
    return tuple(
        replace(verdict, decision="deny", reason=f"{verdict.reason}; {why}") if verdict.decision == "retry" else verdict
        for verdict in verdicts
    )


def tripwire_verdict(verdict: Verdict, call: CallLike) -> Verdict:
    """The verdict of a tripwire on the call that it ended; where that cut the call off, the reason says so."""
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
