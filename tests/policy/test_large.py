"""Policies that are too much: many rules load in time, and what no policy needs is one line."""

from __future__ import annotations

import time

import pytest

from steerkit.errors import PolicyError
from steerkit.policy import loads, suspicious, unreachable

HEAD = "steerkit: 1\nname: x\n"
FEATURE = HEAD + "features: {a: {layer: 0, index: %s}}\n"
STEER = FEATURE % 1 + "steer: [{name: s, where: reply, priority: %s, for: %s tokens, edit: {a: {%s}}}]\n"
SCHEMA = HEAD + "guard: {default: allow, rules: [{name: a, arguments: {properties: {x: {maximum: %s}}}, then: deny}]}\n"
DIGITS, MORE = "9" * 4000, "9" * 5000


def rules(count: int, what: str) -> str:
    lines = "".join(f"    - {{name: r{n}, {what.replace('N', str(n))}}}\n" for n in range(count))
    return f"{HEAD}guard:\n  default: allow\n  rules:\n{lines}"


def steering(count: int) -> str:
    features = "".join(f"  f{n}: {{layer: 0, index: {n}}}\n" for n in range(count))
    lines = "".join(f"  - {{name: s{n}, where: reply, edit: {{f{n}: {{clamp: 0}}}}}}\n" for n in range(count))
    return f"{HEAD}features:\n{features}steer:\n{lines}"


@pytest.mark.parametrize(
    "text",
    [
        rules(10_000, "tool: tN, then: deny"),
        rules(10_000, "tool: pay, arguments: {properties: {a: {const: N}}}, then: deny"),
        rules(10_000, "tool: tN, after: {tool: look}, then: hold"),
        steering(4000),
    ],
    ids=["tools", "arguments", "after", "steering"],
)
def test_many_rules_load_and_are_checked_in_time(text: str) -> None:
    """A few seconds each; in the square of the number of rules it were minutes."""
    began = time.perf_counter()
    policy = loads(text)
    assert list(unreachable(policy)) == list(suspicious(policy)) == []
    assert time.perf_counter() - began < 30


def test_of_many_rules_those_in_vain_are_still_found() -> None:
    """Each is named once, with the first rule that goes before it; edits that meet, with the first that they meet."""
    text = rules(3000, "tool: pay, then: deny")
    found = list(unreachable(loads(text)))
    assert len(found) == 2999
    assert all("'r0' (guard.rules[0])" in problem.text for problem in found)
    with pytest.raises(PolicyError) as refusal:
        loads(steering(3000).replace("edit: {f2999:", "edit: {f7:"))
    assert "which rule 's7' (steer[7]) edits" in str(refusal.value)


TOO_MUCH = {
    "index": (FEATURE % DIGITS, "features.a.index"),
    "index of more digits": (FEATURE % MORE, "features.a.index"),
    "index in hex": (FEATURE % ("0x" + "f" * 4000), "features.a.index"),
    "priority": (STEER % (DIGITS, 1, "clamp: 0"), "steer[0].priority"),
    "tokens": (STEER % (0, DIGITS, "clamp: 0"), "steer[0].for"),
    "clamp": (STEER % (0, 1, f"clamp: {DIGITS}"), "steer[0].edit.a.clamp"),
    "clamp in a unit": (STEER % (0, 1, f"clamp: {DIGITS} max"), "steer[0].edit.a.clamp"),
    "clamp to a power": (STEER % (0, 1, f"clamp: 1e{DIGITS}"), "steer[0].edit.a.clamp"),
    "scale": (STEER % (0, 1, f"scale: {DIGITS}"), "steer[0].edit.a.scale"),
    "number in a schema": (SCHEMA % MORE, "guard.rules[0].arguments.properties.x.maximum"),
    "lists in lists": (f"{HEAD}description: {'[' * 5000}{']' * 5000}\n", "nested too deeply"),
    "lists without end": (f"{HEAD}description: {'[' * 50_000}", "nested too deeply"),
    "mappings in mappings": (HEAD + "".join(" " * n + "a:\n" for n in range(2000)), "nested too deeply"),
    "a bomb of aliases": (f"{HEAD}a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "got a YAML alias"),
    "an alias of itself": (f"{HEAD}a: &a [*a]\n", "got a YAML alias"),
    "values": (f"{HEAD}description: [{'1,' * 300_000}]\n", "at most 40 levels and 250000 values"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_no_policy_needs_is_one_line(case: str) -> None:
    """With its place, short, and no traceback."""
    text, says = TOO_MUCH[case]
    with pytest.raises(PolicyError) as refusal:
        loads(text)
    (line,) = refusal.value.problems
    assert says in line
    assert len(line) < 300
