"""From calls to verdicts: built-in checks first, then every rule of every policy, the strictest match decides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from steerkit.chat import Made, calls_made, schema_errors, undeclared_arguments, validate_arguments
from steerkit.decisions import RELEASED, Decision, severity
from steerkit.errors import ToolError
from steerkit.guard.evidence import Finding, describe, scope_of, weigh
from steerkit.policy import Earlier, Evidence, GuardRule, Policy, readings_of, why_late
from steerkit.types import JUDGING, Call, CallLike, MalformedCall, Messages, Tool, Trace, Verdict


class _Scene(NamedTuple):
    """What a call is judged with."""

    tools: Mapping[str, Tool]
    trace: Trace
    made: tuple[Made, ...]
    """Calls before it, whatever became of them; what `after` asks for."""
    ran: tuple[Made, ...]
    """Those of them that ran or may run; what `without` asks for."""
    judging: int = JUDGING


NOT_RUN: Final = re.compile(r"\s*not run\b", re.IGNORECASE)
"""How the result of a call begins that was refused, as the loop writes it: `{"error": "not run: the reason"}`."""


def ran(made: Made) -> bool:
    """Whether a call of the conversation ran: it has a result, and not one that says `not run`.

    A tool whose own result says so is taken not to have run, which can only make a verdict stricter.
    """
    result = made.result or {}
    said = [result[key] for key in ("error", "value") if key in result]
    return made.answered and not any(isinstance(text, str) and NOT_RUN.match(text) for text in said)


def needs(policy: Policy) -> tuple[str, ...]:
    """Features and probes whose values the guard of a policy must be given."""
    rules = policy.guard.rules if policy.guard else ()
    readings = (reading for rule in rules if isinstance(rule.when, Evidence) for reading in readings_of(rule.when))
    return tuple(dict.fromkeys(reading.reads for reading in readings))


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
    evidence is missing denies.

    Args:
        calls: as parsed, with token spans.
        tools: what was declared.
        trace: with the watched values of every name in `needs`, and the places of the turn's steps.
        policies: with raw quantities.
        messages: the conversation before the reply, for rules over sequences of calls.
        judging: as a record of that version was judged. Before 2 a call that did not run satisfied `without`, and an
            argument that the schema does not list passed.
    """
    declared, made = {tool.name: tool for tool in tools}, calls_made(messages)
    done = tuple(one for one in made if judging < 2 or ran(one))
    verdicts = []
    for call in calls:
        verdict = _judge(call, _Scene(declared, trace, made, done, judging), policies)
        verdicts.append(verdict)
        if isinstance(call, Call):
            made = (*made, Made(call.name, call.arguments))
            done = (*done, made[-1]) if judging < 2 or verdict.decision in RELEASED else done
    return tuple(verdicts)


def certain(
    call: Call, *, trace: Trace, policies: Sequence[Policy], messages: Messages = (), judging: int = JUDGING
) -> Verdict | None:
    """The verdict of a tripwire on a call whose end is not written yet: whatever comes, the rule will match.

    Args:
        call: what is known of it: its name, if that is complete (else empty), no arguments, and its tokens so far.
        trace: of the tokens so far.
        policies: with raw quantities; only those that enforce can trip.
        messages: the conversation before the reply.
        judging: as in `review`.
    """
    made = calls_made(messages)
    scene = _Scene({}, trace, made, tuple(one for one in made if judging < 2 or ran(one)), judging)
    for policy in policies:
        for rule in policy.guard.rules if policy.guard and policy.mode == "enforce" else ():
            if not is_tripwire(rule) or (rule.tool != "*" and rule.tool != call.name):
                continue
            if rule.without is not None and _has_calls_before(call, trace):
                continue  # one of them may be the call that must not be missing; the review knows them
            if isinstance(rule.when, Evidence) and weigh(rule.when, scope_of(policy, trace, call)).holds is None:
                continue  # not known yet
            verdict = _by_rule(call, scene, policy, rule, valid=True)
            if verdict is not None:
                return verdict
    return None


def _has_calls_before(call: Call, trace: Trace) -> bool:
    """Whether the reply has written another call before this one."""
    return any(span.start < call.span.start for span in trace.places.get("call", ()))


def is_tripwire(rule: GuardRule) -> bool:
    """Whether a rule can be certain before the call is complete, and then ends the reply."""
    return (rule.then == "stop" or rule.tripwire) and not why_late(rule)


