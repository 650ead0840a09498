"""From calls to verdicts: built-in checks first, then every rule of every policy, the strictest match decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from steerkit.chat import positions, schema_errors, validate_arguments
from steerkit.errors import ToolError
from steerkit.guard.evidence import Finding, weigh
from steerkit.policy import Evidence, GuardRule, Policy
from steerkit.types import Call, CallLike, Decision, MalformedCall, Tool, Trace, Verdict

_SEVERITY: Final[Mapping[str, int]] = {"none": 0, "allow": 1, "flag": 2, "hold": 3, "deny": 4}


class _Scene(NamedTuple):
    """What all calls of a turn are judged with."""

    tools: Mapping[str, Tool]
    trace: Trace
    prompt_length: int
    length: int


def needs(policy: Policy) -> tuple[str, ...]:
    """Features and probes whose values the guard of a policy must be given."""
    rules = policy.guard.rules if policy.guard else ()
    return tuple(dict.fromkeys(rule.when.reads for rule in rules if isinstance(rule.when, Evidence)))


def review(
    calls: Sequence[CallLike],
    *,
    tools: Sequence[Tool],
    trace: Trace,
    policies: Sequence[Policy],
    prompt_length: int,
    length: int,
) -> tuple[Verdict, ...]:
    """One verdict per call.

    A malformed call, an unknown tool and arguments that fail the tool's own schema are denied whatever the policies
    say, in shadow mode too. Then deny overrides hold overrides flag overrides allow, over the rules of all policies; a
    policy's default counts where none of its rules matches. A rule whose evidence is missing denies.

    Args:
        calls: as parsed, with token spans.
        tools: what was declared.
        trace: with the watched values of every name in `needs`.
        policies: with raw quantities.
        prompt_length: tokens of the prompt.
        length: tokens of prompt and reply.
    """
    scene = _Scene({tool.name: tool for tool in tools}, trace, prompt_length, length)
    return tuple(_judge(call, scene, policies) for call in calls)


def _judge(call: CallLike, scene: _Scene, policies: Sequence[Policy]) -> Verdict:
    if isinstance(call, MalformedCall):
        return Verdict("deny", "malformed_call", f"malformed call: {call.error}")
    tool = scene.tools.get(call.name)
    if tool is None:
        known = ", ".join(scene.tools) or "none"
        return Verdict("deny", "unknown_tool", f"the tool '{call.name}' was not declared; declared: {known}")
    invalid = validate_arguments(tool, call.arguments)
    if invalid is not None:
        return Verdict("deny", "invalid_arguments", f"arguments do not fit the tool's schema: {invalid}")
    guarded = [policy for policy in policies if policy.guard is not None]
    enforced = [_by_policy(call, scene, policy) for policy in guarded if policy.mode == "enforce"]
    shadowed = [_by_policy(call, scene, policy) for policy in guarded if policy.mode == "shadow"]
    verdict = _strictest(enforced) or Verdict("none", "none", "no guard was set")
    would = _strictest([*enforced, *shadowed]) if shadowed else None
    return verdict if would is None else replace(verdict, shadowed=would.decision)


def _strictest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first of the strictest verdicts."""
    return max(verdicts, key=lambda verdict: _SEVERITY[verdict.decision], default=None)


def _by_policy(call: Call, scene: _Scene, policy: Policy) -> Verdict:
    assert policy.guard is not None  # the caller chose those with one
    matches = [verdict for rule in policy.guard.rules if (verdict := _by_rule(call, scene, policy, rule))]
    default = Verdict(policy.guard.default, "default", "no rule matched", policy.name)
    return _strictest(matches) or default


def _by_rule(call: Call, scene: _Scene, policy: Policy, rule: GuardRule) -> Verdict | None:
    """The verdict of a rule that matches, None of one that does not."""
    if rule.tool not in ("*", call.name):
        return None
    if rule.arguments is not None:
        try:
            if schema_errors(rule.arguments, call.arguments):
                return None
        except ToolError as error:
            return _undecided(policy, rule, f"its schema {error}")
    if rule.when == "invalid_arguments":
        return None  # such a call was denied before any rule was asked
    decision: Decision = rule.then
    if not isinstance(rule.when, Evidence):
        return Verdict(decision, rule.name, rule.reason or f"rule '{rule.name}' matched", policy.name)
    steps = positions(rule.when.at, prompt_length=scene.prompt_length, length=scene.length, call=call)
    finding = weigh(policy, rule.when, scene.trace, steps)
    return _from_evidence(policy, rule, decision, finding)


def _from_evidence(policy: Policy, rule: GuardRule, decision: Decision, finding: Finding) -> Verdict | None:
    if finding.missing is not None:
        return _undecided(policy, rule, finding.missing)
    if not finding.holds:
        return None
    reading = finding.reading
    assert reading is not None  # it holds, so something was read
    reason = rule.reason or f"'{reading.name}' read {reading.value:.4g}, the bound is {reading.threshold:.4g}"
    return Verdict(decision, rule.name, reason, policy.name, (reading,))


def _undecided(policy: Policy, rule: GuardRule, why: str) -> Verdict | None:
    """Nothing is known, so nothing is allowed: a rule that would restrict denies, a rule that would allow is void."""
    reason = f"rule '{rule.name}' cannot be decided: {why}"
    return None if rule.then == "allow" else Verdict("deny", rule.name, reason, policy.name)
