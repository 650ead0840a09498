"""Broken policy files, made from right ones with known mistakes: where each stands and what must be said of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Raw(str):
    """YAML that is written as it is."""


class Mistake(NamedTuple):
    """One mistake."""

    path: str
    """As it must be named, and the place whose line must be named."""
    says: str
    """A part of what must be said."""


@dataclass
class Draft:
    """A policy that is being spoilt."""

    parts: dict[str, Any]
    """Top-level keys; rules, features and probes as mappings of their own."""
    rng: random.Random
    mistakes: list[Mistake] = field(default_factory=list)


def draft(seed: int) -> Draft:
    """A right policy of random size: its rules edit features of their own."""
    rng = random.Random(seed)
    count = rng.randint(3, 6)
    features = {f"f{n}": {"layer": n % 3, "index": 10 + n, "label": f"feature {n}"} for n in range(count)}
    steer = []
    for n in range(count):
        gate = {"feature": "f0", "above": rng.choice([1, 0.5, "1 max"]), "below": rng.choice(["9 std", "7 q99"])}
        rule = {"name": f"s{n}", "when": gate, "for": "turn", "where": rng.choice(["reply", "call", "text"])}
        rule |= {"edit": {f"f{n}": rng.choice([{"clamp": 0}, {"scale": 2, "cap": "3 max"}])}, "priority": n}
        steer.append(rule)
    rules: list[dict[str, Any]] = []
    for n in range(rng.randint(2, 5)):
        seen = {"feature": "f1", "above": 2, "at": rng.choice(["call.name", "user", "call.arguments.to"])}
        rule = {"name": f"g{n}", "tool": f"tool{n}", "when": seen, "then": rng.choice(["hold", "flag"])}
        rule["arguments"] = {"properties": {"amount": {"type": "integer", "minimum": n}}, "required": ["amount"]}
        rule["after"] = {"tool": "read"}
        rules.append(rule)
    parts = {
        "steerkit": 1,
        "name": "generated",
        "description": "made by a test",
        "features": features,
        "probes": {f"p{n}": {"bias": -1.5, "weights": {"f0": 1.0, "f1": 0.5}} for n in range(2)},
        "steer": steer,
        "guard": {"default": rng.choice(["allow", "deny"]), "rules": rules},
        "trace": {"watch": ["f0", "p0"], "top_k": 4, "at": "call"},
        "mode": "enforce",
    }
    return Draft(parts, rng)


def put(part: dict[str, Any], **changes: Any) -> None:
    """Set keys; None takes one away."""
    for key, value in changes.items():
        key = key.rstrip("_")
        part.pop(key, None)
        if value is not None:
            part[key] = value


def gate(**more: Any) -> dict[str, Any]:
    """A condition on a feature."""
    return {"feature": "f0", "above": 1, **more}


def of_a(**schema: Any) -> dict[str, Any]:
    """The schema of an argument `a`."""
    return {"properties": {"a": schema}}


Spoil = Callable[[dict[str, Any]], None]
FEATURE: dict[str, tuple[str, str, Spoil]] = {
    "unknown key": (".indx", "did you mean 'index'", lambda f: put(f, indx=3)),
    "negative": (".layer", "greater than or equal to 0", lambda f: put(f, layer=-1)),
    "a fraction": (".layer", "got 1.5", lambda f: put(f, layer=1.5)),
    "a truth": (".index", "got True", lambda f: put(f, index=True)),
    "missing": ("", "got no 'index'", lambda f: put(f, index=None)),
    "no text": (".label", "got 7", lambda f: put(f, label=7)),
}
PROBE: dict[str, tuple[str, str, Spoil]] = {
    "no weights": (".weights", "got a mapping", lambda p: put(p, weights={})),
    "unknown feature": (".weights.fx", "no feature of this policy", lambda p: put(p, weights={"fx": 1.0})),
    "unit": (".weights.f0", "got '1 max'", lambda p: put(p, weights={"f0": "1 max"})),
    "nan": (".bias", "finite", lambda p: put(p, bias=Raw(".nan"))),
    "unknown key": (".bais", "did you mean 'bias'", lambda p: put(p, bais=1)),
}
STEER: dict[str, tuple[str, str, Spoil]] = {
    "place": (".where", "expected one of any, prompt", lambda r: put(r, where="replay")),
    "no place": ("", "got no 'where'", lambda r: put(r, where=None)),
    "unknown feature": (".when.feature", "which is no feature", lambda r: put(r, when={"feature": "f", "above": 1})),
    "unknown probe": (".when.probe", "did you mean 'p", lambda r: put(r, when={"probe": "p", "above": 1})),
    "no bound": (".when", "expected above, below or both", lambda r: put(r, when={"feature": "f0"})),
    "unit": (".when.above", "units: max", lambda r: put(r, when={"feature": "f0", "above": "1 mux"})),
    "crossed": (".when", "to be less than below", lambda r: put(r, when={"feature": "f0", "above": 2, "below": 1})),
    "latch": (".when", "at most above", lambda r: put(r, when={"feature": "f0", "above": 2, "off_below": 3})),
    "below zero": (".when", "can never hold", lambda r: put(r, when={"feature": "f0", "below": 0})),
    "window": (".when.max_over", "or equal to 2", lambda r: put(r, when={"feature": "f0", "above": 1, "max_over": 1})),
    "no parts": (".when.all", "at least 1 item", lambda r: put(r, when={"all": []})),
    "part": (".when.any[0].not.feature", "no feature", lambda r: put(r, when={"any": [{"not": {"feature": "fz"}}]})),
    "word": (".when", "got 'retri'", lambda r: put(r, when="retri")),
    "retry for nothing": (".when", "can never act", lambda r: put(r, when="retry")),
    "hold": (".for", "expected token, turn", lambda r: put(r, for_="0 tokens")),
    "priority": (".priority", "less than or equal to 1000", lambda r: put(r, priority=5000)),
    "no edit": (".edit", "at least 1 item", lambda r: put(r, edit={})),
    "edit of nothing": (".edit.fx", "which is no feature", lambda r: put(r, edit={"fx": {"clamp": 0}})),
    "empty edit": (".edit.f0", "expected clamp, ablate", lambda r: put(r, edit={"f0": {}})),
    "two edits": (".edit.f0", "clamp or ablate alone", lambda r: put(r, edit={"f0": {"clamp": 0, "cap": 1}})),
    "floor over cap": (".edit.f0", "at most cap", lambda r: put(r, edit={"f0": {"floor": 2, "cap": 1}})),
    "infinite": (".edit.f0.clamp", "finite", lambda r: put(r, edit={"f0": {"clamp": Raw(".inf")}})),
    "yes": (".edit.f0.ablate", "expected True", lambda r: put(r, edit={"f0": {"ablate": Raw("yes")}})),
    "over before": (".where", "is over before", lambda r: put(r, when=gate(at="call"), where="user")),
    "unknown key": (".were", "did you mean 'where'", lambda r: put(r, were="reply")),
    "list": (".edit", "got a list", lambda r: put(r, edit=["f0"])),
    "tag": (".where", "which YAML cannot read", lambda r: put(r, where=Raw("!!int ''"))),
}
RULE: dict[str, tuple[str, str, Spoil]] = {
    "ruling": (".then", "got 'block'", lambda r: put(r, then="block")),
    "no ruling": ("", "got no 'then'", lambda r: put(r, then=None)),
    "no tool": (".tool", "at least 1 character", lambda r: put(r, tool="")),
    "type": (".arguments.properties.a.type", "JSON Schema", lambda r: put(r, arguments=of_a(type="int"))),
    "keyword": (".arguments.propertys", "did you mean 'properties'", lambda r: put(r, arguments={"propertys": {}})),
    "bounds": (
        ".arguments.properties.a.minimum",
        "no number fits",
        lambda r: put(r, arguments=of_a(minimum=3, maximum=2)),
    ),
    "pattern": (
        ".after.result.properties.a.pattern",
        "regex",
        lambda r: put(r, after={"tool": "x", "result": of_a(pattern="(")}),
    ),
    "never an object": (".arguments.type", "always an object", lambda r: put(r, arguments={"type": "string"})),
    "let in": (
        ".arguments.required[0]",
        "does not let in",
        lambda r: put(r, arguments={"required": ["a"], "additionalProperties": False}),
    ),
    "attempts": ("", "got attempts", lambda r: put(r, attempts=2)),
    "retry": ("", "expected 'with'", lambda r: put(r, then="retry")),
    "retry with nothing": (".with", "no steering rule", lambda r: put(r, then="retry", with_="nothing")),
    "tripwire": ("", "got tripwire", lambda r: put(r, tripwire=True)),
    "invalid": ("", "can never decide", lambda r: put(r, when="invalid_arguments")),
    "place": (".when.at", "expected one of any", lambda r: put(r, when=gate(at="call.nam"))),
    "latch": (".when.off_below", "unknown key", lambda r: put(r, when=gate(off_below=0.5))),
    "after": (".after", "got no 'tool'", lambda r: put(r, after={"arguments": {}})),
    "without": (".without.tol", "did you mean 'tool'", lambda r: put(r, without={"tool": "x", "tol": "y"})),
    "reserved": (".name", "say of no rule", lambda r: put(r, name="default")),
    "reason": (".reason", "got a list", lambda r: put(r, reason=["why"])),
}
TRACE: dict[str, tuple[str, str, Spoil]] = {
    "unknown": (".watch[1]", "no feature or probe", lambda t: put(t, watch=["f0", "fx"])),
    "too many": (".top_k", "less than or equal to 256", lambda t: put(t, top_k=1000)),
    "place": (".at", "expected one of any", lambda t: put(t, at="nowhere")),
    "unknown key": (".top_n", "did you mean 'top_k'", lambda t: put(t, top_n=3)),
}
TOP: dict[str, tuple[str, str, Spoil]] = {
    "mode": ("mode", "got 'shaded'", lambda d: put(d, mode="shaded")),
    "version": ("steerkit", "got 2", lambda d: put(d, steerkit=2)),
    "name": ("name", "got 'a.b'", lambda d: put(d, name="a.b")),
    "unknown key": ("stear", "did you mean 'steer'", lambda d: put(d, stear=[])),
    "write back": ("write_back", "got 'both'", lambda d: put(d, write_back="both")),
    "default": ("guard.default", "got 'maybe'", lambda d: put(d["guard"], default="maybe")),
    "alias of a probe": ("probes.f0", "also a feature", lambda d: put(d["probes"], f0={"weights": {"f0": 1.0}})),
    "twice": ("steer[1].name", "a second time", lambda d: put(d["steer"][1], name=d["steer"][0]["name"])),
    "model": ("model", "got a list", lambda d: put(d, model=[1])),
    "key twice": ("description", "a second time (first in line", lambda d: d.update(description__="again")),
}


def spoil(one: Draft, number: int) -> list[str]:
    """Make mistakes in different parts of a policy; their kinds."""
    parts = one.parts
    places = [("features." + name, parts["features"], name, FEATURE) for name in list(parts["features"])[2:]]
    places += [("probes." + name, parts["probes"], name, PROBE) for name in parts["probes"]]
    places += [(f"steer[{n}]", parts["steer"], n, STEER) for n in range(2, len(parts["steer"]))]
    places += [(f"guard.rules[{n}]", parts["guard"]["rules"], n, RULE) for n in range(len(parts["guard"]["rules"]))]
    places += [("trace", parts, "trace", TRACE), ("", {"": parts}, "", TOP)]
    kinds = []
    for path, holder, key, table in one.rng.sample(places, number):
        kind = one.rng.choice(sorted(table))
        tail, says, change = table[kind]
        change(holder[key])
        one.mistakes.append(Mistake(path + tail, says))
        kinds.append(f"{path.split('[')[0].split('.')[0]} {kind}")
    return kinds


def written(parts: dict[str, Any]) -> tuple[str, dict[str, int]]:
    """A policy as YAML, a key or item a line, and the line of every path; not by the code under test."""
    lines: list[str] = []
    where: dict[str, int] = {}

    def write(value: Any, path: str, indent: str, lead: str) -> None:
        lines.append(lead)
        item = lead.endswith("-") and isinstance(value, (dict, list)) and bool(value)
        where[path] = len(lines) + item  # a collection in a list begins at its first key or item
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                name = key.rstrip("_")  # a key that ends so is the second of its name
                write(inner, f"{path}.{name}".lstrip("."), indent + "  ", f"{indent}{name}:")
        elif isinstance(value, list) and value:
            for number, inner in enumerate(value):
                write(inner, f"{path}[{number}]", indent + "  ", f"{indent}-")
        else:
            lines[-1] += " " + (value if isinstance(value, Raw) else json.dumps(value))

    write(parts, "", "", "# generated")
    return "\n".join(lines) + "\n", where