def strictest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first of the strictest verdicts."""
    return max(verdicts, key=lambda verdict: severity(verdict.decision), default=None)


def _judge(call: CallLike, scene: _Scene, policies: Sequence[Policy]) -> Verdict:
    if isinstance(call, MalformedCall):
        return Verdict("deny", "malformed_call", f"malformed call: {call.error}")
    guarded = [policy for policy in policies if policy.guard is not None]
    built_in = _built_in(call, scene, [policy for policy in guarded if policy.mode == "enforce"])
    valid = all(verdict.decision != "deny" for verdict in built_in)
    enforced = [_by_policy(call, scene, policy, valid) for policy in guarded if policy.mode == "enforce"]
    shadowed = [_by_policy(call, scene, policy, valid) for policy in guarded if policy.mode == "shadow"]
    unjudged = Verdict("none", "none", f"{'not judged: ' if scene.judging > 1 else ''}no guard was set")
    verdict = strictest([*built_in, *enforced]) or unjudged
    would = strictest([*built_in, *enforced, *shadowed]) if shadowed else None
    return verdict if would is None else replace(verdict, shadowed=would.decision)


def _built_in(call: Call, scene: _Scene, enforced: Sequence[Policy]) -> list[Verdict]:
    tool = scene.tools.get(call.name)
    if tool is None:
        known = ", ".join(scene.tools) or "none"
        return [Verdict("deny", "unknown_tool", f"the tool '{call.name}' was not declared; declared: {known}")]
    invalid = validate_arguments(tool, call.arguments)
    if invalid is not None:
        return [Verdict("deny", "invalid_arguments", f"arguments do not fit the tool's schema: {invalid}")]
    said = [policy.guard.undeclared_arguments or "deny" for policy in enforced if policy.guard] or ["deny"]
    decision: Decision = max(said, key=severity) if scene.judging > 1 else "allow"
    undeclared = None if decision == "allow" else undeclared_arguments(tool, call.arguments)
    if undeclared is not None:
        return [Verdict(decision, "undeclared_arguments", f"the tool does not declare it: {undeclared}")]
    return []


def _by_policy(call: Call, scene: _Scene, policy: Policy, valid: bool) -> Verdict:
    assert policy.guard is not None  # the caller chose those with one
    matches = [verdict for rule in policy.guard.rules if (verdict := _by_rule(call, scene, policy, rule, valid=valid))]
    default = Verdict(policy.guard.default, "default", "no rule matched", policy.name)
    return strictest(matches) or default


def _by_rule(call: Call, scene: _Scene, policy: Policy, rule: GuardRule, *, valid: bool) -> Verdict | None:
    """The verdict of a rule that matches, None of one that does not."""
    if rule.tool not in ("*", call.name) or (rule.when == "invalid_arguments" and valid):
        return None
    try:
        if rule.arguments is not None and schema_errors(rule.arguments, call.arguments):
            return None
        if rule.after is not None and not any(_was(rule.after, made) for made in scene.made):
            return None
        if rule.without is not None and any(_was(rule.without, made) for made in scene.ran):
            return None
    except ToolError as error:
        return _undecided(policy, rule, f"its schema {error}")
    if not isinstance(rule.when, Evidence):
        return Verdict(rule.then, rule.name, rule.reason or f"rule '{rule.name}' matched", policy.name)
    return _from_evidence(policy, rule, weigh(rule.when, scope_of(policy, scene.trace, call)))


def _was(earlier: Earlier, made: Made) -> bool:
    """Whether an earlier call is the one that is meant."""
    if earlier.tool not in ("*", made.name):
        return False
    if earlier.arguments is not None and schema_errors(earlier.arguments, made.arguments):
        return False
    if earlier.result is None:
        return True
    return made.answered and not schema_errors(earlier.result, made.result)


def _from_evidence(policy: Policy, rule: GuardRule, finding: Finding) -> Verdict | None:
    if finding.missing is not None:
        return _undecided(policy, rule, finding.missing)
    if not finding.holds:
        return None
    reason = rule.reason or describe(finding.readings) or f"rule '{rule.name}' matched"
    return Verdict(rule.then, rule.name, reason, policy.name, finding.readings)


def _undecided(policy: Policy, rule: GuardRule, why: str) -> Verdict | None:
    """Nothing is known, so nothing is allowed: a rule that would restrict denies, a rule that would allow is void."""
    reason = f"rule '{rule.name}' cannot be decided: {why}"
    decision: Decision = "stop" if rule.then == "stop" else "deny"
    return None if rule.then == "allow" else Verdict(decision, rule.name, reason, policy.name)
