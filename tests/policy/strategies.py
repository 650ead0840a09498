"""Policies that are right, of every field that the format has, drawn by hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from steerkit.policy import UNITS
from steerkit.types import PLACES

NAMES = st.from_regex(r"[A-Za-z0-9_][a-z0-9_.-]{0,6}", fullmatch=True).filter(lambda name: name != "default")
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
COUNTS = st.integers(2, 4096)
TEXTS = st.text(max_size=12)
EVERYWHERE = st.sampled_from([*PLACES, "call.arguments.to", "call.arguments.a.b-c"])
IN_REPLY = st.sampled_from(["reply", "text", "call", "call.name", "call.arguments", "call.arguments.to"])
JSON = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
CONSTANTS = st.fixed_dictionaries({}, optional={"const": JSON, "title": TEXTS})
SCHEMAS = st.fixed_dictionaries(
    {"properties": st.dictionaries(TEXTS, CONSTANTS, max_size=2)},
    optional={"required": st.lists(TEXTS, max_size=2, unique=True), "minProperties": st.integers(0, 2), "x-note": JSON},
)
SITES = [{"layer": 0}, {"site": "attn_out.0"}]
"""Two ways to say one site."""


def quantities(least: float = -1e6) -> st.SearchStrategy[Any]:
    """Raw, or in multiples of a statistic."""
    multiples = st.tuples(st.integers(max(0, int(least) + 1), 99), st.sampled_from(UNITS))
    return st.floats(least, 1e6, exclude_min=True) | multiples.map(lambda pair: f"{pair[0]} {pair[1]}")


@st.composite
def bounds(draw: st.DrawFn, *, latch: bool) -> dict[str, Any]:
    """Bounds that do not cross: each in a unit of its own, or one alone."""
    kind = draw(st.sampled_from(["above", "below", "both", "latch"] if latch else ["above", "below", "both"]))
    if kind == "both":
        return {"above": draw(NUMBERS), "below": f"{draw(st.integers(1, 9))} max"}
    if kind == "latch":
        return {"above": f"{draw(st.integers(3, 9))} max", "off_below": draw(st.sampled_from(["2 max", 0.5, "3 std"]))}
    return {kind: draw(quantities(0 if kind == "below" else -1e6))}


@st.composite
def readings(draw: st.DrawFn, features: list[str], *, gate: bool) -> dict[str, Any]:
    """A feature or the probe, within bounds, over a window or not."""
    if draw(st.booleans()):
        found = {"feature": draw(st.sampled_from(features)), **draw(bounds(latch=gate))}
    else:
        found = {"probe": "Probe", draw(st.sampled_from(["above", "below"])): draw(NUMBERS)}
    window = draw(st.sampled_from(["", "mean_over", "max_over"] if gate else ["", "mean_over"]))
    return {**found, window: draw(COUNTS)} if window else found


@st.composite
def conditions(draw: st.DrawFn, features: list[str], *, gate: bool) -> dict[str, Any]:
    """A reading, or several joined; those of the guard may have a place each."""

    def placed(part: dict[str, Any]) -> dict[str, Any]:
        return part if gate or draw(st.booleans()) else {**part, "at": draw(EVERYWHERE)}

    found = draw(readings(features, gate=gate))
    for join in draw(st.lists(st.sampled_from(["all", "any", "not"]), max_size=2)):
        more = [] if join == "not" else draw(st.lists(readings(features, gate=gate), max_size=2))
        found = {"not": placed(found)} if join == "not" else {join: [placed(part) for part in (found, *more)]}
    return {**found, "at": draw(EVERYWHERE)} if not gate and draw(st.booleans()) else found


@st.composite
def edits(draw: st.DrawFn) -> dict[str, Any]:
    """Of either kind."""
    if draw(st.booleans()):
        return draw(st.fixed_dictionaries({"clamp": quantities()}) | st.just({"ablate": True}))
    some = draw(st.sets(st.sampled_from(["scale", "shift", "floor", "cap"]), min_size=1))
    numbers = {
        "scale": NUMBERS,
        "shift": quantities(),
        "floor": st.just(-1.5) | st.just("1 std"),
        "cap": st.just("9 max"),
    }
    return {key: draw(numbers[key]) for key in sorted(some)}


@st.composite
def steering(draw: st.DrawFn, number: int, features: list[str]) -> dict[str, Any]:
    """A rule that edits a feature of its own, so that it meets no other."""
    rule = {"name": f"r{number}", "where": draw(IN_REPLY), "edit": {features[number]: draw(edits())}}
    rule |= draw(st.fixed_dictionaries({}, optional={"priority": st.integers(-1000, 1000)}))
    if draw(st.booleans()):
        rule["when"] = {**draw(conditions(features, gate=True)), "at": draw(EVERYWHERE)}
        rule["for"] = draw(st.sampled_from(["turn", "7 tokens", "999999 tokens"]))
    return rule


@st.composite
def earlier(draw: st.DrawFn) -> dict[str, Any]:
    """A call that was made before."""
    tool = draw(st.just("*") | TEXTS.filter(bool))
    return {"tool": tool, **draw(st.fixed_dictionaries({}, optional={"arguments": SCHEMAS, "result": SCHEMAS}))}


@st.composite
def judging(draw: st.DrawFn, number: int, features: list[str]) -> dict[str, Any]:
    """A guard rule; those that retry name the rule that waits for it."""
    then = draw(st.sampled_from(["allow", "flag", "hold", "retry", "deny", "stop"]))
    rule = {"name": f"g{number}", "then": then}
    optional = {
        "tool": TEXTS.filter(bool),
        "arguments": SCHEMAS,
        "after": earlier(),
        "without": earlier(),
        "reason": TEXTS,
    }
    rule |= draw(st.fixed_dictionaries({}, optional=optional))  # type: ignore[arg-type]
    if then == "retry":
        rule |= {"with": "again", **draw(st.fixed_dictionaries({}, optional={"attempts": st.integers(1, 10)}))}
    if then == "deny":
        rule["tripwire"] = draw(st.booleans())
    when = draw(st.none() | conditions(features, gate=False))
    if then in ("deny", "stop") and draw(st.integers(0, 4)) == 0:
        when = "invalid_arguments"  # type: ignore[assignment]
    return {**rule, "when": when} if when is not None else rule


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """Data of a policy that is right."""
    features = draw(st.lists(NAMES.filter(lambda name: name != "Probe"), min_size=2, max_size=4, unique=True))
    steer = [draw(steering(number, features)) for number in range(draw(st.integers(0, len(features) - 1)))]
    steer.append({"name": "again", "when": "retry", "where": "reply", "edit": {features[-1]: {"ablate": True}}})
    rules = [draw(judging(number, features)) for number in range(draw(st.integers(0, 3)))]
    attempts = draw(st.fixed_dictionaries({}, optional={"attempts": st.integers(1, 10)}))
    rules.append({"name": "retries", "then": "retry", "with": "again", **attempts})
    rules.append({"name": "denies", "then": "deny", "tripwire": draw(st.booleans())})
    optional = {
        "description": TEXTS,
        "model": TEXTS,
        "mode": st.sampled_from(["enforce", "shadow"]),
        "write_back": st.sampled_from(["delta", "reconstruction"]),
        "trace": st.fixed_dictionaries(
            {},
            optional={
                "watch": st.lists(st.sampled_from([*features, "Probe"]), max_size=3),
                "top_k": st.integers(0, 256),
                "at": EVERYWHERE,
            },
        ),
    }
    return {
        "steerkit": 1,
        "name": draw(st.from_regex(r"[A-Za-z0-9_][a-z0-9_-]{0,6}", fullmatch=True)),
        "features": {
            name: {
                **draw(st.sampled_from(SITES)),
                "index": n,
                **draw(st.fixed_dictionaries({}, optional={"label": TEXTS})),
            }
            for n, name in enumerate(features)
        },
        "probes": {"Probe": {"bias": draw(NUMBERS), "weights": {name: draw(NUMBERS) for name in features}}},
        "steer": steer,
        "guard": {
            "default": draw(st.sampled_from(["allow", "flag", "hold", "deny", "stop"])),
            "rules": rules,
            "undeclared_arguments": draw(st.sampled_from([None, "allow", "flag", "deny"])),
            "arguments": draw(st.sampled_from([None, {"to": "from_user"}, {"f": {"x": "from_user"}}])),
        },
        **draw(st.fixed_dictionaries({}, optional=optional)),  # type: ignore[arg-type]
    }
